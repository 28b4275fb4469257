"""Integer products with few queries: rows are read once and summed as they lie, without unpacking them for a tile."""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses, block_scales, read_rows, row_address
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import Queries, order, order_masked, read_queries, take_all
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    add_i32,
    load_f32,
    load_first,
    load_i32,
    peek_f32,
    peek_i32,
    scaled,
    shifted_dots,
    splat_f32,
    splat_i32,
    store_f32,
    store_first,
    sum_f32,
    times,
    transpose,
    zero_f32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel

PLAIN_ROWS = 64  # rows that stay in the L1 cache while a few queries pass over them
BLOCK_ROWS = 16  # rows with block scales: the lanes of their sums


class Terms(Record):
    """Room for what blocks add to the products of BLOCK_ROWS rows."""

    _fields_ = (
        # int32: the integer sums of PLAIN_ROWS rows; with block scales of BLOCK_ROWS rows, block by block
        ("raw", INTEGER),
        ("stride", INTEGER),  # bytes of the scales of a row
        ("row_scales", INTEGER),  # float32 (BLOCK_ROWS, blocks)
        ("row_zeros", INTEGER),
        ("scales", INTEGER),  # float32 (blocks, BLOCK_ROWS), times the unit of the integers
        ("zeros", INTEGER),
    )


read_terms = reader(Terms)


def terms_for(rows: RowAddresses, queries: Queries) -> Terms:
    # No power of two, so that the rows of a transposition do not compete in the cache.
    stride = 4 * queries.lanes + LINE
    size = BLOCK_ROWS * stride if rows.has_blocks else 0
    parts = max(queries.width // 16 + 16, queries.lanes) if rows.has_blocks else PLAIN_ROWS // 16
    room = Room(LINE * parts, size, size, LINE * queries.lanes, LINE * queries.lanes)
    raw, row_scales, row_zeros, scales, zeros = room.pieces
    terms = Terms(raw=raw, stride=stride, row_scales=row_scales, row_zeros=row_zeros, scales=scales, zeros=zeros)
    terms.room = room
    return terms


@kernel
def integer_gemv(inner_at, rows_at, queries_at, terms_at, x, out):
    """As `linear.integer_product`, to the bit."""
    inner, rows, queries, terms = (
        read_inner(inner_at),
        read_rows(rows_at),
        read_queries(queries_at),
        read_terms(terms_at),
    )
    take_all(queries, rows, True, x)
    order(queries)
    order_masked(queries, inner)
    if rows.has_blocks != 0:
        for first in range(0, rows.n, BLOCK_ROWS):
            gemv_blocks(inner, rows, queries, terms, first, min(BLOCK_ROWS, rows.n - first), out)
    else:
        for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
            for first in range(start, stop, PLAIN_ROWS):
                gemv_plain(inner, rows, queries, terms.raw, first, min(PLAIN_ROWS, stop - first), out)


@helper
def gemv_plain(inner, rows, queries, raw, first, n, out):
    table, at = rows.table + first * rows.table_row, row_address(rows, first)
    unit = np.float32(rows.integer_unit)
    for i in range(queries.m):
        call(
            inner.dots, (queries.codes + queries.width * i, at, rows.row_bytes, rows.dim, n, table, rows.table_row, raw)
        )
        step = peek_f32(queries.steps + 4 * queries.lanes * i)
        shift = inner.bias * np.int64(peek_i32(queries.totals + 4 * queries.lanes * i))
        for j in range(n):
            out[i, first + j] = np.float32(peek_i32(raw + 4 * j) - shift) * unit * step
        finish(rows, first, n, out, i)


@inlined
def gemv_blocks(inner, rows, queries, terms, first, n, out):
    """Up to BLOCK_ROWS rows; past the end the last row again."""
    unit, own, last = np.float32(rows.integer_unit), 4 * queries.lanes, first + n - 1
    for j in range(BLOCK_ROWS):
        at = j * terms.stride
        block_scales(rows, min(first + j, last), terms.row_scales + at, terms.row_zeros + at)
    for b in range(0, rows.blocks, 16):
        transpose(terms.row_scales + 4 * b, terms.stride, terms.scales + LINE * b, LINE)
        if rows.zero != 0:
            transpose(terms.row_zeros + 4 * b, terms.stride, terms.zeros + LINE * b, LINE)
    for at in range(terms.scales, terms.scales + LINE * rows.blocks, LINE):
        store_f32(at, scaled(load_f32(at), unit))
    for i in range(queries.m):
        for j in range(0, n, 4):
            a, b, c, d = first + j, min(first + j + 1, last), min(first + j + 2, last), min(first + j + 3, last)
            call(inner.block_sums, (
                queries.codes + queries.width * i, row_address(rows, a), row_address(rows, b), row_address(rows, c),
                row_address(rows, d), rows.table + a * rows.table_row, rows.table + b * rows.table_row,
                rows.table + c * rows.table_row, rows.table + d * rows.table_row, rows.dim, rows.table_block,
                rows.block, terms.raw + 4 * j,
            ))  # fmt: skip
        total = sum_of_terms(rows, queries, terms, np.int32(-inner.bias), own * i)
        target = np.intp(out[i].ctypes.data) + 4 * first
        if queries.per_block == 0:
            total = scaled(total, peek_f32(queries.steps + own * i))
        if rows.scale != 0:
            total = times(total, load_first(rows.scale + 4 * first, n))
        if rows.bias != 0:
            total = sum_f32(total, load_first(rows.bias + 4 * first, n))
        store_first(target, total, n)


@inlined
def sum_of_terms(rows, queries, terms, factor, own):
    """The sums over the blocks of BLOCK_ROWS rows, with the query whose steps and totals begin `own` bytes on."""
    parts = 1 if rows.block % 64 == 0 else rows.block // 16
    result, at, step = zero_f32(), terms.raw, splat_f32(np.float32(1))
    for b in range(rows.blocks):
        dots, total = load_i32(at), peek_i32(queries.totals + own + 4 * b)
        for part in range(1, min(parts, (rows.dim + 15) // 16 - b * parts)):
            dots = add_i32(dots, load_i32(at + LINE * part))
        at += LINE * parts
        if queries.per_block != 0:
            step = splat_f32(peek_f32(queries.steps + own + 4 * b))
        dots = shifted_dots(dots, splat_i32(total), factor)
        result = sum_f32(result, times(times(dots, load_f32(terms.scales + LINE * b)), step))
        if rows.zero != 0:
            term = times(splat_f32(np.float32(total)), load_f32(terms.zeros + LINE * b))
            result = sum_f32(result, times(term, step))
    return result


@helper
def finish(rows, first, n, out, i):
    """The scales and the biases of n rows."""
    if rows.scale != 0:
        for row in range(first, first + n):
            out[i, row] *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        for row in range(first, first + n):
            out[i, row] += peek_f32(rows.bias + 4 * row)
