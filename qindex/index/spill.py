"""A second list for every row (SOAR, arXiv 2404.00774): it holds a copy of the row's code, relative to its centroid.

The score that a list's centroid promises for a row is wrong by the product of the query with the residual. Among near
lists, the second is one whose residual is nearly orthogonal to the first: where one promises too little, the other
does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.index import kmeans
from qindex.index.growable import Growable, GrowableCodes
from qindex.index.lists import Lists
from qindex.index.runs import InRuns, in_order
from qindex.io import register
from qindex.memory import taken
from qindex.types import Codes, Queries, Vectors

_NEAR = 16  # lists, the nearest among them, that a row may lie in

# How much the part of the second residual that is parallel to the first counts. Measured on minilm-100k with 1,024
# lists: to reach recall 0.95, 3,447 rows are scanned with 1, 3,229 with 1.5 and 3,206 with 3; with 0, 4,566.
_PARALLEL = 1.5


@register("Second")
@dataclass(frozen=True, eq=False)
class Second(InRuns):
    """A copy of the code of every row, list by list."""

    codes: Codes
    rows: NDArray[np.int32]  # (n,) the row that each is a copy of
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.check_runs()
        n = len(self.rows)
        if not isinstance(self.codes, Codes) or len(self.codes) != n or self.n_rows != n:
            raise ValueError(f"{n} rows need as many codes in lists")
        if self.rows.dtype != np.int32 or self.rows.ndim != 1 or not self.rows.flags.c_contiguous:
            raise ValueError(f"rows must be contiguous int32 (n,), got {self.rows.dtype} {self.rows.shape}")
        if n and not 0 <= self.rows.min() <= self.rows.max() < n:
            raise ValueError(f"rows must lie in [0, {n}), got {self.rows.min()} to {self.rows.max()}")

    @classmethod
    def filled(cls, codes: Codes, rows: NDArray[np.int64], labels: NDArray[np.int64], n_lists: int) -> Second:
        """Codes in the order of their lists, of rows whose second lists are `labels` (n,)."""
        runs = in_order(np.bincount(labels, minlength=n_lists))
        return cls(codes, rows.astype(np.int32), *runs)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + sum(array.nbytes for array in (self.rows, self.starts, self.firsts, self.counts))

    def of_those(self, rows: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Which copies are of rows of a mask (n,); None for all."""
        return None if rows is None else rows[self.rows]

    def only(self, kept: NDArray[np.int64]) -> Second:
        """The copies of some rows, which are numbered anew in this order, list by list."""
        place = np.full(len(self.rows), -1)
        place[kept] = np.arange(len(kept))
        rows = place[self.rows]
        order = np.lexsort((rows, self.of_rows))
        order = order[rows[order] >= 0]
        codes = self.codes.with_rowwise([taken(array, order) for array in self.codes.rowwise])
        return Second.filled(codes, rows[order], self.of_rows[order].astype(np.int64), self.n_lists)


class GrowingSecond:
    """Copies that more can be added to. Those that were there before stay valid and unchanged."""

    def __init__(self, second: Second) -> None:
        self._second = second
        self._codes, self._rows = GrowableCodes(second.codes), Growable(second.rows)

    def append(self, codes: Codes, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Second:
        """All copies, those in the lists `labels` last, which are in the order of these. As `Growing.append`."""
        runs = self._second.longer(np.bincount(labels, minlength=self._second.n_lists))
        self._second = Second(self._codes.append(codes), self._rows.append(rows.astype(np.int32)), *runs)
        return self._second


def lists_of(lists: Lists, vectors: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The lists of (n, dim) floats, the squares of their distances from the centroids, and their second lists: (n,)."""
    near, squares = kmeans.near(lists.centroids, vectors, min(_NEAR, len(lists)))
    squares = np.maximum(squares, 0)
    second = np.empty(len(near), np.int64)
    for part in kmeans.parts(len(near)):
        rows, others = np.ascontiguousarray(vectors[part], np.float32), near[part, 1:]
        residuals = rows - lists.decoded[near[part, 0]]
        lengths = np.einsum("nd,nd->n", residuals, residuals, dtype=np.float64)
        own = np.einsum("nd,nd->n", rows, residuals, dtype=np.float64)
        # <x - c, r> for the residual r of the first list and the centroids c of the others
        products = own[:, None] - kernels.score_rows(Queries(residuals, np.zeros(len(rows))), lists.products, others)
        losses = squares[part, 1:] + _PARALLEL * products**2 / np.maximum(lengths, 1e-30)[:, None]
        second[part] = others[np.arange(len(rows)), losses.argmin(axis=1)]
    return near[:, 0], squares[:, 0], second
