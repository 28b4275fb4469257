"""Whether the kernels are right on this machine, and which ones it gets."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from qindex import kernels
from qindex.formats import FORMATS, HALF2, INT8, SIGN
from qindex.quantize.blocks import SCHEMES, Scheme, encode
from qindex.transform import Rotation
from qindex.types import Codes, Queries, Vectors


def checks(seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Compare the compiled kernels with NumPy on a few rows of each format: (name, whether they agree to the bit)."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((200, 100)).astype(np.float32)
    yield "rotation", kernels.agree_on_rotation(Rotation(seed).rotor(100), rows)
    for name, codes in _samples(rows, rng):
        values, offset = rng.standard_normal((9, codes.dim)).astype(np.float32), rng.standard_normal(9)
        # Few queries and many take different ways.
        yield name, all(kernels.agree(Queries(values[:m], offset[:m]), codes) for m in (1, 9))

    for format in (SIGN, HALF2):
        codes = Codes(format.encode(rows), format, rows.shape[1], 1.5 * rows.shape[1])
        coded = Queries.of_codes(codes[:9], np.ones(9, np.float32))
        yield f"{format.name} with coded queries", kernels.agree(coded, codes)


def _samples(rows: Vectors, rng: np.random.Generator) -> Iterator[tuple[str, Codes]]:
    n, dim = rows.shape
    for name, format in FORMATS.items():
        if format.kind == "codebook":
            data = format.pack(rng.integers(0, 1 << format.bits, rows.shape, np.uint8))
            tables = rng.integers(-127, 128, (n, 1, 1 << format.bits)).astype(np.int8)
            yield name, Codes(data, format, dim, 127.0 * dim, tables=tables)
        elif format.kind == "float":
            norm = float(np.linalg.norm(rows, axis=1).max()) * 1.01
            yield name, Codes(format.encode(rows), format, dim, norm)
        elif format.kind == "one_hot":
            data = format.pack(rng.integers(0, format.span, (n, 20), np.uint8))
            yield name, Codes(data, format, 20 * format.span, 5.0)
        elif format.kind != "exponent":
            yield name, encode(rows, Scheme(format))
    for name, scheme in SCHEMES.items():
        yield name, encode(rows, scheme)
    biases = np.linspace(-1, 1, n, dtype=np.float32)
    yield "int8 with biases", dataclasses.replace(encode(rows, Scheme(INT8)), offset=biases)
