"""The exact score of one row: what every ranking is made of.

    score = (offset + bias) + scale * <query, numbers>      in float64, rounded to float32 once

Products of float32 numbers are exact in float64. The order of their sum is part of its definition, so that every target
and the NumPy reference agree to the bit: 32 lanes, lane `l` adding the products of the dimensions `l`, `l + 32`, ... in
order, then halves added to halves. Queries are padded with zeros to whole registers.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import group_scales, has_blocks, row_address
from qindex_kernels.cpu.inner import call
from qindex_kernels.cpu.simd import add_products_f64, load_f32, peek_f32, sum_f64, zero_f64
from qindex_kernels.cpu.sources import inlined


@inlined
def decode_row(inner, rows, row, numbers, scratch):
    """Write the numbers of a row to an address, which has room for whole registers."""
    scales, zeros = 0, 0
    if has_blocks(rows):
        group_scales(rows, row, 1, scratch, scratch[1:])
        scales, zeros = np.intp(scratch[0].ctypes.data), np.intp(scratch[1].ctypes.data)
    table = rows.table + row * rows.table_row
    at, unit = row_address(rows, row), np.float32(rows.unit)
    call(inner.decode, (at, rows.dim, table, rows.table_block, rows.block, unit, scales, zeros, np.intp(numbers)))


def decode_scratch(dim: int) -> NDArray[np.float32]:
    """Room for `decode_row`: the scales and the zeros of blocks, and a row of numbers."""
    return np.zeros((3, -(-dim // 64) * 64), np.float32)


@inlined
def exact_score(inner, query, offset, rows, row, scratch):
    """The score that this module's docstring defines, of one row."""
    numbers = scratch[2].ctypes.data
    decode_row(inner, rows, row, numbers, scratch)
    low, high = zero_f64(), zero_f64()
    for at in range(0, 4 * rows.dim, 128):
        low = add_products_f64(low, load_f32(numbers + at), load_f32(query + at))
        high = add_products_f64(high, load_f32(numbers + at + 64), load_f32(query + at + 64))
    dot = sum_f64(low, high)
    if rows.scale != 0:
        dot *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        offset += peek_f32(rows.bias + 4 * row)
    return np.float32(offset + dot)
