"""The inner loops are compiled to the instructions that they were written for."""

from typing import Any

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import cfunc, njit, types

from qindex.formats import FORMATS
from qindex_kernels.cpu import inner
from qindex_kernels.cpu.addresses import kind_of
from qindex_kernels.cpu.symmetric import scan_symmetric
from qindex_kernels.cpu.target import PATH
from qindex_kernels.layout import Rows

# A function, a format, and what stands in the function on avx512 and on avx2.
WANTED = [
    ("dots", "int8", "vpdpbusd", "vpmaddwd"),
    ("dots", "int4", "vpdpbusd", "vpmaddwd"),
    ("dots", "sign", "vpdpbusd", "vpmaddwd"),
    ("block_dots", "int4", "vpdpbusd", "vpmaddwd"),
    ("block_sums", "e2m1", "vpdpbusd", "vpmaddwd"),
    ("unpack", "e2m1", "vpshufb", "vpshufb"),
    ("unpack", "nf4", "vpshufb", "vpshufb"),
    ("float_dots", "e4m3", "vcvtph2ps", "vcvtph2ps"),
    ("float_dots", "float32", "vfmadd", "vfmadd"),
    ("decode", "nf4", "vperm", "vblendv"),
]


def kind(format: str) -> int:
    return kind_of(Rows(format, 64, np.zeros((1, FORMATS[format].row_bytes(64)), np.uint8)))


def assembly(function: Any) -> str:
    """What a function is compiled to; one from the cache on disk cannot be inspected, so it is compiled again."""
    fresh = cfunc(function._sig)(function._pyfunc)
    text: str = fresh._library.get_asm_str()
    return text


@pytest.mark.skipif(PATH == "portable", reason="plain vectors: LLVM chooses the instructions")
@pytest.mark.parametrize(("name", "format", "avx512", "avx2"), WANTED)
def test_inner_loops_use_the_instructions_of_their_path(name: str, format: str, avx512: str, avx2: str) -> None:
    text = assembly(getattr(inner, name)(kind(format)))
    assert (avx512 if PATH == "avx512" else avx2) in text
    assert ("zmm" in text) == (PATH == "avx512")


@pytest.mark.skipif(PATH == "portable", reason="plain vectors: LLVM chooses the instructions")
def test_bits_are_counted_by_the_instructions_of_the_path() -> None:
    fresh = njit(types.void(types.intp, types.intp))(scan_symmetric.py_func)
    text = "".join(fresh.inspect_asm().values())
    counting = "vpopcnt" if get_host_cpu_features().get("avx512vpopcntdq") else "vpshufb"
    assert (counting if PATH == "avx512" else "vpsadbw") in text
    assert ("zmm" in text) == (PATH == "avx512")


@pytest.mark.parametrize("format", ["float16", "e4m3"])
def test_decoding_calls_no_library(format: str) -> None:
    """A conversion that the target lacks would be a call for each number."""
    text = assembly(inner.decode(kind(format)))
    assert "__extendhfsf2" not in text
    assert "__gnu_h2f" not in text
