"""Recall@10 on 100,000 real MiniLM vectors, with the collection `minilm-100k` under $QINDEX_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest
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
    Standardize,
)
from qindex.evaluate.metrics import recall
from qindex.types import Quantizer, Vectors

# Floors half a point under what was measured: 300 queries, seedless, so a lower figure is a fault.
FLOORS = [
    (Float32(), None, 1.0),
    (Float16(), None, 0.999),
    (Float8("e4m3"), None, 0.979),
    (Float8("e5m2"), None, 0.962),
    (Float8("e3m4"), None, 0.984),
    (Int8(), None, 0.991),
    (Int8("dim"), None, 0.990),
    (Binary(), None, 0.706),
    (Binary(center=True), None, 0.705),
    (Binary(), Int8(), 0.960),
    (RaBitQ(1), None, 0.712),
    (RaBitQ(2), None, 0.854),
    (RaBitQ(4), None, 0.949),
    (RaBitQ(8), None, 0.991),
    (LloydMax(2), None, 0.849),
    (LloydMax(4), None, 0.954),
    (Spectral(50), None, 0.785),
    (Spectral(98), None, 0.898),
    (Spectral(150), None, 0.948),
    (Spectral(194), None, 0.972),
    (Spectral(290), None, 0.987),
    (Spectral(388), None, 0.992),
    (Int4("range"), None, 0.933),
    (Int4(), None, 0.940),
    (Microscaling("mxfp4"), None, 0.925),
    (Microscaling("nvint4"), None, 0.949),
    (ProductQuantizer(96, bits=4), None, 0.704),
    (Chain(OPQ(96), ProductQuantizer(96, bits=4)), None, 0.734),
    (Chain(OPQ(48), ProductQuantizer(48)), None, 0.756),
    (Chain(PCA(dim=192), Float8("e4m3")), None, 0.866),
    (Chain(Center(), Rotation(), Binary()), None, 0.719),
    (Chain(Standardize(), Int8("dim")), None, 0.990),
    (Chain(Standardize(queries="same"), Int8("dim")), None, 0.858),  # another product, hence another ranking
]


@pytest.fixture(scope="module")
def real() -> tuple[Vectors, Vectors, NDArray[np.int64]]:
    folder = os.environ.get("QINDEX_DATA")
    if not folder or not Path(folder, "minilm-100k").is_dir():
        pytest.skip("QINDEX_DATA does not name a folder with minilm-100k")
    base, queries, truth = (np.load(Path(folder, "minilm-100k", f"{n}.npy")) for n in ("base", "queries", "truth_ids"))
    return base.astype(np.float32), queries[:300].astype(np.float32), truth[:300, :10].astype(np.int64)


@pytest.mark.parametrize(("quantizer", "rescore", "floor"), FLOORS, ids=lambda value: str(value))
def test_recall_on_real_vectors_stays_above_its_floor(
    real: tuple[Vectors, Vectors, NDArray[np.int64]], quantizer: Quantizer, rescore: Quantizer | None, floor: float
) -> None:
    base, queries, truth = real
    index = FlatIndex.build(base, quantizer, rescore=rescore)
    assert recall(index.search(queries, 10).ids, truth) >= floor


def test_constant_dimensions_of_real_vectors_are_kept_exactly_by_int8(
    real: tuple[Vectors, Vectors, NDArray[np.int64]],
) -> None:
    base = real[0]
    constant = np.flatnonzero(np.ptp(base, axis=0) == 0)
    assert constant.tolist() == [127, 223]
    quantizer = Int8("dim").fit(base)
    decoded = quantizer.dequantize(quantizer.quantize(base[:100]))
    np.testing.assert_array_equal(decoded[:, constant], base[:100][:, constant])
