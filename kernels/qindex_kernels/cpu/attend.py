"""Attention: softmax(queries . keys) . values, a few query rows at a time over keys laid out once.

For each sequence and each head of keys, 16 keys are transposed into a panel, so that keys are the lanes of scores and
no sum is taken across lanes; values keep their rows, so that dimensions are the lanes of results. ROWS query rows pass
over the panels that any of them sees, their scores lie in a scratch, weights take their place, and meet the values.
All heads that share keys are rows of the same pass, so a decoding step with several of them reads the keys once.

Every number is summed in an order that depends only on its own row (`reference_layers.attend`). Keys that only other
rows of a pass see have weight zero, and adding zeros changes nothing but a zero's sign, which the end removes.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.functions import exp_of_negative, keep_lanes, larger
from qindex_kernels.cpu.record import LINE
from qindex_kernels.cpu.simd import (
    load_f32,
    load_first,
    peek_f32,
    peek_i64,
    scaled,
    store_f32,
    store_first,
    sum_f32,
    transpose,
    zero_f32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.tile import _at, _loop
from qindex_kernels.cpu.unpack import _is_literal
from qindex_kernels.cpu.vectors import F32, f32x16

MOST_DIMS = 256
QUERY_STRIDE = 4 * MOST_DIMS + LINE  # bytes between query rows in their scratch: a literal, and no power of two

# Rows and panels of a tile: as many sums as registers hold. A pass of few rows, as in a decoding step, has tiles of its
# own. The scores of a pass lie panel by panel, and in each row by row.
ROWS, PANELS = (12, 2) if PATH == "avx512" else (4, 1)
FEW_ROWS, FEW_PANELS = (4, 6) if PATH == "avx512" else (1, 4)
FAR = 1 << 40  # keys: no bound
BLOCK = 64 * PANELS  # bytes of the dimensions of a value that a tile takes at once
WEIGHED = 4  # rows whose weights are found together, so that one's sum does not wait for another's


@intrinsic(prefer_literal=True)
def score_tile(typingctx, n_rows, n_panels, queries, panels, panel_stride, dim, scores):
    """scores[p][r] = <row r of the queries' scratch, the 16 keys of panel p>, for literal numbers of both."""
    if not _is_literal(n_rows, n_panels):
        return None
    count, width = n_rows.literal_value, n_panels.literal_value

    def codegen(context, builder, signature, args):
        queries, panels, panel_stride, dim, scores = args[2:]
        panel_at = [_at(builder, panels, (panel_stride, p)) for p in range(width)]
        with _loop(builder, dim, 1, [v.const(f32x16.llvm, 0.0)] * (count * width)) as (d, sums):
            panel = [v.load(builder, _at(builder, at, (d, LINE)), f32x16.llvm) for at in panel_at]
            query = _at(builder, queries, (d, 4))
            for r in range(count):
                number = v.splat(builder, v.peek(builder, _plus(builder, query, QUERY_STRIDE * r), F32), 16)
                for p in range(width):
                    _add(builder, sums, r * width + p, number, panel[p])
        for i, total in enumerate(sums):
            v.store(builder, total, _plus(builder, scores, LINE * (count * (i % width) + i // width)))
        return context.get_dummy_value()

    return types.void(n_rows, n_panels, *[types.intp] * 5), codegen


@intrinsic(prefer_literal=True)
def value_tile(typingctx, n_rows, n_panels, weights, values, value_stride, keys, out):
    """out[r][p] = the sum of weights[key // 16][r][key % 16] * values[key][p], 16 dimensions p, over keys in order."""
    if not _is_literal(n_rows, n_panels):
        return None
    count, width = n_rows.literal_value, n_panels.literal_value

    def codegen(context, builder, signature, args):
        weights, values, value_stride, keys, out = args[2:]
        with _loop(builder, keys, 1, [v.const(f32x16.llvm, 0.0)] * (count * width)) as (key, sums):
            here = builder.add(values, builder.mul(key, value_stride))
            value = [v.load(builder, _plus(builder, here, LINE * p), f32x16.llvm) for p in range(width)]
            panel, lane = builder.ashr(key, key.type(4)), builder.and_(key, key.type(15))
            first = _at(builder, weights, (panel, LINE * count), (lane, 4))
            for r in range(count):
                weight = v.splat(builder, v.peek(builder, _plus(builder, first, LINE * r), F32), 16)
                for p in range(width):
                    _add(builder, sums, r * width + p, weight, value[p])
        for i, total in enumerate(sums):
            v.store(builder, total, _plus(builder, out, QUERY_STRIDE * (i // width) + LINE * (i % width)))
        return context.get_dummy_value()

    return types.void(n_rows, n_panels, *[types.intp] * 5), codegen


@intrinsic(prefer_literal=True)
def weigh(typingctx, n_rows, all_rows, scores, panels, totals):
    """Put the weights of a few rows in the place of their scores, -inf where a key is not seen; and the sums.

    The literal numbers are of these rows and of those that lie in a panel.
    """
    if not _is_literal(n_rows, all_rows):
        return None
    count, stride = n_rows.literal_value, LINE * all_rows.literal_value

    def codegen(context, builder, signature, args):
        scores, panels, totals = args[2:]
        lowest = v.const(f32x16.llvm, float(np.finfo(np.float32).min))  # so that a row without keys has no NaN
        with _loop(builder, panels, 1, [lowest] * count) as (panel, largest):
            here = _at(builder, scores, (panel, stride))
            for r in range(count):
                score = v.load(builder, _plus(builder, here, LINE * r), f32x16.llvm)
                largest[r] = larger(builder, largest[r], score)
        largest = [v.splat(builder, v.largest(builder, lanes), 16) for lanes in largest]
        with _loop(builder, panels, 1, [v.const(f32x16.llvm, 0.0)] * count) as (panel, sums):
            here = _at(builder, scores, (panel, stride))
            for r in range(count):
                at = _plus(builder, here, LINE * r)
                score = v.load(builder, at, f32x16.llvm)
                weight = exp_of_negative(builder, builder.fsub(score, largest[r]))
                v.store(builder, weight, at)
                sums[r] = builder.fadd(sums[r], weight)
        for r, lanes in enumerate(sums):
            total = v.tree_sum(builder, lanes)
            builder.store(total, builder.inttoptr(_plus(builder, totals, 4 * r), F32.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(n_rows, all_rows, *[types.intp] * 3), codegen


def _plus(builder, address, number):
    return builder.add(address, address.type(number))


def _add(builder, sums, i, a, b):
    sums[i] = v.call(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, sums[i])


@kernel
def attend_all(
    segments, n_segments, queries, query_stride, query_head, keys_at, key_stride, key_head, values_at, token_stride,
    value_head, out_at, out_stride, heads, kv_heads, dim, scaling, left, right, longest, scratch,
):  # fmt: skip
    """Addresses, and bytes from token to token (`_stride`) and from head to head. `longest`: keys, in whole panels."""
    wide, group, out_head = (dim + 15) // 16 * 16, heads // kv_heads, 4 * dim
    panels = np.intp(scratch.ctypes.data)
    panels += -panels % LINE
    packed = panels + 4 * wide * longest
    block = packed + (4 * wide + BLOCK - 1) // BLOCK * BLOCK * longest  # of query rows, then of their results
    totals = block + ROWS * QUERY_STRIDE
    scores = totals + LINE
    clear(block, 0, 1, ROWS * QUERY_STRIDE)
    for part in range(n_segments * kv_heads):
        segment, head = segments + 32 * (part // kv_heads), part % kv_heads
        query_start, n_queries = peek_i64(segment), peek_i64(segment + 8)
        key_start, n_keys = peek_i64(segment + 16), peek_i64(segment + 24)
        place = n_keys - n_queries  # of the first query
        lowest = max(place - left, 0) // 16 * 16
        keys = min(place + n_queries + right, n_keys) - lowest  # that any query sees, and those before in a panel
        first_query = queries + query_start * query_stride + head * group * query_head
        first_out = out_at + query_start * out_stride + head * group * out_head
        if keys <= 0 or n_queries <= 0:
            clear(first_out, out_stride, n_queries, group * out_head)
            continue
        first_key = keys_at + head * key_head + (key_start + lowest) * key_stride
        transpose_keys(first_key, key_stride, keys, dim, panels)
        value_at, value_stride = values_at + head * value_head + (key_start + lowest) * token_stride, token_stride
        block_stride, n_rows = BLOCK, n_queries * group
        if n_rows > ROWS or dim % 16:
            pack_values(value_at, value_stride, keys, dim, packed, keys * BLOCK)
            value_at, value_stride, block_stride = packed, BLOCK, keys * BLOCK
        for row in range(0, n_rows, ROWS):
            n = min(ROWS, n_rows - row)
            rows = FEW_ROWS if n <= FEW_ROWS else ROWS
            query, member = row // group, row % group  # of the first row
            low = max(place + query - left, lowest) // 16 * 16 - lowest
            high = min(place + (row + n - 1) // group + right + 1 - lowest, keys)
            count = (high - low + 15) // 16
            if low < high:
                copy_queries(first_query, query_stride, query_head, group, query, member, n, dim, scaling, block)
                score_block(rows, block, panels + low * 4 * wide, 64 * wide, dim, count, scores)
                first_place = place - lowest - low
                hide_unseen(first_place, keys - low, left, right, group, query, member, n, scores, LINE * rows, count)
                weigh_block(rows, scores, count, totals)
                value_block(
                    rows, scores, value_at + low * value_stride, value_stride, block_stride, wide, high - low, block
                )
            for i in range(n):
                total = peek_f32(totals + 4 * i) if low < high else np.float32(0)
                store_result(block + i * QUERY_STRIDE, total, first_out + query * out_stride + member * out_head, dim)
                query, member = next_row(query, member, group)


@inlined
def next_row(query, member, group):
    """A row is a query's head; all heads of a query that share keys come one behind the other. Division is slow."""
    if member + 1 < group:
        return query, member + 1
    return query + 1, 0


@helper
def transpose_keys(source, stride, n, dim, panels):
    """Panels of 16 keys: 16 numbers for each dimension; zeros where there is none."""
    wide = -(-dim // 16) * 16
    for first in range(0, n, 16):
        for at in range(0, dim, 16):
            block, step, to = source + first * stride + 4 * at, stride, panels + 4 * first * wide + LINE * at
            if n - first < 16 or dim - at < 16:  # a copy, so that nothing behind the keys is read
                for i in range(16):
                    number = zero_f32()
                    if first + i < n:
                        number = load_first(block + i * stride, dim - at)
                    store_f32(to + LINE * i, number)
                block, step = to, LINE
            transpose(block, step, to, LINE)


@inlined
def copy_queries(first_query, stride, head, group, query, member, n, dim, scaling, block):
    """Some rows, times the scaling, to their scratch."""
    for i in range(n):
        at, to = first_query + query * stride + member * head, block + i * QUERY_STRIDE
        for d in range(0, dim, 16):
            store_f32(to + 4 * d, scaled(load_first(at + 4 * d, dim - d), np.float32(scaling)))
        query, member = next_row(query, member, group)


@inlined
def hide_unseen(place, keys, left, right, group, query, member, n, scores, stride, count):
    """-inf for the keys that rows do not see. `place` is that of the first query of all."""
    for i in range(n):
        hide(scores + LINE * i, stride, max(place + query - left, 0), min(place + query + right, keys - 1), count)
        query, member = next_row(query, member, group)


@helper
def pack_values(source, stride, n, dim, packed, block_stride):
    """Values in blocks of as many dimensions as a tile takes at once; zeros behind the dimensions there are."""
    for d in range(0, dim, 16):
        at = packed + 4 * d // BLOCK * block_stride + 4 * d % BLOCK
        for j in range(n):
            store_f32(at + j * BLOCK, load_first(source + j * stride + 4 * d, dim - d))


@helper
def score_block(rows, queries, panels, stride, dim, count, scores):
    p = 0
    if rows == ROWS:
        while count - p >= PANELS:
            score_tile(ROWS, PANELS, queries, panels + p * stride, stride, dim, scores + p * ROWS * LINE)
            p += PANELS
        while p < count:
            score_tile(ROWS, 1, queries, panels + p * stride, stride, dim, scores + p * ROWS * LINE)
            p += 1
    else:
        while count - p >= FEW_PANELS:
            score_tile(FEW_ROWS, FEW_PANELS, queries, panels + p * stride, stride, dim, scores + p * FEW_ROWS * LINE)
            p += FEW_PANELS
        while p < count:
            score_tile(FEW_ROWS, 1, queries, panels + p * stride, stride, dim, scores + p * FEW_ROWS * LINE)
            p += 1


@helper
def weigh_block(rows, scores, count, totals):
    if rows == ROWS:
        for i in range(0, ROWS, WEIGHED):
            weigh(WEIGHED, ROWS, scores + LINE * i, count, totals + 4 * i)
    else:
        weigh(FEW_ROWS, FEW_ROWS, scores, count, totals)


@helper
def value_block(rows, weights, values, stride, block_stride, wide, keys, out):
    for d in range(0, 4 * wide, BLOCK):
        if rows == ROWS and 4 * wide - d >= BLOCK:
            value_tile(ROWS, PANELS, weights, values, stride, keys, out + d)
        elif rows == ROWS:
            value_tile(ROWS, 1, weights, values, stride, keys, out + d)
        elif 4 * wide - d >= BLOCK:
            value_tile(FEW_ROWS, PANELS, weights, values, stride, keys, out + d)
        else:
            value_tile(FEW_ROWS, 1, weights, values, stride, keys, out + d)
        values += block_stride


@inlined
def hide(scores, stride, first, last, count):
    """-inf for the keys of a row that it does not see: those before the first and behind the last."""
    for p in range(min((first + 15) // 16, count)):
        hide_in_panel(scores + p * stride, first - 16 * p, last - 16 * p)
    for p in range(max((last + 1) // 16, 0), count):
        hide_in_panel(scores + p * stride, first - 16 * p, last - 16 * p)


@inlined
def hide_in_panel(scores, first, last):
    store_f32(scores, keep_lanes(load_f32(scores), first, last, np.float32(-np.inf)))


@inlined
def store_result(sums, total, out, dim):
    factor = np.float32(0)
    if total > 0:
        factor = np.float32(1) / total
    for d in range(0, dim, 16):
        result = zero_f32()
        if total > 0:
            result = sum_f32(scaled(load_f32(sums + 4 * d), factor), result)
        store_first(out + 4 * d, result, dim - d)


@helper
def clear(out, stride, n, size):
    """Zeros for `size` bytes in each of n rows."""
    for row in range(n):
        for at in range(0, size, LINE):
            store_first(out + row * stride + at, zero_f32(), (size - at) // 4)


def attend(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    segments: NDArray[np.int64],
    scaling: float,
    left: int,
    right: int,
    out: NDArray[np.float32],
) -> None:
    """As `reference_layers.attend`. Heads and dimensions of `out`, and dimensions of the others, are contiguous."""
    heads, dim = out.shape[1:]
    longest = -(-max(segments[:, 3].tolist()) // 16) * 16
    room = 2 * longest * -(-4 * dim // BLOCK) * BLOCK + ROWS * (QUERY_STRIDE + 4 * longest) + 2 * LINE
    attend_all(
        segments.ctypes.data, len(segments), queries.ctypes.data, *queries.strides[:2], keys.ctypes.data,
        *keys.strides[:2], values.ctypes.data, *values.strides[:2], out.ctypes.data, out.strides[0], heads,
        keys.shape[1], dim, float(scaling), FAR if left < 0 else left, FAR if right < 0 else right, longest,
        np.empty(room, np.uint8),
    )  # fmt: skip
