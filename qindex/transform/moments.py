"""Mean, variance and covariance of many rows in float64, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qindex.types import Vectors

# A block in float64 takes dim * 32 KiB; more rows at once are no faster.
BLOCK = 4096


def blocks(n: int) -> Iterator[slice]:
    """Slices of BLOCK rows that cover `n`; an empty one for no rows."""
    return (slice(start, start + BLOCK) for start in range(0, max(n, 1), BLOCK))


def mean(vectors: Vectors) -> NDArray[np.float64]:
    """(n, dim) -> (dim,). Exact for a constant dimension: float64 adds up to 2 ** 29 equal float32 without rounding."""
    total = np.zeros(vectors.shape[1])
    for rows in blocks(len(vectors)):
        total += vectors[rows].sum(axis=0, dtype=np.float64)
    return total / len(vectors)


def variance(vectors: Vectors, center: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean square of the distance from `center` in each dimension: (dim,)."""
    total = np.zeros(vectors.shape[1])
    for rows in blocks(len(vectors)):
        total += np.square(vectors[rows] - center).sum(axis=0)
    return total / len(vectors)


def covariance(vectors: Vectors, center: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean products of the distances from `center`: (dim, dim), symmetric."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for rows in blocks(len(vectors)):
        centered = vectors[rows] - center
        total += centered.T @ centered
    return total / len(vectors)
