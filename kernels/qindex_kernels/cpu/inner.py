"""The inner loops that depend on what a row holds, compiled for each kind, and called through their addresses.

    dots                          <int8 query, integers of a row, plus BIAS>, int32
    dots_at                       the same of rows that lie anywhere
    lane_sums                     the same of one-hot rows for 32 queries at once
    float_dots                    <float32 query, numbers of a row / unit>, float32
    block_dots, float_block_dots  the same over numbers with block scales, float32
    hamming                       twice the number of bits in which query and row differ, int32
    block_sums                    <int8 query, integers of a row, plus BIAS> over each block, int32, of four rows
    unpack                        the integers of a row, plus BIAS, as unsigned bytes
    decode                        the numbers of a row as float32
    products                      <float32 query, numbers of a row without blocks> as exact.py defines it, float64

So the kernels around them (top-k, matrix products) are compiled once for all formats. Arguments are addresses and
int64 numbers. Each function is kept for good, since its address is all that a kernel has of it.

int32 holds 255 * 127 * dim for any dim up to 65,536.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core import errors
from numba.extending import intrinsic

from qindex_kernels.cpu.lookups import lane_sums, lookup_dots
from qindex_kernels.cpu.record import INTEGER, Record, reader
from qindex_kernels.cpu.simd import (
    add_differences,
    add_products_f64,
    add_scaled,
    first_lanes,
    fma_f32,
    lanes_at,
    load_f32,
    load_i32,
    peek_f32,
    peek_i64,
    poke_f64,
    prefetch,
    scaled,
    shifted,
    splat_f32,
    store_f32,
    store_part_sums,
    store_sums_f32,
    store_sums_i32,
    sum_f64,
    times,
    zero_f32,
    zero_f64,
    zero_i32,
)
from qindex_kernels.cpu.sources import SOURCES, inlined, inner_loop
from qindex_kernels.cpu.unpack import (
    BIAS,
    BITS1,
    BITS2,
    BITS4,
    MASKED1,
    MASKED2,
    MASKED4,
    NF4,
    PLANES,
    SPAN,
    STEP,
    add_dots,
    decode16,
    in_place,
    load_table,
    scales16,
    store_dots,
    store_integers,
)

# Decoding fills the reorder window with few rows, so the hardware alone does not look far enough ahead: bytes.
AHEAD = 4096

# How the same rows are read where they are taken apart.
_APART = {MASKED1: BITS1, MASKED2: BITS2, MASKED4: BITS4}

DECODING = ("decode", "products")  # functions that take rows apart

# Kinds with a fast pass in integers. nf4 has none: its levels as int8 would be wrong by more than a query's.
INTEGER_KINDS = frozenset(BIAS) - {NF4}


class Inner(Record):
    """The addresses of the functions for one kind; 0 for one that was not asked for, or that the kind has not."""

    _fields_ = (
        ("dots", INTEGER),
        ("dots_at", INTEGER),
        ("lane_sums", INTEGER),
        ("float_dots", INTEGER),
        ("block_dots", INTEGER),
        ("float_block_dots", INTEGER),
        ("hamming", INTEGER),
        ("block_sums", INTEGER),
        ("unpack", INTEGER),
        ("decode", INTEGER),
        ("products", INTEGER),
        ("kind", INTEGER),
        ("integers", INTEGER),  # whether the fast pass is in integers
        ("bias", INTEGER),  # what the integers have too much
        ("step", INTEGER),  # dimensions in one integer step; queries lie in its order
    )


read_inner = reader(Inner)


@cache
def inner(kind: int, *names: str) -> Inner:
    """The functions of a kind by name."""
    found = of_kind(kind)
    equip(found, names)
    return found


def of_kind(kind: int) -> Inner:
    """What is known of a kind, without any functions."""
    return Inner(integers=kind in INTEGER_KINDS, bias=BIAS.get(kind, 0), step=STEP[kind], kind=kind)


def equip(found: Inner, names: Iterable[str]) -> None:
    """Add functions by name."""
    for name in names:
        kind = _APART.get(found.kind, found.kind) if name in DECODING else found.kind
        setattr(found, name, _FUNCTIONS[name](kind).address)


@cache
def dots(kind: int) -> Any:
    """Four rows at a time: one load of the query serves four. `raw` has room for a multiple of four."""
    if kind in SPAN:
        return lookup_dots(kind)
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @inner_loop(8)
    def integer_dots(query, rows, row_bytes, dim, n, tables, table_row, raw):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        last, last_table = rows + (n - 1) * row_bytes, tables + (n - 1) * table_row
        for j in range(0, n, 4):
            a, b, c, d = rows, rows + row_bytes, rows + 2 * row_bytes, rows + 3 * row_bytes
            b_at, c_at, d_at = tables + table_row, tables + 2 * table_row, tables + 3 * table_row
            if j + 4 > n:  # past the end the last row is taken again
                b, c, d = min(b, last), min(c, last), min(d, last)
                b_at, c_at, d_at = min(b_at, last_table), min(c_at, last_table), min(d_at, last_table)
            a_table, b_table = load_table(kind, tables), load_table(kind, b_at)
            c_table, d_table = load_table(kind, c_at), load_table(kind, d_at)
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            for at in range(0, dim, step):
                for line in range(0, step // 2 * bits, 64):
                    prefetch(a + AHEAD + at // 2 * bits + line)
                a_sum = add_dots(kind, a_sum, a, dim, at, a_table, query)
                b_sum = add_dots(kind, b_sum, b, dim, at, b_table, query)
                c_sum = add_dots(kind, c_sum, c, dim, at, c_table, query)
                d_sum = add_dots(kind, d_sum, d, dim, at, d_table, query)
            store_dots(kind, raw, a_sum, b_sum, c_sum, d_sum)
            rows += 4 * row_bytes
            tables += 4 * table_row
            raw += 16

    return integer_dots


@cache
def dots_at(kind: int) -> Any:
    """Four rows at a time, whose addresses lie at `rows`: int64, whole fours. Rows share one table."""
    sources, step = SOURCES, STEP[kind]

    @inner_loop(6)
    def scattered_dots(query, rows, dim, n, tables, raw):
        _ = sources
        table = load_table(kind, tables)
        for _j in range(0, n, 4):
            a, b, c, d = peek_i64(rows), peek_i64(rows + 8), peek_i64(rows + 16), peek_i64(rows + 24)
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            for at in range(0, dim, step):
                a_sum = add_dots(kind, a_sum, a, dim, at, table, query)
                b_sum = add_dots(kind, b_sum, b, dim, at, table, query)
                c_sum = add_dots(kind, c_sum, c, dim, at, table, query)
                d_sum = add_dots(kind, d_sum, d, dim, at, table, query)
            store_dots(kind, raw, a_sum, b_sum, c_sum, d_sum)
            rows += 32
            raw += 16

    return scattered_dots


class BlockRows(Record):
    """What `block_dots` takes: one query, and rows in blocks with scales, and maybe zeros, of their own."""

    _fields_ = (
        ("query", INTEGER),
        # -BIAS times the sum of each four numbers of the query, int32, added up over a step; integer kinds only
        ("starts", INTEGER),
        ("sums", INTEGER),  # of the query over each block, float32, in the unit of the numbers
        ("places", INTEGER),  # the block of each lane, int32, for each step, or for each 16 dimensions
        ("rows", INTEGER),
        ("row_bytes", INTEGER),
        ("dim", INTEGER),
        ("n", INTEGER),
        ("table", INTEGER),
        ("table_row", INTEGER),
        ("table_block", INTEGER),
        ("block", INTEGER),
        ("blocks", INTEGER),
        ("scale", INTEGER),  # 0 stands for ones
        ("scale_kind", INTEGER),
        ("scale_bytes", INTEGER),
        ("scale_row", INTEGER),
        ("zero", INTEGER),  # 0 stands for zeros
        ("zero_kind", INTEGER),
        ("zero_bytes", INTEGER),
        ("zero_row", INTEGER),
        ("out", INTEGER),  # float32, with room for a multiple of four
    )


read_block_rows = reader(BlockRows)


@inlined
def scales_from(rows, row, b):
    """The scales of 16 blocks from b on; zeros behind the last block, where anything may lie."""
    if rows.scale == 0:
        return splat_f32(np.float32(1))
    return first_lanes(
        scales16(rows.scale_kind, rows.scale + row * rows.scale_row + b * rows.scale_bytes), rows.blocks - b
    )


@inlined
def add_zeros(rows, row, b, acc):
    zeros = scales16(rows.zero_kind, rows.zero + row * rows.zero_row + b * rows.zero_bytes)
    return fma_f32(acc, first_lanes(zeros, rows.blocks - b), load_f32(rows.sums + 4 * b))


@cache
def block_dots(kind: int) -> Any:
    """A register holds the scales of 16 blocks, and gives each lane its own by a permutation."""
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @inner_loop(1)
    def dots_of_blocks(address):
        _ = sources
        rows = read_block_rows(address)
        query, starts, places, dim, n, block = rows.query, rows.starts, rows.places, rows.dim, rows.n, rows.block
        table_block, table_row = rows.table_block, rows.table_row
        for j in range(0, n, 4):
            j1, j2, j3 = min(j + 1, n - 1), min(j + 2, n - 1), min(j + 3, n - 1)
            a, b = rows.rows + j * rows.row_bytes, rows.rows + j1 * rows.row_bytes
            c, d = rows.rows + j2 * rows.row_bytes, rows.rows + j3 * rows.row_bytes
            a_tables, b_tables = rows.table + j * table_row, rows.table + j1 * table_row
            c_tables, d_tables = rows.table + j2 * table_row, rows.table + j3 * table_row
            a_sum, b_sum, c_sum, d_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
            for first in range(0, rows.blocks, 16):
                a_scales, b_scales = scales_from(rows, j, first), scales_from(rows, j1, first)
                c_scales, d_scales = scales_from(rows, j2, first), scales_from(rows, j3, first)
                if rows.zero != 0:
                    a_sum, b_sum = add_zeros(rows, j, first, a_sum), add_zeros(rows, j1, first, b_sum)
                    c_sum, d_sum = add_zeros(rows, j2, first, c_sum), add_zeros(rows, j3, first, d_sum)
                table = 0
                for at in range(first * block, min((first + 16) * block, dim), step):
                    for line in range(0, step // 2 * bits, 64):
                        prefetch(a + AHEAD + at // 2 * bits + line)
                    if table_block != 0:
                        table = at // block * table_block
                    start, place = load_i32(starts + 64 * (at // step)), load_i32(places + 64 * (at // step))
                    sums = add_dots(kind, start, a, dim, at, load_table(kind, a_tables + table), query)
                    a_sum = add_scaled(a_sum, sums, lanes_at(a_scales, place))
                    sums = add_dots(kind, start, b, dim, at, load_table(kind, b_tables + table), query)
                    b_sum = add_scaled(b_sum, sums, lanes_at(b_scales, place))
                    sums = add_dots(kind, start, c, dim, at, load_table(kind, c_tables + table), query)
                    c_sum = add_scaled(c_sum, sums, lanes_at(c_scales, place))
                    sums = add_dots(kind, start, d, dim, at, load_table(kind, d_tables + table), query)
                    d_sum = add_scaled(d_sum, sums, lanes_at(d_scales, place))
            store_sums_f32(rows.out + 4 * j, a_sum, b_sum, c_sum, d_sum)

    return dots_of_blocks


@cache
def float_block_dots(kind: int) -> Any:
    sources, bits = SOURCES, sum(PLANES[kind])

    @inner_loop(1)
    def float_dots_of_blocks(address):
        _ = sources
        rows = read_block_rows(address)
        query, places, dim, n, per_block = rows.query, rows.places, rows.dim, rows.n, rows.block // 16
        table = load_table(kind, rows.table)
        for j in range(0, n, 4):
            j1, j2, j3 = min(j + 1, n - 1), min(j + 2, n - 1), min(j + 3, n - 1)
            a, b = rows.rows + j * rows.row_bytes, rows.rows + j1 * rows.row_bytes
            c, d = rows.rows + j2 * rows.row_bytes, rows.rows + j3 * rows.row_bytes
            a_sum, b_sum, c_sum, d_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
            for first in range(0, rows.blocks, 16):
                a_scales, b_scales = scales_from(rows, j, first), scales_from(rows, j1, first)
                c_scales, d_scales = scales_from(rows, j2, first), scales_from(rows, j3, first)
                if rows.zero != 0:
                    a_sum, b_sum = add_zeros(rows, j, first, a_sum), add_zeros(rows, j1, first, b_sum)
                    c_sum, d_sum = add_zeros(rows, j2, first, c_sum), add_zeros(rows, j3, first, d_sum)
                for group in range(first * per_block, min((first + 16) * per_block, (dim + 15) // 16)):
                    for line in range(0, 8 * bits, 64):
                        prefetch(a + AHEAD + 8 * bits * group + line)
                    q, place = load_f32(query + 64 * group), load_i32(places + 64 * group)
                    a_sum = fma_f32(a_sum, times(decode16(kind, a, dim, group, table), q), lanes_at(a_scales, place))
                    b_sum = fma_f32(b_sum, times(decode16(kind, b, dim, group, table), q), lanes_at(b_scales, place))
                    c_sum = fma_f32(c_sum, times(decode16(kind, c, dim, group, table), q), lanes_at(c_scales, place))
                    d_sum = fma_f32(d_sum, times(decode16(kind, d, dim, group, table), q), lanes_at(d_scales, place))
            store_sums_f32(rows.out + 4 * j, a_sum, b_sum, c_sum, d_sum)

    return float_dots_of_blocks


@cache
def hamming(kind: int) -> Any:
    """`query` and `mask` have bits in whole registers; the mask, ones for the dimensions there are."""
    sources = SOURCES

    @inner_loop(7)
    def differing_bits(query, mask, rows, row_bytes, n, last, raw):
        _ = sources
        group = 4 * row_bytes
        for j in range(0, n, 4):
            a, b, c, d = rows, rows + row_bytes, rows + 2 * row_bytes, rows + 3 * row_bytes
            if j + 4 > n:
                b, c, d = min(b, last), min(c, last), min(d, last)
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            at = 0
            while at < row_bytes:
                for line in range(0, 256, 64):
                    prefetch(rows + AHEAD + 4 * at + line)
                a_sum = add_differences(a_sum, a + at, query + at, mask + at)
                b_sum = add_differences(b_sum, b + at, query + at, mask + at)
                c_sum = add_differences(c_sum, c + at, query + at, mask + at)
                d_sum = add_differences(d_sum, d + at, query + at, mask + at)
                at += 64
            store_sums_i32(raw, a_sum, b_sum, c_sum, d_sum)
            rows += group
            raw += 16

    return differing_bits


@cache
def block_sums(kind: int) -> Any:
    """Of rows a, b, c and d: raw[b, :4] = <int8 query, integers of a row, plus BIAS> over block b, int32.

    Blocks are 64 bytes apart in `raw`; those of masked kinds are whole steps. Where they are no multiples of 64
    dimensions, sums are of each 16 dimensions, of whole registers.
    """
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @inner_loop(13)
    def sums_of_blocks(
        query, a, b, c, d, a_tables, b_tables, c_tables, d_tables, dim, table_block, block, raw
    ):  # fmt: skip
        _ = sources
        whole = block % 64 == 0
        length = block if whole else 64
        a_table, b_table = load_table(kind, a_tables), load_table(kind, b_tables)
        c_table, d_table = load_table(kind, c_tables), load_table(kind, d_tables)
        first, table = 0, 0
        while first < dim:
            if table_block != 0:
                a_table, b_table = load_table(kind, a_tables + table), load_table(kind, b_tables + table)
                c_table, d_table = load_table(kind, c_tables + table), load_table(kind, d_tables + table)
                table += table_block
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            at, stop = first, min(first + length, dim)
            while at < stop:
                for line in range(0, step // 2 * bits, 64):
                    prefetch(a + AHEAD + at // 2 * bits + line)
                a_sum = add_dots(kind, a_sum, a, dim, at, a_table, query)
                b_sum = add_dots(kind, b_sum, b, dim, at, b_table, query)
                c_sum = add_dots(kind, c_sum, c, dim, at, c_table, query)
                d_sum = add_dots(kind, d_sum, d, dim, at, d_table, query)
                at += step
            if whole:
                a_sum, b_sum = in_place(kind, a_sum), in_place(kind, b_sum)
                c_sum, d_sum = in_place(kind, c_sum), in_place(kind, d_sum)
                store_sums_i32(raw, a_sum, b_sum, c_sum, d_sum)
                raw += 64
            else:
                store_part_sums(raw, 64, a_sum, b_sum, c_sum, d_sum)
                raw += 256
            first += length

    return sums_of_blocks


@cache
def float_dots(kind: int) -> Any:
    sources, bits = SOURCES, sum(PLANES[kind])

    @inner_loop(8)
    def dots_of_floats(query, rows, row_bytes, dim, n, tables, _table_row, raw):
        _ = sources
        table, last = load_table(kind, tables), rows + (n - 1) * row_bytes
        for j in range(0, n, 4):
            a, b, c, d = rows, rows + row_bytes, rows + 2 * row_bytes, rows + 3 * row_bytes
            if j + 4 > n:
                b, c, d = min(b, last), min(c, last), min(d, last)
            a_sum, b_sum, c_sum, d_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
            for group in range((dim + 15) // 16):
                for line in range(0, 8 * bits, 64):
                    prefetch(a + AHEAD + 8 * bits * group + line)
                q = load_f32(query + 64 * group)
                a_sum = fma_f32(a_sum, decode16(kind, a, dim, group, table), q)
                b_sum = fma_f32(b_sum, decode16(kind, b, dim, group, table), q)
                c_sum = fma_f32(c_sum, decode16(kind, c, dim, group, table), q)
                d_sum = fma_f32(d_sum, decode16(kind, d, dim, group, table), q)
            store_sums_f32(raw, a_sum, b_sum, c_sum, d_sum)
            rows += 4 * row_bytes
            raw += 16

    return dots_of_floats


@cache
def unpack(kind: int) -> Any:
    """Writes whole steps: `dim` rounded up to STEP bytes."""
    sources, step = SOURCES, STEP[kind]

    @inner_loop(6)
    def bytes_of_row(row, dim, tables, table_block, block, out):
        _ = sources
        table = load_table(kind, tables)
        for at in range(0, dim, step):
            if table_block != 0:
                table = load_table(kind, tables + at // block * table_block)
            store_integers(kind, row, dim, at, table, out)

    return bytes_of_row


@cache
def decode(kind: int) -> Any:
    """Writes whole registers: `dim` rounded up to 32 numbers.

    `scales` and `zeros` are float32, one for each 16 dimensions; address 0 where there are none.
    """
    sources = SOURCES

    @cfunc(types.void(*[types.intp] * 5, types.float32, *[types.intp] * 3), cache=True)
    def numbers_of_row(row, dim, tables, table_block, block, unit, scales, zeros, out):
        _ = sources
        table = load_table(kind, tables)
        for group in range((dim + 31) // 32 * 2):
            if table_block != 0:
                table = load_table(kind, tables + 16 * group // block * table_block)
            numbers = scaled(decode16(kind, row, dim, group, table), unit)
            if scales != 0:
                numbers = scaled(numbers, peek_f32(scales + 4 * group))
                numbers = shifted(numbers, peek_f32(zeros + 4 * group))
            store_f32(out + 64 * group, numbers)

    return numbers_of_row


@cache
def products(kind: int) -> Any:
    """The inner product of a row without blocks and a query in whole registers, as exact.py defines it."""
    sources = SOURCES

    @cfunc(types.void(*[types.intp] * 3, types.float32, types.intp, types.intp), cache=True)
    def products_of_row(row, dim, tables, unit, query, out):
        _ = sources
        table = load_table(kind, tables)
        low, high = zero_f64(), zero_f64()
        for group in range(0, (dim + 15) // 16, 2):
            numbers, more = decode16(kind, row, dim, group, table), decode16(kind, row, dim, group + 1, table)
            low = add_products_f64(low, scaled(numbers, unit), load_f32(query + 64 * group))
            high = add_products_f64(high, scaled(more, unit), load_f32(query + 64 * group + 64))
        poke_f64(out, sum_f64(low, high))

    return products_of_row


_FUNCTIONS = {
    function.__name__: function
    for function in (
        dots, dots_at, lane_sums, float_dots, block_dots, float_block_dots, hamming, block_sums, unpack, decode,
        products,
    )
}  # fmt: skip


@intrinsic
def call(typingctx, address, arguments):
    """Call a function of this module, by its address, with a tuple of arguments: 64-bit integers, or float32."""
    if not all(kind in (types.int64, types.uint64, types.float32) for kind in arguments):
        raise errors.TypingError(f"arguments of another type: {arguments}")

    def codegen(context, builder, signature, args):
        values = [builder.extract_value(args[1], i) for i in range(len(signature.args[1]))]
        function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.intp, arguments), codegen
