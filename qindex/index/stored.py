"""What every index keeps of its vectors, and how vectors get there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex.index.allow import Allow, allow_masks
from qindex.index.growable import Growable, GrowableCodes
from qindex.index.ids import as_ids
from qindex.index.metric import Coder, Metric, check_metric, decoded_dim, normalised
from qindex.index.reading import Filled, Reader
from qindex.index.rescore import FineCoder
from qindex.memory import taken
from qindex.quantize import Int8
from qindex.types import Codes, Matches, Quantizer, Vectors, as_vectors

REMOVED = -1  # the id of a row that was removed, and whose space was not yet given back


def marked(ids: NDArray[np.int64], gone: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids (n,) of rows, of which those given are removed."""
    return np.where(np.isin(ids, gone), REMOVED, ids)


@dataclass(frozen=True, eq=False)
class Stored:
    """Coded rows under ids, with a second, finer code for each where there is `rescore`."""

    quantizer: Quantizer
    codes: Codes
    ids: NDArray[np.int64]  # (n,), REMOVED or from 0 on
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
            len(self.ids) and not REMOVED <= self.ids.min() <= self.ids.max() < self.next_id
        ):
            raise ValueError(f"ids must lie in [0, {self.next_id!r}), or be {REMOVED} for removed rows")

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        quantizer: Quantizer | None,
        *,
        ids: ArrayLike | None,
        rescore: Quantizer | None,
        metric: Metric,
    ) -> Stored:
        """The rows of (n, dim) floats. Quantizers are fitted to them unless they are fitted already."""
        rows = as_vectors(vectors, nonempty=True)
        quantizer = checked(quantizer, rescore, metric)
        new_ids = as_ids(ids, len(rows), next_id=0)
        fitted, rescore = _fitted(quantizer, rescore, metric, rows)
        fine_codes = None if rescore is None else FineCoder(fitted, rescore, metric).encode(rows)
        codes, next_id = Coder(fitted, metric).encode(rows), int(new_ids.max()) + 1
        return cls(fitted, codes, new_ids, next_id, metric, rescore, fine_codes)

    @classmethod
    def read(
        cls,
        source: Reader,
        quantizer: Quantizer | None,
        *,
        ids: ArrayLike | None,
        rescore: Quantizer | None,
        metric: Metric,
        seed: int,
    ) -> Stored:
        """The same of vectors that are read in blocks: quantizers are fitted to a random sample."""
        fitted = checked(quantizer, rescore, metric)
        new_ids = as_ids(ids, source.n, next_id=0)
        if not fitted.fitted or (rescore is not None and not rescore.fitted):
            fitted, rescore = _fitted(fitted, rescore, metric, source.sample(source.n, seed))
        coder, codes, fine_codes = Coder(fitted, metric), Filled(source.n), Filled(source.n)
        for part, rows in source.blocks("codes"):
            codes.put(part, coder.encode(rows))
            if rescore is not None:
                fine_codes.put(part, FineCoder(fitted, rescore, metric).encode(rows))
        next_id = int(new_ids.max()) + 1
        return cls(
            fitted, codes.all(), new_ids, next_id, metric, rescore, None if rescore is None else fine_codes.all()
        )

    def __len__(self) -> int:
        """Rows, those that were removed among them."""
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.ids.nbytes + (self.rescore_codes.nbytes if self.rescore_codes else 0)

    @cached_property
    def dim(self) -> int:
        """Of the vectors that were coded; the codes of a Chain may have another."""
        return decoded_dim(self.quantizer, self.codes)

    @cached_property
    def coder(self) -> Coder:
        return Coder(self.quantizer, self.metric)

    @cached_property
    def fine(self) -> FineCoder:
        """Of rows with rescore."""
        assert self.rescore is not None
        return FineCoder(self.quantizer, self.rescore, self.metric)

    @cached_property
    def fine_rows(self) -> Codes:
        """The rows that are rescored."""
        assert self.rescore_codes is not None
        return self.fine.rows(self.codes, self.rescore_codes)

    def asked(self, queries: Vectors) -> tuple[Vectors, Vectors, NDArray[np.float64] | None]:
        """What codes meet of (m, dim) floats, and what the rows that are ranked meet, with offsets if not all are 0."""
        if self.rescore is not None:
            return self.fine.prepare_both(queries)
        prepared = self.coder.prepare(queries)
        return prepared.values, prepared.values, prepared.offset

    @cached_property
    def there(self) -> NDArray[np.bool_] | None:
        """Which rows were not removed; None if none was."""
        there = self.ids != REMOVED
        return None if there.all() else there

    @cached_property
    def held(self) -> NDArray[np.int64]:
        """The ids of the rows that were not removed, in the order of the rows."""
        return self.ids if self.there is None else self.ids[self.there]

    def named(self, found: Matches) -> Matches:
        """With ids in the place of row numbers."""
        return Matches(np.where(found.ids >= 0, self.ids[found.ids], -1), found.scores) if len(self) else found

    def masks(self, allow: Allow | None, m: int) -> list[NDArray[np.bool_] | None]:
        """As `allow_masks`, over all rows."""
        masks, there = allow_masks(allow, self.held, m), self.there
        if there is None:
            return masks
        result: list[NDArray[np.bool_] | None] = []
        for mask in masks:
            over_rows = there.copy()
            if mask is not None:
                over_rows[there] = mask
            result.append(over_rows)
        return result

    def coded(self, vectors: Vectors) -> tuple[Codes, Codes | None]:
        """The codes, and the finer codes, of (n, dim) floats."""
        return self.coder.encode(vectors), None if self.rescore is None else self.fine.encode(vectors)

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Stored:
        """Copies of some rows, in this order."""

        def some(codes: Codes) -> Codes:
            return codes.with_rowwise([taken(array, chosen) for array in codes.rowwise])

        fine = None if self.rescore_codes is None else some(self.rescore_codes)
        return dataclasses.replace(self, codes=some(self.codes), rescore_codes=fine, ids=self.ids[chosen])


def checked(quantizer: Quantizer | None, rescore: Quantizer | None, metric: Metric) -> Quantizer:
    """The quantizer to take, once both are known to be some that suit the metric."""
    quantizer = Int8() if quantizer is None else quantizer
    for name, given in (("quantizer", quantizer), ("rescore", rescore)):
        if given is not None and (isinstance(given, type) or not isinstance(given, Quantizer)):
            raise TypeError(f"{name} must be a quantizer such as qindex.Int8(), got {given!r}")
        check_metric(given, metric)
    return quantizer


def _fitted(
    quantizer: Quantizer, rescore: Quantizer | None, metric: Metric, vectors: Vectors
) -> tuple[Quantizer, Quantizer | None]:
    learnt = normalised(vectors) if metric == "cosine" else vectors
    quantizer = quantizer if quantizer.fitted else quantizer.fit(learnt)
    return quantizer, rescore if rescore is None or rescore.fitted else rescore.fit(learnt)


class Growing:
    """Stored rows that more can be added to. What was there before stays valid and unchanged."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self._codes, self._ids = GrowableCodes(stored.codes), Growable(stored.ids)
        self._fine = None if stored.rescore_codes is None else GrowableCodes(stored.rescore_codes)

    def append(self, codes: Codes, fine: Codes | None, ids: NDArray[np.int64]) -> Stored:
        """All rows, those of `ids` last. If it raises, use this object no more."""
        self.stored = dataclasses.replace(
            self.stored,
            codes=self._codes.append(codes),
            rescore_codes=None if self._fine is None or fine is None else self._fine.append(fine),
            ids=self._ids.append(ids),
            next_id=max(self.stored.next_id, int(ids.max()) + 1),
        )
        return self.stored

    def rename(self, ids: NDArray[np.int64]) -> Stored:
        """The same rows under other ids."""
        self.stored, self._ids = dataclasses.replace(self.stored, ids=ids), Growable(ids)
        return self.stored
