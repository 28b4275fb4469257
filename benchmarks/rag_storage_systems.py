"""The ways to store vectors that rag_storage.py compares: the study's, the same decoded, and those of qindex."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings

from qindex import (
    PCA,
    Binary,
    Chain,
    FlatIndex,
    Float8,
    Float16,
    Float32,
    Int4,
    Int8,
    RaBitQ,
    Rotation,
    Spectral,
    Truncate,
)
from qindex.evaluate.systems import written
from qindex.types import Quantizer, Vectors
from quality_measures import K
from quality_systems import Ids

SEED = 0
REDUCERS = ("PCA", "random projection")
SHARES = (0.75, 0.5, 0.25)  # of the dimensions, that reducers keep
FLAT = 1e-6  # ranges of MiniLM's dimensions are about 0.3, but for three of less than 1e-7


@dataclass(frozen=True, eq=False)
class Given:
    """Vectors of a collection, and those of other text, to which the study fits PCA."""

    documents: Vectors
    queries: Vectors
    elsewhere: Vectors  # documents of the other collections


@dataclass(frozen=True)
class System:
    """A way to store vectors and to rank them."""

    way: str  # "study", "decoded", "qindex", or "check" for what explains the others
    type: str
    reducer: str  # "" for none
    share: float  # of the dimensions, that it keeps
    name: str
    bytes_per_vector: int
    search: Callable[[Given], Ids]  # the best ten of each query


@dataclass(frozen=True)
class Type:
    """A number type: what the study takes the cosine of, and the quantizer that decodes it."""

    bits: int
    raw: Callable[[Vectors, Vectors], Vectors]  # vectors, and all that ranges are taken from
    quantizer: Quantizer


def _cast(form: str) -> Callable[[Vectors, Vectors], Vectors]:
    plain = Float8(form, exponent=0)
    return lambda vectors, _: plain.dequantize(plain.quantize(vectors))


def _ranges(vectors: Vectors) -> Vectors:
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


TYPES = {
    "float32": Type(32, lambda vectors, _: vectors, Float32()),
    "float16": Type(16, lambda vectors, _: vectors.astype(np.float16).astype(np.float32), Float16()),
    **{f"float8 {form}": Type(8, _cast(form), Float8(form)) for form in ("e4m3", "e5m2", "e3m4")},
    "int8": Type(
        8,
        lambda vectors, seen: quantize_embeddings(vectors, "uint8", _ranges(seen)).astype(np.float32),
        Int8("dim"),
    ),
    "binary": Type(1, lambda vectors, _: (vectors > 0).astype(np.float32), Binary()),
}


def systems(dim: int) -> list[System]:
    """Those for vectors of `dim` numbers."""
    reduced = [("", 1.0), *((reducer, share) for reducer in REDUCERS for share in SHARES)]
    return [
        *(_typed("study", dim, type, reducer, share) for type in TYPES for reducer, share in reduced),
        *(_typed("decoded", dim, type, reducer, share) for type in TYPES for reducer, share in reduced),
        *(_coded(dim, quantizer) for quantizer in _quantizers(dim)),
        System("check", "same bytes", "", 1.0, "int8, the study's bytes decoded", dim, _same_bytes),
        System("check", "without flat", "", 1.0, "int8 as it lies, without flat dimensions", dim, _without_flat),
        *(_of_other_text(dim // part) for part in (16, 8, 4)),
    ]


def _typed(way: str, dim: int, type: str, reducer: str, share: float) -> System:
    """The cosine of reduced vectors: of codes on both sides, or of float queries and decoded documents.

    The study takes the ranges of int8 from documents and queries together; `decoded` takes them from documents.
    """
    kept, made = round(share * dim), TYPES[type]

    def search(given: Given) -> Ids:
        reduce = _reduction(given, reducer, kept)
        documents, queries = reduce(given.documents), reduce(given.queries)
        if way == "decoded":
            return FlatIndex.build(documents, made.quantizer, metric="cosine").search(queries, K).ids
        seen = np.concatenate([documents, queries])
        index = FlatIndex.build(made.raw(documents, seen), Float32(), metric="cosine")
        return index.search(made.raw(queries, seen), K).ids

    name = f"{type}, {reducer} {share:.0%}" if reducer else type
    return System(way, type, reducer, share, name, -(-kept * made.bits // 8), search)


@functools.cache  # each is used for all types
def _reduction(given: Given, reducer: str, kept: int) -> Callable[[Vectors], Vectors]:
    if reducer == "PCA":
        return PCA(kept).fit(given.elsewhere).apply
    if reducer == "random projection":
        dim = given.documents.shape[1]
        normal = np.random.default_rng(SEED).normal(scale=kept**-0.5, size=(dim, kept)).astype(np.float32)
        return lambda vectors: vectors @ normal
    return lambda vectors: vectors


def _same_bytes(given: Given) -> Ids:
    """The study's int8, by what its codes stand for."""
    ranges = _ranges(np.concatenate([given.documents, given.queries]))
    codes = quantize_embeddings(given.documents, "uint8", ranges)
    index = FlatIndex.from_codes(*Int8.from_sentence_transformers(codes, ranges))
    return index.search(given.queries, K).ids


def _without_flat(given: Given) -> Ids:
    """The study's int8 of the dimensions that vary: a range of nearly 0 makes noise as loud as the rest."""
    lower, upper = _ranges(np.concatenate([given.documents, given.queries]))
    varies = upper - lower > FLAT
    narrowed = Given(*(rows[:, varies] for rows in (given.documents, given.queries, given.elsewhere)))
    return _typed("study", int(varies.sum()), "int8", "", 1.0).search(narrowed)


def _of_other_text(n_bytes: int) -> System:
    """Spectral with axes from where the study's PCA has them."""

    def search(given: Given) -> Ids:
        quantizer = Spectral(n_bytes).fit(given.elsewhere)
        return FlatIndex.build(given.documents, quantizer).search(given.queries, K).ids

    name = f"{written(Spectral(n_bytes))}, fitted to other text"
    return System("check", "other text", "", 1.0, name, n_bytes, search)


def _quantizers(dim: int) -> list[Quantizer]:
    """Those of qindex, behind orthonormal transforms: all axes of a rotation that are kept are a random projection."""
    numbers: list[Quantizer] = [Float8("e4m3"), Int8("dim"), Binary()]
    kept = [round(share * dim) for share in SHARES]
    return [
        Float16(), Float8("e3m4"), Int8(), Int4(), *(RaBitQ(bits) for bits in (1, 2, 3, 4)), Binary(center=True),
        *(Spectral(dim // part) for part in (16, 8, 4, 2, 1)),
        *numbers,
        *(Chain(PCA(n), quantizer) for quantizer in numbers for n in kept),
        *(Chain(Rotation(), Truncate(n), quantizer) for quantizer in numbers for n in kept),
    ]  # fmt: skip


def _coded(dim: int, quantizer: Quantizer) -> System:
    """Float queries against decoded documents, to which everything is fitted."""
    steps = (*quantizer.transforms, quantizer.quantizer) if isinstance(quantizer, Chain) else (quantizer,)
    reducer = {PCA: "PCA", Rotation: "random projection"}.get(type(steps[0]), "")
    share = next((step.dim / dim for step in steps if isinstance(step, PCA | Truncate)), 1.0)

    def search(given: Given) -> Ids:
        return FlatIndex.build(given.documents, quantizer).search(given.queries, K).ids

    n_bytes = quantizer.bytes_per_vector(dim)
    return System("qindex", written(steps[-1]), reducer, share, written(quantizer), n_bytes, search)
