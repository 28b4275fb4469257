"""The systems that are worth a try for vectors of some dim: what `qindex tune` measures unless it is told others."""

from __future__ import annotations

import math

from qindex.evaluate.systems import System
from qindex.quantize import Binary, Chain, Float8, Float16, Float32, Int4, Int8, LloydMax, RaBitQ, Spectral
from qindex.quantize.spectral import LEAST_BYTES
from qindex.transform import PCA
from qindex.types import Quantizer

ENOUGH_ROWS = 10_000  # for lists and links to gain on a scan

_SPECTRAL_BITS = (0.5, 1, 1.5, 2, 3, 4, 6)  # for a number, in the mean
_OVERSAMPLE, _NPROBE, _EF = (4, 10), (8, 16, 32, 64, 128, 256), (16, 32, 64, 128, 256)


def default_systems(dim: int, rows: int) -> list[System]:
    """Quantizers from half a bit to 32 bits for a number, with a rescore and without, and two kinds of indexes.

    IVF and graph are among them from 10,000 rows on; below, a scan takes as little time as they do.
    """
    # Two bytes are for the factor of a row.
    spectral = sorted({math.ceil(dim * bits / 8) + 2 for bits in _SPECTRAL_BITS})
    alone: list[Quantizer] = [
        Float32(), Float16(), Float8("e3m4"), Int8(), Int8("dim"), Int4(), LloydMax(4), Binary(),
        RaBitQ(1), RaBitQ(2), RaBitQ(4), *(Spectral(n_bytes) for n_bytes in spectral if n_bytes >= LEAST_BYTES),
    ]  # fmt: skip
    if dim >= 4:
        alone += [Chain(PCA(dim // 2), Int8()), Chain(PCA(3 * dim // 4), Int8())]
    systems = [System(quantizer) for quantizer in alone]

    rescored: list[tuple[Quantizer, Quantizer]] = [
        (Binary(), Int8()), (RaBitQ(1), RaBitQ(4)), (RaBitQ(1), Int8()), (Int4(), Int8()),
    ]  # fmt: skip
    for quantizer, rescore in rescored:
        systems += [System(quantizer, rescore, searched={"oversample": times}) for times in _OVERSAMPLE]
    if rows < ENOUGH_ROWS:
        return systems
    in_lists: list[tuple[Quantizer, Quantizer | None]] = [(Int8(), None), (RaBitQ(4), None), (RaBitQ(1), Int8())]
    for first, second in in_lists:
        systems += [System(first, second, "ivf", searched={"nprobe": n}) for n in _NPROBE]
    systems += [System(Int4(), Int8(), "graph", searched={"ef": ef}) for ef in _EF]
    return systems
