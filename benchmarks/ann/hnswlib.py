"""hnswlib: a graph over float32."""

from pathlib import Path

import hnswlib

from ann.engine import BEAMS, Engine, Ids, grid
from qindex.types import Vectors


class Hnswlib(Engine):
    library = "hnswlib"

    def __init__(self, m: int) -> None:
        super().__init__(f"M={m}", "hnswlib", grid(ef=BEAMS))
        self.m = m
        self.slow = m > 16

    def fit(self, vectors: Vectors, threads: int) -> None:
        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.index.init_index(len(vectors), M=self.m, ef_construction=200, random_seed=0)
        self.index.add_items(vectors, num_threads=threads)
        self.index.set_num_threads(1)

    def set(self, ef: int) -> None:
        self.index.set_ef(ef)

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.knn_query(queries, k)[0].astype(int)

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index"))


GRAPHS = [lambda dim: Hnswlib(16), lambda dim: Hnswlib(32)]
