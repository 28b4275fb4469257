"""Exact scores of chosen rows: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.simd import E3M4, E4M3, E5M2, FLOAT16, FLOAT32, INT8, SIGN
from qindex_kernels.cpu.sources import SOURCES
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


def kernel(kind, unit, sources):
    @njit(nogil=True, cache=True)
    def score_chosen_rows(values, offset, rows, tail, tail_start, chosen, result):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        score(kind, unit, values, offset, rows, tail, tail_start, chosen, result)

    return score_chosen_rows


SCORE = {
    "float32": kernel(FLOAT32, 1.0, SOURCES),
    "float16": kernel(FLOAT16, 1.0, SOURCES),
    "e4m3": kernel(E4M3, E4M3_UNIT, SOURCES),
    "e5m2": kernel(E5M2, 1.0, SOURCES),
    "e3m4": kernel(E3M4, E3M4_UNIT, SOURCES),
    "int8": kernel(INT8, 1.0, SOURCES),
    "sign": kernel(SIGN, 1.0, SOURCES),
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
