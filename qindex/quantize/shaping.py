"""Rounding whose errors fall where they do least harm: what one number leaves over, the later ones make up for.

For errors `e` that weigh `e^T W e`, the numbers of a row are rounded in turn, and the error of each is taken out of
what is still to come (the nearest plane algorithm, as in GPTQ). Errors then gather along the axes of little weight.
"""

import numpy as np
from numpy.typing import NDArray

from qindex.types import Vectors

# Of the mean weight, added to the weight of every direction. It keeps plain errors near those of plain rounding (1.25
# times their squares with MiniLM's spectrum), and so the scores of queries unlike the vectors.
_EVENLY = 0.3


def feedback(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """What an error of number `j` takes from each later number, (dim, dim) strictly upper, for `weights` (dim, dim)."""
    dim = len(weights)
    mean = np.trace(weights) / dim
    if not mean > 0:
        return np.zeros((dim, dim), np.float32)
    upper = np.linalg.cholesky(np.linalg.inv(weights / mean + _EVENLY * np.eye(dim))).T
    return np.triu(upper / np.diag(upper)[:, None], 1).astype(np.float32)


def rounded(numbers: Vectors, feedback: NDArray[np.float32], lowest: float, highest: float) -> Vectors:
    """Integers from `lowest` to `highest` near (n, dim) numbers, errors fed forward."""
    columns = numbers.T.copy()
    for j, column in enumerate(columns):
        nearest = np.clip(np.rint(column), lowest, highest)
        columns[j + 1 :] -= feedback[j, j + 1 :, None] * (column - nearest)
        columns[j] = nearest
    return np.ascontiguousarray(columns.T)
