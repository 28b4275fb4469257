"""Arrays that lie beside pages which this process may not touch: who reads a byte too far dies."""

import ctypes
import mmap
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.layout import Level, Rows

_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def fenced(array: NDArray[Any], at_end: bool) -> NDArray[Any]:
    """A copy of `array` that ends, or begins, where this process may not read."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    begin = mmap.PAGESIZE + (size - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, begin).reshape(array.shape)  # keeps the memory alive
    copy[...] = array
    for page in (first, first + mmap.PAGESIZE + size):
        assert _mprotect(page, mmap.PAGESIZE, 0) == 0
    return copy


def fenced_rows(rows: Rows, at_end: bool) -> Rows:
    """Rows of which every array is fenced."""

    def level(one: Level) -> Level:
        return one._replace(data=fenced(one.data, at_end))

    return replace(
        rows,
        data=fenced(rows.data, at_end),
        scale=None if rows.scale is None else fenced(rows.scale, at_end),
        bias=None if rows.bias is None else fenced(rows.bias, at_end),
        levels=tuple(level(one) for one in rows.levels),
        zero=None if rows.zero is None else level(rows.zero),
        tables=None if rows.tables is None else fenced(rows.tables, at_end),
        more=tuple(part._replace(data=fenced(part.data, at_end)) for part in rows.more),
    )
