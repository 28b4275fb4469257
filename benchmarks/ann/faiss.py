"""faiss: a graph over 8-bit codes, and inverted lists over several codes."""

from collections.abc import Callable
from pathlib import Path

import faiss

from ann.engine import BEAMS, PROBES, Engine, Ids, grid
from qindex.types import Vectors

IP = faiss.METRIC_INNER_PRODUCT


class Faiss(Engine):
    library = "faiss"
    index: faiss.Index

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.search(queries, k)[1]

    def save(self, folder: Path) -> None:
        faiss.write_index(self.index, str(folder / "index"))

    def _fill(self, vectors: Vectors, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self.index.train(vectors)
        self.index.add(vectors)
        faiss.omp_set_num_threads(1)


class Graph(Faiss):
    def __init__(self) -> None:
        super().__init__("HNSW16, SQ8", "faiss HNSW-SQ8", grid(ef=BEAMS))

    def fit(self, vectors: Vectors, threads: int) -> None:
        self.index = faiss.index_factory(vectors.shape[1], "HNSW16_SQ8", IP)
        self.index.hnsw.efConstruction = 200
        self._fill(vectors, threads)

    def set(self, ef: int) -> None:
        self.index.hnsw.efSearch = ef


class Lists(Faiss):
    """Inverted lists, and where there is `refine` a second stage: "fp32" or "SQ8"."""

    def __init__(
        self, name: str, line: str, recipe: str, refine: str = "", prepare: Callable[[faiss.Index], None] | None = None
    ) -> None:
        ladder = grid(nprobe=PROBES, factor=(2, 4, 10)) if refine else grid(nprobe=PROBES)
        super().__init__(f"{name}{refine and f' + {refine}'}", line, ladder)
        self.recipe, self.refine, self.prepare = recipe, refine, prepare

    def fit(self, vectors: Vectors, threads: int) -> None:
        dim = vectors.shape[1]
        self.index = base = faiss.index_factory(dim, self.recipe, IP)
        self.lists = faiss.downcast_index(faiss.extract_index_ivf(base))
        if self.prepare:
            self.prepare(self.lists)
        if self.refine == "fp32":
            self.index = faiss.IndexRefineFlat(base)
        elif self.refine == "SQ8":
            fine = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, IP)
            self.index = faiss.IndexRefine(base, fine)
            self.parts = (base, fine)  # the index holds no references of its own
        self._fill(vectors, threads)

    def set(self, nprobe: int, factor: int | None = None) -> None:
        self.lists.nprobe = nprobe
        if factor:
            self.index.k_factor = factor


def _integer_queries(lists: faiss.IndexIVFRaBitQ) -> None:
    lists.qb = 8  # bits; else they stay floats, which is slower


GRAPHS = [lambda dim: Graph()]


def lists(dim: int, nlist: int) -> list[Engine]:
    ivf, quarter, half = f"IVF{nlist}", dim // 4, dim // 2
    rabitq = f"RR{dim},{ivf},RaBitQ"
    return [
        *(
            Lists(f"IVF, PQ{parts}x4fs", "faiss IVF-PQ fast scan + refine", f"{ivf},PQ{parts}x4fs", refine)
            for parts in (quarter, half)
            for refine in ("SQ8", "fp32")
        ),
        Lists("IVF, SQ8", "faiss IVF-SQ8", f"{ivf},SQ8"),
        *(
            Lists(f"IVF, {name}", "faiss IVF-RaBitQ + refine", recipe, refine, prepare)
            for name, recipe, prepare in (("RaBitQ", rabitq, _integer_queries), ("RaBitQfs", f"{rabitq}fs", None))
            for refine in ("SQ8", "fp32")
        ),
    ]
