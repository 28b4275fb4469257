"""GraphIndex: a walk over a graph of neighbours scores a few hundred rows of many."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex import io, kernels
from qindex.index.allow import Allow
from qindex.index.base import StoredIndex, find_filtered
from qindex.index.growable import Growable
from qindex.index.ids import as_count, distinct_ids, held_ids, new_ids
from qindex.index.linking import Graph, Space, decoded, entry_rows, insert, shortened, without
from qindex.index.metric import Metric
from qindex.index.reading import Reader
from qindex.index.rescore import Search, Work
from qindex.index.stored import REMOVED, Growing, Stored, marked
from qindex.memory import empty
from qindex.quantize import Int4, Int8
from qindex.types import Matches, Quantizer, Vectors, as_vectors

DEFAULT_DEGREE, DEFAULT_EF_CONSTRUCTION, DEFAULT_EF = 32, 100, 64
MAX_DEGREE, MAX_ROWS = 512, (1 << 31) - 2

# Under a filter a walk goes on until it knows k rows allowed and this share of those that the beam has beside k.
_SPARE = 0.35

# Of a scan, so many times k rows are ranked by finer codes.
_SCANNED_OVERSAMPLE = 4

# About what a filtered search takes in microseconds, at 384 dimensions: to expand a row of a walk; to look at a row
# where it lies; to rank by finer codes what a scan has found.
_WALK_US, _LOOK_US, _RANK_US = 1.3, 0.03, 20.0


@dataclass(frozen=True, eq=False)
class GraphState:
    """Stored rows and the graph over all of them, also over those that were removed."""

    stored: Stored
    neighbours: NDArray[np.int32]  # (n, degree); what is no row, or the row itself, stands for none
    entries: NDArray[np.int32]
    ef_construction: int

    def __post_init__(self) -> None:
        if not isinstance(self.stored, Stored):
            raise ValueError(f"a GraphIndex holds stored rows, got {self.stored!r}")
        n, lists, entries = len(self.stored), self.neighbours, self.entries
        if n > MAX_ROWS:
            raise ValueError(f"a GraphIndex holds at most {MAX_ROWS} rows, got {n}")
        # Numbers out of range do no harm: a walk takes the last row for them.
        if (
            lists.dtype != np.int32
            or lists.ndim != 2
            or len(lists) != n
            or not 1 <= lists.shape[1] <= MAX_DEGREE
            or not lists.flags.c_contiguous
        ):
            raise ValueError(
                f"neighbours must be C-contiguous int32 ({n}, degree of 1 to {MAX_DEGREE}), got {lists.dtype} "
                f"{lists.shape}"
            )
        some = 1 <= len(entries) + (n == 0) <= MAX_DEGREE
        if entries.dtype != np.int32 or entries.ndim != 1 or not entries.flags.c_contiguous or not some:
            raise ValueError(f"entries must be int32, 1 to {MAX_DEGREE} of them, got {entries.dtype} {entries.shape}")
        if not isinstance(self.ef_construction, int) or self.ef_construction < 1:
            raise ValueError(f"ef_construction must be a positive integer, got {self.ef_construction!r}")

    @property
    def degree(self) -> int:
        return int(self.neighbours.shape[1])

    @cached_property
    def walks(self) -> kernels.Walks:
        """Over these rows; kept, so that searches find what they need in place."""
        stored = self.stored
        fine = None if stored.rescore is None else stored.fine_rows
        return kernels.Walks(stored.codes, fine, (self.neighbours, self.entries), stored.ids)


class GraphIndex(StoredIndex):
    """Quantized vectors under int64 ids, found by a walk over a graph of neighbours: approximate, and fast.

    A walk goes by the codes of `quantizer`; what it finds is ranked by exact scores, of the codes of `rescore` where
    there are some. Searching from many threads is safe, also while another thread changes the index.
    """

    _state: GraphState
    _growing: _Growing | None = None

    @property
    def _stored(self) -> Stored:
        return self._state.stored

    # --- making one -------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        vectors: ArrayLike,
        quantizer: Quantizer | None = None,
        *,
        ids: ArrayLike | None = None,
        rescore: Quantizer | None = None,
        metric: Metric = "ip",
        degree: int = DEFAULT_DEGREE,
        ef_construction: int = DEFAULT_EF_CONSTRUCTION,
        seed: int = 0,
        memory_budget: int | None = None,
        progress: bool | None = None,
    ) -> GraphIndex:
        """An index of (n, dim) floats: an array, or what can be sliced as one, such as an `np.memmap`.

        `quantizer` and `rescore` are fitted to the vectors unless they are fitted already; where neither is given,
        they are `Int4()` and `Int8()`. A row has up to `degree` neighbours, 4 bytes each, chosen among the
        `ef_construction` rows that a walk finds for it: more take longer to build, and a search finds more. `seed`
        orders the insertions. `progress=None` shows a bar on a terminal.

        Vectors are read in blocks, and again as rows are linked. To make codes takes about `memory_budget` bytes
        (default 1 GiB) beyond what is stored; quantizers are fitted to a random sample that fits in a third of it, at
        least 16,384 rows. To link rows takes, whatever the budget, 6 * `degree` + 12 bytes for each, one more for each
        thread and, where neither quantizer is `Int8()`, dim + 4; and about 40 * dim bytes for each of 4,096 rows.
        """
        degree, ef = as_count(degree, "degree"), as_count(ef_construction, "ef_construction")
        if degree > MAX_DEGREE:
            raise ValueError(f"degree must be at most {MAX_DEGREE}, got {degree}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be an integer from 0 on, got {seed!r}")
        if quantizer is None and rescore is None:
            quantizer, rescore = Int4(), Int8()
        read = Reader(vectors, memory_budget, progress)
        if read.n > MAX_ROWS:
            raise ValueError(f"vectors must be at most {MAX_ROWS} rows, got {read.n}")
        stored = Stored.read(read, quantizer, ids=ids, rescore=rescore, metric=metric, seed=seed)
        entries = entry_rows(stored, read.rows, np.arange(read.n), seed)
        order = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(read.n), entries))
        order = np.concatenate([entries, order])
        lists = empty((read.n, degree * 3 // 2), np.int32)
        lists[:] = np.arange(read.n)[:, None]
        space, graph = Space.of(stored), Graph(lists, entries)
        insert(stored, space, read.rows, order, graph, degree, ef, progress)
        return cls(GraphState(stored, shortened(space, lists, degree), entries, ef))

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets, ids and the graph."""
        state = self._state
        return state.stored.nbytes + state.neighbours.nbytes + state.entries.nbytes

    @property
    def degree(self) -> int:
        """Neighbours that a row has at most."""
        return self._state.degree

    # --- asking -----------------------------------------------------------------------------------------------------

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        ef: int | None = None,
        allow: Allow | None = None,
        oversample: int | None = None,
        explain: Literal[False] = False,
    ) -> Matches: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        ef: int | None = None,
        allow: Allow | None = None,
        oversample: int | None = None,
        explain: Literal[True],
    ) -> tuple[Matches, Work]: ...

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        ef: int | None = None,
        allow: Allow | None = None,
        oversample: int | None = None,
        explain: bool = False,
    ) -> Matches | tuple[Matches, Work]:
        """About the k best rows for each of (m, dim) float queries: ids and scores (m, k), best first.

        `ef` (default 64, or 2 * k if that is more), at least k, is how many rows a walk keeps: more take longer and
        find more. Of these, the best `oversample * k` are ranked by exact scores (default: all; only with `rescore`).

        `allow` restricts the answer: a boolean mask aligned with `ids`, an array of ids, or a list of m such, one for
        each query. The walk then goes on until it knows more than k of those allowed; where a scan of these is
        estimated to cost less, and where a walk does not come to enough of them, they are scanned.

        With `explain`, what the search did comes with the matches.
        """
        state = self._state
        values = as_vectors(queries, "queries", state.stored.dim)
        k = as_count(k, "k")
        ef = max(DEFAULT_EF, 2 * k) if ef is None else as_count(ef, "ef")
        if ef < k:
            raise ValueError(f"ef must be at least k, got ef={ef} and k={k}: a walk keeps the ef best rows it has seen")
        if oversample is not None and state.stored.rescore is None:
            raise ValueError("oversample needs an index built with rescore=...; this one has a single quantizer")
        oversample = None if oversample is None else as_count(oversample, "oversample")

        def find(some: Vectors, mask: NDArray[np.bool_] | None) -> tuple[Matches, Work]:
            found, (hops, scored, ranked) = _find(state, some, k, ef, oversample, mask)
            return found, Work(scored, ranked, hops=hops)

        found, work = find_filtered(state.stored, values, allow, find)
        return (found, work) if explain else found

    @staticmethod
    def _settings_for(k: int, settings: dict[str, Any]) -> dict[str, Any]:
        return settings if settings.get("ef") is None else settings | {"ef": max(settings["ef"], k)}

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, vectors: ArrayLike, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add (n, dim) floats and return their ids: those given, else the next ones never used before."""
        with self._lock:
            stored = self._state.stored
            rows = as_vectors(vectors, dim=stored.dim)
            added = new_ids(ids, len(rows), stored.next_id, stored.held)
            self._append(rows, added, stored.ids)
            return added

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows. ValueError if an id is not held; nothing changes then.

        Walks still pass through them, until `compact` gives their space back; it is called when they are more than
        half of all.
        """
        with self._lock:
            stored = self._state.stored
            gone = held_ids(ids, stored.held)
            if len(gone):
                self._rename(marked(stored.ids, gone))
                self._compact_if(2 * len(self._state.stored.held) < len(stored))

    def update(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Put (n, dim) floats in the place of the rows that have these ids. Nothing changes if one is not held."""
        with self._lock:
            stored = self._state.stored
            rows = as_vectors(vectors, dim=stored.dim)
            changed = held_ids(distinct_ids(ids, len(rows)), stored.held)
            if len(rows):
                self._append(rows, changed, marked(stored.ids, changed))
                self._compact_if(2 * len(self._state.stored.held) < len(self._state.stored))

    def compact(self) -> None:
        """Give back the space of removed rows. Rows that had them as neighbours get others, found through them."""
        with self._lock:
            self._compact_if(True)

    def _append(self, vectors: Vectors, added: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Add rows, once those there are have the ids given."""
        if not len(vectors):
            return
        state = self._state
        if len(state.stored) + len(vectors) > MAX_ROWS:
            raise ValueError(f"vectors must not make the index longer than {MAX_ROWS} rows: it has {len(state.stored)}")
        codes, fine = state.stored.coded(vectors)
        # Forgotten until all has grown: if memory runs out on the way, the next add starts afresh.
        growing, self._growing = self._growing or _Growing(state), None
        growing.rows.rename(ids)
        stored = growing.rows.append(codes, fine, added)
        self._state = growing.linked(stored, state, vectors)
        self._growing = growing

    def _rename(self, ids: NDArray[np.int64]) -> None:
        state = self._state
        self._state = dataclasses.replace(state, stored=dataclasses.replace(state.stored, ids=ids))
        if self._growing is not None:
            self._growing.rows.rename(ids)

    def _compact_if(self, wanted: bool) -> None:
        state = self._state
        gone = state.stored.ids == REMOVED
        if not wanted or not gone.any():
            return
        lists = without(Space.of(state.stored), state.neighbours, gone)
        stored = state.stored.rows(~gone)
        entries = np.empty(0, np.int32)
        if len(stored):
            entries = entry_rows(stored, decoded(stored), np.arange(len(stored)), seed=0)
        self._state, self._growing = GraphState(stored, lists, entries, state.ef_construction), None


class _Growing:
    """Stored rows, their graph and what it is made by, with room for more."""

    def __init__(self, state: GraphState) -> None:
        self.rows, self.space = Growing(state.stored), Space.of(state.stored)
        self._lists = Growable(state.neighbours)

    def linked(self, stored: Stored, before: GraphState, vectors: Vectors) -> GraphState:
        """The state with rows at the end, whose vectors are given, linked into the graph.

        Lists of older rows change in place: a search that goes on in another thread passes over rows it does not have.
        """
        n, old = len(stored), len(before.stored)
        self.space.grow(stored)
        new = np.arange(old, n)
        lists = self._lists.append(np.repeat(new.astype(np.int32)[:, None], before.degree, axis=1))
        entries = before.entries if old else entry_rows(stored, lambda some: vectors[some - old], new, seed=0)
        order = new if old else np.concatenate([entries, np.setdiff1d(new, entries)])
        graph = Graph(lists, entries)
        insert(
            stored, self.space, lambda some: vectors[some - old], order, graph, before.degree, before.ef_construction
        )
        return GraphState(stored, lists, entries, before.ef_construction)


def _find(
    state: GraphState, queries: Vectors, k: int, ef: int, oversample: int | None, mask: NDArray[np.bool_] | None
) -> tuple[Matches, NDArray[np.int64]]:
    """Matches, and for each query the rows that were expanded, scored and ranked: (3, m)."""
    stored, m, n = state.stored, len(queries), len(state.stored)
    ranked, enough, among = ef if oversample is None else min(oversample * k, ef), k, None
    allowed = n if mask is None else int(np.count_nonzero(mask))
    if not allowed or not m:
        return Matches(np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)), np.zeros((3, m), np.int64)
    if mask is not None:
        enough = min(k + math.ceil(_SPARE * (ef - k)), allowed)
        scan_us = min(_LOOK_US * allowed, kernels.topk_us(allowed, n, m) + _RANK_US)
        if scan_us < _WALK_US * max(ef, enough * n // allowed):
            return _scan(state, queries, k, oversample, mask, allowed)
        # A walk that has come so far without enough has taken as long as a scan.
        among = kernels.Through(mask, width=min(max(ef, int(scan_us / _WALK_US)), n), enough=enough)
        ranked = max(enough, ef * allowed // n) if oversample is None else ranked
    found, work, short = state.walks.best(*stored.asked(queries), k, ef=ef, ranked=ranked, among=among)
    missed = np.flatnonzero(work[2] < min(enough, allowed)) if short else ()
    if len(missed):  # some walk saw too few of the rows allowed, as where many rows are equal
        everything = np.ones(n, np.bool_) if mask is None else mask
        again, more = _scan(state, queries[missed], k, oversample, everything, allowed)
        found.ids[missed], found.scores[missed] = again
        work[:, missed] += more
    return found, work


def _scan(
    state: GraphState,
    queries: Vectors,
    k: int,
    oversample: int | None,
    mask: NDArray[np.bool_],
    allowed: int,
) -> tuple[Matches, NDArray[np.int64]]:
    """The best of all rows allowed, so many, which are looked at where they lie, or copied and scanned."""
    stored, m = state.stored, len(queries)
    oversample = _SCANNED_OVERSAMPLE if oversample is None else oversample
    if _LOOK_US * allowed < kernels.topk_us(allowed, len(stored), m) + _RANK_US:
        ranked = min(oversample * k, allowed)
        asked = stored.asked(queries)
        found, work, _short = state.walks.best(*asked, k, ef=ranked, ranked=ranked, among=kernels.Only(mask))
        return found, work
    work = np.zeros((3, m), np.int64)
    work[1] = allowed
    if stored.rescore is None:
        found = kernels.topk(stored.coder.prepare(queries), stored.codes, k, ids=stored.ids, allow=mask)
    elif kernels.has_integers(stored.fine_rows.format.name):  # as fast to scan as coarse codes
        prepared = stored.fine.prepare(queries, stored.coder.prepare(queries))
        found = kernels.topk(prepared, stored.fine_rows, k, ids=stored.ids, allow=mask)
    else:
        stages = Search(stored.codes, stored.fine, stored.fine_rows, stored.ids, mask)
        found, work[2] = stages.best(queries, k, oversample)
    return stored.named(found), work


io.register("GraphIndex", opener=GraphIndex)(GraphState)
