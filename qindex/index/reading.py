"""Builds of vectors that may be larger than memory: they are read in blocks, and their codes filled in as they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from qindex.index.ids import as_count
from qindex.index.metric import normalised
from qindex.memory import empty
from qindex.types import Codes, Vectors, as_vectors

DEFAULT_BUDGET = 1 << 30
_BLOCK = 8192  # rows
_SMALLEST_BLOCK, _SMALLEST_SAMPLE = 256, 16_384


class Reader:
    """(n, dim) floats, an array or what can be sliced as one, that are checked as they are read.

    A block takes at most an eighth of `memory_budget` bytes, so that there is room for what is made of it, and a sample
    a third, but no less than 256 and 16,384 rows. With `unit`, vectors come with length 1.
    """

    def __init__(
        self, vectors: ArrayLike, memory_budget: int | None, progress: bool | None, *, unit: bool = False
    ) -> None:
        sliced = all(hasattr(vectors, name) for name in ("shape", "dtype", "__getitem__"))
        source: Any = vectors if sliced else as_vectors(vectors, nonempty=True)
        # One row tells the type; what is no matrix of rows is refused.
        as_vectors(source[:1] if len(source.shape) == 2 and 0 not in source.shape else source, nonempty=True)
        budget = DEFAULT_BUDGET if memory_budget is None else as_count(memory_budget, "memory_budget")
        self.n, self.dim = map(int, source.shape)
        self._source, self._unit = source, unit
        self._hidden = None if progress is None else not progress
        self._block = max(_SMALLEST_BLOCK, min(_BLOCK, budget // (32 * self.dim)))
        self._largest_sample = max(_SMALLEST_SAMPLE, budget // (12 * self.dim))

    def sample(self, wanted: int, seed: int) -> Vectors:
        """Random rows, in order: as many as wanted, there are, and the budget allows (at least _SMALLEST_SAMPLE)."""
        size = min(self.n, wanted, self._largest_sample)
        if size == self.n:
            return self._vectors(slice(0, self.n))
        return self._vectors(np.sort(np.random.default_rng(seed).permutation(self.n)[:size]))

    def blocks(self, what: str) -> Iterator[tuple[slice, Vectors]]:
        """All rows, with their places. `what` a bar says of them."""
        with tqdm(total=self.n, desc=what, unit="row", disable=self._hidden) as bar:
            for start in range(0, self.n, self._block):
                part = slice(start, min(start + self._block, self.n))
                yield part, self._vectors(part)
                bar.update(part.stop - part.start)

    def rows(self, numbers: NDArray[np.int64]) -> Vectors:
        """The rows of distinct numbers."""
        order = np.argsort(numbers)  # as they lie on a disk
        vectors = np.empty((len(numbers), self.dim), np.float32)
        vectors[order] = self._vectors(numbers[order])
        return vectors

    def _vectors(self, some: slice | NDArray[np.int64]) -> Vectors:
        numbers = range(some.start, some.stop) if isinstance(some, slice) else some
        vectors = as_vectors(self._source[some], numbers=numbers)
        return normalised(vectors) if self._unit else vectors


class Filled:
    """Codes of n rows that come block by block, in any order."""

    def __init__(self, n: int) -> None:
        self._n, self._max_norm = n, 0.0
        self._codes: Codes | None = None
        self._arrays: list[NDArray[Any]] = []

    def put(self, places: slice | NDArray[np.int64], codes: Codes) -> None:
        if self._codes is None:
            self._codes = codes
            self._arrays = [empty((self._n, *array.shape[1:]), array.dtype) for array in codes.rowwise]
        for array, rows in zip(self._arrays, codes.rowwise, strict=True):
            array[places] = rows
        self._max_norm = max(self._max_norm, codes.max_norm)

    def all(self) -> Codes:
        assert self._codes is not None
        return self._codes.with_rowwise(self._arrays, self._max_norm)
