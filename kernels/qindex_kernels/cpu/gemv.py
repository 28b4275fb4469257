"""Integer products with few queries: rows are read once and summed as they lie, without unpacking them for a tile."""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses, block_scales, read_rows, row_address
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import Queries, order, read_queries, take_all
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    as_f32,
    load_f32,
    load_i32,
    peek_f32,
    peek_i32,
    poke_i32,
    shifted_dots,
    splat_f32,
    store_f32,
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
        ("raw", INTEGER),  # int32: the integer sums of the blocks of a row; without blocks, of PLAIN_ROWS rows
        ("scales", INTEGER),  # float32: those of the blocks of a row
        ("zeros", INTEGER),
        ("stride", INTEGER),  # bytes of the terms of a row
        ("dots", INTEGER),  # float32 (m, BLOCK_ROWS, blocks)
        ("shifts", INTEGER),  # the same of zeros
        ("columns", INTEGER),  # float32 (2, 16, BLOCK_ROWS): terms of 16 blocks, block by block
    )


read_terms = reader(Terms)


def terms_for(rows: RowAddresses, queries: Queries) -> Terms:
    # No power of two, so that the rows of a transposition do not compete in the cache.
    stride = 4 * queries.lanes + LINE
    size = queries.m * BLOCK_ROWS * stride if rows.has_blocks else 0
    parts = max(rows.dim // 16 + 1, queries.lanes, PLAIN_ROWS) + 32
    room = Room(4 * parts, 4 * queries.lanes, 4 * queries.lanes, size, size if rows.zero else 0, 2 * 16 * LINE)
    raw, scales, zeros, dots, shifts, columns = room.pieces
    terms = Terms(raw=raw, scales=scales, zeros=zeros, stride=stride, dots=dots, shifts=shifts, columns=columns)
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
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        if rows.has_blocks != 0:
            for first in range(start, stop, BLOCK_ROWS):
                gemv_blocks(inner, rows, queries, terms, first, min(BLOCK_ROWS, stop - first), out)
        else:
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


@helper
def gemv_blocks(inner, rows, queries, terms, first, n, out):
    """Up to BLOCK_ROWS rows."""
    own, stride = 4 * queries.lanes, terms.stride
    for j in range(n):
        row = first + j
        block_scales(rows, row, terms.scales, terms.zeros)
        for i in range(queries.m):
            query, tables = queries.codes + queries.width * i, rows.table + row * rows.table_row
            at = row_address(rows, row)
            call(inner.block_sums, (query, at, rows.dim, tables, rows.table_block, rows.block, terms.raw))
            if rows.block % 64 != 0 and rows.block > 32:
                join_parts(rows, terms.raw)
            here = (BLOCK_ROWS * i + j) * stride
            multiply(inner, rows, queries, terms, own * i, terms.dots + here, terms.shifts + here)
    for i in range(queries.m):
        here = BLOCK_ROWS * i * stride
        total = zero_f32()
        for b in range(0, rows.blocks, 16):
            transpose(terms.dots + here + 4 * b, stride, terms.columns, LINE)
            if rows.zero != 0:
                transpose(terms.shifts + here + 4 * b, stride, terms.columns + 16 * LINE, LINE)
            for column in range(min(16, rows.blocks - b)):
                total = sum_f32(total, load_f32(terms.columns + LINE * column))
                if rows.zero != 0:
                    total = sum_f32(total, load_f32(terms.columns + LINE * (16 + column)))
        if queries.per_block == 0:
            total = times(total, splat_f32(peek_f32(queries.steps + own * i)))
        store_f32(terms.columns, total)
        for j in range(n):
            out[i, first + j] = peek_f32(terms.columns + 4 * j)
        finish(rows, first, n, out, i)


@inlined
def join_parts(rows, raw):
    """Sums of blocks from sums of 16 dimensions, in place."""
    parts = rows.block // 16
    for b in range(rows.blocks):
        total = np.int32(0)
        for part in range(b * parts, min((b + 1) * parts, (rows.dim + 15) // 16)):
            total += peek_i32(raw + 4 * part)
        poke_i32(raw + 4 * b, total)


@inlined
def multiply(inner, rows, queries, terms, own, dots, shifts):
    """The terms of the blocks of a row, with the query whose steps and totals begin `own` bytes on."""
    unit, bias, step = np.float32(rows.integer_unit), np.int32(-inner.bias), splat_f32(np.float32(1))
    for at in range(0, 4 * rows.blocks, 64):
        totals = load_i32(queries.totals + own + at)
        if queries.per_block != 0:
            step = load_f32(queries.steps + own + at)
        scales = times(load_f32(terms.scales + at), splat_f32(unit))
        store_f32(dots + at, times(times(shifted_dots(load_i32(terms.raw + at), totals, bias), scales), step))
        if rows.zero != 0:
            store_f32(shifts + at, times(times(as_f32(totals), load_f32(terms.zeros + at)), step))


@helper
def finish(rows, first, n, out, i):
    """The scales and the biases of n rows."""
    if rows.scale != 0:
        for row in range(first, first + n):
            out[i, row] *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        for row in range(first, first + n):
            out[i, row] += peek_f32(rows.bias + 4 * row)
