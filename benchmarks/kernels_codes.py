"""Coded rows of random numbers for the kernel benchmarks, as many as wanted, quickly."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FLOAT16, FORMATS, INT2
from qindex.quantize.binary import Binary
from qindex.quantize.blocks import SCHEMES, Scheme, decode, encode
from qindex.quantize.float8 import Float8
from qindex.quantize.floats import Float16, Float32
from qindex.types import Codes, Queries, Vectors, row_norms

# Names that are neither a number format under a row scale nor in SCHEMES.
QUANTIZERS = {
    "float32": Float32(),
    "float16": Float16(),
    "e4m3": Float8("e4m3"),
    "e5m2": Float8("e5m2"),
    "e3m4": Float8("e3m4"),
    "sign": Binary(),
}
SCHEMES_HERE = SCHEMES | {"int2g64": Scheme(INT2, 64, FLOAT16)}

# Where rows of few levels are cut off, in standard deviations: scaled to their largest number, most would be zero.
CLIPPED = {"ternary": 1.2, "int2": 1.2, "int3": 2.1}

REPEATED_ROWS = 16_384


def random_codes(name: str, n: int, dim: int, rng: np.random.Generator) -> Codes:
    """`n` rows of normally distributed numbers, in a scheme or a format."""
    if name.startswith("table"):
        return _with_codebooks(name, n, dim, rng)
    values = rng.standard_normal((n, dim), dtype=np.float32)
    limit = CLIPPED.get(name, np.inf)
    return codes_of(name, values.clip(-limit, limit))


def codes_of(name: str, values: Vectors) -> Codes:
    """(n, dim) floats in a scheme or a format."""
    if name in QUANTIZERS:
        return QUANTIZERS[name].fit(values).quantize(values)
    return encode(values, SCHEMES_HERE.get(name) or Scheme(FORMATS[name]))


def many_codes(name: str, n: int, dim: int, rng: np.random.Generator) -> Codes:
    """`n` distinct rows, made of a few that come again and again.

    Each time they have other row scales (or float16 block scales), at most as large; where there are none, other
    columns with their signs turned.
    """
    few = random_codes(name, min(n, REPEATED_ROWS), dim, rng)
    times = -(-n // len(few))
    if times == 1:
        return few
    data = np.empty((n, few.data.shape[1]), np.uint8)
    scaled = few.scale is not None or any(level.format == FLOAT16 for level in few.scales)
    for start in range(0, n, len(few)):
        count = min(len(few), n - start)
        turned = 0 if scaled else _turned_signs(few, rng)
        np.bitwise_xor(few.data[:count], turned, out=data[start : start + count])
    others = [np.tile(array, (times, *[1] * (array.ndim - 1)))[:n] for array in few.rowwise[1:]]
    many = few.with_rowwise([data, *others])
    factors = rng.uniform(0.8, 0.99, n).astype(np.float32)
    if few.scale is not None:
        return dataclasses.replace(many, scale=many.scale * factors)
    if scaled:
        (level,) = many.scales
        lower = dataclasses.replace(level, data=(level.data * factors[:, None]).astype(np.float16))
        return dataclasses.replace(many, scales=(lower,))
    return many


def unit_vectors(n: int, dim: int, rng: np.random.Generator) -> Vectors:
    values = rng.standard_normal((n, dim), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def random_queries(m: int, dim: int, rng: np.random.Generator) -> Queries:
    return Queries(unit_vectors(m, dim, rng), np.zeros(m))


def _with_codebooks(name: str, n: int, dim: int, rng: np.random.Generator) -> Codes:
    """A table of levels for each row, symmetric about zero, so that the complement of a code is its negative."""
    format = FORMATS[name]
    half = np.sort(rng.integers(1, 128, (n, 1 << format.bits - 1)).astype(np.int8), axis=1)
    tables = np.concatenate([-half[:, ::-1], half], axis=1)[:, None]
    data = format.pack(rng.integers(0, 1 << format.bits, (n, dim)).astype(np.uint8))
    codes = Codes(data, format, dim, 0.0, tables=tables)
    return dataclasses.replace(codes, max_norm=float(row_norms(decode(codes)).max()) * (1 + 1e-6))


def _turned_signs(codes: Codes, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What turns the signs of random columns, as an exclusive or with packed rows: (1, row_bytes)."""
    turned, format = rng.integers(0, 2, (1, codes.dim), np.uint8), codes.format
    if format.kind == "float":
        return (turned.astype(f"<u{format.bits // 8}") << (format.bits - 1)).view(np.uint8)
    top = 1 << format.bits - 1
    return format.pack(turned * np.uint8(top if format.kind == "small_float" else 2 * top - 1))
