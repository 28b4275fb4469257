"""No kernel uses memory that it has given back.

numba frees an array after its last use by name, but kernels hand on addresses. Here the C library overwrites what is
freed (and what is allocated) at once, so whoever still reads it goes wrong.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="asks glibc to overwrite memory that is freed"
)

SMALL_CALLS = """
import gc
import numpy as np
from kernel_rows import INTEGER_KINDS, KINDS, TREES, assert_same_bits, largest_norm, made
from qindex_kernels import reference
from qindex_kernels.cpu.matmul import matmul, matmul_int8
from qindex_kernels.cpu.score_rows import score_rows
from qindex_kernels.cpu.topk import topk

rng = np.random.default_rng(0)
for turn in range(500):
    kind, tree = rng.choice(KINDS), rng.choice(list(TREES))
    n, dim, m = (int(rng.integers(1, top)) for top in (40, 200, 20))
    if turn % 50 == 0:
        gc.collect()
        n, dim, m = 100, 5000, 20  # too large for the free lists: these go back to the system, or are mapped anew
    rows = made(kind, n, dim, rng, tree)
    x, offset = rng.standard_normal((m, dim)).astype(np.float32), rng.standard_normal(m)
    rest = (offset, np.arange(n), None, 5, largest_norm(rows))
    assert_same_bits(topk(rows, x, *rest)[1], reference.topk(rows, x, *rest)[1])
    chosen = rng.integers(0, n, (m, 5))
    assert_same_bits(score_rows(rows, x, offset, chosen), reference.score_rows(rows, x, offset, chosen))
    assert_same_bits(matmul(rows, x), matmul(rows, x[::-1].copy())[::-1])
    np.testing.assert_allclose(matmul(rows, x), reference.matmul(rows, x), rtol=1e-3, atol=1e-2 * largest_norm(rows))
    if kind in INTEGER_KINDS:
        for some, x_block in ((x, 0), (x[:2], 0), (x, rows.block), (x[:2], rows.block)):
            assert_same_bits(matmul_int8(rows, some, x_block), reference.matmul_int8(rows, some, x_block))
"""

READS_WHAT_IT_FREED = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
address = libc.malloc(ctypes.c_size_t(5000))
ctypes.memset(address, 7, 5000)
libc.free(address)
assert ctypes.string_at(address + 1000, 100) != b"\\7" * 100
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    root = here.parents[1]
    path = os.pathsep.join([str(here), str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "GLIBC_TUNABLES": "glibc.malloc.perturb=165"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_many_small_calls_equal_the_reference_while_freed_memory_is_overwritten() -> None:
    done = run(SMALL_CALLS)
    assert done.returncode == 0, done.stderr


def test_what_these_tests_free_is_overwritten() -> None:
    done = run(READS_WHAT_IT_FREED)
    assert done.returncode == 0, done.stderr
