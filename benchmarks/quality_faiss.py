"""The flat indexes of faiss, as systems for quality.py. Trained and searched as its factory makes them."""

from collections.abc import Callable

import faiss
import numpy as np

from qindex.types import Vectors
from quality_systems import LEAST_ROWS, Encode, Stored, System

IP = faiss.METRIC_INNER_PRODUCT
OPQ_ROWS = 39 * 256  # of the 65,536 that it would take: with fifty rounds of k-means that is minutes


def systems(dim: int) -> list[System]:
    eighth, quarter = dim // 8, dim // 4
    return [
        *(_factory("faiss RaBitQ", f"RaBitQ{bits}", f"RR{dim},RaBitQ{bits}") for bits in (1, 2, 3, 4, 6, 8)),
        *(_factory("faiss RaBitQ", f"RaBitQfs{bits}", f"RR{dim},RaBitQfs{bits}") for bits in (1, 2, 4)),
        *(_eden(bits) for bits in (1, 2, 3, 4, 6)),
        *(_factory("faiss SQ", f"SQ{bits}", f"SQ{bits}") for bits in (4, 6, 8)),
        # "np": without ordering the codes, which takes minutes and changes no score.
        _factory("faiss PQ", f"PQ{eighth}x8", f"PQ{eighth}x8np", least_rows=LEAST_ROWS),
        _factory("faiss PQ", f"OPQ{eighth}, PQ{eighth}x8", f"OPQ{eighth},PQ{eighth}x8np", least_rows=LEAST_ROWS),
        _factory("faiss PQ", f"PQ{quarter}x4fs", f"PQ{quarter}x4fs", least_rows=39 * 16),
        System("faiss", "faiss signs", "IndexBinaryFlat", _signs),
    ]


def _factory(line: str, name: str, recipe: str, *, least_rows: int = 1) -> System:
    # Its name for one bit carries no figure.
    recipe = recipe.removesuffix("1") if recipe.endswith(("RaBitQ1", "fs1")) else recipe
    return System(
        "faiss", line, name, _fitting(lambda dim: faiss.index_factory(dim, recipe, IP)), least_rows=least_rows
    )


def _eden(bits: int) -> System:
    """Lloyd-Max levels behind a rotation. "tqmse" makes the same codes of unit vectors."""
    level = getattr(faiss.ScalarQuantizer, f"QT_{bits}bit_eden")

    def make(dim: int) -> faiss.Index:
        rotation, index = faiss.RandomRotationMatrix(dim, dim), faiss.IndexScalarQuantizer(dim, level, IP)
        return faiss.IndexPreTransform(rotation, index)

    def fit(documents: Vectors) -> Encode:
        # The levels are those of numbers of variance 1; a factor for all changes no ranking.
        scale = np.float32(np.sqrt(documents.shape[1]))
        encode = _fitting(make)(documents * scale)
        return lambda documents: encode(documents * scale)

    return System("faiss", "faiss EDEN", f"SQ {bits} bit eden", fit)


def _fitting(make: Callable[[int], faiss.Index]) -> Callable[[Vectors], Encode]:
    def fit(documents: Vectors) -> Encode:
        index = make(documents.shape[1])
        codes = index
        if isinstance(index, faiss.IndexPreTransform):
            codes = faiss.downcast_index(index.index)
            transform = faiss.downcast_VectorTransform(index.chain.at(0))
            if isinstance(transform, faiss.OPQMatrix):
                transform.max_train_points = OPQ_ROWS
        # By default it leaves batches under rows * dim = 128,000 to single distances, many times slower than BLAS.
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        index.train(documents)
        faiss.cvar.distance_compute_blas_threshold = before

        def encode(documents: Vectors) -> Stored:
            index.reset()
            index.add(documents)
            return Stored(lambda queries, k: index.search(queries, k)[1], codes.code_size)

        return encode

    return fit


def _signs(documents: Vectors) -> Encode:
    """Signs against signs. Packing the queries is part of the search."""

    def encode(documents: Vectors) -> Stored:
        index = faiss.IndexBinaryFlat(documents.shape[1])
        index.add(np.packbits(documents > 0, axis=1))
        search = lambda queries, k: index.search(np.packbits(queries > 0, axis=1), k)[1].astype(np.int64)  # noqa: E731
        return Stored(search, documents.shape[1] / 8)

    return encode
