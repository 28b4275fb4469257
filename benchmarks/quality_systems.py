"""The ways to store vectors and to find them that quality.py compares: what such a system is, and those of qindex."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex import (
    OPQ,
    PCA,
    Binary,
    Center,
    Chain,
    FlatIndex,
    Float8,
    Float16,
    Float32,
    Int4,
    Int8,
    LloydMax,
    Microscaling,
    ProductQuantizer,
    RaBitQ,
    Rotation,
    Spectral,
)
from qindex.types import Quantizer, Vectors

Ids = NDArray[np.int64]
OVERSAMPLE = 8
LEAST_ROWS = 12_000  # for 256 centroids: faiss asks for 39 each, which of the judged collections only one has, just so
BUDGETS = (50, 98, 150, 194, 290, 390)  # bytes of a vector of 384 numbers


def budgets(dim: int) -> list[int]:
    """As many bits for each number as BUDGETS give, beside the 2 bytes of a factor."""
    return [(n_bytes - 2) * dim // 384 + 2 for n_bytes in BUDGETS]


class Stored(NamedTuple):
    """Documents as a system keeps them."""

    search: Callable[[Vectors, int], Ids]  # queries (m, dim) and k -> the k best documents of each query (m, k)
    bytes_per_vector: float  # all that each row has; what rows share is left out


Encode = Callable[[Vectors], Stored]


@dataclass(frozen=True)
class System:
    """A way to store documents and to find them."""

    family: str  # whose it is
    line: str  # the points of the picture that it is joined with
    name: str
    fit: Callable[[Vectors], Encode]  # learns from documents what it learns
    compared: bool = True  # its own codes rank alone: it counts where recall at equal bytes is compared
    shortlists: bool = False  # the best 10 differ from the first 10 of the best 100
    timed: bool = True  # its library searches; else only the ranking is its own
    least_rows: int = 1  # documents without which it cannot be fitted


def coded(line: str, name: str, quantizer: Quantizer, rescore: Quantizer | None = None, **settings: Any) -> System:
    """A FlatIndex of these quantizers. `settings` are those of the System."""

    def fit(documents: Vectors) -> Encode:
        first = quantizer.fit(documents)
        second = rescore.fit(documents) if rescore else None

        def encode(documents: Vectors) -> Stored:
            index = FlatIndex.build(documents, first, rescore=second)
            n_bytes: float = first.bytes_per_vector(documents.shape[1])
            if second:  # which may share its signs with the first
                n_bytes = (index.nbytes - index.ids.nbytes) / len(index)
            oversample = OVERSAMPLE if second else None
            return Stored(lambda queries, k: index.search(queries, k, oversample=oversample).ids, n_bytes)

        return encode

    if rescore:
        settings |= {"compared": False, "shortlists": True}
    return System("qindex", line, name, fit, **settings)


def ours(dim: int) -> list[System]:
    """Systems of qindex for vectors of `dim` numbers."""
    half, eighth = PCA(dim=dim // 2), dim // 8
    spectral = [n_bytes if n_bytes <= dim + 2 else dim + 4 for n_bytes in budgets(dim)]
    trained = {"compared": False, "least_rows": LEAST_ROWS}  # by faiss
    return [
        *(coded("Spectral", f"Spectral({n})", Spectral(n)) for n in spectral),
        *(coded("RaBitQ", f"RaBitQ({bits})", RaBitQ(bits)) for bits in range(1, 9)),
        *(coded("LloydMax", f"LloydMax({bits})", LloydMax(bits)) for bits in range(1, 5)),
        coded("integers", "Int4()", Int4()),
        coded("integers", 'Int4("range")', Int4("range")),
        coded("integers", "Int8()", Int8()),
        coded("integers", 'Int8("dim")', Int8("dim")),
        *(coded("floats", f'Float8("{form}")', Float8(form)) for form in ("e3m4", "e4m3", "e5m2")),
        coded("floats", "Float16()", Float16()),
        coded("floats", "Float32()", Float32()),
        *(coded("block formats", f'Microscaling("{form}")', Microscaling(form)) for form in BLOCK_FORMATS),
        coded("signs", "Binary()", Binary()),
        coded("signs", "Binary(center=True)", Binary(center=True)),
        coded("signs", "Chain(Center(), Rotation(), Binary())", Chain(Center(), Rotation(), Binary())),
        *(
            coded("half the axes", f'Chain(PCA({dim // 2}), Float8("{form}"))', Chain(half, Float8(form)))
            for form in ("e4m3", "e3m4")
        ),
        coded("product codes", f"ProductQuantizer({eighth})", ProductQuantizer(eighth), **trained),
        coded(
            "product codes",
            f"Chain(OPQ({eighth}), ProductQuantizer({eighth}))",
            Chain(OPQ(eighth), ProductQuantizer(eighth)),
            **trained,
        ),
        coded("with rescore", "Binary(), rescore=Int8()", Binary(), Int8()),
        coded("with rescore", "RaBitQ(1), rescore=RaBitQ(2)", RaBitQ(1), RaBitQ(2)),
        coded("with rescore", "RaBitQ(1), rescore=RaBitQ(4)", RaBitQ(1), RaBitQ(4)),
        coded("with rescore", "RaBitQ(1), rescore=Int8()", RaBitQ(1), Int8()),
    ]


BLOCK_FORMATS = ("mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nvint4")
