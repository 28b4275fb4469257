"""qindex."""

from pathlib import Path
from typing import Any

import qindex
from ann.engine import BEAMS, PROBES, Engine, Ids, Setting, grid
from qindex import Float16, GraphIndex, Int4, Int8, IVFIndex, RaBitQ
from qindex.types import Quantizer, Vectors

FEW = 2048  # rows that are indexed first, so that kernels are compiled
SEVERAL = (None, 2, 4)  # times k rows that are rescored; None: what the index does by itself


class Ours(Engine):
    library = "qindex"
    index: GraphIndex | IVFIndex

    def warm_up(self, vectors: Vectors) -> None:
        self.fit(vectors[:FEW], 1)

    def set(self, **setting: Any) -> None:
        self.setting = setting

    def query(self, queries: Vectors, k: int) -> Ids:
        return self.index.search(queries, k, **self.setting).ids

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index.qindex")


class Graph(Ours):
    def __init__(
        self, name: str, line: str, quantizer: Quantizer | None = None, rescore: Quantizer | None = None, **build: Any
    ) -> None:
        two_stages = rescore is not None or quantizer is None
        super().__init__(name, line, _beams(SEVERAL if two_stages else (None,)))
        self.quantizer, self.rescore, self.build = quantizer, rescore, build

    def fit(self, vectors: Vectors, threads: int) -> None:
        qindex.set_threads(threads)
        self.index = GraphIndex.build(vectors, self.quantizer, rescore=self.rescore, **self.build)
        qindex.set_threads(1)


class Lists(Ours):
    def __init__(
        self,
        name: str,
        line: str,
        nlist: int,
        quantizer: Quantizer,
        rescore: Quantizer | None = None,
        oversamples: tuple[int, ...] = (2, 4, 10),
        **build: Any,
    ) -> None:
        probes = [n for n in PROBES if n <= nlist]
        super().__init__(name, line, grid(nprobe=probes, **({"oversample": oversamples} if rescore else {})))
        self.quantizer, self.rescore, self.build = quantizer, rescore, build | {"nlist": nlist}

    def fit(self, vectors: Vectors, threads: int) -> None:
        qindex.set_threads(threads)
        self.index = IVFIndex.build(vectors, self.quantizer, rescore=self.rescore, **self.build)
        qindex.set_threads(1)


def _beams(oversamples: tuple[int | None, ...]) -> list[Setting]:
    """A walk cannot rescore more candidates than it keeps."""
    all_settings = grid(ef=BEAMS, oversample=oversamples)
    return [one for one in all_settings if one["oversample"] is None or 10 * one["oversample"] <= one["ef"]]


DEFAULT = "GraphIndex"


def graphs(dim: int) -> list[Engine]:
    return [
        Graph(DEFAULT, "GraphIndex"),
        Graph("GraphIndex, Int4(), rescore=Float16()", "GraphIndex", Int4(), Float16()),
        Graph("GraphIndex, RaBitQ(2), rescore=Float16()", "GraphIndex", RaBitQ(2), Float16()),
        Graph("GraphIndex, Int8()", "GraphIndex, lean", Int8()),
        Graph("GraphIndex, RaBitQ(1), rescore=Int8(), degree=18", "GraphIndex, lean", RaBitQ(1), Int8(), degree=18),
    ]


def lists(nlist: int) -> list[Engine]:
    pairs = ((Int8(), None), (Int4(), Int8()), (RaBitQ(1), Int8()), (RaBitQ(2), Int8()))
    names = ["IVFIndex, " + ", rescore=".join(map(_code, filter(None, pair))) for pair in pairs]
    return [
        *(Lists(name, "IVFIndex", nlist, *pair) for name, pair in zip(names, pairs, strict=True)),
        *(
            Lists(f"{name}, spill=True", "IVFIndex, spill", nlist, *pair, oversamples=(1, 2, 4), spill=True)
            for name, pair in zip(names[2:], pairs[2:], strict=True)
        ),
    ]


def _code(quantizer: Quantizer) -> str:
    bits = getattr(quantizer, "bits", "")
    return f"{type(quantizer).__name__}({bits})"
