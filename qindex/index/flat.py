"""FlatIndex: every row is scored. Exact, and the oracle of every other index."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex import io, kernels
from qindex.index.allow import Allow
from qindex.index.base import StoredIndex, find_filtered
from qindex.index.ids import as_count, as_ids, distinct_ids, held_ids, new_ids
from qindex.index.metric import Coder, Metric, unbiased
from qindex.index.reading import Reader
from qindex.index.rescore import Search, Work
from qindex.index.stored import REMOVED, Growing, Stored
from qindex.quantize import RaBitQ
from qindex.types import Codes, Matches, Quantizer, Vectors, as_vectors

DEFAULT_OVERSAMPLE = 4


class FlatIndex(StoredIndex):
    """Quantized vectors under int64 ids, searched by exact score of the float query against every decoded row.

    Searching from many threads is safe, also while another thread adds or removes.

    With metric "l2" the squared length of each decoded row is kept in float32, so scores of rows of length R carry an
    error of up to 2 ** -25 * R ** 2: centre vectors that lie far from the origin.
    """

    _state: Stored
    _growing: Growing | None = None

    @property
    def _stored(self) -> Stored:
        return self._state

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
        memory_budget: int | None = None,
        progress: bool | None = None,
    ) -> FlatIndex:
        """An index of (n, dim) floats: an array, or what can be sliced as one, such as an `np.memmap`.

        `quantizer` (default `Int8()`) and `rescore` are fitted to the vectors unless they are fitted already. `ids`
        are n distinct integers from 0 (default 0 to n - 1). With `rescore`, a search takes the best
        `oversample * k` rows by the first codes and ranks them by the second, finer ones. Of `RaBitQ(1)` with
        `rescore=RaBitQ(2)` to `RaBitQ(4)` the signs, which both have, are kept once.

        An `np.memmap`, or anything with a `memory_budget` in bytes (1 GiB if not told), is read in blocks: quantizers
        are then fitted to a random sample that fits in a third of it, at least 16,384 rows, and there is a
        bar, by `progress=None` on a terminal.
        """
        if isinstance(vectors, np.memmap) or memory_budget is not None:
            read = Reader(vectors, memory_budget, progress)
            return cls(Stored.read(read, quantizer, ids=ids, rescore=rescore, metric=metric, seed=0))
        return cls(Stored.of(vectors, quantizer, ids=ids, rescore=rescore, metric=metric))

    @classmethod
    def from_codes(
        cls, quantizer: Quantizer, codes: Codes, *, ids: ArrayLike | None = None, metric: Metric = "ip"
    ) -> FlatIndex:
        """An index of codes that a fitted quantizer made earlier. With metric="cosine" build from vectors instead."""
        if not quantizer.fitted:
            raise ValueError(f"quantizer must be the fitted one that made the codes, got {quantizer!r}")
        if metric == "cosine":
            raise ValueError('metric must be "ip" or "l2" for codes: normalise vectors before quantizing and use "ip"')
        if metric == "l2" and unbiased(quantizer):
            raise ValueError(f'metric must be "ip" for codes of {quantizer!r}: "l2" needs vectors, so use build')
        if len(codes) == 0:
            raise ValueError("codes must have at least one row, got 0")
        all_ids = as_ids(ids, len(codes), next_id=0)
        codes = Coder(quantizer, metric).with_lengths(codes)
        return cls(Stored(quantizer, codes, all_ids, int(all_ids.max()) + 1, metric, None, None))

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets and ids."""
        return self._state.nbytes

    # --- asking -----------------------------------------------------------------------------------------------------

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: Allow | None = None,
        oversample: int | None = None,
        guarantee: float | None = None,
        explain: Literal[False] = False,
    ) -> Matches: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: Allow | None = None,
        oversample: int | None = None,
        guarantee: float | None = None,
        explain: Literal[True],
    ) -> tuple[Matches, Work]: ...

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        allow: Allow | None = None,
        oversample: int | None = None,
        guarantee: float | None = None,
        explain: bool = False,
    ) -> Matches | tuple[Matches, Work]:
        """The k best rows for each of (m, dim) float queries: ids and scores (m, k), best first.

        `allow` restricts the answer: a boolean mask aligned with `ids`, an array of ids, or a list of m such, one for
        each query. `oversample` (default 4; only with `rescore`) is how many times k rows are rescored.

        `guarantee`, a probability such as 0.999, takes its place where the first codes are of `RaBitQ`, which bounds
        their error: as many rows are rescored as it takes for the answer to be, with this probability, the k best of
        all rows by the finer codes (whose own error must be small beside that of the first).

        With `explain`, what the search did comes with the matches.
        """
        state = self._state
        values = as_vectors(queries, "queries", state.dim)
        k = as_count(k, "k")
        self._check_second_stage(oversample, guarantee)
        oversample = as_count(DEFAULT_OVERSAMPLE if oversample is None else oversample, "oversample")
        found, work = find_filtered(
            state, values, allow, lambda some, mask: _search(state, some, k, mask, oversample, guarantee)
        )
        return (found, work) if explain else found

    def _check_second_stage(self, oversample: int | None, guarantee: float | None) -> None:
        state = self._state
        if oversample is not None and state.rescore is None:
            raise ValueError("oversample needs an index built with rescore=...; this one has a single quantizer")
        if guarantee is None:
            return
        if state.rescore is None or not isinstance(state.quantizer, RaBitQ):
            raise ValueError(
                f"guarantee needs an index built with RaBitQ, which bounds its error, and rescore=..., got {self!r}"
            )
        if oversample is not None:
            raise ValueError("give either oversample or guarantee: a guarantee rescores as many rows as it takes")
        if not isinstance(guarantee, float) or not 0 < guarantee < 1:
            raise ValueError(f"guarantee must be a probability between 0 and 1, such as 0.999, got {guarantee!r}")

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, vectors: ArrayLike, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add (n, dim) floats and return their ids: those given, else the next ones never used before."""
        with self._lock:
            state = self._state
            rows = as_vectors(vectors, dim=state.dim)
            added = new_ids(ids, len(rows), state.next_id, state.ids)
            if not len(rows):
                return added
            codes, fine = state.coded(rows)
            # Forgotten until all has grown: if memory runs out on the way, the next add starts afresh.
            growing, self._growing = self._growing or Growing(state), None
            self._state = growing.append(codes, fine, added)
            self._growing = growing
            return added

    def update(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Put (n, dim) floats in the place of those held under n ids, all or none. Rows that changed come last."""
        with self._lock:
            state = self._state
            rows = as_vectors(vectors, dim=state.dim)
            changed = held_ids(distinct_ids(ids, len(rows)), state.ids)
            if not len(rows):
                return
            codes, fine = state.coded(rows)
            growing = Growing(state.rows(~np.isin(state.ids, changed)))
            self._state, self._growing = growing.append(codes, fine, changed), growing

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows and give their space back. ValueError if an id is not held; nothing changes then."""
        with self._lock:
            state = self._state
            gone = held_ids(ids, state.ids)
            self._state, self._growing = state.rows(~np.isin(state.ids, gone)), None


def _search(
    state: Stored,
    queries: Vectors,
    k: int,
    allow: NDArray[np.bool_] | None,
    oversample: int,
    guarantee: float | None,
) -> tuple[Matches, Work]:
    """The matches, and the work they took."""
    n = np.full(len(queries), len(state.ids))
    if state.rescore is None or not len(state.ids):
        prepared = state.coder.prepare(queries)
        found = kernels.topk(prepared, state.codes, k, ids=state.ids, allow=allow)
        return state.named(found), Work(n, np.zeros_like(n))
    stages = Search(state.codes, state.fine, state.fine_rows, state.ids, allow)
    if guarantee is None:
        found, rescored = stages.best(queries, k, oversample)
        return state.named(found), Work(n, rescored)
    found, scored, rescored = stages.guaranteed(queries, k, oversample, guarantee)
    return state.named(found), Work(scored, rescored)


def _opened(state: Stored) -> FlatIndex:
    if (state.ids == REMOVED).any():
        raise io.FormatError("a FlatIndex has no removed rows, but the file says that it has")
    return FlatIndex(state)


io.register("FlatIndex", opener=_opened)(Stored)
