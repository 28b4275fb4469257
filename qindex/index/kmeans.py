"""k-means of our own: rows are assigned by exact scores, so equal vectors give equal centroids on every machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.quantize import Int8
from qindex.types import Codes, Queries, Vectors, row_norms

ROUNDS = 10
FLAT = 65_536  # lists that are trained at once; more are trained in groups
AT_ONCE = 2048  # rows: what is known of so many stays in the cache

# A list that is twice as large as the mean is left by rows that another suits nearly as well: by so much of the mean
# squared distance.
_BALANCE = 0.02
_REFILLS = 8  # rounds that only fill empty lists


def train(sample: Vectors, n_lists: int, seed: int) -> Vectors:
    """Centroids (n_lists, dim) of (n, dim) floats, n >= n_lists.

    No list is empty of the sample afterwards if it has so many rows that differ by more than rounding.
    """
    rng = np.random.default_rng(seed)
    if n_lists > FLAT:
        return _in_groups(sample, n_lists, rng)
    return _train(sample, n_lists, rng)


def _in_groups(sample: Vectors, n_lists: int, rng: np.random.Generator) -> Vectors:
    """Rows are grouped first, and each group has as many of the lists as it has rows, in proportion."""
    n_groups = int(np.sqrt(n_lists))
    group, _squares = nearest(as_codes(_train(sample, n_groups, rng)), sample)
    sizes = np.bincount(group, minlength=n_groups)
    bounds = np.rint(np.concatenate([[0], np.cumsum(sizes)]) * (n_lists / len(sample))).astype(np.int64)
    order, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    parts = []
    for one in range(n_groups):
        share = int(bounds[one + 1] - bounds[one])
        if share:
            rows = sample[order[ends[one] - sizes[one] : ends[one]]]
            parts.append(_train(rows, share, rng))
    return np.concatenate(parts)


def _train(sample: Vectors, n_lists: int, rng: np.random.Generator) -> Vectors:
    n = len(sample)
    centroids = sample[np.sort(rng.permutation(n)[:n_lists])]
    penalty = np.zeros(n_lists)
    for done in range(ROUNDS + _REFILLS):
        labels, squares = nearest(as_codes(centroids), sample, penalty)
        sizes = np.bincount(labels, minlength=n_lists)
        empty = np.flatnonzero(sizes == 0)
        if done >= ROUNDS and not len(empty):
            break
        if done < ROUNDS:
            centroids = _means(sample, labels, sizes, centroids)
            scale = _BALANCE * squares.mean() if done < ROUNDS - 2 else 0.0
            penalty = scale * np.minimum(sizes * (n_lists / n) - 1, 4)
        if len(empty):
            centroids[empty], filled = _far_rows(sample, squares, len(empty))
            if not filled:
                break
    return centroids


def _means(sample: Vectors, labels: NDArray[np.int64], sizes: NDArray[np.int64], old: Vectors) -> Vectors:
    from scipy import sparse  # slow to import

    members = sparse.csr_matrix(
        (np.ones(len(sample), np.float32), (labels, np.arange(len(sample)))), (len(old), len(sample))
    )
    sums = members @ sample
    means: Vectors = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], old).astype(np.float32)
    return means


def _far_rows(sample: Vectors, squares: NDArray[np.float64], n: int) -> tuple[Vectors, bool]:
    """The `n` rows that lie farthest from their centroids, and whether any lies farther than rounding explains."""
    far = np.argsort(-squares, kind="stable")[:n]
    rows = sample[far]
    # Int8 misses half a step of each number at most, in the centroid.
    rounding = (np.abs(rows).max(axis=1) / 127) ** 2 * sample.shape[1]
    return rows, bool((squares[far] > rounding).any())


def as_codes(centroids: Vectors) -> Codes:
    """Centroids as rows are compared with them: int8, with what makes the nearest the one of the best score."""
    quantizer = Int8()
    codes = quantizer.quantize(centroids)
    offset = (-0.5 * row_norms(quantizer.dequantize(codes)) ** 2).astype(np.float32)
    return dataclasses.replace(codes, offset=offset)


def nearest(
    centroids: Codes, vectors: Vectors, penalty: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest of `as_codes` centroids to each of (n, dim) floats, (n,), and the square of its distance, (n,).

    `penalty` is added to half the squares before they are compared.
    """
    assert centroids.offset is not None
    searched = centroids
    if penalty is not None:
        searched = dataclasses.replace(centroids, offset=(centroids.offset - penalty).astype(np.float32))
    found, squares = near(searched, vectors, 1)
    labels, squares = found[:, 0], squares[:, 0]
    if penalty is not None:
        squares -= 2 * penalty[labels]
    return labels, np.maximum(squares, 0)


def near(centroids: Codes, vectors: Vectors, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest of `as_codes` centroids to each of (n, dim) floats, nearest first, (n, k).

    And the squares of their distances, (n, k), which rounding may make a little less than 0.
    """
    ids = np.arange(len(centroids))
    labels, squares = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k))
    for part in parts(len(vectors)):
        rows = np.ascontiguousarray(vectors[part], np.float32)
        found = kernels.topk(Queries(rows, np.zeros(len(rows))), centroids, k, ids=ids)
        labels[part] = found.ids
        squares[part] = (row_norms(rows) ** 2)[:, None] - 2.0 * found.scores
    return labels, squares


def parts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE))
