"""IVFIndex: rows lie in lists about centroids, and a search looks at the lists whose centroids score best."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex import io
from qindex.index.allow import Allow
from qindex.index.base import StoredIndex, find_filtered
from qindex.index.ids import as_count, as_ids, distinct_ids, held_ids, new_ids
from qindex.index.lists import Lists, in_space
from qindex.index.metric import Metric, unbiased
from qindex.index.probe import DEFAULT_OVERSAMPLE, InLists, find, work_of
from qindex.index.reading import Filled, Reader
from qindex.index.rescore import FineCoder, Work
from qindex.index.spill import GrowingSecond, Second, lists_of
from qindex.index.stored import REMOVED, Growing, Stored, checked, marked
from qindex.quantize import Int4, Int8, LloydMax, RaBitQ
from qindex.types import Codes, Matches, Quantizer, Vectors, as_vectors, row_norms

_SAMPLE = 64  # rows for each list, to train on
_SMALLEST_SAMPLE = 16_384

# What gains most from coding residuals: their errors are in proportion to the length of what is coded.
_OF_RESIDUALS = (RaBitQ, LloydMax, Int4)

_UNSORTED = 4  # rows are sorted anew when one of so many was added since
_REMOVED = 2  # and space is given back when one of so many was removed


@dataclass(frozen=True, eq=False)
class IVFState:
    """Stored rows and their lists. With `residual`, codes are of rows less the centroids of their lists."""

    stored: Stored
    lists: Lists
    residual: bool
    sorted_rows: int  # so many rows lie list by list, the others were added since
    second: Second | None = None  # with rescore: each row once more, in another list

    def __post_init__(self) -> None:
        if not isinstance(self.stored, Stored) or not isinstance(self.lists, Lists):
            raise ValueError("an IVFIndex holds stored rows and lists")
        if not isinstance(self.residual, bool):
            raise ValueError(f"residual must be true or false, got {self.residual!r}")
        if not isinstance(self.sorted_rows, int) or not 0 <= self.sorted_rows <= len(self.stored):
            raise ValueError(f"sorted_rows must lie in [0, {len(self.stored)}], got {self.sorted_rows!r}")
        if self.lists.n_rows != len(self.stored) or self.lists.centroids.dim != self.stored.dim:
            raise ValueError(
                f"lists of {self.lists.n_rows} rows of dim {self.lists.centroids.dim} do not suit "
                f"{len(self.stored)} rows of dim {self.stored.dim}"
            )
        if self.second is not None:
            self._check_second(self.second)

    def _check_second(self, second: Second) -> None:
        if not isinstance(second, Second) or self.stored.rescore is None:
            raise ValueError("second lists go with rescore")
        if len(second.rows) != len(self.stored) or second.n_lists != len(self.lists):
            raise ValueError(
                f"copies of {len(second.rows)} rows in {second.n_lists} lists do not suit {len(self.stored)} rows in "
                f"{len(self.lists)}"
            )
        if not second.codes.is_like(self.stored.codes):
            raise ValueError("copies must be codes like those of the rows")

    @cached_property
    def in_lists(self) -> InLists:
        return InLists(self.stored, self.lists, self.residual, self.second)

    def sorted(self) -> IVFState:
        """The rows that were not removed, list by list."""
        of_rows = self.lists.of_rows
        kept = np.flatnonzero(self.stored.ids != REMOVED)
        kept = kept[np.argsort(of_rows[kept], kind="stable")]
        sizes = np.bincount(of_rows[kept], minlength=len(self.lists))
        second = None if self.second is None else self.second.only(kept)
        return IVFState(self.stored.rows(kept), self.lists.holding(sizes), self.residual, len(kept), second)


class IVFIndex(StoredIndex):
    """Quantized vectors under int64 ids, in `nlist` lists of rows that lie near each other.

    A search scores the rows of the lists whose centroids score best: of `nprobe` of them, or of as many as promise
    something. Scores are exact, those of the float query with the decoded vectors. Searching from many threads is
    safe, also while another thread changes the index.

    Rows move when others are added or removed, and `ids`, which masks for `allow` follow, with them.
    """

    _state: IVFState
    _growing: Growing | None = None
    _growing_second: GrowingSecond | None = None

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
        nlist: int | None = None,
        ids: ArrayLike | None = None,
        rescore: Quantizer | None = None,
        metric: Metric = "ip",
        residual: bool | None = None,
        spill: bool = False,
        seed: int = 0,
        memory_budget: int | None = None,
        progress: bool | None = None,
    ) -> IVFIndex:
        """An index of (n, dim) floats: an array, or what can be sliced as one, such as an `np.memmap`.

        `nlist` is the number of lists, by default `4 * sqrt(n)`. `quantizer` (default `Int8()`) and `rescore` are
        fitted unless they are fitted already. With `residual`, codes are of vectors less the centroids of their lists:
        the default for RaBitQ, LloydMax and Int4 that are not fitted yet, which lose less of a shorter vector.

        With `spill`, which needs `rescore` and two lists, the quantizer's codes of each row are stored once more, in a
        second list near it. Fewer lists then reach the same recall, for the bytes of those codes and 4 more.

        Vectors are read in blocks, twice. Beyond what is stored, about `memory_budget` bytes are taken (default 1 GiB);
        centroids and quantizers are learnt from a random sample that fits in a third of it, at least 16,384 rows.
        """
        read = Reader(vectors, memory_budget, progress, unit=metric == "cosine")
        n = read.n
        quantizer = checked(quantizer, rescore, metric)
        n_lists = max(1, min(n, round(4 * math.sqrt(n)))) if nlist is None else as_count(nlist, "nlist")
        if n_lists > n:
            raise ValueError(f"nlist must be at most the number of vectors, {n}, got nlist={n_lists}")
        if spill and rescore is None:
            raise ValueError(
                "spill=True needs rescore=..., such as Int8(): a row has other coarse scores in its second list, and "
                "finer codes rank it once"
            )
        if spill and n_lists < 2:
            raise ValueError(f"spill=True needs two lists or more, got nlist={n_lists} for {n} vectors")
        if residual and quantizer.fitted and not isinstance(quantizer, Int8):
            raise ValueError("residual=True needs a quantizer that is not fitted yet: it is fitted to residuals")
        if residual is None:
            residual = isinstance(quantizer, _OF_RESIDUALS) and not quantizer.fitted
        new = as_ids(ids, n, next_id=0)

        sample = read.sample(max(_SAMPLE * n_lists, _SMALLEST_SAMPLE), seed)
        lists = Lists.trained(sample, n_lists, seed)
        if not quantizer.fitted:
            quantizer = quantizer.fit(sample - lists.decoded[lists.nearest(sample)[0]] if residual else sample)
        if rescore is not None and not rescore.fitted:
            rescore = rescore.fit(sample)
        del sample

        found = [lists_of(lists, rows) if spill else lists.nearest(rows) for _part, rows in read.blocks("lists")]
        labels, squares, *others = map(np.concatenate, zip(*found, strict=True))
        order = np.argsort(labels, kind="stable")
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        coder = _Coding(quantizer, rescore, metric, lists if residual else None)
        codes, fine_codes, copies, of_copies = Filled(n), Filled(n), Filled(n), np.empty(0, np.int64)
        if spill:  # copies lie list by list, in the order of their rows
            of_copies = np.lexsort((np.arange(n), others[0][order]))
            place_of_copy = np.empty(n, np.int64)
            place_of_copy[order[of_copies]] = np.arange(n)
        for part, rows in read.blocks("codes"):
            codes.put(place[part], coder.codes(rows, labels[part]))
            if rescore is not None:
                fine_codes.put(place[part], coder.fine(rows))
            if spill:
                copies.put(place_of_copy[part], coder.codes(rows, others[0][part]))
        stored = Stored(
            quantizer, codes.all(), new[order], int(new.max()) + 1, metric, rescore,
            None if rescore is None else fine_codes.all(),
        )  # fmt: skip
        second = Second.filled(copies.all(), of_copies, others[0], n_lists) if spill else None
        return cls(IVFState(stored, lists.filled(labels, squares), residual, n, second))

    @property
    def nlist(self) -> int:
        return len(self._state.lists)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets, ids and lists."""
        second = self._state.second
        return self._state.stored.nbytes + self._state.lists.nbytes + (0 if second is None else second.nbytes)

    # --- asking -----------------------------------------------------------------------------------------------------

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        nprobe: int | None = None,
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
        nprobe: int | None = None,
        allow: Allow | None = None,
        oversample: int | None = None,
        explain: Literal[True],
    ) -> tuple[Matches, Work]: ...

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        nprobe: int | None = None,
        allow: Allow | None = None,
        oversample: int | None = None,
        explain: bool = False,
    ) -> Matches | tuple[Matches, Work]:
        """The k best rows of the lists probed for each of (m, dim) float queries: ids and scores (m, k), best first.

        `nprobe` lists are probed. Without it, sixteen, and then all in which 1e-4 rows or more are expected to beat the
        k-th best found in those, if scores are normal about that of their list: a promise in the mean, not for a query.
        Where rows lie in two lists (`spill`), it is 1e-2 rows, for as much recall.
        Further lists are probed until there are k rows, if so many are allowed. `allow` and `oversample` (default 4;
        only with `rescore`) are those of `FlatIndex.search`; where few rows are allowed, all of them are scored.

        With `explain`, what the search did comes with the matches.
        """
        state = self._state
        values = as_vectors(queries, "queries", state.stored.dim)
        k = as_count(k, "k")
        if nprobe is not None and as_count(nprobe, "nprobe") > len(state.lists):
            raise ValueError(f"nprobe must be at most nlist={len(state.lists)}, got nprobe={nprobe}")
        if oversample is not None and state.stored.rescore is None:
            raise ValueError("oversample needs an index built with rescore=...; this one has a single quantizer")
        oversample = as_count(DEFAULT_OVERSAMPLE if oversample is None else oversample, "oversample")
        stored, lists = state.stored, state.lists
        counts = (
            explain and state.second is not None
        )  # of copies that are rescored, which one call for all does not tell
        if allow is None and nprobe is not None and len(values) and len(stored.held) and not counts:
            near = state.in_lists.find(values, k, nprobe, oversample)
            if near is not None:
                return (near[0], work_of(stored, lists, near[1], k * oversample)) if explain else near[0]
        found, work = find_filtered(
            stored, values, allow,
            lambda some, mask: find(state.in_lists, some, k, mask if allow is not None else None, nprobe, oversample),
        )  # fmt: skip
        return (found, work) if explain else found

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, vectors: ArrayLike, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add (n, dim) floats and return their ids: those given, else the next ones never used before."""
        with self._lock:
            state = self._state
            rows = as_vectors(vectors, dim=state.stored.dim)
            added = new_ids(ids, len(rows), state.stored.next_id, state.stored.held)
            if len(rows):
                self._append(state, rows, added)
            return added

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows. ValueError if an id is not held; nothing changes then. Space is given back by and by."""
        with self._lock:
            state = self._without(held_ids(ids, self._state.stored.held))
            self._state = state
            if _REMOVED * len(state.stored.held) <= len(state.stored):
                self._sort()

    def update(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Put other vectors in the place of those of some ids, all at once. ValueError if an id is not held."""
        with self._lock:
            rows = as_vectors(vectors, dim=self.dim)
            renewed = distinct_ids(ids, len(rows))
            gone = held_ids(renewed, self._state.stored.held)
            if len(gone):
                self._append(self._without(gone), rows, renewed)

    def compact(self) -> None:
        """Give back the space of removed rows, and put all rows in the order of their lists."""
        with self._lock:
            self._sort()

    def _without(self, gone: NDArray[np.int64]) -> IVFState:
        state = self._state
        left = dataclasses.replace(state.stored, ids=marked(state.stored.ids, gone))
        return dataclasses.replace(state, stored=left)

    def _append(self, state: IVFState, rows: Vectors, ids: NDArray[np.int64]) -> None:
        stored = state.stored
        placed = in_space(rows, stored.metric)
        spilled = state.second is not None
        labels, _squares, *others = lists_of(state.lists, placed) if spilled else state.lists.nearest(placed)
        order = np.argsort(labels, kind="stable")
        coder = _Coding(stored.quantizer, stored.rescore, stored.metric, state.lists if state.residual else None)
        codes = coder.codes(placed[order], labels[order])
        fine = None if stored.rescore is None else coder.fine(placed[order])
        # Forgotten until all has grown: if memory runs out on the way, the next change starts afresh.
        growing, self._growing = self._growing or Growing(stored), None
        growing_second, self._growing_second = self._growing_second, None
        if growing.stored.ids is not stored.ids:
            growing.rename(stored.ids)
        grown = growing.append(codes, fine, ids[order])
        lists, second = state.lists.with_rows(np.bincount(labels, minlength=len(state.lists))), state.second
        if second is not None:
            own = others[0][order]
            by_list = np.argsort(own, kind="stable")
            copies = coder.codes(placed[order][by_list], own[by_list])
            growing_second = growing_second or GrowingSecond(second)
            second = growing_second.append(copies, len(stored) + by_list, own)
        self._state = dataclasses.replace(state, stored=grown, lists=lists, second=second)
        self._growing, self._growing_second = growing, growing_second
        if _UNSORTED * (len(grown) - state.sorted_rows) > len(grown):
            self._sort()

    def _sort(self) -> None:
        self._state, self._growing, self._growing_second = self._state.sorted(), None, None


@dataclass(frozen=True)
class _Coding:
    """How rows become codes; `lists` are those whose centroids are taken off first, if so."""

    quantizer: Quantizer
    rescore: Quantizer | None
    metric: Metric
    lists: Lists | None

    def codes(self, rows: Vectors, labels: NDArray[np.int64]) -> Codes:
        """The codes of (n, dim) floats `in_space` of the metric."""
        centres = np.zeros_like(rows) if self.lists is None else self.lists.decoded[labels]
        codes = self.quantizer.quantize(rows if self.lists is None else rows - centres)
        if self.metric != "l2":
            return codes
        # As `Coder.encode`, of the whole vectors.
        whole = rows if unbiased(self.quantizer) else self.quantizer.dequantize(codes) + centres
        return dataclasses.replace(codes, offset=-(row_norms(whole) ** 2).astype(np.float32))

    def fine(self, rows: Vectors) -> Codes:
        assert self.rescore is not None
        return FineCoder(self.quantizer, self.rescore, self.metric).encode(rows)


io.register("IVFIndex", opener=IVFIndex)(IVFState)
