"""The k best rows for each query, exact, in one pass over the codes.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], level[code_j]>      in float64, rounded to float32 once

A fast pass over a block of rows (int8 query, or float32 sums) gives scores that are wrong by at most `margin[i]`. A row
whose fast score plus the margin cannot reach the k-th best score so far is out; any other is scored exactly, at once,
and enters a heap if it is good enough. So the result is that of exact scoring, whatever the fast pass does, and equal
on every target. Ties go to the smaller id.

A block of rows is small enough to stay in the L1 or L2 cache while every query passes over it.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.dots import exact_dot, float_dots, integer_dots
from qindex_kernels.cpu.simd import (
    E3M4,
    E4M3,
    E5M2,
    FLOAT16,
    FLOAT32,
    INT8,
    SIGN,
    any_at_least,
    peek_f32,
    peek_i64,
    peek_u8,
)
from qindex_kernels.cpu.sources import SOURCES

# What a format is to a kernel. decode16 gives small floats times a power of two (simd.py); the second takes it back.
KINDS = {
    "float32": (FLOAT32, 1.0),
    "float16": (FLOAT16, 1.0),
    "e4m3": (E4M3, 2.0**8),
    "e5m2": (E5M2, 1.0),
    "e3m4": (E3M4, 2.0**12),
    "int8": (INT8, 1.0),
    "sign": (SIGN, 1.0),
}

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

BLOCK_BYTES = 1 << 15  # of codes: L1 keeps them beside the query and the scores


class Rows(NamedTuple):
    """Addresses of coded rows and of what goes with them; 0 where there is none."""

    n: int
    dim: int
    row_bytes: int
    data: int
    tail: int  # where row 0 would lie if the rows from tail_start on lay where their padded copy does
    tail_start: int
    scale: int  # float32
    bias: int  # float32
    ids: int  # int64, to break ties
    allow: int  # bytes, 0 where a row may not be returned


class Batch(NamedTuple):
    """Queries, padded with zeros to whole registers: float32, and as `step * fast` with an int8 `fast`."""

    values: NDArray[np.float32]
    fast: NDArray[np.int8]
    shift: NDArray[np.int64]  # what makes the integer sum that of the levels
    step: NDArray[np.float32]
    margin: NDArray[np.float64]


@njit(inline="always")
def row_address(rows, row):
    return (rows.data if row < rows.tail_start else rows.tail) + row * rows.row_bytes


@njit
def is_worse(score, row, other_score, other_row, ids):
    """Whether (score, row) comes after (other_score, other_row) in the ranking. Row -1, an empty place, comes last."""
    if score != other_score:
        return score < other_score
    if row < 0 or other_row < 0:
        return row < other_row
    return peek_i64(ids + 8 * row) > peek_i64(ids + 8 * other_row)


@njit
def replace_worst(scores, kept, score, row, ids):
    """Put a better row in the place of the heap's root, the worst of the k kept so far."""
    k = len(scores)
    at = 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        if child + 1 < k and is_worse(scores[child + 1], kept[child + 1], scores[child], kept[child], ids):
            child += 1
        if not is_worse(scores[child], kept[child], score, row, ids):
            break
        scores[at], kept[at] = scores[child], kept[child]
        at = child
    scores[at], kept[at] = score, row


@njit
def sort_best_first(all_scores, all_kept, ids):
    """Turn each heap into a ranking: the worst of what is left goes to the end of what is left."""
    for i in range(len(all_scores)):
        scores, kept = all_scores[i], all_kept[i]
        for last in range(len(scores) - 1, 0, -1):
            score, row = scores[last], kept[last]
            scores[last], kept[last] = scores[0], kept[0]
            replace_worst(scores[:last], kept[:last], score, row, ids)


@njit(inline="always")
def exact_score(kind, unit, query, offset, rows, row):
    """The score that this module's docstring defines, of one row."""
    dot = exact_dot(kind, query, rows.dim, row_address(rows, row)) * unit
    if rows.scale != 0:
        dot *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        offset += peek_f32(rows.bias + 4 * row)
    return np.float32(offset + dot)


@njit(inline="always")
def refine(kind, unit, approx, n, first, query, margin, offset, rows, scores, kept):
    """Score exactly, and keep if good enough, each row of the block that its fast score does not rule out."""
    threshold = np.float32(scores[0] - margin)
    for group in range(0, n, 16):
        if not any_at_least(approx.ctypes.data + 4 * group, threshold):
            continue
        for j in range(group, min(group + 16, n)):
            row = first + j
            if approx[j] < threshold or (rows.allow != 0 and peek_u8(rows.allow + row) == 0):
                continue
            score = exact_score(kind, unit, query, offset, rows, row)
            if is_worse(scores[0], kept[0], score, row, rows.ids):
                replace_worst(scores, kept, score, row, rows.ids)
                threshold = np.float32(scores[0] - margin)


@njit
def finish(raw, approx, n, first, multiplier, shift, factor, offset, rows):
    """Fast scores from raw dot products: approx = (multiplier * raw + shift) * factor * scale + (bias + offset)."""
    factor, offset = np.float32(factor), np.float32(offset)
    for j in range(n):
        approx[j] = np.float32(multiplier * raw[j] + shift) * factor
    if rows.scale != 0:
        for j in range(n):
            approx[j] *= peek_f32(rows.scale + 4 * (first + j))
    if rows.bias != 0:
        for j in range(n):
            approx[j] += peek_f32(rows.bias + 4 * (first + j))
    for j in range(n):
        approx[j] += offset
    for j in range(n, (n + 15) // 16 * 16):
        approx[j] = -np.inf


@njit
def prepared(kind, values, offset, max_norm, max_bias):
    """Pad the queries, give them an int8 form, and bound the error of each query's fast scores."""
    m, dim = values.shape
    width = (dim + 63) // 64 * 64
    padded, fast = np.zeros((m, width), np.float32), np.zeros((m, width), np.int8)
    shift, step = np.zeros(m, np.int64), np.ones(m, np.float32)
    margin = np.empty(m, np.float64)
    for i in range(m):
        largest, squares = np.float32(0), 0.0
        for d in range(dim):
            value = values[i, d]
            padded[i, d] = value
            largest = max(largest, abs(value))
            squares += np.float64(value) * np.float64(value)
        if largest / np.float32(127) >= SMALLEST_NORMAL:  # else the int8 form is zero and misses the whole query
            step[i] = largest / np.float32(127)
        total, missed, missed_squares = 0, 0.0, 0.0
        for d in range(dim):
            code = np.rint(padded[i, d] / step[i])
            fast[i, d] = np.int8(code)
            total += np.int64(code)
            miss = abs(np.float64(padded[i, d]) - np.float64(step[i]) * code)
            missed += miss
            missed_squares += miss * miss
        # What the int8 form misses: Cauchy-Schwarz for int8 rows; for rows of signs the sum of the misses, under a row
        # scale that is at most max_norm / sqrt(dim).
        margin[i] = 0.0
        if kind == INT8:
            margin[i], shift[i] = np.sqrt(missed_squares) * max_norm, -128 * total
        elif kind == SIGN:
            margin[i], shift[i] = missed * max_norm / np.sqrt(dim), -total
        # Rounding in float32: at most dim / 16 additions in a lane, a few to join the lanes, a few to finish, each
        # wrong by half a unit of 2 ** -23 of what the sums can reach; twice that. Last, the underflow of the products,
        # under a row scale that is at most max_norm over the smallest level, and under `unit`.
        reach = np.sqrt(squares) * max_norm + abs(offset[i]) + max_bias
        margin[i] += (dim / 16 + 16) * 2.0**-23 * reach + dim * SMALLEST_NORMAL * (1 + max_norm * 2.0**36)
    return Batch(padded, fast, shift, step, margin)


@njit(inline="always")
def integer_topk(kind, multiplier, values, offset, rows, max_norm, max_bias, scores, kept):
    batch = prepared(kind, values, offset, max_norm, max_bias)
    block = max(16, BLOCK_BYTES // rows.row_bytes // 16 * 16)
    raw, approx = np.empty(block, np.int32), np.empty(block, np.float32)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, block):
            count = min(block, stop - first)
            address = row_address(rows, first)
            for i in range(len(values)):
                integer_dots(kind, batch.fast[i].ctypes.data, rows.dim, address, rows.row_bytes, count, raw.ctypes.data)
                finish(raw, approx, count, first, multiplier, batch.shift[i], batch.step[i], offset[i], rows)
                query = batch.values[i].ctypes.data
                refine(kind, 1.0, approx, count, first, query, batch.margin[i], offset[i], rows, scores[i], kept[i])
    sort_best_first(scores, kept, rows.ids)


@njit(inline="always")
def float_topk(kind, unit, values, offset, rows, max_norm, max_bias, scores, kept):
    batch = prepared(kind, values, offset, max_norm, max_bias)
    block = max(16, BLOCK_BYTES // rows.row_bytes // 16 * 16)
    raw, approx = np.empty(block, np.float32), np.empty(block, np.float32)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, block):
            count = min(block, stop - first)
            address = row_address(rows, first)
            for i in range(len(values)):
                query = batch.values[i].ctypes.data
                float_dots(kind, query, rows.dim, address, rows.row_bytes, count, raw.ctypes.data)
                finish(raw, approx, count, first, np.float32(1), np.float32(0), unit, offset[i], rows)
                refine(kind, unit, approx, count, first, query, batch.margin[i], offset[i], rows, scores[i], kept[i])
    sort_best_first(scores, kept, rows.ids)


def float_kernel(kind, unit, sources):
    @njit(nogil=True, cache=True)
    def topk_of_floats(values, offset, rows, max_norm, max_bias, scores, kept):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        float_topk(kind, unit, values, offset, rows, max_norm, max_bias, scores, kept)

    return topk_of_floats


def integer_kernel(kind, multiplier, sources):
    @njit(nogil=True, cache=True)
    def topk_of_integers(values, offset, rows, max_norm, max_bias, scores, kept):
        _ = sources
        integer_topk(kind, multiplier, values, offset, rows, max_norm, max_bias, scores, kept)

    return topk_of_integers


# A level is this many times the code's part of the integer sum.
MULTIPLIERS = {"int8": 1, "sign": 2}

TOPK = {
    name: integer_kernel(kind, MULTIPLIERS[name], SOURCES) if name in MULTIPLIERS else float_kernel(kind, unit, SOURCES)
    for name, (kind, unit) in KINDS.items()
}


def topk(
    kind: str,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    data: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `reference.topk`, to the bit."""
    # Arrays that may not be written have another type, for which numba would compile another kernel.
    values, offset = np.require(values, requirements="W"), np.require(offset, requirements="W")
    scores = np.full((len(values), k), -np.inf, np.float32)
    kept = np.full((len(values), k), -1, np.int64)
    rows, _tail = addressed(kind, values.shape[1], data, scale, bias, ids, allow)
    max_bias = 0.0 if bias is None or not len(bias) else max(float(bias.max()), -float(bias.min()))
    TOPK[kind](values, offset, rows, max_norm, max_bias, scores, kept)
    return kept, scores


# Kernels read whole registers: bytes that one read of a row may take.
GRAIN = {"float32": 128, "float16": 64, "e4m3": 32, "e5m2": 32, "e3m4": 32, "int8": 64, "sign": 8}


def addressed(
    kind: str,
    dim: int,
    data: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    ids: NDArray[np.int64] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> tuple[Rows, NDArray[np.uint8]]:
    """The addresses of rows, and the padded copy of the last ones, which must outlive the addresses.

    Reads of whole registers would leave the array at its end, so the last rows (few, often none) are read from a
    copy with room behind it.
    """
    n, row_bytes = data.shape
    tail_start = n - min(n, -(-(-row_bytes % GRAIN[kind]) // row_bytes))
    tail = np.zeros((n - tail_start) * row_bytes + max(GRAIN.values()), np.uint8)
    tail[: (n - tail_start) * row_bytes] = data[tail_start:].reshape(-1)
    rows = Rows(
        n=n,
        dim=dim,
        row_bytes=row_bytes,
        data=address(data),
        tail=address(tail) - tail_start * row_bytes,
        tail_start=tail_start,
        scale=address(scale),
        bias=address(bias),
        ids=address(ids),
        allow=address(allow),
    )
    return rows, tail


def address(array: NDArray[np.generic] | None) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])
