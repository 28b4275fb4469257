"""Exact scores of chosen rows: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import addressed, functions_for, read_rows
from qindex_kernels.cpu.exact import decoded_stride, exact_score
from qindex_kernels.cpu.inner import read_inner
from qindex_kernels.cpu.queries import contiguous, copy_query
from qindex_kernels.cpu.record import Room
from qindex_kernels.cpu.sources import kernel
from qindex_kernels.layout import Rows


@kernel
def score(inner_at, rows_at, query, scratch, values, offset, chosen, result):
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    for i in range(len(values)):
        copy_query(rows, np.intp(values[i].ctypes.data), query)
        for j in range(chosen.shape[1]):
            result[i, j] = exact_score(inner, query, offset[i], rows, chosen[i, j], scratch)


def score_rows(
    rows: Rows, values: NDArray[np.float32], offset: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As `reference.score_rows`, to the bit."""
    found = addressed(rows)
    stride = decoded_stride(found.extent)
    room = Room(stride, 3 * stride)
    result = np.empty(chosen.shape, np.float32)
    functions = functions_for(rows, "decode")
    values, offset, chosen = contiguous(values), contiguous(offset), contiguous(chosen)
    score(functions.address, found.address, *room.pieces, values, offset, chosen, result)
    return result
