"""FlatIndex: every row is scored. Exact, and the oracle of every other index."""

from __future__ import annotations

import dataclasses
import operator
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex import io, kernels
from qindex.index.allow import Allow, allow_masks
from qindex.index.growable import Growable, GrowableCodes
from qindex.index.metric import Coder, Metric, check_metric, decoded_dim, normalised, unbiased
from qindex.index.rescore import FineCoder, Search, Work
from qindex.quantize import Int8, RaBitQ
from qindex.types import Codes, Matches, Quantizer, Vectors, as_vectors

DEFAULT_OVERSAMPLE = 4
MAX_ID = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, eq=False)
class FlatState:
    """All that a FlatIndex is; what `save` writes."""

    quantizer: Quantizer
    codes: Codes
    ids: NDArray[np.int64]  # (n,)
    next_id: int
    metric: Metric
    rescore: Quantizer | None
    rescore_codes: Codes | None

    def __post_init__(self) -> None:
        if (self.rescore is None) != (self.rescore_codes is None):
            raise ValueError("rescore and rescore_codes go together")
        for quantizer, codes in ((self.quantizer, self.codes), (self.rescore, self.rescore_codes)):
            if quantizer is None:
                continue
            if not isinstance(quantizer, Quantizer) or not quantizer.fitted or not isinstance(codes, Codes):
                raise ValueError("an index holds fitted quantizers and their codes")
            check_metric(quantizer, self.metric)
            dim = decoded_dim(quantizer, codes) if codes is self.codes else self.fine.dim(codes)
            if len(codes) != len(self.ids) or dim != self.dim:
                raise ValueError(
                    f"{len(self.ids)} ids need as many codes of vectors of dim {self.dim}, got {len(codes)} of {dim}"
                )
            if (codes.offset is not None) != (self.metric == "l2"):
                raise ValueError('codes have row offsets with metric "l2", and only then')
        if self.ids.dtype != np.int64 or self.ids.ndim != 1:
            raise ValueError(f"ids must be int64 (n,), got {self.ids.dtype} {self.ids.shape}")
        if not isinstance(self.next_id, int) or (
            len(self.ids) and not 0 <= self.ids.min() <= self.ids.max() < self.next_id
        ):
            raise ValueError(f"ids must lie in [0, {self.next_id!r})")

    @cached_property
    def dim(self) -> int:
        """Of the vectors that were coded; the codes of a Chain may have another."""
        return decoded_dim(self.quantizer, self.codes)

    @cached_property
    def fine(self) -> FineCoder:
        """Of an index with rescore."""
        assert self.rescore is not None
        return FineCoder(self.quantizer, self.rescore, self.metric)

    @cached_property
    def fine_rows(self) -> Codes:
        """The rows that are rescored."""
        assert self.rescore_codes is not None
        return self.fine.rows(self.codes, self.rescore_codes)


class FlatIndex:
    """Quantized vectors under int64 ids, searched by exact score of the float query against every decoded row.

    Searching from many threads is safe, also while another thread adds or removes.

    With metric "l2" the squared length of each decoded row is kept in float32, so scores of rows of length R carry an
    error of up to 2 ** -25 * R ** 2: centre vectors that lie far from the origin.
    """

    def __init__(self, state: FlatState) -> None:
        self._lock = threading.Lock()
        self._set(state)

    def _set(self, state: FlatState) -> None:
        self._state = state
        self._growable: tuple[GrowableCodes, GrowableCodes | None, Growable] | None = None

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
    ) -> FlatIndex:
        """An index of (n, dim) floats.

        `quantizer` (default `Int8()`) and `rescore` are fitted to the vectors unless they are fitted already. `ids`
        are n distinct integers from 0 (default 0 to n - 1). With `rescore`, a search takes the best
        `oversample * k` rows by the first codes and ranks them by the second, finer ones. Of `RaBitQ(1)` with
        `rescore=RaBitQ(2)` to `RaBitQ(4)` the signs, which both have, are kept once.
        """
        rows = as_vectors(vectors, nonempty=True)
        quantizer = Int8() if quantizer is None else quantizer
        for name, given in (("quantizer", quantizer), ("rescore", rescore)):
            if given is not None and (isinstance(given, type) or not isinstance(given, Quantizer)):
                raise TypeError(f"{name} must be a quantizer such as qindex.Int8(), got {given!r}")
            check_metric(given, metric)
        new_ids = _as_ids(ids, len(rows), next_id=0)
        learnt = normalised(rows) if metric == "cosine" else rows
        fitted = quantizer if quantizer.fitted else quantizer.fit(learnt)
        if rescore is not None and not rescore.fitted:
            rescore = rescore.fit(learnt)
        fine_codes = None if rescore is None else FineCoder(fitted, rescore, metric).encode(rows)
        codes, next_id = Coder(fitted, metric).encode(rows), int(new_ids.max()) + 1
        return cls(FlatState(fitted, codes, new_ids, next_id, metric, rescore, fine_codes))

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
        new_ids = _as_ids(ids, len(codes), next_id=0)
        codes = Coder(quantizer, metric).with_lengths(codes)
        return cls(FlatState(quantizer, codes, new_ids, int(new_ids.max()) + 1, metric, None, None))

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> FlatIndex:
        """Open what `save` wrote, memory-mapped. `verify=True` reads all of it and checks it first."""
        state = io.load(path, verify=verify)
        if not isinstance(state, cls):
            raise io.FormatError(f"{path} holds a {type(state).__name__}, not a FlatIndex: open it with qindex.load")
        return state

    def save(self, path: str | Path) -> None:
        """Write the index to one file, which is replaced as a whole or not at all."""
        io.save(path, self._state)

    # --- what it is -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._state.ids)

    def __repr__(self) -> str:
        state = self._state
        rescore = "" if state.rescore is None else f", rescore={state.rescore!r}"
        return f"FlatIndex({len(self)} x {self.dim}, {state.quantizer!r}{rescore}, metric={state.metric!r})"

    @property
    def ids(self) -> NDArray[np.int64]:
        """(n,) in the order that a mask for `allow` follows; read-only."""
        view = self._state.ids.view()
        view.flags.writeable = False
        return view

    @property
    def dim(self) -> int:
        return self._state.dim

    @property
    def metric(self) -> Metric:
        return self._state.metric

    @property
    def quantizer(self) -> Quantizer:
        """The fitted quantizer of the codes that are scanned."""
        return self._state.quantizer

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, offsets and ids."""
        state = self._state
        return state.codes.nbytes + state.ids.nbytes + (state.rescore_codes.nbytes if state.rescore_codes else 0)

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
        k = _as_count(k, "k")
        self._check_second_stage(oversample, guarantee)
        oversample = _as_count(DEFAULT_OVERSAMPLE if oversample is None else oversample, "oversample")
        masks = allow_masks(allow, state.ids, len(values))
        if len(masks) == 1:
            found, work = _search(state, values, k, masks[0], oversample, guarantee)
        else:
            each = [_search(state, values[i : i + 1], k, mask, oversample, guarantee) for i, mask in enumerate(masks)]
            found = Matches(*(np.concatenate(arrays) for arrays in zip(*(one for one, _work in each), strict=True)))
            work = Work(*(np.concatenate(arrays) for arrays in zip(*(work for _one, work in each), strict=True)))
        if len(state.ids):
            found = Matches(np.where(found.ids >= 0, state.ids[found.ids], -1), found.scores)
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
            new_ids = _as_ids(ids, len(rows), state.next_id)
            if ids is not None:  # those that follow the last are new
                known = new_ids[np.isin(new_ids, state.ids)]
                if len(known):
                    raise ValueError(f"ids must be new, but the index holds {_some(known)}; remove them first")
            if not len(rows):
                return new_ids
            codes = Coder(state.quantizer, state.metric).encode(rows)
            fine = None if state.rescore is None else state.fine.encode(rows)

            if self._growable is None:
                growing_fine = None if state.rescore_codes is None else GrowableCodes(state.rescore_codes)
                self._growable = GrowableCodes(state.codes), growing_fine, Growable(state.ids)
            # Forgotten until all have grown: if memory runs out between two of them, the next add starts afresh.
            growable, self._growable = self._growable, None
            growable_codes, growable_fine, growable_ids = growable
            self._state = dataclasses.replace(
                state,
                codes=growable_codes.append(codes),
                rescore_codes=growable_fine.append(fine) if growable_fine is not None and fine is not None else None,
                ids=growable_ids.append(new_ids),
                next_id=max(state.next_id, int(new_ids.max()) + 1),
            )
            self._growable = growable
            return new_ids

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows and give their space back. ValueError if an id is not held; nothing changes then."""
        with self._lock:
            state = self._state
            gone = _integers(ids)
            missing = gone[~np.isin(gone, state.ids)]
            if len(missing):
                raise ValueError(f"ids must be held by the index, but it does not hold {_some(missing)}")
            keep = ~np.isin(state.ids, gone)
            self._set(
                dataclasses.replace(
                    state,
                    codes=state.codes[keep],
                    rescore_codes=None if state.rescore_codes is None else state.rescore_codes[keep],
                    ids=state.ids[keep],
                )
            )


def _search(
    state: FlatState,
    queries: Vectors,
    k: int,
    allow: NDArray[np.bool_] | None,
    oversample: int,
    guarantee: float | None,
) -> tuple[Matches, Work]:
    """Matches whose ids are row numbers."""
    n = np.full(len(queries), len(state.ids))
    if state.rescore is None or not len(state.ids):
        prepared = Coder(state.quantizer, state.metric).prepare(queries)
        return kernels.topk(prepared, state.codes, k, ids=state.ids, allow=allow), Work(n, np.zeros_like(n))
    stages = Search(state.codes, state.fine, state.fine_rows, state.ids, allow)
    if guarantee is None:
        found, rescored = stages.best(queries, k, oversample)
        return found, Work(n, rescored)
    found, scored, rescored = stages.guaranteed(queries, k, oversample, guarantee)
    return found, Work(scored, rescored)


def _as_count(value: int, name: str) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
    return count


def _integers(ids: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(f"ids must be a one-dimensional array of integers, got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _as_ids(ids: ArrayLike | None, n: int, next_id: int) -> NDArray[np.int64]:
    """`n` distinct ids: those given, or the `n` that follow."""
    if ids is None:
        if next_id + n > MAX_ID + 1:
            raise ValueError(f"ids must be given: after {next_id - 1}, the largest so far, there are none left for {n}")
        return np.arange(next_id, next_id + n)
    array = _integers(ids)
    if len(array) != n:
        raise ValueError(f"ids must be one for each of {n} vectors, got {len(array)}")
    if n and array.min() < 0:
        raise ValueError(f"ids must not be negative, got {array.min()}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < n:
        raise ValueError(f"ids must be distinct, but {_some(values[counts > 1])} come more than once")
    return array


def _some(ids: NDArray[np.int64]) -> str:
    listed = ", ".join(str(one) for one in ids[:5])
    return listed if len(ids) <= 5 else f"{listed} and {len(ids) - 5} more"


io.register("FlatIndex", opener=FlatIndex)(FlatState)
