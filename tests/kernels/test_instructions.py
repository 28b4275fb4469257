"""The inner loops are compiled to the instructions that they were written for."""

import numpy as np
import pytest
from numba import njit

from qindex.formats import FORMATS
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.topk import TOPK, topk

WANTED = {
    "avx512": {"int8": "vpdpbusd", "e4m3": "vcvtph2ps"},
    "avx2": {"int8": "vpmaddwd", "e4m3": "vcvtph2ps"},
    "portable": {},
}


@pytest.mark.skipif(PATH == "portable", reason="plain vectors: LLVM chooses the instructions")
@pytest.mark.parametrize("kind", ["int8", "e4m3"])
def test_the_scan_uses_the_instruction_of_its_path(kind: str) -> None:
    data = np.zeros((1, FORMATS[kind].row_bytes(64)), np.uint8)
    topk(kind, np.zeros((1, 64), np.float32), np.zeros(1), data, None, None, np.arange(1), None, 1, 1.0)
    # Kernels that come from the cache on disk cannot be inspected.
    compiled = njit(TOPK[kind].signatures[0])(TOPK[kind].py_func)
    (assembly,) = compiled.inspect_asm().values()
    assert WANTED[PATH][kind] in assembly
