"""usearch: a graph over float32 or int8."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from ann.engine import BEAMS, Engine, Ids, grid
from qindex.types import Vectors


class Usearch(Engine):
    library = "usearch"

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype if dtype == "f32" else f"{dtype}, scaled", "usearch", grid(ef=BEAMS))
        self.dtype = dtype
        self.slow = dtype == "f32"

    def fit(self, vectors: Vectors, threads: int) -> None:
        self.scale = np.float32(127 / np.abs(vectors).max())
        self.index = Index(ndim=vectors.shape[1], metric="ip", dtype=self.dtype, connectivity=16, expansion_add=200)
        self.index.add(np.arange(len(vectors)), self._cast(vectors), threads=threads)

    def _cast(self, vectors: Vectors) -> NDArray[np.float32] | NDArray[np.int8]:
        """Integers are made here: its own would multiply by 127, which leaves little of numbers far below 1."""
        return np.rint(vectors * self.scale).clip(-127, 127).astype(np.int8) if self.dtype == "i8" else vectors

    def set(self, ef: int) -> None:
        self.index.expansion_search = ef

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.search(self._cast(queries), k, threads=1).keys.astype(np.int64).reshape(len(queries), -1)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))


GRAPHS = [lambda dim: Usearch("f32"), lambda dim: Usearch("i8")]
