"""How an IVFIndex finds rows: it chooses lists, scores their rows, and probes on where that was not enough."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.index.lists import FIRST, Lists, in_space
from qindex.index.rescore import Work
from qindex.index.spill import Second
from qindex.index.stored import Stored
from qindex.types import Matches, Queries, Vectors

DEFAULT_OVERSAMPLE = 4

# Up to this share of rows, all that are allowed are scored if lists hold as many: they are spread over more lists.
_FEW = 0.1

# About what a filtered search takes in microseconds, at 384 dimensions: a row of a list that is scanned, a row that is
# looked at where it lies, a row ranked by finer codes. Of those looked at, so many times k are ranked.
_PROBE_US, _LOOK_US, _RANK_US = 0.012, 0.05, 0.1
_RANKED = 4

# Copying an allowed row, to scan the copies alone, takes as long as scanning so many rows for a query of a batch.
_COPY = 16


class InLists:
    """Searches of so many of the best lists: what they need of a state, looked up once."""

    def __init__(self, stored: Stored, lists: Lists, of_residuals: bool, second: Second | None) -> None:
        copies = None
        if second is not None:
            copies = second.codes, second.runs, second.rows, second.of_those(stored.there)
        l2 = stored.metric == "l2"
        self.stored, self.lists, self.of_residuals, self.second = stored, lists, of_residuals, second
        self._coder, self._fine = stored.coder, None if stored.rescore is None else stored.fine
        fine_rows = None if stored.rescore is None else stored.fine_rows
        self._scales = tuple(None if codes is None else codes.column_scale for codes in (stored.codes, fine_rows))
        self._listed = kernels.listed(
            stored.codes, lists.products, lists.runs, fine_rows, ids=stored.ids, allow=stored.there,
            shifts=lists.centroids.offset if l2 else None, relative=(2.0 if l2 else 1.0) if of_residuals else 0.0,
            copies=copies,
        )  # fmt: skip

    def find(
        self, queries: Vectors, k: int, nprobe: int, oversample: int, allow: NDArray[np.bool_] | None = None
    ) -> tuple[Matches, NDArray[np.int32]] | None:
        """Matches, and the lists, which have rows that are allowed; None if there are too few."""
        coarse, fine, wanted = self._coder.prepare(queries), None, k
        if self._fine is not None:
            fine, wanted = _scaled(self._fine.prepare(queries, coarse), self._scales[1]), k * oversample
        placed = in_space(queries, self.stored.metric)
        found, probes = kernels.search_lists(
            self._listed if allow is None else self._among(allow), placed, _scaled(coarse, self._scales[0]), fine, k,
            nprobe=nprobe, wanted=wanted,
        )  # fmt: skip
        last = min(k, len(self.stored.held) if allow is None else int(np.count_nonzero(allow))) - 1
        few = found.ids[0, last] if len(queries) == 1 else found.ids[:, last].min()
        return None if few < 0 and nprobe < len(self.lists) else (found, probes)

    def scan(self, queries: Vectors, k: int, allow: NDArray[np.bool_], n_allowed: int) -> Matches:
        """Of all that are allowed, so many, the best by the finest codes, which do not code residuals."""
        prepared = self._coder.prepare(queries)
        if self._fine is not None:
            prepared = self._fine.prepare(queries, prepared)
        if _LOOK_US * n_allowed < kernels.topk_us(n_allowed, len(allow), len(queries)):
            ranked = min(_RANKED * k, n_allowed)
            values, offset, only = prepared.values, prepared.offset, kernels.Only(allow)
            return self._finest.best(values, values, offset, k, ef=ranked, ranked=ranked, among=only)[0]
        stored = self.stored
        codes = stored.codes if self._fine is None else stored.fine_rows
        return stored.named(kernels.topk(prepared, codes, k, ids=stored.ids, allow=allow))

    def are_few(self, n_allowed: int, nprobe: int | None) -> bool:
        """Whether so many rows are no more than would be scored anyway."""
        return n_allowed <= min(_FEW, (nprobe or 2 * FIRST) / len(self.lists)) * len(self.stored)

    def scan_us(self, n_allowed: int, m: int) -> float:
        """What a scan takes for each of m queries."""
        return min(_LOOK_US * n_allowed, kernels.topk_us(n_allowed, len(self.stored), m))

    def probe_us(self, nprobe: int | None, wanted: int) -> float:
        """What a search of lists takes for a query."""
        return _PROBE_US * len(self.stored) * (nprobe or 2 * FIRST) / len(self.lists) + (
            _RANK_US * wanted if self._fine else 0
        )

    @cached_property
    def _finest(self) -> kernels.Walks:
        codes = self.stored.codes if self._fine is None else self.stored.fine_rows
        return kernels.Walks(codes, None, None, self.stored.ids)

    def _among(self, allow: NDArray[np.bool_]) -> kernels.Listed:
        lists, copies = self.lists.may_hold(allow), None
        if self.second is not None:
            copies = self.second.of_those(allow)
            assert copies is not None
            lists = lists | self.second.may_hold(copies)
        return self._listed.among(allow, copies, lists)


def _scaled(queries: Queries, columns: NDArray[np.float32] | None) -> tuple[Vectors, NDArray[np.float64]]:
    """Values in the space of codes, and offsets."""
    return queries.values if columns is None else queries.values * columns, queries.offset


def work_of(stored: Stored, lists: Lists, probes: NDArray[np.int32], wanted: int) -> Work:
    """The work that these matches took, if `wanted` rows are rescored."""
    scored = lists.probed(probes)
    rescored = np.zeros_like(scored) if stored.rescore is None else np.minimum(scored, wanted)
    return Work(scored, rescored, np.full(len(probes), probes.shape[1]))


def find(
    here: InLists,
    queries: Vectors,
    k: int,
    allow: NDArray[np.bool_] | None,
    nprobe: int | None,
    oversample: int,
) -> tuple[Matches, Work]:
    """The matches, and the work they took. `allow` is the filter that was asked for; all rows held, without."""
    stored, lists, m = here.stored, here.lists, len(queries)
    wanted = k if stored.rescore is None else k * oversample
    n_allowed = 0 if allow is None else int(np.count_nonzero(allow))
    if allow is not None and n_allowed and m:
        finest = stored.rescore is not None or not here.of_residuals
        few = here.are_few(n_allowed, nprobe)
        if finest and (few or here.scan_us(n_allowed, m) < here.probe_us(nprobe, wanted)):
            return here.scan(queries, k, allow, n_allowed), Work(*(np.full(m, n) for n in (n_allowed, 0, 0)))
        near = here.find(queries, k, nprobe, oversample, allow) if nprobe is not None else None
        if near is not None:
            return near[0], work_of(stored, lists, near[1], wanted)
    search = Probing(here, queries, allow)
    if m and len(stored):
        search.probe(wanted, nprobe)
        search.fill_up(min(k, search.most))
    found, rescored = search.found(wanted), np.zeros(m, np.int64)
    if stored.rescore is not None and m and len(stored):
        fine = stored.fine.prepare(queries, search.prepared)
        found, rescored = kernels.rescore(fine, stored.fine_rows, found.ids, k, ids=stored.ids)
    return stored.named(found), Work(search.scored, rescored, search.n_probed)


class Probing:
    """One search for some queries."""

    def __init__(self, here: InLists, queries: Vectors, allow: NDArray[np.bool_] | None) -> None:
        stored = here.stored
        self.here, self.stored = here, stored
        self.lists, self.of_residuals, self.second = here.lists, here.of_residuals, here.second
        self.allow = allow = stored.there if allow is None else allow
        self.queries = in_space(queries, stored.metric)
        self.prepared = stored.coder.prepare(queries)
        self.most = len(stored) if allow is None else int(np.count_nonzero(allow))  # rows that may be found
        m = len(queries)
        self.scored, self.n_probed = np.zeros(m, np.int64), np.zeros(m, np.int64)
        self._matches: Matches | None = None
        self._copies: Matches | None = None

    @cached_property
    def nearness(self) -> NDArray[np.float32]:
        """(m, lists): what orders lists."""
        return self.lists.nearness(self.queries, self.stored.metric)

    def found(self, k: int) -> Matches:
        if self._matches is not None:
            return self._matches if self._copies is None else self._with_copies(self._matches, self._copies)
        m = len(self.queries)
        return Matches(np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32))

    def probe(self, wanted: int, nprobe: int | None) -> None:
        """Look at `nprobe` lists, or at those that promise something."""
        everything = slice(None)
        if self.here.are_few(self.most, nprobe):
            every = np.arange(len(self.lists), dtype=np.int32)
            self._look(everything, np.tile(every, (len(self.queries), 1)), wanted)
            return
        if nprobe is not None:
            self._look(everything, kernels.largest(self.nearness, nprobe), wanted)
            return
        first = kernels.largest(self.nearness, min(FIRST, len(self.lists)))
        self._look(everything, first, wanted)
        assert self._matches is not None
        worst = self._matches.scores[:, -1]
        metric = self.stored.metric
        scores = self.lists.scores(self.queries, self.nearness, metric)
        more = self.lists.promising(self.queries, scores, worst, metric, of_two=self.second is not None)
        np.put_along_axis(more, first.astype(np.int64), False, axis=1)
        self._look(everything, _padded(more), wanted)

    def fill_up(self, k: int) -> None:
        """Probe on for the queries that have found less than k rows, in more and more lists."""
        n_lists = len(self.lists)
        while k:
            assert self._matches is not None
            missing: NDArray[np.bool_] = (self._matches.ids[:, k - 1] < 0) & (self.n_probed < n_lists)
            short = np.arange(len(missing))[missing]
            if self._copies is not None:
                rows = self.found(k).ids[short]
                short = short[[len(np.unique(some[some >= 0])) < k for some in rows]]
            if not len(short):
                return
            probed = min(n_lists, 4 * int(self.n_probed[short].max()))
            wanted = self._matches.ids.shape[1]
            self._forget(short)
            self._look(short, kernels.largest(self.nearness[short], probed), wanted)

    def _forget(self, some: NDArray[np.int64]) -> None:
        assert self._matches is not None
        for matches in (self._matches, self._copies):
            if matches is not None:
                matches.ids[some], matches.scores[some] = -1, -np.inf
        self.n_probed[some] = 0

    def _look(self, some: slice | NDArray[np.int64], probes: NDArray[np.int32], k: int) -> None:
        """Score the rows of lists for some queries, and keep the k best."""
        if not probes.shape[1]:
            return
        metric, ids = self.stored.metric, self.stored.ids
        bases = self.lists.bases(self.queries[some], probes, metric) if self.of_residuals else None
        prepared = self.prepared
        if not isinstance(some, slice):
            prepared = Queries(prepared.values[some], prepared.offset[some])
        if self.second is not None:
            self._look_at_copies(self.second, some, probes, prepared, bases, k)
        codes, runs, own, rows = self.stored.codes, self.lists.runs, self.allow, None
        if own is not None and self.most * _COPY <= len(probes) * self.lists.probed(probes).mean():
            rows = np.flatnonzero(own)
            of_rows = self.lists.of_rows[rows]
            rows = rows[np.argsort(of_rows, kind="stable")]
            sizes = np.bincount(of_rows, minlength=len(self.lists))
            codes, ids, own, runs = codes[rows], ids[rows], None, self.lists.holding(sizes).runs
        found = kernels.topk_lists(prepared, codes, runs, probes, k, ids=ids, bases=bases, allow=own)
        if rows is not None and len(rows):
            found = Matches(np.where(found.ids >= 0, rows[found.ids], -1), found.scores)
        self.scored[some] += self.lists.probed(probes)
        self.n_probed[some] += (probes >= 0).sum(axis=1)
        if self._matches is None:
            self._matches = found
            return
        _add(self._matches, some, found, self.stored.ids)

    def _look_at_copies(
        self,
        second: Second,
        some: slice | NDArray[np.int64],
        probes: NDArray[np.int32],
        prepared: Queries,
        bases: NDArray[np.float32] | None,
        k: int,
    ) -> None:
        """The same with the copies that lie in the lists."""
        found = kernels.topk_lists(
            prepared, second.codes, second.runs, probes, k, ids=None, bases=bases, allow=self._allowed_copies
        )
        self.scored[some] += second.probed(probes)
        if self._copies is None:
            self._copies = found
            return
        _add(self._copies, some, found, None)

    @cached_property
    def _allowed_copies(self) -> NDArray[np.bool_] | None:
        return None if self.second is None else self.second.of_those(self.allow)

    def _with_copies(self, rows: Matches, copies: Matches) -> Matches:
        """As `reference.search_lists` adds copies; a row may come twice."""
        assert self.second is not None
        good = (copies.ids >= 0) & (copies.scores >= rows.scores[:, -1:])
        more = np.where(good, self.second.rows[copies.ids], -1)
        return Matches(np.hstack([rows.ids, more]), np.hstack([rows.scores, copies.scores]))


def _add(matches: Matches, some: slice | NDArray[np.int64], found: Matches, ids: NDArray[np.int64] | None) -> None:
    """Keep the best of what some queries had and of what was found for them, as many as they had."""
    rows = np.hstack([matches.ids[some], found.ids])
    scores = np.hstack([matches.scores[some], found.scores])
    matches.ids[some], matches.scores[some] = kernels.best(rows, scores, matches.ids.shape[1], ids)


def _padded(chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The numbers of what is chosen in each row of (m, n), -1 behind the last: (m, most)."""
    counts = chosen.sum(axis=1)
    result = np.full((len(chosen), int(counts.max(initial=0))), -1, np.int32)
    row, number = np.nonzero(chosen)
    result[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = number
    return result
