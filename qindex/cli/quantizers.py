"""Quantizers by the names that the command line has for them."""

from __future__ import annotations

from qindex.quantize import Binary, Float8, Float16, Float32, Int4, Int8, LloydMax, RaBitQ
from qindex.types import Quantizer

QUANTIZERS: dict[str, tuple[Quantizer, Quantizer | None]] = {  # and rescore
    "float32": (Float32(), None),
    "float16": (Float16(), None),
    "float8-e4m3": (Float8("e4m3"), None),
    "float8-e5m2": (Float8("e5m2"), None),
    "float8-e3m4": (Float8("e3m4"), None),
    "int8": (Int8(), None),
    "int8-dim": (Int8("dim"), None),
    "binary": (Binary(), None),
    "binary+int8": (Binary(), Int8()),
}

ESTIMATED: dict[str, tuple[Quantizer, Quantizer | None]] = QUANTIZERS | {
    "int4": (Int4(), None),
    "int4+int8": (Int4(), Int8()),
    "int4+float16": (Int4(), Float16()),
    "rabitq1": (RaBitQ(1), None),
    "rabitq1+rabitq4": (RaBitQ(1), RaBitQ(4)),
    "rabitq1+int8": (RaBitQ(1), Int8()),
    "rabitq4": (RaBitQ(4), None),
    "lloydmax4+int8": (LloydMax(4), Int8()),
}
