"""voyager: hnswlib's successor at Spotify, over float32 or 8-bit floats."""

from pathlib import Path

import voyager

from ann.engine import BEAMS, Engine, Ids, grid
from qindex.types import Vectors


class Voyager(Engine):
    library = "voyager"
    slow = True

    def __init__(self, kind: str) -> None:
        super().__init__(kind, "voyager", grid(ef=BEAMS))
        self.kind = getattr(voyager.StorageDataType, kind)

    def fit(self, vectors: Vectors, threads: int) -> None:
        self.index = voyager.Index(
            voyager.Space.InnerProduct,
            vectors.shape[1],
            M=16,
            ef_construction=200,
            random_seed=0,
            max_elements=len(vectors),
            storage_data_type=self.kind,
        )
        self.index.add_items(vectors, num_threads=threads)

    def set(self, ef: int) -> None:
        self.ef = ef

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.query(queries, k, num_threads=1, query_ef=self.ef)[0].astype(int)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))


GRAPHS = [lambda dim: Voyager("Float32"), lambda dim: Voyager("E4M3")]
