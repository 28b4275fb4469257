"""No kernel reads a byte outside its arrays: they lie between pages that may not be touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects pages with Linux's mprotect")

EVERY_KERNEL = """
import itertools
import numpy as np
from fences import fenced, fenced_rows
from kernel_rows import INTEGER_KINDS, KINDS, ONE_HOT_KINDS, TREES, made, made_one_hot
from qindex.transform import Rotation
from qindex_kernels.cpu.matmul import matmul, matmul_int8
from qindex_kernels.cpu.rotate import rotate
from qindex_kernels.cpu.score_rows import score_rows
from qindex_kernels.cpu.symmetric import topk_counted
from qindex_kernels.cpu.topk import topk

rng = np.random.default_rng(0)
for kind, tree, dim in itertools.product(KINDS, TREES, (1, 3, 17, 48, 64, 65, 129)):
    some_rows = made(kind, 26, dim, rng, tree)
    for n, at_end in ((1, True), (3, True), (5, True), (5, False), (26, dim % 2 == 0)):
        rows = fenced_rows(some_rows.part(slice(0, n)), at_end)
        ids, allow = fenced(np.arange(n), at_end), fenced(rng.random(n) < 0.8, at_end)
        x, offset = fenced(rng.standard_normal((9, dim)).astype(np.float32), at_end), fenced(np.zeros(9), at_end)
        topk(rows, x[7:], offset[7:], ids, allow, 3, 1e6)
        topk(rows, fenced(np.sign(x[7:]), at_end), offset[7:], ids, allow, 3, 1e6)
        topk(rows, x, offset, ids, allow, 3, 1e6)
        score_rows(rows, x[:2], offset[:2], fenced(np.tile(ids, (2, 1)), at_end))
        matmul(rows, x)
        if kind in INTEGER_KINDS:
            for some in (x[7:], x):
                for x_block in {0, rows.block}:
                    matmul_int8(rows, some, x_block)
for kind, dim in itertools.product(("sign", "half2"), (1, 3, 17, 64, 65, 129, 256, 257, 512, 513)):
    some_rows = made(kind, 26, dim, rng, "none", scaled=False, biased=False)
    for n, at_end in itertools.product((1, 3, 5, 26), (True, False)):
        rows, few = fenced_rows(some_rows.part(slice(0, n)), at_end), min(n, 3)
        x, codes = fenced(np.ones((few, dim), np.float32), at_end), fenced(rows.data[:few], at_end)
        ids, allow = fenced(np.arange(n), at_end), fenced(rng.random(n) < 0.8, at_end)
        topk_counted(rows, x, fenced(np.zeros(few), at_end), ids, allow, 3, codes)
for sizes, n, at_end in itertools.product(((1,), (3, 17), (16,), (48,), (129, 7, 64)), (1, 3), (False, True)):
    dim = sum(sizes)
    for backwards in (False, True):
        rotate(Rotation(0, sizes).rotor(dim), fenced(rng.random((n, dim), np.float32), at_end), backwards)
for kind, parts in itertools.product(ONE_HOT_KINDS, (1, 3, 8, 9, 33)):
    some_rows = made_one_hot(kind, 70, parts, rng)
    for n, at_end in itertools.product((1, 3, 70), (True, False)):
        rows = fenced_rows(some_rows.part(slice(0, n)), at_end)
        ids, x = fenced(np.arange(n), at_end), fenced(rng.standard_normal((9, rows.dim)).astype(np.float32), at_end)
        for some in (x[7:], x):
            topk(rows, some, np.zeros(len(some)), ids, None, 3, 1e6)
        score_rows(rows, x[:2], np.zeros(2), np.tile(ids, (2, 1)))
"""

ONE_BYTE = """
import ctypes, sys
import numpy as np
from fences import fenced
address = fenced(np.zeros(3, np.uint8), sys.argv[1] == "behind").ctypes.data
ctypes.string_at(address + {"behind": 3, "before": -1}[sys.argv[1]], 1)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    root = here.parents[1]
    path = os.pathsep.join([str(here), str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_kernels_read_only_their_arrays() -> None:
    done = run(EVERY_KERNEL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("side", ["behind", "before"])
def test_the_fence_of_these_tests_kills_who_crosses_it(side: str) -> None:
    assert run(ONE_BYTE, side).returncode == -signal.SIGSEGV
