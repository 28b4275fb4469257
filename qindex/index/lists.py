"""Which rows belong to which list of an inverted file, and which lists a query looks at."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.index import kmeans
from qindex.index.metric import Metric, normalised
from qindex.index.runs import InRuns, in_order
from qindex.io import register
from qindex.quantize import Int8
from qindex.types import Codes, Queries, Vectors, row_norms

# Without `nprobe`, a list is left out where fewer rows than this are expected above the k-th best so far. What lies in
# two lists is missed if both are left out: with 1e-2, recall on minilm-100k is that of 1e-4 for rows in one list.
_MISSED, _MISSED_OF_TWO = 1e-4, 1e-2
FIRST = 16  # lists that are always probed, and say what the k-th best so far is

_QUERIES, _ROWS, _NEAR = 256, 16_384, 32  # of the sample, and lists of each, that tell how residuals spread


@register("Lists")
@dataclass(frozen=True, eq=False)
class Lists(InRuns):
    """Centroids, and for each the runs of rows that are nearer to it than to any other."""

    centroids: Codes  # as kmeans.as_codes makes them
    radii: NDArray[np.float32]  # (lists,): root mean square distance of the rows seen at the build
    spread: float  # deviation of a row's score from its list's, in units of |q| * radius / sqrt(dim)
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not isinstance(self.centroids, Codes) or self.centroids.offset is None or not len(self.centroids):
            raise ValueError("centroids must be codes of at least one row, with offsets")
        Int8().dequantize(self.centroids[:0])
        n = len(self.centroids)
        if self.radii.shape != (n,) or self.radii.dtype != np.float32 or not np.isfinite(self.radii).all():
            raise ValueError(f"radii must be finite float32 ({n},), got {self.radii.dtype} {self.radii.shape}")
        if not isinstance(self.spread, float) or not 0 <= self.spread < math.inf:
            raise ValueError(f"spread must be finite and not negative, got {self.spread!r}")
        self.check_runs()
        if self.n_lists != n:
            raise ValueError(f"{n} centroids need as many lists, got {self.n_lists}")

    @classmethod
    def trained(cls, sample: Vectors, n_lists: int, seed: int) -> Lists:
        """Lists without rows for vectors like (n, dim) floats, n >= n_lists."""
        centroids = kmeans.as_codes(kmeans.train(sample, n_lists, seed))
        labels, squares = kmeans.nearest(centroids, sample)
        empty = cls(centroids, np.zeros(n_lists, np.float32), 0.0, *in_order(np.zeros(n_lists, np.int64)))
        radii = _root_means(labels, squares, n_lists)
        return dataclasses.replace(empty, radii=radii, spread=_spread(empty, sample, labels, radii))

    def filled(self, labels: NDArray[np.int64], squares: NDArray[np.float64]) -> Lists:
        """With rows that lie list by list: those of (n,) labels, so far from their centroids."""
        n = len(self)
        filled = self.holding(np.bincount(labels, minlength=n))
        return dataclasses.replace(filled, radii=_root_means(labels, squares, n))

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def nbytes(self) -> int:
        arrays = self.radii, self.starts, self.firsts, self.counts
        return self.centroids.nbytes + sum(array.nbytes for array in arrays)

    @cached_property
    def decoded(self) -> Vectors:
        """(lists, dim) the centroids."""
        return Int8().dequantize(self.centroids)

    @cached_property
    def products(self) -> Codes:
        """The centroids without offsets."""
        return dataclasses.replace(self.centroids, offset=None)

    def nearest(self, vectors: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The lists of (n, dim) floats, (n,), and the squares of their distances from the centroids, (n,)."""
        return kmeans.nearest(self.centroids, vectors)

    def holding(self, sizes: NDArray[np.int64]) -> Lists:
        """The same lists with rows that lie list by list, so many of each."""
        return dataclasses.replace(self, **in_order(sizes)._asdict())

    def with_rows(self, sizes: NDArray[np.int64]) -> Lists:
        """With rows behind the others, list by list, so many of each."""
        return dataclasses.replace(self, **self.longer(sizes)._asdict())

    def nearness(self, queries: Vectors, metric: Metric) -> NDArray[np.float32]:
        """(m, lists): what orders lists for (m, dim) floats, from rounded queries."""
        codes = self.centroids if metric == "l2" else self.products
        return kernels.matmul(queries, codes, activations="int8")

    @staticmethod
    def scores(queries: Vectors, nearness: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
        """(m, lists): those of centroids, in the terms of the metric."""
        if metric != "l2":
            return nearness
        squares = (row_norms(queries) ** 2)[:, None]
        return np.minimum(2 * nearness - squares, 0).astype(np.float32)

    def bases(self, queries: Vectors, probes: NDArray[np.int32], metric: Metric) -> NDArray[np.float32]:
        """(m, p): what the centroids of lists add to the scores of residuals."""
        found = kernels.score_rows(Queries(queries, np.zeros(len(queries))), self.products, probes.astype(np.int64))
        found[probes < 0] = 0
        return 2 * found if metric == "l2" else found

    def promising(
        self,
        queries: Vectors,
        scores: NDArray[np.float32],
        worst: NDArray[np.float32],
        metric: Metric,
        *,
        of_two: bool,
    ) -> NDArray[np.bool_]:
        """(m, lists): whether _MISSED rows or more are expected above `worst` (m,); `of_two` says that rows lie in two.

        Scores of a list's rows are taken for normal about that of its centroid.
        """
        width = self._deviations[int(of_two)] * self.radii * np.float32(self.spread / math.sqrt(self.centroids.dim))
        if metric == "l2":  # -|q - c - r|^2 = -|q - c|^2 + 2 <q - c, r> - |r|^2
            reached = scores + 2 * np.sqrt(-scores) * width - self.radii**2
        else:
            reached = scores + row_norms(queries).astype(np.float32)[:, None] * width
        chosen: NDArray[np.bool_] = (reached >= worst[:, None]) & (self.sizes > 0)
        return chosen

    @cached_property
    def _deviations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(lists,): beyond so many deviations, less than _MISSED rows are expected of a list; and of _MISSED_OF_TWO."""
        sizes, place = np.unique(self.sizes, return_inverse=True)

        def deviations(missed: float) -> NDArray[np.float32]:
            table = [NormalDist().inv_cdf(1 - missed / size) if size else 0.0 for size in sizes.tolist()]
            return np.array(table, np.float32)[place]

        return deviations(_MISSED), deviations(_MISSED_OF_TWO)


def _root_means(labels: NDArray[np.int64], squares: NDArray[np.float64], n_lists: int) -> NDArray[np.float32]:
    sums, sizes = np.bincount(labels, squares, n_lists), np.bincount(labels, minlength=n_lists)
    of_none = float(np.sqrt(squares.mean())) if len(squares) else 0.0
    return np.where(sizes > 1, np.sqrt(sums / np.maximum(sizes, 1)), of_none).astype(np.float32)


def _spread(lists: Lists, sample: Vectors, labels: NDArray[np.int64], radii: NDArray[np.float32]) -> float:
    """How far scores of rows are from those of their lists, for rows in the place of queries and lists near them."""
    rows, queries = sample[:_ROWS], sample[:: max(1, len(sample) // _QUERIES)][:_QUERIES]
    centres = lists.nearness(queries, "ip")
    near = kernels.largest(centres, _NEAR)
    unit = row_norms(queries)[:, None] * radii[labels[: len(rows)]] / math.sqrt(rows.shape[1])
    products = kernels.matmul(queries, Int8().quantize(rows), activations="int8")
    centres = centres[:, labels[: len(rows)]]
    looked_at = np.zeros((len(queries), len(lists)), bool)
    np.put_along_axis(looked_at, near.astype(np.int64), True, axis=1)
    chosen = looked_at[:, labels[: len(rows)]] & (unit > 0)
    chosen &= products < 0.999 * row_norms(queries)[:, None] ** 2  # not the query itself
    if not chosen.any():
        return 1.0
    deviations = (products - centres)[chosen] / unit[chosen]
    return float(np.sqrt(np.mean(np.square(deviations, dtype=np.float64))))


def in_space(vectors: Vectors, metric: Metric) -> Vectors:
    """Vectors where lists are: of length 1 with "cosine"."""
    return normalised(vectors) if metric == "cosine" else vectors
