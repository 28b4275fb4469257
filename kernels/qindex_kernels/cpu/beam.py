"""The best rows that a walk has seen, best first, as a sorted run of int64 keys.

    key = ~ordered(score) << 32 | row << 1 | expanded

`ordered` turns the bits of a float32 number into an int32 of the same order, so a smaller key is a better score, and of
equal scores the smaller row. Empty places hold EMPTY, which says score -inf and expanded. In front of the run lies a
key that is smaller than all others; behind it, empty places fill the last register of eight keys.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.simd import lowest_bit, peek_i64, poke_i64
from qindex_kernels.cpu.sources import inlined
from qindex_kernels.cpu.vectors import I1, I8, I32, I64

KEYS = 8  # of a register
EMPTY = 0x7F800000FFFFFFFF
FIRST = -(1 << 63)
LAST_ROW = (1 << 31) - 2  # a key has room for no larger row number


@intrinsic
def push_key(typingctx, at, key):
    """Move up those of eight keys at an address that are larger than `key`, which takes the place that becomes free.

    The key in front of them is the one that comes in where all eight are larger than `key`, or is it itself.
    """

    def codegen(context, builder, signature, args):
        at, key = args
        eight = v.vec(I64, KEYS)
        here, before = v.load(builder, at, eight), v.load(builder, builder.sub(at, at.type(8)), eight)
        keys = v.splat(builder, key, KEYS)
        moved = builder.select(builder.icmp_signed(">", before, keys), before, keys)
        v.store(builder, builder.select(builder.icmp_signed("<", here, moved), here, moved), at)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def open_keys(typingctx, at):
    """Which of eight keys at an address are not expanded, as the bits of a number."""

    def codegen(context, builder, signature, args):
        expanded = builder.trunc(v.load(builder, args[0], v.vec(I64, KEYS)), v.vec(I1, KEYS))
        bits = builder.bitcast(expanded, I8)
        return builder.zext(builder.not_(bits), I64)

    return types.int64(types.intp), codegen


@intrinsic
def key_of(typingctx, score, row):
    """The key of a row that is not expanded."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], I32)
        ordered = builder.xor(bits, builder.and_(builder.ashr(bits, I32(31)), I32(0x7FFFFFFF)))
        high = builder.shl(builder.sext(builder.not_(ordered), I64), I64(32))
        return builder.or_(high, builder.shl(args[1], I64(1)))

    return types.int64(types.float32, types.int64), codegen


@intrinsic
def score_of(typingctx, key):
    """The score in a key."""

    def codegen(context, builder, signature, args):
        ordered = builder.not_(builder.trunc(builder.ashr(args[0], I64(32)), I32))
        bits = builder.xor(ordered, builder.and_(builder.ashr(ordered, I32(31)), I32(0x7FFFFFFF)))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int64), codegen


@inlined
def row_of(key):
    """The row in a key."""
    return key >> 1 & 0x7FFFFFFF


@inlined
def clear(beam, size):
    poke_i64(beam - 8, np.int64(FIRST))
    for at in range(beam, beam + 8 * size, 8):
        poke_i64(at, np.int64(EMPTY))


@inlined
def insert(beam, size, length, key):
    """Put a key, smaller than the last of `length`, in its place; the last falls out. `size` is in whole registers."""
    at = beam + 8 * (size - KEYS)
    while True:
        push_key(at, key)
        if peek_i64(at - 8) < key:
            break
        at -= 8 * KEYS
    if length < size:
        poke_i64(beam + 8 * length, np.int64(EMPTY))


@inlined
def next_open(beam, size, start):
    """The place of the first key from the register of `start` on that is not expanded, else `size`."""
    for at in range(start // KEYS * KEYS, size, KEYS):
        found = open_keys(beam + 8 * at)
        if found != 0:
            return at + lowest_bit(found)
    return size
