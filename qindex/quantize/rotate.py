"""A random rotation of any dim in O(dim log dim), which spreads what one dimension holds over all of them."""

import functools

import numpy as np
from numpy.typing import NDArray

from qindex.types import Vectors

# Rows that are rotated at once, as columns: 256 float32 of each dimension stay in the cache.
_AT_ONCE = 256


def rotate(vectors: Vectors, seed: int = 0) -> Vectors:
    """(n, dim) float32 times a random orthogonal matrix, which `seed` and dim determine.

    Three rounds of random signs and a normalised Walsh-Hadamard transform, which is of 2 ** floor(log2(dim))
    dimensions: the first ones, the last ones, the first ones. Each row is rotated alike in any company.
    """
    return _in_columns(vectors, seed, undo=False)


def unrotate(rows: Vectors, seed: int = 0) -> Vectors:
    """The vectors that `rotate` turned into `rows`, up to rounding."""
    return _in_columns(rows, seed, undo=True)


def _in_columns(vectors: Vectors, seed: int, *, undo: bool) -> Vectors:
    result = np.empty(vectors.shape, np.float32)
    rounds = _rounds(vectors.shape[1], seed)
    for start in range(0, len(vectors), _AT_ONCE):
        columns = vectors[start : start + _AT_ONCE].T.astype(np.float32, order="C")
        for part, factors in reversed(rounds) if undo else rounds:
            if undo:
                _hadamard(columns[part])
                columns *= factors
            else:
                columns *= factors
                _hadamard(columns[part])
        result[start : start + _AT_ONCE] = columns.T
    return result


@functools.lru_cache(maxsize=64)
def _rounds(dim: int, seed: int) -> list[tuple[slice, NDArray[np.float32]]]:
    """For each round, which dimensions it mixes, and (dim, 1) what they are multiplied with before (undoing: after)."""
    size = 1 << dim.bit_length() - 1
    signs = np.random.default_rng(seed).integers(0, 2, (3, dim, 1)) * 2 - 1
    rounds = []
    for own, part in zip(signs, (slice(0, size), slice(dim - size, dim), slice(0, size)), strict=True):
        factors = own.astype(np.float32)
        factors[part] *= np.float32(size**-0.5)
        rounds.append((part, factors))
    return rounds


def _hadamard(columns: NDArray[np.float32]) -> None:
    """The unnormalised transform over the first axis, a power of two, in place."""
    size, n = columns.shape
    half = 1
    while half < size:
        pairs = columns.reshape(-1, 2, half, n)
        left, right = pairs[:, 0], pairs[:, 1]
        difference = left - right
        left += right
        right[...] = difference
        half *= 2
