"""Compiled kernels come from numba's cache on disk, unless any of their sources changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels" / "qindex_kernels"

# An inner loop, which a kernel calls by its address, and the kernel around it.
SCRIPT = """
import numpy as np
from qindex_kernels.cpu import inner, unpack
from qindex_kernels.cpu.score_rows import score, score_rows
from qindex_kernels.layout import Rows
rows = Rows("float32", 1, np.zeros((1, 4), np.uint8))
score_rows(rows, np.zeros((1, 1), np.float32), np.zeros(1), np.zeros((1, 1), np.int64))
for hits in (inner.decode(unpack.FLOAT32).cache_hits, sum(score.stats.cache_hits.values())):
    print("cached" if hits else "compiled")
"""


def test_a_kernel_is_compiled_once_and_again_only_when_a_source_it_is_built_from_changes(tmp_path: Path) -> None:
    shutil.copytree(KERNELS, tmp_path / "qindex_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NUMBA_CACHE_DIR")}

    def run() -> list[str]:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    assert run() == ["compiled", "compiled"]
    assert run() == ["cached", "cached"]
    with open(tmp_path / "qindex_kernels" / "cpu" / "simd.py", "a") as words:
        words.write("# changed\n")
    assert run() == ["compiled", "compiled"]
