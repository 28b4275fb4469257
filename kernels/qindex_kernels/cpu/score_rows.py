"""Exact scores of chosen rows, and the best of them: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import address, addressed, fine_address, functions_for, read_rows, row_address
from qindex_kernels.cpu.exact import decoded_stride, decoding, exact_score, scratch_bytes
from qindex_kernels.cpu.heap import holds, is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import read_inner
from qindex_kernels.cpu.queries import contiguous, copy_query
from qindex_kernels.cpu.record import Room
from qindex_kernels.cpu.simd import peek_f32, peek_i64, prefetch
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.layout import Rows


@kernel
def score(inner_at, rows_at, query, scratch, values, offset, chosen, result):
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    for i in range(len(values)):
        copy_query(rows, np.intp(values[i].ctypes.data), query)
        for j in range(chosen.shape[1]):
            result[i, j] = exact_score(inner, query, offset[i], rows, chosen[i, j], scratch)


AHEAD = 8  # rows: chosen ones lie anywhere, so the hardware cannot know which come next


@helper
def ask_for(rows, row):
    """Prefetch all of a row."""
    prefetch(fine_address(rows, row))
    prefetch(rows.scale + 4 * row)
    prefetch_lines(row_address(rows, row), rows.row_bytes)
    following = rows.next
    while following != 0:
        part = read_rows(following)
        prefetch_lines(row_address(part, row), part.row_bytes)
        following = part.next


@inlined
def prefetch_lines(first, n_bytes):
    """Ask for the cache lines of so many bytes."""
    for line in range(first // 64 * 64, first + n_bytes, 64):
        prefetch(line)


@kernel
def score_best(inner_at, rows_at, query, scratch, values, offset, chosen, estimates, slack, ids, scores, best, counts):
    """`scores` and `best` (m, k) hold what stands for no row."""
    inner, rows, k = read_inner(inner_at), read_rows(rows_at), scores.shape[1]
    for i in range(len(values)):
        copy_query(rows, np.intp(values[i].ctypes.data), query)
        heap, kept = np.intp(scores[i].ctypes.data), np.intp(best[i].ctypes.data)
        for j in range(chosen.shape[1]):
            row = chosen[i, j]
            if j + AHEAD < chosen.shape[1] and chosen[i, j + AHEAD] >= 0:
                ask_for(rows, chosen[i, j + AHEAD])
            if row < 0:
                continue
            if counts[i] >= k and estimates[i, j] + slack[i] < peek_f32(heap):
                break
            score = exact_score(inner, query, offset[i], rows, row, scratch)
            counts[i] += 1
            if is_worse(peek_f32(heap), peek_i64(kept), score, row, ids) and not holds(kept, k, row):
                replace_worst(heap, kept, k, score, row, ids)
        sort_best_first(heap, kept, k, ids)


def rescore(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    chosen: NDArray[np.int64],
    estimates: NDArray[np.float32],
    slack: NDArray[np.float64],
    ids: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """As `reference.rescore`, to the bit."""
    found = addressed(rows)
    room = Room(decoded_stride(found.extent), scratch_bytes(found))
    functions = functions_for(rows, *decoding(found))
    m = len(values)
    scores, best = np.full((m, k), -np.inf, np.float32), np.full((m, k), -1, np.int64)
    counts = np.zeros(m, np.int64)
    arrays = [contiguous(array) for array in (values, offset, chosen, estimates, slack)]
    score_best(functions.address, found.address, *room.pieces, *arrays, address(ids), scores, best, counts)
    return best, scores, counts


def score_rows(
    rows: Rows, values: NDArray[np.float32], offset: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As `reference.score_rows`, to the bit."""
    found = addressed(rows)
    room = Room(decoded_stride(found.extent), scratch_bytes(found))
    result = np.empty(chosen.shape, np.float32)
    functions = functions_for(rows, *decoding(found))
    values, offset, chosen = contiguous(values), contiguous(offset), contiguous(chosen)
    score(functions.address, found.address, *room.pieces, values, offset, chosen, result)
    return result
