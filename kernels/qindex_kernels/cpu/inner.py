"""The inner loops that depend on what a row holds, compiled for each kind, and called through their addresses.

    dots         raw[j] = <int8 query, integers of row j, plus BIAS>, int32            integer kinds
                 or with block scales  <int8 query, numbers of row j / unit>, float32
    float_dots   raw[j] = <float32 query, numbers of row j / unit>, float32            float kinds
    bytes        the integers of a row, plus BIAS, as unsigned bytes                    integer kinds
    numbers      the numbers of a row as float32                                        all kinds

So the kernels around them (top-k, matrix products) are compiled once for all formats. Arguments are addresses and
int64 numbers. Each function is kept for good, since its address is all that a kernel has of it.

int32 holds 255 * 127 * dim for any dim up to 65,536.
"""

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import cfunc, types
from numba.core import errors
from numba.extending import intrinsic

from qindex_kernels.cpu.simd import (
    add_i32,
    add_scaled,
    fma_f32,
    load_f32,
    load_i32,
    peek_f32,
    prefetch,
    scaled,
    shifted,
    store_f32,
    store_group_sums,
    store_sums_f32,
    store_sums_i32,
    zero_f32,
    zero_i32,
)
from qindex_kernels.cpu.sources import SOURCES
from qindex_kernels.cpu.unpack import BIAS, NF4, PLANES, STEP, add_dots, decode16, load_table, store_integers

# Decoding fills the reorder window with few rows, so the hardware alone does not look far enough ahead: bytes.
AHEAD = 4096

# Kinds with a fast pass in integers. nf4 has none: its levels as int8 would be wrong by more than a query's.
INTEGER_KINDS = frozenset(BIAS) - {NF4}


class Inner(NamedTuple):
    """The addresses of the functions for one kind; 0 for one that was not asked for, or that the kind has not."""

    dots: int
    float_dots: int
    block_dots: int
    block_sums: int
    unpack: int
    decode: int
    integers: int  # whether the fast pass is in integers
    bias: int  # what the integers have too much
    step: int  # dimensions in one integer step; queries lie in its order


@cache
def inner(kind: int, *names: str) -> Inner:
    """The functions of a kind by name; `dots` stands for those that fit, `float_dots` for kinds without integers."""
    integers = kind in INTEGER_KINDS
    compiled = dict.fromkeys(Inner._fields, 0)
    for name in names:
        if name == "decode" or kind in BIAS:
            compiled[name] = _FUNCTIONS[name](kind).address
        if name in ("dots", "block_dots") and not integers:
            compiled["float_dots"] = float_dots(kind).address
    return Inner(**{**compiled, "integers": int(integers), "bias": BIAS.get(kind, 0), "step": STEP[kind]})


def _inner(n_arguments: int) -> Any:
    return cfunc(types.void(*[types.intp] * n_arguments), cache=True)


@cache
def dots(kind: int) -> Any:
    """Four rows at a time: one load of the query serves four. `raw` has room for a multiple of four."""
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @_inner(8)
    def integer_dots(query, rows, row_bytes, dim, n, tables, table_row, raw):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        for j in range(0, n, 4):
            # Past the end the last row is taken again.
            second, third, fourth = min(j + 1, n - 1), min(j + 2, n - 1), min(j + 3, n - 1)
            a, b = rows + j * row_bytes, rows + second * row_bytes
            c, d = rows + third * row_bytes, rows + fourth * row_bytes
            a_table, b_table = load_table(kind, tables + j * table_row), load_table(kind, tables + second * table_row)
            c_table, d_table = (
                load_table(kind, tables + third * table_row),
                load_table(kind, tables + fourth * table_row),
            )
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            for at in range(0, dim, step):
                for line in range(0, step // 2 * bits, 64):
                    prefetch(a + AHEAD + at // 2 * bits + line)
                a_sum = add_dots(kind, a_sum, a, dim, at, a_table, query)
                b_sum = add_dots(kind, b_sum, b, dim, at, b_table, query)
                c_sum = add_dots(kind, c_sum, c, dim, at, c_table, query)
                d_sum = add_dots(kind, d_sum, d, dim, at, d_table, query)
            store_sums_i32(raw + 4 * j, a_sum, b_sum, c_sum, d_sum)

    return integer_dots


@cache
def block_dots(kind: int) -> Any:
    """`starts` takes BIAS back: -BIAS times the sum of each four numbers of the query, int32.

    `scales` are float32, one for each 16 dimensions of each row.
    """
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @_inner(13)
    def dots_of_blocks(
        query, starts, rows, row_bytes, dim, n, tables, table_row, table_block, block, scales, scales_row, raw
    ):
        _ = sources
        for j in range(0, n, 4):
            second, third, fourth = min(j + 1, n - 1), min(j + 2, n - 1), min(j + 3, n - 1)
            a, b = rows + j * row_bytes, rows + second * row_bytes
            c, d = rows + third * row_bytes, rows + fourth * row_bytes
            a_tables, b_tables = tables + j * table_row, tables + second * table_row
            c_tables, d_tables = tables + third * table_row, tables + fourth * table_row
            a_scales, b_scales = scales + j * scales_row, scales + second * scales_row
            c_scales, d_scales = scales + third * scales_row, scales + fourth * scales_row
            a_sum, b_sum, c_sum, d_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
            table = 0
            for at in range(0, dim, step):
                for line in range(0, step // 2 * bits, 64):
                    prefetch(a + AHEAD + at // 2 * bits + line)
                if table_block != 0:
                    table = at // block * table_block
                start = load_i32(starts + at)
                for more in range(at + 64, at + step, 64):  # all under one scale
                    start = add_i32(start, load_i32(starts + more))
                sums = add_dots(kind, start, a, dim, at, load_table(kind, a_tables + table), query)
                a_sum = add_scaled(a_sum, sums, a_scales + at // 4)
                sums = add_dots(kind, start, b, dim, at, load_table(kind, b_tables + table), query)
                b_sum = add_scaled(b_sum, sums, b_scales + at // 4)
                sums = add_dots(kind, start, c, dim, at, load_table(kind, c_tables + table), query)
                c_sum = add_scaled(c_sum, sums, c_scales + at // 4)
                sums = add_dots(kind, start, d, dim, at, load_table(kind, d_tables + table), query)
                d_sum = add_scaled(d_sum, sums, d_scales + at // 4)
            store_sums_f32(raw + 4 * j, a_sum, b_sum, c_sum, d_sum)

    return dots_of_blocks


@cache
def block_sums(kind: int) -> Any:
    """raw[part][j] = <int8 query, integers of row j, plus BIAS> over a part of the dimensions, for four rows.

    A part is a block where blocks are multiples of 64, else 16 dimensions; there are sums for up to 48 dimensions more.
    The rows lie at `rows`, `rows + row_bytes`, ..., and the sums of parts 64 bytes apart.
    """
    sources, bits, step = SOURCES, sum(PLANES[kind]), STEP[kind]

    @_inner(9)
    def sums_of_blocks(query, rows, row_bytes, dim, tables, table_row, table_block, block, raw):
        _ = sources
        a, b, c, d = rows, rows + row_bytes, rows + 2 * row_bytes, rows + 3 * row_bytes
        whole = block % 64 == 0
        length = block if whole else 64
        for part in range((dim + length - 1) // length):
            table = tables + part * table_block
            a_table, b_table = load_table(kind, table), load_table(kind, table + table_row)
            c_table, d_table = load_table(kind, table + 2 * table_row), load_table(kind, table + 3 * table_row)
            a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
            for at in range(part * length, min((part + 1) * length, dim), step):
                for line in range(0, step // 2 * bits, 64):
                    prefetch(a + AHEAD + at // 2 * bits + line)
                a_sum = add_dots(kind, a_sum, a, dim, at, a_table, query)
                b_sum = add_dots(kind, b_sum, b, dim, at, b_table, query)
                c_sum = add_dots(kind, c_sum, c, dim, at, c_table, query)
                d_sum = add_dots(kind, d_sum, d, dim, at, d_table, query)
            if whole:
                store_sums_i32(raw + 64 * part, a_sum, b_sum, c_sum, d_sum)
            else:
                store_group_sums(raw + 256 * part, 64, a_sum, b_sum, c_sum, d_sum)

    return sums_of_blocks


@cache
def float_dots(kind: int) -> Any:
    sources, bits = SOURCES, sum(PLANES[kind])

    @_inner(8)
    def dots_of_floats(query, rows, row_bytes, dim, n, tables, _table_row, raw):
        _ = sources
        table = load_table(kind, tables)
        for j in range(0, n, 4):
            a, b = rows + j * row_bytes, rows + min(j + 1, n - 1) * row_bytes
            c, d = rows + min(j + 2, n - 1) * row_bytes, rows + min(j + 3, n - 1) * row_bytes
            a_sum, b_sum, c_sum, d_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
            for group in range((dim + 15) // 16):
                for line in range(0, 8 * bits, 64):
                    prefetch(a + AHEAD + 8 * bits * group + line)
                q = load_f32(query + 64 * group)
                a_sum = fma_f32(a_sum, decode16(kind, a, dim, group, table), q)
                b_sum = fma_f32(b_sum, decode16(kind, b, dim, group, table), q)
                c_sum = fma_f32(c_sum, decode16(kind, c, dim, group, table), q)
                d_sum = fma_f32(d_sum, decode16(kind, d, dim, group, table), q)
            store_sums_f32(raw + 4 * j, a_sum, b_sum, c_sum, d_sum)

    return dots_of_floats


@cache
def unpack(kind: int) -> Any:
    """Writes whole steps: `dim` rounded up to STEP bytes."""
    sources, step = SOURCES, STEP[kind]

    @_inner(6)
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


_FUNCTIONS = {"dots": dots, "block_dots": block_dots, "block_sums": block_sums, "unpack": unpack, "decode": decode}


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
