"""Compiled kernels come from numba's cache on disk, unless any of their sources changed."""

import shutil
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels" / "qindex_kernels"

SCRIPT = """
import numpy as np
from qindex_kernels.cpu.topk import TOPK, topk
one = np.zeros((1, 1), np.float32)
topk("sign", one, np.zeros(1), np.zeros((1, 1), np.uint8), None, None, np.zeros(1, np.int64), None, 1, 1.0)
print("cached" if TOPK["sign"].stats.cache_hits else "compiled")
"""


def test_a_kernel_is_compiled_once_and_again_only_when_a_source_it_is_built_from_changes(tmp_path: Path) -> None:
    shutil.copytree(KERNELS, tmp_path / "qindex_kernels", ignore=shutil.ignore_patterns("__pycache__"))

    def run() -> str:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    assert run() == "compiled"
    assert run() == "cached"
    with open(tmp_path / "qindex_kernels" / "cpu" / "simd.py", "a") as words:
        words.write("# changed\n")
    assert run() == "compiled"
