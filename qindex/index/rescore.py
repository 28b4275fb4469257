"""The second stage of a search: rows that coarse codes found, ranked by finer ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.index.metric import Coder, Metric, decoded_dim, normalised
from qindex.quantize import RaBitQ
from qindex.quantize.stages import for_joined, joined, remainder, restored, share_signs
from qindex.types import Codes, Matches, Quantizer, Queries, Vectors, row_norms


class Work(NamedTuple):
    """What a search did, for each query."""

    scored: NDArray[np.int64]  # (m,) rows whose codes were scanned, once or, to keep a guarantee, more than once
    rescored: NDArray[np.int64]  # (m,) rows that were ranked anew, by finer codes where there are some, likewise
    lists: NDArray[np.int64] | None = None  # (m,) lists that were probed, where there are lists
    hops: NDArray[np.int64] | None = None  # (m,) rows whose neighbours were looked at, where there is a graph


@dataclass(frozen=True)
class FineCoder:
    """The finer of two fitted quantizers. If the codes of the coarser are its signs, it stores the other bits only."""

    coarse: Quantizer
    quantizer: Quantizer
    metric: Metric

    def encode(self, vectors: Vectors) -> Codes:
        """What is stored of (n, dim) floats beside the coarse codes."""
        return self.beside(self._coder.encode(vectors))

    def beside(self, codes: Codes) -> Codes:
        """What is stored of codes of the finer quantizer."""
        return remainder(codes, self._shared_bits) if self._shared_bits else codes

    def rows(self, coarse: Codes, stored: Codes) -> Codes:
        """The rows to score."""
        return joined(coarse, stored) if self._shared_bits else stored

    def prepare(self, queries: Vectors, coarse: Queries) -> Queries:
        """(m, dim) floats for these rows; `coarse` are the same queries for the coarse codes."""
        if self._shared_bits:
            return for_joined(coarse, self._shared_bits)
        return self._coder.prepare(queries)

    def prepare_both(self, queries: Vectors) -> tuple[Vectors, Vectors, NDArray[np.float64] | None]:
        """What coarse codes meet of (m, dim) floats, and what fine rows meet, with offsets where they are not 0."""
        if self._shared_bits:
            coarse = self._coarse_coder.prepare(queries)
            fine = for_joined(coarse, self._shared_bits)
            return coarse.values, fine.values, fine.offset
        if self._coder.plain:
            return self._coarse_coder.directions(queries), queries, None
        fine = self._coder.prepare(queries)
        return self._coarse_coder.directions(queries), fine.values, fine.offset

    def decode(self, coarse: Codes, stored: Codes) -> Vectors:
        """The vectors (n, dim) that the codes stand for."""
        codes = restored(coarse, stored, self._shared_bits) if self._shared_bits else stored
        return self.quantizer.dequantize(codes)

    def dim(self, stored: Codes) -> int:
        """Of the vectors that were coded. ValueError for what this coder cannot have stored."""
        if not self._shared_bits:
            return decoded_dim(self.quantizer, stored)
        mine = remainder(self.quantizer.quantize(np.empty((0, stored.dim), np.float32)), self._shared_bits)
        if not mine.is_like(dataclasses.replace(stored, offset=None)):
            raise ValueError(f"rescore_codes must be what {self.quantizer!r} keeps beside the signs, got other codes")
        return stored.dim

    @cached_property
    def _coder(self) -> Coder:
        return Coder(self.quantizer, self.metric)

    @cached_property
    def _coarse_coder(self) -> Coder:
        return Coder(self.coarse, self.metric)

    @cached_property
    def _shared_bits(self) -> int:
        """Bits of the finer quantizer if it shares its signs, else 0."""
        fine = self.quantizer
        return fine.bits if isinstance(fine, RaBitQ) and share_signs(self.coarse, fine) else 0


class Search(NamedTuple):
    """All that both stages need of an index."""

    codes: Codes  # of `fine.coarse`
    fine: FineCoder
    fine_rows: Codes
    ids: NDArray[np.int64]
    allow: NDArray[np.bool_] | None

    def best(self, queries: Vectors, k: int, oversample: int) -> tuple[Matches, NDArray[np.int64]]:
        """The k best of the `oversample * k` best rows by coarse codes, and how many were rescored: (m,)."""
        prepared = Coder(self.fine.coarse, self.fine.metric).prepare(queries)
        coarse = kernels.topk(prepared, self.codes, k * oversample, ids=self.ids, allow=self.allow)
        fine = self.fine.prepare(queries, prepared)
        return kernels.rescore(fine, self.fine_rows, coarse.ids, k, ids=self.ids)

    def guaranteed(
        self, queries: Vectors, k: int, oversample: int, guarantee: float
    ) -> tuple[Matches, NDArray[np.int64], NDArray[np.int64]]:
        """The k best of all rows by the finer codes, with this probability; rows scanned and rows rescored: (m,).

        Coarse scores are normal about the true ones (RaBitQ, arXiv 2405.12497, theorem 3.2), so each of the k best
        rows has a coarse score at most `slack` too low, where all k of them do with the probability `guarantee`.
        Candidates are rescored in the order of their coarse scores, until one is below the k-th best fine score by
        more than that. If none is, there are too few candidates, and four times as many are taken.
        """
        m, n = len(queries), len(self.codes)
        deviations = NormalDist().inv_cdf(1 - (1 - guarantee) / k)
        slack = deviations * self._half_width * self._lengths(queries)
        prepared = Coder(self.fine.coarse, self.fine.metric).prepare(queries)
        fine = self.fine.prepare(queries, prepared)
        found = Matches(np.empty((m, k), np.int64), np.empty((m, k), np.float32))
        scored, rescored = np.zeros(m, np.int64), np.zeros(m, np.int64)
        left, taken = np.arange(m), min(k * oversample, n)
        while len(left):
            coarse = kernels.topk(_some(prepared, left), self.codes, taken, ids=self.ids, allow=self.allow)
            best, counts = kernels.rescore(
                _some(fine, left), self.fine_rows, coarse.ids, k, ids=self.ids, estimates=coarse.scores,
                slack=slack[left],
            )  # fmt: skip
            found.ids[left], found.scores[left] = best
            scored[left] += n
            rescored[left] += counts
            left = left[(counts == taken) & (taken < n)]
            taken = min(4 * taken, n)
        return found, scored, rescored

    @property
    def _half_width(self) -> float:
        """One deviation of the coarse score of the longest row, for a query of length 1."""
        assert isinstance(self.fine.coarse, RaBitQ)
        return self.fine.coarse.largest_half_width(self.codes, 1.0)

    def _lengths(self, queries: Vectors) -> NDArray[np.float64]:
        """What the error of a coarse score is in proportion to."""
        if self.fine.metric == "cosine":
            return row_norms(normalised(queries))
        return row_norms(queries) * (2 if self.fine.metric == "l2" else 1)


def _some(queries: Queries, chosen: NDArray[np.int64]) -> Queries:
    return queries if len(chosen) == len(queries) else Queries(queries.values[chosen], queries.offset[chosen])
