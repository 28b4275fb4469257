"""Exact scores of chosen rows: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.sources import SOURCES
from qindex_kernels.cpu.topk import KINDS, addressed, exact_score


@njit(inline="always")
def score(kind, unit, values, offset, rows, chosen, result):
    for i in range(len(values)):
        query = values[i].ctypes.data
        for j in range(chosen.shape[1]):
            result[i, j] = exact_score(kind, unit, query, offset[i], rows, chosen[i, j])


def kernel(kind, unit, sources):
    @njit(nogil=True, cache=True)
    def score_chosen_rows(values, offset, rows, chosen, result):
        _ = sources  # a cell of this closure, and so part of numba's cache key
        score(kind, unit, values, offset, rows, chosen, result)

    return score_chosen_rows


SCORE = {name: kernel(kind, unit, SOURCES) for name, (kind, unit) in KINDS.items()}


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
    padded = np.zeros((m, -(-dim // 32) * 32), np.float32)
    padded[:, :dim] = values
    offset, rows = np.require(offset, requirements="W"), np.require(rows, requirements="W")
    addresses, _tail = addressed(kind, dim, data, scale, bias)
    result = np.empty(rows.shape, np.float32)
    SCORE[kind](padded, offset, addresses, rows, result)
    return result
