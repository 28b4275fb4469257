"""Sums over one-hot rows: each code names one number of the query, so a product is a sum of what codes name.

The int8 query is a row of tables, of 16 or 256 bytes, one for each code. Codes of 8 bits are looked up one by one;
those of 4 bits in 64 rows at once, 16 bytes of each, which are transposed in registers so that a table meets its codes.
For 32 queries at once tables lie interleaved (lanes.py), and a code names 32 bytes.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.simd import peek_i8, peek_i64, peek_u8, poke_i32, prefetch, store_i32, zero_i32
from qindex_kernels.cpu.sources import SOURCES, inlined, inner_loop
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.unpack import ONE_HOT8, lookup
from qindex_kernels.cpu.vectors import I8, I16, I32, i16x32, i16x64, u8x64

LANES = 32  # queries whose tables lie interleaved
AHEAD = 4096  # bytes that are asked for before they are looked up
SHORT_CODES = 256  # int16 holds sums of so many int8 numbers, and uint16 of so many bytes


@intrinsic
def zero_i16x64(typingctx):
    """Sixty-four int16 zeros."""
    return i16x64(), lambda context, builder, signature, args: v.const(i16x64.llvm, 0)


@intrinsic
def zero_i16x32(typingctx):
    """Thirty-two int16 zeros."""
    return i16x32(), lambda context, builder, signature, args: v.const(i16x32.llvm, 0)


@intrinsic
def add_lookups(typingctx, sums, rows, row_bytes, tables):
    """Look up 16 bytes of each of 64 rows in 32 tables of 16 int8 numbers, and add them up, plus 128 each.

    `sums` holds, for each two rows, first all sums of the even one plus 256 times the odd one, then those of the odd.
    """

    def codegen(context, builder, signature, args):
        sums, rows, row_bytes, tables = args
        pointers = [builder.add(rows, builder.mul(row_bytes, row_bytes.type(16 * k))) for k in range(4)]
        pointers = [builder.inttoptr(pointer, I8.as_pointer()) for pointer in pointers]
        halves = []
        for _ in range(16):
            quad = [builder.load(builder.bitcast(pointer, v.vec(I8, 16).as_pointer()), align=1) for pointer in pointers]
            halves.append([v.join(builder, *quad[:2]), v.join(builder, *quad[2:])])
            # Each from the one before: there are no registers for 64 addresses.
            pointers = [builder.gep(pointer, [row_bytes]) for pointer in pointers]
        low_bits, words = v.const(u8x64.llvm, 15), v.vec(I16, 32)
        even, odd = (v.slice(builder, sums, i, i + 32) for i in (0, 32))
        for i, column in enumerate(v.transposed(builder, [v.join(builder, *half) for half in halves])):
            shifted = builder.lshr(builder.bitcast(column, words), v.const(words, 4))
            for table, codes in enumerate((column, builder.bitcast(shifted, u8x64.llvm))):
                at = builder.add(tables, tables.type(32 * i + 16 * table))
                entries = v.load(builder, at, v.vec(I8, 16))
                repeated = v.shuffle(builder, entries, entries, [*range(16)] * 4)
                found = lookup(builder, repeated, builder.and_(codes, low_bits))
                found = builder.bitcast(builder.xor(found, v.const(u8x64.llvm, 0x80)), words)
                even, odd = builder.add(even, found), builder.add(odd, builder.lshr(found, v.const(words, 8)))
        return v.join(builder, even, odd)

    return i16x64(i16x64, types.intp, types.intp, types.intp), codegen


@intrinsic
def drain_lookups(typingctx, address, sums, bias):
    """Add what `add_lookups` summed up, less a bias, to the int32 numbers of 64 rows at an address."""

    def codegen(context, builder, signature, args):
        address, sums, bias = args
        even, odd = (v.slice(builder, sums, i, i + 32) for i in (0, 32))
        even = builder.sub(even, builder.shl(odd, v.const(odd.type, 8)))
        in_order = v.shuffle(builder, even, odd, [row // 2 + 32 * (row % 2) for row in range(64)])
        for first in range(0, 64, 16):
            at, part = builder.add(address, address.type(4 * first)), v.slice(builder, in_order, first, first + 16)
            wide = builder.sub(builder.zext(part, v.vec(I32, 16)), v.splat(builder, builder.trunc(bias, I32), 16))
            v.store(builder, builder.add(v.load(builder, at, wide.type), wide), at)
        return context.get_dummy_value()

    return types.void(types.intp, i16x64, types.intp), codegen


@intrinsic
def add_lane_bytes(typingctx, sums, address):
    """Add 32 int8 numbers at an address to 32 int16 sums."""

    def codegen(context, builder, signature, args):
        return builder.add(args[0], builder.sext(v.load(builder, args[1], v.vec(I8, 32)), i16x32.llvm))

    return i16x32(i16x32, types.intp), codegen


@intrinsic
def drain_lanes(typingctx, address, sums):
    """Add 32 int16 sums to the int32 numbers at an address."""

    def codegen(context, builder, signature, args):
        wide = builder.sext(args[1], v.vec(I32, 32))
        v.store(builder, builder.add(v.load(builder, args[0], wide.type), wide), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, i16x32), codegen


@intrinsic
def interleave(typingctx, address, stride, upper, out):
    """Write 16 bytes of each of 32 rows as 16 columns of 32 bytes; the last 16 rows lie `upper` bytes behind others."""

    def codegen(context, builder, signature, args):
        address, stride, upper, out = args
        rows = [builder.add(address, builder.mul(stride, stride.type(j))) for j in range(16)]
        pairs = [[v.load(builder, at, v.vec(I8, 16)) for at in (row, builder.add(row, upper))] for row in rows]
        for i, column in enumerate(v.transposed(builder, [v.join(builder, *pair) for pair in pairs])):
            v.store(builder, column, builder.add(out, out.type(32 * i)))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@inlined
def eight_entries(tables, codes):
    """What eight codes at an address name in their tables of 256 bytes."""
    word = peek_i64(codes)
    a = np.int64(peek_i8(tables + (word & 255))) + peek_i8(tables + 256 + (word >> 8 & 255))
    b = np.int64(peek_i8(tables + 512 + (word >> 16 & 255))) + peek_i8(tables + 768 + (word >> 24 & 255))
    c = np.int64(peek_i8(tables + 1024 + (word >> 32 & 255))) + peek_i8(tables + 1280 + (word >> 40 & 255))
    d = np.int64(peek_i8(tables + 1536 + (word >> 48 & 255))) + peek_i8(tables + 1792 + (word >> 56 & 255))
    return (a + b) + (c + d)


@cache
def lookup_dots(kind: int) -> Any:
    """`inner.dots` of one-hot rows; `raw` has room for a multiple of 64."""
    sources, at_once = SOURCES, 1 << 30 if PATH == "portable" else 64  # plain vectors look up no faster

    @inner_loop(8)
    def sums_of_bytes(query, rows, row_bytes, _dim, n, _tables, _table_row, raw):
        _ = sources
        for j in range(n):
            total = np.int64(0)
            for at in range(0, row_bytes, 8):
                total += eight_entries(query + 256 * at, rows + at)
            poke_i32(raw + 4 * j, np.int32(total))
            rows += row_bytes

    @inner_loop(8)
    def sums_of_nibbles(query, rows, row_bytes, _dim, n, _tables, _table_row, raw):
        _ = sources
        whole = n // at_once * at_once
        for j in range(0, whole, 64):
            for at in range(4 * j, 4 * j + 256, 64):
                store_i32(raw + at, zero_i32())
            for first in range(0, row_bytes, SHORT_CODES // 2):
                sums, stop = zero_i16x64(), min(first + SHORT_CODES // 2, row_bytes)
                for at in range(first, stop, 16):
                    for line in range(0, 1024, 64):
                        prefetch(rows + AHEAD + 64 * at + line)
                    sums = add_lookups(sums, rows + at, row_bytes, query + 32 * at)
                drain_lookups(raw + 4 * j, sums, 128 * 32 * ((stop - first + 15) // 16))
            rows += 64 * row_bytes
        for j in range(whole, n):
            total = np.int64(0)
            for at in range(row_bytes):
                codes = np.intp(peek_u8(rows + at))
                total += peek_i8(query + 32 * at + (codes & 15))
                total += peek_i8(query + 32 * at + 16 + (codes >> 4))
            poke_i32(raw + 4 * j, np.int32(total))
            rows += row_bytes

    return sums_of_bytes if kind == ONE_HOT8 else sums_of_nibbles


@inlined
def add_named_by_byte(sums, tables, byte):
    return add_lane_bytes(sums, tables + LANES * np.intp(byte))


@inlined
def add_named_by_nibbles(sums, tables, byte):
    sums = add_lane_bytes(sums, tables + LANES * (np.intp(byte) & 15))
    return add_lane_bytes(sums, tables + 16 * LANES + LANES * (np.intp(byte) >> 4))


@cache
def lane_sums(kind: int) -> Any:
    """out[j, i] = what row j names in the tables of query i of 32, int32, with room for a multiple of four rows.

    `tables` are [number][query]. Reads no byte behind the rows.
    """
    sources, by_byte = SOURCES, kind == ONE_HOT8
    add, part_bytes = (add_named_by_byte, SHORT_CODES) if by_byte else (add_named_by_nibbles, SHORT_CODES // 2)
    table_bytes = LANES * (256 if by_byte else 32)  # of all codes in a byte

    @inner_loop(5)
    def sums_of_lanes(tables, rows, row_bytes, n, out):
        _ = sources
        last = rows + (n - 1) * row_bytes
        for j in range(0, n, 4):
            a, b, c, d = rows, rows + row_bytes, rows + 2 * row_bytes, rows + 3 * row_bytes
            if j + 4 > n:  # past the end the last row is taken again
                b, c, d = min(b, last), min(c, last), min(d, last)
            for at in range(0, 4 * 4 * LANES, 64):
                store_i32(out + at, zero_i32())
            for first in range(0, row_bytes, part_bytes):
                a_sums, b_sums, c_sums, d_sums = zero_i16x32(), zero_i16x32(), zero_i16x32(), zero_i16x32()
                for at in range(first, min(first + part_bytes, row_bytes)):
                    table = tables + table_bytes * at
                    a_sums = add(a_sums, table, peek_u8(a + at))
                    b_sums = add(b_sums, table, peek_u8(b + at))
                    c_sums = add(c_sums, table, peek_u8(c + at))
                    d_sums = add(d_sums, table, peek_u8(d + at))
                drain_lanes(out, a_sums)
                drain_lanes(out + 4 * LANES, b_sums)
                drain_lanes(out + 8 * LANES, c_sums)
                drain_lanes(out + 12 * LANES, d_sums)
            rows += 4 * row_bytes
            out += 16 * LANES

    return sums_of_lanes
