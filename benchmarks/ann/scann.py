"""ScaNN: inverted lists over anisotropic 4-bit product codes, with and without a second list for each row (SOAR)."""

from pathlib import Path

import numpy as np
from scann import scann_ops_pybind
from scann.scann_ops.py.scann_builder import ReorderType

from ann.engine import PROBES, Engine, Ids, grid
from qindex.types import Vectors


class Scann(Engine):
    library = "ScaNN"

    def __init__(self, nlist: int, *, soar: bool) -> None:
        super().__init__(f"AH2 + int8{', SOAR' * soar}", "ScaNN", grid(leaves=PROBES, reorder=(30, 60, 150)))
        self.nlist, self.soar = nlist, soar

    def fit(self, vectors: Vectors, threads: int) -> None:
        spilling = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if self.soar else {}
        builder = scann_ops_pybind.builder(vectors, 10, "dot_product")
        builder.tree(self.nlist, 100, training_sample_size=len(vectors), **spilling)
        builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        builder.reorder(60, quantize=ReorderType.INT8)
        builder.set_n_training_threads(threads)
        self.index = builder.build()
        self.index.set_num_threads(1)

    def set(self, leaves: int, reorder: int) -> None:
        self.setting = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": reorder}

    def query(self, queries: Vectors, k: int) -> Ids:
        if len(queries) == 1:
            return self.index.search(queries[0], k, **self.setting)[0][None].astype(np.int64)
        return self.index.search_batched(queries, k, **self.setting)[0].astype(np.int64)

    def save(self, folder: Path) -> None:
        self.index.serialize(str(folder))
        for codes in folder.glob("hashed_dataset*.npy"):  # a byte for each code of 4 bits; in memory they are packed
            np.save(codes, np.load(codes)[:, ::2])


def lists(dim: int, nlist: int) -> list[Engine]:
    return [Scann(nlist, soar=False), Scann(nlist, soar=True)]
