"""Exact scores of chosen rows: rescoring, small filters, graph walks.

The score is that of `topk`, by the same function; rows are read where they lie.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import addressed, kind_of, writable
from qindex_kernels.cpu.exact import decode_scratch, exact_score
from qindex_kernels.cpu.inner import inner
from qindex_kernels.cpu.sources import kernel
from qindex_kernels.layout import Rows


@kernel
def score(inner, values, offset, rows, chosen, scratch, result):
    for i in range(len(values)):
        query = values[i].ctypes.data
        for j in range(chosen.shape[1]):
            result[i, j] = exact_score(inner, query, offset[i], rows, chosen[i, j], scratch)


def score_rows(
    rows: Rows, values: NDArray[np.float32], offset: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As `reference.score_rows`, to the bit."""
    m, dim = values.shape
    padded = np.zeros((m, -(-dim // 32) * 32), np.float32)
    padded[:, :dim] = values
    offset, chosen = writable(offset), writable(chosen)
    addresses, _tail = addressed(rows)
    result = np.empty(chosen.shape, np.float32)
    score(inner(kind_of(rows), "decode"), padded, offset, addresses, chosen, decode_scratch(dim), result)
    return result
