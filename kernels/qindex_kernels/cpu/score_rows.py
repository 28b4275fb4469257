"""Exact scores of chosen rows: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.simd import E3M4, E4M3, E5M2, FLOAT16, FLOAT32, INT8, SIGN
from qindex_kernels.cpu.topk import E3M4_UNIT, E4M3_UNIT, Rows, address, exact_score, padded_tail, tail_rows


@njit(inline="always")
def score(kind, unit, values, offset, rows, tail, tail_start, chosen, result):
    for i in range(len(values)):
        query = values[i].ctypes.data
        for j in range(chosen.shape[1]):
            row = chosen[i, j]
            if row < tail_start:
                result[i, j] = exact_score(kind, unit, query, offset[i], rows, row)
            else:
                result[i, j] = exact_score(kind, unit, query, offset[i], tail, row)


@njit(nogil=True, cache=True)
def score_float32(values, offset, rows, tail, tail_start, chosen, result):
    score(FLOAT32, 1.0, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_float16(values, offset, rows, tail, tail_start, chosen, result):
    score(FLOAT16, 1.0, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_e4m3(values, offset, rows, tail, tail_start, chosen, result):
    score(E4M3, E4M3_UNIT, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_e5m2(values, offset, rows, tail, tail_start, chosen, result):
    score(E5M2, 1.0, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_e3m4(values, offset, rows, tail, tail_start, chosen, result):
    score(E3M4, E3M4_UNIT, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_int8(values, offset, rows, tail, tail_start, chosen, result):
    score(INT8, 1.0, values, offset, rows, tail, tail_start, chosen, result)


@njit(nogil=True, cache=True)
def score_sign(values, offset, rows, tail, tail_start, chosen, result):
    score(SIGN, 1.0, values, offset, rows, tail, tail_start, chosen, result)


SCORE = {
    "float32": score_float32,
    "float16": score_float16,
    "e4m3": score_e4m3,
    "e5m2": score_e5m2,
    "e3m4": score_e3m4,
    "int8": score_int8,
    "sign": score_sign,
}


def score_rows(
    kind: str,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    data: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """As `reference.score_rows`, to the bit."""
    m, dim = values.shape
    n, row_bytes = data.shape
    padded = np.zeros((m, -(-dim // 32) * 32), np.float32)
    padded[:, :dim] = values
    tail = min(n, tail_rows(kind, row_bytes))
    tail_data = padded_tail(data, tail)
    main = Rows(address(data), row_bytes, dim, address(scale), address(bias), 0, 0)
    last = main._replace(data=address(tail_data) - (n - tail) * row_bytes)
    result = np.empty(rows.shape, np.float32)
    SCORE[kind](padded, offset, main, last, n - tail, rows, result)
    return result
