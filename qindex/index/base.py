"""What indexes of stored rows have in common, whatever finds the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex import io
from qindex.index.allow import Allow, per_query
from qindex.index.ids import as_count
from qindex.index.metric import Metric
from qindex.index.paging import SearchFor, least_score, pages, within
from qindex.index.rescore import Work
from qindex.index.stored import Stored
from qindex.types import Matches, Quantizer, Vectors, as_vectors

# Queries (m, dim) and which rows may be returned -> matches, and the work it took.
Find = Callable[[Vectors, NDArray[np.bool_] | None], tuple[Matches, Work]]


class StoredIndex:
    """Stored rows, and what finds some of them. A search takes `_state` once; changes put another in its place."""

    def __init__(self, state: Any) -> None:
        self._lock = threading.Lock()  # of changes
        self._state = state

    search: Callable[..., Any]

    @property
    def _stored(self) -> Stored:
        """The rows of the present state."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> Self:
        """Open what `save` wrote, memory-mapped. `verify=True` reads all of it and checks it first."""
        index = io.load(path, verify=verify)
        if not isinstance(index, cls):
            raise io.FormatError(
                f"{path} holds a {type(index).__name__}, not a {cls.__name__}: open it with qindex.load"
            )
        return index

    def save(self, path: str | Path) -> None:
        """Write the index to one file, which is replaced as a whole or not at all."""
        io.save(path, self._state)

    def __len__(self) -> int:
        return len(self._stored.held)

    def __repr__(self) -> str:
        stored = self._stored
        rescore = "" if stored.rescore is None else f", rescore={stored.rescore!r}"
        return f"{type(self).__name__}({len(self)} x {self.dim}, {stored.quantizer!r}{rescore}, metric={self.metric!r})"

    @property
    def ids(self) -> NDArray[np.int64]:
        """(n,) in the order that a mask for `allow` follows; read-only."""
        view = self._stored.held.view()
        view.flags.writeable = False
        return view

    @property
    def dim(self) -> int:
        return self._stored.dim

    @property
    def metric(self) -> Metric:
        return self._stored.metric

    @property
    def quantizer(self) -> Quantizer:
        """The fitted quantizer of the codes that are searched first."""
        return self._stored.quantizer

    def search_iter(
        self, queries: ArrayLike, page: int = 10, *, allow: Allow | None = None, **settings: Any
    ) -> Iterator[Matches]:
        """The ranking for each of (m, dim) float queries, a page at a time: ids and scores (m, page).

        No row comes twice; rows that are added meanwhile do not come, and those that are removed do. (With a
        GraphIndex, what is added may lead walks to other rows that were there.) The pages of a query that has no rows
        left are filled with -1; when none has, there are no more pages. `settings` are those of `search`.
        """
        values, page = as_vectors(queries, "queries", self.dim), as_count(page, "page")
        search, n = self._search_some(values, allow, settings)
        return pages(search, len(values), page, n)

    def search_range(
        self, queries: ArrayLike, radius: float, *, allow: Allow | None = None, **settings: Any
    ) -> list[Matches]:
        """The rows within a radius of each of (m, dim) float queries, best first: for each, ids and scores (r,).

        With metric "l2", `radius` is a Euclidean distance; with "ip" and "cosine" it is the least score. `settings`
        are those of `search`.
        """
        values, least = as_vectors(queries, "queries", self.dim), least_score(radius, self.metric)
        search, n = self._search_some(values, allow, settings)
        return within(search, len(values), least, n)

    def _search_some(self, values: Vectors, allow: Allow | None, settings: dict[str, Any]) -> tuple[SearchFor, int]:
        """A search of the present state for some of the queries, and how many rows there are."""
        if "explain" in settings:
            raise TypeError("explain is for search alone: it tells the work of one search")
        frozen = type(self)(self._state)
        filters = per_query(allow, frozen.ids, len(values))

        def search(chosen: NDArray[np.int64], k: int) -> Matches:
            found: Matches = frozen.search(values[chosen], k, allow=filters(chosen), **self._settings_for(k, settings))
            return found

        return search, len(frozen)

    @staticmethod
    def _settings_for(k: int, settings: dict[str, Any]) -> dict[str, Any]:
        """What a search for k rows, more than was asked for, is to be given."""
        return settings


def find_filtered(stored: Stored, queries: Vectors, allow: Allow | None, find: Find) -> tuple[Matches, Work]:
    """What `find` finds with the filter, or the filter of each query, that a user gave."""
    masks = stored.masks(allow, len(queries))
    if len(masks) == 1:
        found, work = find(queries, masks[0])
    else:
        each = [find(queries[i : i + 1], mask) for i, mask in enumerate(masks)]
        found = Matches(*(np.concatenate(arrays) for arrays in zip(*(one for one, _work in each), strict=True)))
        work = Work(*map(_joined, zip(*(work for _one, work in each), strict=True)))
    return found, work


def _joined(counts: tuple[Any, ...]) -> Any:
    """What was counted for each query; None where nothing is."""
    return None if counts[0] is None else np.concatenate(counts)
