"""scalable-vs: a Vamana graph over LVQ and LeanVec codes."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import svs

from ann.engine import BEAMS, Engine, Ids, grid
from qindex.types import Vectors


class Svs(Engine):
    library = "scalable-vs"
    slow = True

    def __init__(self, name: str, load: Callable[[svs.VectorDataLoader], Any], *, two_levels: bool = True) -> None:
        # Codes of two levels are ranked by the second over so many candidates more than the walk keeps in mind.
        super().__init__(name, "scalable-vs", grid(window=BEAMS, spare=(0, 10, 30) if two_levels else (0,)))
        self.load = load

    def fit(self, vectors: Vectors, threads: int) -> None:
        how = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=32, window_size=200)
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/vectors.fvecs"  # it compresses what it reads
            svs.write_vecs(vectors, file)
            loader = self.load(svs.VectorDataLoader(file, svs.DataType.float32))
            self.index = svs.Vamana.build(how, loader, svs.DistanceType.MIP, num_threads=threads)
        self.index.num_threads = 1

    def set(self, window: int, spare: int) -> None:
        parameters = self.index.search_parameters
        parameters.buffer_config = svs.SearchBufferConfig(window, window + spare)
        self.index.search_parameters = parameters

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.search(queries, k)[0].astype(int)

    def save(self, folder: Path) -> None:
        self.index.save(*(str(folder / part) for part in ("config", "graph", "data")))


def _leanvec(dim: int) -> Svs:
    eight = svs.LeanVecKind.lvq8
    return Svs(f"LeanVec{dim // 2} + LVQ8", lambda data: svs.LeanVecLoader(data, dim // 2, eight, eight))


GRAPHS = [
    lambda dim: Svs("LVQ8", lambda data: svs.LVQLoader(data, 8, 0), two_levels=False),
    lambda dim: Svs("LVQ4x4", lambda data: svs.LVQLoader(data, 4, 4)),
    _leanvec,
]
