"""No kernel reads a byte outside its arrays: they lie between pages that may not be touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects pages with Linux's mprotect")

FENCED = """
import ctypes, mmap
import numpy as np

mprotect = ctypes.CDLL(None).mprotect
mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []

def fenced(array, at_end):
    "A copy of `array` that ends, or begins, where this process may not read."
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
    kept.append(memory)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (first, first + mmap.PAGESIZE + size):
        assert mprotect(page, mmap.PAGESIZE, 0) == 0
    begin = mmap.PAGESIZE + (size - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, begin).reshape(array.shape)
    copy[...] = array
    return copy
"""

EVERY_KERNEL = """
from qindex.formats import FORMATS
from qindex_kernels.cpu.score_rows import score_rows
from qindex_kernels.cpu.topk import topk

rng = np.random.default_rng(0)
for kind, format in FORMATS.items():
    for dim in (1, 3, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129):
        for n in (1, 2, 3, 4, 5, 37):
            at_end = n < 5 or dim % 2 == 0
            data = fenced(format.encode(rng.standard_normal((n, dim)).astype(np.float32)), at_end)
            scale, bias = (fenced(rng.random(n).astype(np.float32), at_end) for _ in range(2))
            ids, allow = fenced(np.arange(n), at_end), fenced(rng.random(n) < 0.8, at_end)
            values = fenced(rng.standard_normal((2, dim)).astype(np.float32), at_end)
            topk(kind, values, np.zeros(2), data, scale, bias, ids, allow, 3, 1e3)
            score_rows(kind, values, np.zeros(2), data, scale, bias, np.tile(ids, (2, 1)))
            kept.clear()
"""

ONE_BYTE_TOO_FAR = """
ctypes.string_at(fenced(np.zeros(3, np.uint8), at_end=True).ctypes.data + 3, 1)
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", FENCED + script], env=environment, capture_output=True, text=True, timeout=300
    )


def test_kernels_read_only_their_arrays() -> None:
    done = run(EVERY_KERNEL)
    assert done.returncode == 0, done.stderr


def test_the_fence_of_these_tests_kills_who_crosses_it() -> None:
    assert run(ONE_BYTE_TOO_FAR).returncode == -signal.SIGSEGV
