"""turbovec, scalable-vs, usearch, sentence-transformers and mteb, as systems for quality.py."""

import tempfile
import warnings
from typing import Any

import faiss
import numpy as np
import turbovec
import usearch.index
from mteb.models import CompressionWrapper, ModelMeta
from mteb.types import OutputDType
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from qindex import FlatIndex, Float32
from qindex.types import Vectors
from quality_systems import Encode, Stored, System


def systems() -> list[System]:
    return [
        *(_turbovec(bits, calibrated) for bits in (2, 3, 4) for calibrated in (False, True)),
        _lvq("LVQ8", 8, 0),
        _lvq("LVQ4x4", 4, 4),
        System("usearch", "usearch", "exact i8", _usearch_int8),
        System("usearch", "usearch", "exact b1", _usearch_signs),
        System("raw", "raw codes", "sentence-transformers int8", _raw_int8, compared=False, timed=False),
        System("raw", "raw codes", "sentence-transformers ubinary", _raw_signs, compared=False, timed=False),
        *(
            _mteb(name, getattr(OutputDType, name.upper()), bits)
            for name, bits in (("int8", 8), ("float8_e4m3fn", 8), ("float8_e5m2", 8), ("binary", 1))
        ),
    ]


def _turbovec(bits: int, calibrated: bool) -> System:
    def fit(documents: Vectors) -> Encode:
        dim = documents.shape[1]

        empty = turbovec.TurboQuantIndex(dim=dim, bit_width=bits)
        if calibrated:
            empty.calibrate(documents)
        learnt = empty.to_bytes()

        def filled(rows: Vectors) -> turbovec.TurboQuantIndex:
            index = turbovec.TurboQuantIndex.from_bytes(learnt)
            index.add(rows)
            index.prepare()
            return index

        some = np.zeros((2048, dim), np.float32)
        some[:, 0] = 1
        n_bytes = (len(filled(some).to_bytes()) - len(filled(some[:1024]).to_bytes())) / 1024

        def encode(documents: Vectors) -> Stored:
            index = filled(documents)
            return Stored(lambda queries, k: np.asarray(index.search(queries, k)[1]).astype(np.int64), n_bytes)

        return encode

    return System("turbovec", "turbovec", f"{bits} bits{', calibrated' * calibrated}", fit, shortlists=True)


def _lvq(name: str, primary: int, residual: int) -> System:
    """Its LVQ4 and LVQ4x8, and LeanVec, are for graphs only."""

    def fit(documents: Vectors) -> Encode:
        import svs

        def encode(documents: Vectors) -> Stored:
            with tempfile.TemporaryDirectory() as folder:
                file = f"{folder}/vectors.fvecs"  # it compresses what it reads
                svs.write_vecs(documents, file)
                loader = svs.LVQLoader(svs.VectorDataLoader(file, svs.DataType.float32), primary, residual)
                index = svs.Flat(loader, distance=svs.DistanceType.MIP, num_threads=1)
            n_bytes = documents.shape[1] + 9  # two float32 and a byte, as in the files that its graphs save
            return Stored(lambda queries, k: index.search(queries, k)[0].astype(np.int64), n_bytes)

        return encode

    return System("scalable-vs", "scalable-vs LVQ", name, fit)


def _usearch_int8(documents: Vectors) -> Encode:
    """Both sides on one scale, by which the largest number of the documents becomes 127."""
    scale = np.float32(127 / np.abs(documents).max())

    def rounded(vectors: Vectors) -> NDArray[np.int8]:
        return np.clip(np.rint(vectors * scale), -127, 127).astype(np.int8)

    def encode(documents: Vectors) -> Stored:
        rows = rounded(documents)
        return Stored(lambda queries, k: _usearch(rows, rounded(queries), k, metric="ip"), documents.shape[1])

    return encode


def _usearch_signs(documents: Vectors) -> Encode:
    def encode(documents: Vectors) -> Stored:
        rows = np.packbits(documents > 0, axis=1)
        return Stored(
            lambda queries, k: _usearch(rows, np.packbits(queries > 0, axis=1), k, metric="hamming", dtype="b1"),
            documents.shape[1] / 8,
        )

    return encode


def _usearch(rows: NDArray[Any], queries: NDArray[Any], k: int, **settings: str) -> NDArray[np.int64]:
    found = usearch.index.search(rows, queries, k, exact=True, threads=1, **settings)
    return found.keys.astype(np.int64).reshape(len(queries), k)


def _raw_int8(documents: Vectors) -> Encode:
    """The codes of both sides as they lie, by their cosine. The ranges are those of the documents."""
    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])

    def codes(vectors: Vectors) -> Vectors:
        return quantize_embeddings(vectors, "int8", ranges).astype(np.float32)

    def encode(documents: Vectors) -> Stored:
        index = FlatIndex.build(codes(documents), Float32(), metric="cosine")
        return Stored(lambda queries, k: index.search(codes(queries), k).ids, documents.shape[1])

    return encode


def _raw_signs(documents: Vectors) -> Encode:
    """By the number of bits in which both sides differ."""

    def encode(documents: Vectors) -> Stored:
        index = faiss.IndexBinaryFlat(documents.shape[1])
        index.add(quantize_embeddings(documents, "ubinary"))

        def search(queries: Vectors, k: int) -> NDArray[np.int64]:
            return index.search(quantize_embeddings(queries, "ubinary"), k)[1].astype(np.int64)

        return Stored(search, documents.shape[1] / 8)

    return encode


class _Given:
    """A model of mteb whose texts are their vectors."""

    def __init__(self) -> None:
        self.mteb_model_meta = ModelMeta.create_empty()

    def encode(self, inputs: Vectors, **_: Any) -> Vectors:
        return inputs


def _mteb(name: str, kind: OutputDType, bits: int) -> System:
    """What its wrapper returns for each side by itself, ranked by cosine as its models for sentences are.

    It divides by the range of each dimension, so a constant one becomes NaN, and with it every score. Here it is 0.
    """

    def fit(documents: Vectors) -> Encode:
        wrapper = CompressionWrapper(_Given(), kind)

        def codes(vectors: Vectors) -> Vectors:
            with warnings.catch_warnings(action="ignore"):  # about few queries
                found = wrapper.encode(vectors, task_metadata=None, hf_split="", hf_subset="")
            return np.nan_to_num(np.asarray(found, np.float32))

        def encode(documents: Vectors) -> Stored:
            index = FlatIndex.build(codes(documents), Float32(), metric="cosine")
            n_bytes = documents.shape[1] * bits / 8
            return Stored(lambda queries, k: index.search(codes(queries), k).ids, n_bytes)

        return encode

    note = ", NaN as 0" if name == "int8" else ""
    return System("raw", "raw codes", f"mteb {name}{note}", fit, compared=False, timed=False)
