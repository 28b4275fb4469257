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

# decode16 gives small floats times a power of two (simd.py); this takes it back.
E4M3_UNIT, E3M4_UNIT = 2.0**8, 2.0**12

BLOCK_BYTES = 1 << 15  # of codes: L1 keeps them beside the query and the scores


class Rows(NamedTuple):
    """Addresses of coded rows and of what goes with them; 0 where there is none."""

    data: int
    row_bytes: int
    dim: int
    scale: int  # float32
    bias: int  # float32
    ids: int  # int64, to break ties; 0 takes the row number
    allow: int  # bytes, 0 where a row may not be returned


class Batch(NamedTuple):
    """Queries, padded with zeros to whole registers: float32, and as `step * fast` with an int8 `fast`."""

    values: NDArray[np.float32]
    fast: NDArray[np.int8]
    shift: NDArray[np.int64]  # what makes the integer sum that of the levels
    step: NDArray[np.float32]
    margin: NDArray[np.float64]
    offset: NDArray[np.float64]


@njit(inline="always")
def is_worse(score, row, other_score, other_row, ids):
    """Whether (score, row) comes after (other_score, other_row) in the ranking. Row -1, an empty place, comes last."""
    if score != other_score:
        return score < other_score
    if row < 0 or other_row < 0:
        return row < other_row
    if ids == 0:
        return row > other_row
    return peek_i64(ids + 8 * row) > peek_i64(ids + 8 * other_row)


@njit(inline="always")
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


@njit(inline="always")
def exact_score(kind, unit, query, offset, rows, row):
    """The score that this module's docstring defines, of one row."""
    dot = exact_dot(kind, query, rows.dim, rows.data + row * rows.row_bytes) * unit
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


@njit(inline="always")
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


@njit(inline="always")
def integer_topk(kind, multiplier, batch, rows, start, stop, scores, kept):
    block = max(16, BLOCK_BYTES // rows.row_bytes // 16 * 16)
    raw, approx = np.empty(block, np.int32), np.empty(block, np.float32)
    for first in range(start, stop, block):
        n = min(block, stop - first)
        address = rows.data + first * rows.row_bytes
        for i in range(len(batch.values)):
            integer_dots(kind, batch.fast[i].ctypes.data, rows.dim, address, rows.row_bytes, n, raw.ctypes.data)
            offset, margin = batch.offset[i], batch.margin[i]
            finish(raw, approx, n, first, multiplier, batch.shift[i], batch.step[i], offset, rows)
            query = batch.values[i].ctypes.data
            refine(kind, 1.0, approx, n, first, query, margin, offset, rows, scores[i], kept[i])


@njit(inline="always")
def float_topk(kind, unit, batch, rows, start, stop, scores, kept):
    block = max(16, BLOCK_BYTES // rows.row_bytes // 16 * 16)
    raw, approx = np.empty(block, np.float32), np.empty(block, np.float32)
    for first in range(start, stop, block):
        n = min(block, stop - first)
        address = rows.data + first * rows.row_bytes
        for i in range(len(batch.values)):
            query, offset, margin = batch.values[i].ctypes.data, batch.offset[i], batch.margin[i]
            float_dots(kind, query, rows.dim, address, rows.row_bytes, n, raw.ctypes.data)
            finish(raw, approx, n, first, np.float32(1), np.float32(0), unit, offset, rows)
            refine(kind, unit, approx, n, first, query, margin, offset, rows, scores[i], kept[i])


def float_kernel(kind, unit, sources):
    @njit(nogil=True, cache=True)
    def topk_of_floats(batch, rows, start, stop, scores, kept):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        float_topk(kind, unit, batch, rows, start, stop, scores, kept)

    return topk_of_floats


def integer_kernel(kind, multiplier, sources):
    @njit(nogil=True, cache=True)
    def topk_of_integers(batch, rows, start, stop, scores, kept):
        _ = sources
        integer_topk(kind, multiplier, batch, rows, start, stop, scores, kept)

    return topk_of_integers


TOPK = {
    "float32": float_kernel(FLOAT32, 1.0, SOURCES),
    "float16": float_kernel(FLOAT16, 1.0, SOURCES),
    "e4m3": float_kernel(E4M3, E4M3_UNIT, SOURCES),
    "e5m2": float_kernel(E5M2, 1.0, SOURCES),
    "e3m4": float_kernel(E3M4, E3M4_UNIT, SOURCES),
    "int8": integer_kernel(INT8, 1, SOURCES),
    "sign": integer_kernel(SIGN, 2, SOURCES),
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
    m, dim = values.shape
    n, row_bytes = data.shape
    scores = np.full((m, k), -np.inf, np.float32)
    kept = np.full((m, k), -1, np.int64)
    batch = prepare(kind, values, offset, bias, max_norm)

    tail = min(n, tail_rows(kind, row_bytes))
    padded = padded_tail(data, tail)
    for start, stop, base in ((0, n - tail, address(data)), (n - tail, n, address(padded) - (n - tail) * row_bytes)):
        if start < stop:
            rows = Rows(base, row_bytes, dim, address(scale), address(bias), address(ids), address(allow))
            TOPK[kind](batch, rows, start, stop, scores, kept)

    keys = np.where(kept >= 0, ids[kept], np.iinfo(np.int64).max)
    order = np.lexsort((keys, -scores))
    return np.take_along_axis(kept, order, 1), np.take_along_axis(scores, order, 1)


def prepare(
    kind: str,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    bias: NDArray[np.float32] | None,
    max_norm: float,
) -> Batch:
    """The int8 form of the queries and a bound on the error of each query's fast scores."""
    m, dim = values.shape
    padded = np.zeros((m, -(-dim // 64) * 64), np.float32)
    padded[:, :dim] = values
    step = np.abs(values).max(axis=1) / np.float32(127)
    # Below the smallest normal number the int8 query is zero, and the margin is the whole query.
    step[step < np.finfo(np.float32).tiny] = 1
    fast = np.rint(padded / step[:, None]).astype(np.int8)
    length = np.sqrt(np.einsum("ij,ij->i", padded, padded, dtype=np.float64, casting="same_kind"))
    error = np.abs(padded - step[:, None].astype(np.float64) * fast)

    # What the int8 query misses: Cauchy-Schwarz for int8 rows, the sum of the misses for rows of signs.
    total = fast.sum(axis=1, dtype=np.int64)
    if kind == "int8":
        margin, shift = np.sqrt(np.einsum("ij,ij->i", error, error)) * max_norm, -128 * total
    elif kind == "sign":
        margin, shift = error.sum(axis=1), -total
    else:
        margin, shift = np.zeros(m), np.zeros(m, np.int64)
    # Rounding in float32: at most dim / 16 additions in a lane, a few to join the lanes, a few to finish, each wrong
    # by half a unit of 2 ** -23 of what the sums can reach; twice that, and the underflow of `dim` products.
    reach = length * max_norm + np.abs(offset) + (0.0 if bias is None or not len(bias) else float(np.abs(bias).max()))
    margin += (dim / 16 + 16) * 2.0**-23 * reach + dim * float(np.finfo(np.float32).tiny)
    return Batch(padded, fast, shift, step, margin, offset)


# Kernels read whole registers: bytes that one read of a row may take.
_GRAIN = {"float32": 128, "float16": 64, "e4m3": 32, "e5m2": 32, "e3m4": 32, "int8": 64, "sign": 8}


def tail_rows(kind: str, row_bytes: int) -> int:
    """How many of the last rows are read beyond the end of all rows, unless they lie in a padded copy."""
    beyond = -row_bytes % _GRAIN[kind]
    return -(-beyond // row_bytes)


def padded_tail(data: NDArray[np.uint8], tail: int) -> NDArray[np.uint8]:
    """The last `tail` rows in a buffer with room for one register more."""
    row_bytes = data.shape[1]
    buffer = np.zeros(tail * row_bytes + 128, np.uint8)
    buffer[: tail * row_bytes] = data[len(data) - tail :].reshape(-1)
    return buffer


def address(array: NDArray[np.generic] | None) -> int:
    return 0 if array is None else int(array.__array_interface__["data"][0])
