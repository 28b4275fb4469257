"""The exact score of one row: what every ranking is made of.

    score = (offset + bias) + scale * <query, numbers>      in float64, rounded to float32 once

Products of float32 numbers are exact in float64. The order of their sum is part of its definition, so that every target
and the NumPy reference agree to the bit: 32 lanes, lane `l` adding the products of the dimensions `l`, `l + 32`, ... in
order, then halves added to halves. Queries are padded with zeros to whole registers, part by part.
"""

import numpy as np

from qindex_kernels.cpu.addresses import group_scales, read_rows, row_address
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.simd import (
    add_products_f64,
    load_f32,
    peek_f32,
    peek_f64,
    peek_u8,
    poke_f64,
    sum_f64,
    zero_f64,
)
from qindex_kernels.cpu.sources import helper

LANES = 32


def scratch_bytes(rows):
    """Room for `exact_score`: three rows of numbers, or the lanes of a one-hot row."""
    return 8 * LANES if rows.one_hot else 3 * decoded_stride(rows.extent)


def decoding(rows):
    """The functions of inner.py that `exact_score` calls."""
    if rows.one_hot:
        return ()
    return ("decode",) if rows.has_blocks or rows.next else ("products",)


def decoded_stride(dim: int) -> int:
    """Bytes of a row of numbers in whole registers; of its scales and zeros, `decode_row` takes as many each."""
    return -(-dim // 64) * 256


@helper
def decode_row(inner, rows, row, numbers, scales):
    """Write the numbers of a row to an address, and the scales and zeros of each 16 of them to another."""
    zeros, table = 0, 0
    if rows.has_blocks != 0:
        zeros, table = scales + (rows.extent + 63) // 64 * 256, rows.table_block
        group_scales(rows, row, scales, zeros)
    else:
        scales = 0
    tables = rows.table + row * rows.table_row
    unit = np.float32(rows.unit)
    call(inner.decode, (row_address(rows, row), rows.dim, tables, table, rows.block, unit, scales, zeros, numbers))
    if rows.next != 0:
        decode_parts(rows, row, scales, zeros, numbers)


@helper
def decode_parts(rows, row, scales, zeros, numbers):
    """Write the numbers of the parts behind the first."""
    following = rows.next
    while following != 0:
        part = read_rows(following)
        unit, out = np.float32(part.unit), numbers + 4 * part.start
        call(
            read_inner(part.functions).decode,
            (row_address(part, row), part.dim, part.table, 0, rows.block, unit, scales, zeros, out),
        )
        following = part.next


@helper
def exact_score(inner, query, offset, rows, row, scratch):
    """The score that this module's docstring defines, of one row; `scratch` has room for `scratch_bytes`."""
    if rows.one_hot != 0:
        dot = one_hot_dot(query, rows, row, scratch)
    elif rows.has_blocks == 0 and rows.next == 0:
        table = rows.table + row * rows.table_row
        call(inner.products, (row_address(rows, row), rows.dim, table, np.float32(rows.unit), query, scratch))
        dot = peek_f64(scratch)
    else:
        decode_row(inner, rows, row, scratch, scratch + (rows.extent + 63) // 64 * 256)
        low, high = zero_f64(), zero_f64()
        for at in range(0, 4 * rows.extent, 128):
            low = add_products_f64(low, load_f32(scratch + at), load_f32(query + at))
            high = add_products_f64(high, load_f32(scratch + at + 64), load_f32(query + at + 64))
        dot = sum_f64(low, high)
    if rows.scale != 0:
        dot *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        offset += peek_f32(rows.bias + 4 * row)
    return np.float32(offset + dot)


@helper
def one_hot_dot(query, rows, row, lanes):
    """The product of a query and a row of ones and zeros, from the ones alone: zeros change no lane."""
    for lane in range(lanes, lanes + 8 * LANES, 8):
        poke_f64(lane, 0.0)
    bits, codes = rows.one_hot, row_address(rows, row)
    for part in range(rows.dim >> bits):
        code = np.intp(peek_u8(codes + (part * bits >> 3))) >> (part * bits & 7) & ((1 << bits) - 1)
        place = (part << bits) + code
        lane = lanes + 8 * (place % LANES)
        poke_f64(lane, peek_f64(lane) + np.float64(peek_f32(query + 4 * place)))
    half = LANES // 2
    while half > 0:
        for lane in range(lanes, lanes + 8 * half, 8):
            poke_f64(lane, peek_f64(lane) + peek_f64(lane + 8 * half))
        half //= 2
    return peek_f64(lanes)
