"""What the environment may say about the kernels, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qindex_kernels.cpu.target import PATH

PREPARE = """
import os, sys
import numpy as np
from qindex import kernels
from qindex.quantize.blocks import SCHEMES, encode
from qindex.types import Queries
rng = np.random.default_rng(0)
codes = encode(rng.standard_normal((50, 96)).astype(np.float32), SCHEMES["int4g32"])
x = rng.standard_normal((3, 96)).astype(np.float32)
queries = Queries(x, np.zeros(3))
"""

ANSWER = """
ids, scores = kernels.topk(queries, codes, 5, ids=np.arange(50))
products = [kernels.matmul(x, codes, activations=name).tobytes().hex() for name in ("int8", "int8-block")]
print(ids.tolist(), scores.tobytes().hex(), kernels.scores(queries, codes).tobytes().hex(), products)
decoded = kernels.matmul(x, codes)
assert decoded.shape == (3, 50) and np.isfinite(decoded).all()
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", PREPARE + script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_disabled_compiler_gives_the_same_answers() -> None:
    without = run(ANSWER + "assert 'numba' not in sys.modules", NUMBA_DISABLE_JIT="1")
    compiled = run("kernels.path()" + ANSWER)
    assert without.returncode == compiled.returncode == 0, without.stderr + compiled.stderr
    assert without.stdout == compiled.stdout


def test_the_compiler_may_be_disabled_after_numba_is_imported_elsewhere() -> None:
    done = run("import numba" + ANSWER, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["avx", "AVX2", "", "numba"])
def test_an_unknown_path_is_refused_with_those_there_are(name: str) -> None:
    done = run("kernels.scores(queries, codes)", QINDEX_KERNELS=name)
    assert done.returncode != 0
    wanted = f"ValueError: QINDEX_KERNELS must be one of reference, portable, avx2, avx512, got {name!r}"
    assert wanted in done.stderr


@pytest.mark.skipif(PATH == "portable", reason="there is no lesser path")
def test_a_path_cannot_be_forced_after_numba_is_imported() -> None:
    done = run("import numba; kernels.scores(queries, codes)", QINDEX_KERNELS="portable")
    assert done.returncode != 0
    wanted = f"ValueError: QINDEX_KERNELS=portable cannot be had, numba compiles for {PATH}: "
    assert wanted + "set it before numba is imported, or unset it" in done.stderr


def test_a_path_that_the_machine_lacks_is_refused() -> None:
    """numba is told to compile for less, as on a lesser machine."""
    script = "import os; os.environ.update(NUMBA_CPU_NAME='generic', NUMBA_CPU_FEATURES='');"
    done = run(script + "kernels.scores(queries, codes)", QINDEX_KERNELS="avx512")
    assert done.returncode != 0
    assert "QINDEX_KERNELS=avx512 cannot be had, numba compiles for portable: this machine lacks" in done.stderr


def test_a_forced_path_is_taken_from_the_first_call_on() -> None:
    done = run("kernels.scores(queries, codes); assert 'numba' in sys.modules", QINDEX_KERNELS=PATH)
    assert done.returncode == 0, done.stderr


def test_the_reference_is_never_left() -> None:
    script = """
many = Queries(np.ones((2000, 96), np.float32), np.zeros(2000))
for _ in range(4):  # 19 MB
    kernels.topk(many, codes, 1, ids=np.arange(50))
assert "numba" not in sys.modules
"""
    done = run(script, QINDEX_KERNELS="reference")
    assert done.returncode == 0, done.stderr


def test_float_products_do_not_depend_on_the_work_before_them() -> None:
    """NumPy answers exact scores until numba is loaded; a float product rounds, so it never comes from NumPy."""
    first = run("print(kernels.matmul(x, codes).tobytes().hex()); assert 'numba' in sys.modules")
    later = run("kernels.path(); kernels.scores(queries, codes); print(kernels.matmul(x, codes).tobytes().hex())")
    assert first.returncode == later.returncode == 0, first.stderr + later.stderr
    assert first.stdout == later.stdout
    assert len(np.frombuffer(bytes.fromhex(first.stdout.strip()), np.float32)) == 150
