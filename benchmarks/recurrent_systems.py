"""The codes that recurrent.py compares, by what they are called there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qindex import ProductQuantizer, RaBitQ, RecurrentBinary, Spectral
from qindex.quantize import Binary
from qindex.quantize.learning import Check, train
from qindex.types import Vectors

Made = Callable[[int, Callable[[Check], None] | None, Vectors], Any]


@dataclass(frozen=True)
class Codec:
    """`make(seed, report, vectors)` gives a fitted quantizer; `planes` are random hyperplanes before it, if any."""

    name: str
    line: str
    make: Made
    trained: bool = False
    planes: int = 0

    def mapped(self, vectors: Vectors) -> Vectors:
        if not self.planes:
            return vectors
        normals = np.random.default_rng(0).standard_normal((vectors.shape[1], self.planes))
        return (vectors @ normals).astype(np.float32)


def recurrent(bits: int, dim: int, steps: int) -> Codec:
    def make(seed: int, report: Callable[[Check], None] | None, vectors: Vectors) -> RecurrentBinary:
        return train(RecurrentBinary(bits, dim, seed=seed), vectors, steps=steps, report=report)

    return Codec(f"RecurrentBinary({bits}, {dim})", "RecurrentBinary", make, trained=True)


def trained_spectral(bytes: int, steps: int) -> Codec:
    def make(seed: int, report: Callable[[Check], None] | None, vectors: Vectors) -> Spectral:
        return train(Spectral(bytes, seed), vectors, steps=steps, report=report)

    return Codec(f"Spectral({bytes}), trained", "Spectral, trained", make, trained=True)


def untrained(name: str, line: str, quantizer: Any, planes: int = 0) -> Codec:
    return Codec(name, line, lambda _seed, _report, vectors: quantizer.fit(vectors), planes=planes)


def codecs(steps: int) -> list[Codec]:
    return [
        untrained("Binary(center=True)", "sign", Binary(center=True)),
        *(untrained(f"RaBitQ({bits})", "RaBitQ", RaBitQ(bits)) for bits in (1, 2, 4)),
        *(untrained(f"{n} hyperplanes", "LSH", Binary(), planes=n) for n in (384, 768, 1536)),
        *(untrained(f"ProductQuantizer({n})", "PQ", ProductQuantizer(n)) for n in (24, 48, 96)),
        *(untrained(f"Spectral({n})", "Spectral", Spectral(n)) for n in (26, 50, 98, 194)),
        *(trained_spectral(n, steps) for n in (50, 98)),
        *(recurrent(bits, dim, steps) for bits, dim in ((2, 96), (2, 192), (2, 384), (3, 256), (4, 384))),
    ]
