"""Random coded rows for the checks of this folder and of tests/gpu: every number format under every scale tree.

Loads no numba, so that checks may still force a path.
"""

import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex import types
from qindex.formats import FORMATS
from qindex.types import BlockValues, Codes
from qindex_kernels import reference
from qindex_kernels.layout import Level, Part, Rows

_ALL_KINDS = [kind for kind, format in FORMATS.items() if format.kind not in ("exponent", "one_hot")]
# Processes may share them out: in one where this is "1/2", they are every second one from the second on.
_FIRST, _STEP = map(int, os.environ.get("QINDEX_CHECK_FORMATS", "0/1").split("/"))
KINDS = _ALL_KINDS[_FIRST::_STEP]
ONE_HOT_KINDS = [kind for kind, format in FORMATS.items() if format.kind == "one_hot"]
INTEGER_KINDS = [
    kind for kind in KINDS if FORMATS[kind].kind not in ("float", "small_float") or kind in ("e2m1", "e2m3")
]

# One, odd, one register, register + tail of every kind, and what is common.
DIMS = (1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 256, 384, 1000)


class Tree(NamedTuple):
    """The format, size and sharing by all rows of each level and of the zero; whose the tables of codebooks are."""

    levels: tuple[tuple[str, int, bool], ...] = ()
    zero: tuple[str, int, bool] | None = None
    tables_per_block: bool = False
    shared_tables: bool = False


TREES = {
    "none": Tree(),
    "nv": Tree((("e4m3", 16, False), ("float32", 65536, True)), shared_tables=True),
    "mx": Tree((("e8m0", 32, False), ("float16", 128, False))),
    "affine": Tree((("float16", 48, False),), ("float16", 48, False)),
    "tables": Tree((("float32", 64, False),), ("float32", 64, False), tables_per_block=True),
    "wide": Tree((("float32", 256, False),), ("float32", 256, False)),
    "factor": Tree((("float16", 4096, False),), shared_tables=True),
    "shared": Tree((("float16", 128, True),), ("e4m3", 128, True), tables_per_block=True, shared_tables=True),
    "zeros": Tree((), ("float32", 128, False)),
}


def dims_of(kind: str, tree: str) -> tuple[int, ...]:
    """Every second of DIMS; the next format and the next tree get the others."""
    return DIMS[(_ALL_KINDS.index(kind) + list(TREES).index(tree)) % 2 :: 2]


def made(
    kind: str, n: int, dim: int, rng: np.random.Generator, tree: str = "none", scaled: bool = True, biased: bool = True
) -> Rows:
    """Rows of random codes, each of which comes twice, so that there are ties."""
    half, shape = (n + 1) // 2, TREES[tree]

    def twice(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate([array, array])[:n])

    def level(name: str, size: int, shared: bool) -> Level:
        numbers = rng.uniform(0.1, 2, (1 if shared else half, -(-dim // size))).astype(np.float32)
        if FORMATS[name].bits == 8:
            data = FORMATS[name].encode(numbers)
        else:
            data = (numbers * rng.choice([-1, 1], numbers.shape)).astype(name)
        return Level(name, size, data[0] if shared else twice(data))

    tables = None
    if FORMATS[kind].kind == "codebook":
        count = -(-dim // shape.levels[0][1]) if shape.tables_per_block else 1
        numbers = rng.integers(-128, 128, (1 if shape.shared_tables else half, count, 1 << FORMATS[kind].bits))
        tables = numbers[0].astype(np.int8) if shape.shared_tables else twice(numbers.astype(np.int8))
    return Rows(
        kind,
        dim,
        twice(packed(kind, half, dim, rng)),
        scale=twice(rng.random(half).astype(np.float32)) if scaled else None,
        bias=twice(rng.integers(-1, 2, half).astype(np.float32)) if biased else None,
        levels=tuple(level(*one) for one in shape.levels),
        zero=None if shape.zero is None else level(*shape.zero),
        tables=tables,
    )


# Rows of several parts: kinds and dims, from what a spectrum suggests to what none would.
PARTS = {
    "falling": (("half4", 26), ("half3", 138), ("half2", 100), ("sign", 50)),
    "fine": (("int6", 20), ("int5", 126), ("half4", 129), ("int3", 60), ("int2", 42), ("sign", 3)),
    "stages": (("sign", 100), ("half3", 100)),
    "tiny": (("int8", 1), ("int7", 1)),
    "rising": (("sign", 7), ("int4", 65), ("int8", 64)),
}


def in_parts(
    name: str, n: int, rng: np.random.Generator, scaled: bool = False, biased: bool = True, factor: bool = True
) -> Rows:
    """Rows of random codes in several parts, each of which comes twice."""
    first, *others = (made(kind, n, dim, rng, "none", scaled, biased) for kind, dim in PARTS[name])
    dim = sum(dim for _kind, dim in PARTS[name])
    factors = np.tile(rng.standard_normal((n + 1) // 2), 2)[:n, None].astype(np.float16)
    return replace(
        first,
        dim=dim,
        levels=(Level("float16", -(-dim // 16) * 16, factors),) if factor else (),
        more=tuple(Part(other.kind, other.dim, other.data) for other in others),
    )


def made_one_hot(
    kind: str, n: int, parts: int, rng: np.random.Generator, scaled: bool = True, biased: bool = True
) -> Rows:
    """Rows of so many random codes, each of which comes twice; what is behind the last code may be anything."""
    dim, twice = parts * FORMATS[kind].span, np.arange(n) % -(-n // 2)
    data = rng.integers(0, 256, (n, FORMATS[kind].row_bytes(dim)), np.uint8)[twice]
    scale = rng.random(n).astype(np.float32)[twice] if scaled else None
    bias = rng.integers(-1, 2, n).astype(np.float32)[twice] if biased else None
    return Rows(kind, dim, data, scale, bias)


def packed(kind: str, n: int, dim: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows of random codes that are numbers."""
    format = FORMATS[kind]
    if format.kind == "float":
        return format.encode(rng.standard_normal((n, dim)).astype(np.float32))
    codes = rng.integers(0, 1 << format.bits, (n, dim)).astype(np.uint8)
    if format.kind == "small_float":
        codes[~np.isfinite(format.levels[codes])] = 0
    return format.pack(codes)


def of_values(kind: str, values: NDArray[Any]) -> Rows:
    """Rows nearest to values of about one, in multiples of a unit that suits the format."""
    format, tables = FORMATS[kind], None
    if format.kind == "codebook":
        count = 1 << format.bits
        tables = np.linspace(-100, 100, count).astype(np.int8)[None]
        data = format.pack(np.clip(np.rint((values / 3 + 1) / 2 * (count - 1)), 0, count - 1).astype(np.uint8))
    else:
        largest = min(format.max_value, 100)
        data = format.encode((values * max(largest / 3, 1)).astype(np.float32))
    return Rows(kind, values.shape[1], data, tables=tables)


def largest_norm(rows: Rows) -> float:
    """What `Codes.max_norm` bounds: the length of every row, and of its levels and its zeros alone."""
    numbers = [reference.numbers(rows, slice(None))]
    if rows.zero is not None:
        levels = reference.numbers(replace(rows, zero=None), slice(None))
        numbers += [levels, numbers[0] - levels]
    scale = 1 if rows.scale is None else np.abs(rows.scale)
    return max(float((np.linalg.norm(part, axis=1) * scale).max(initial=0)) for part in numbers) * (1 + 1e-6)


def coded(rows: Rows) -> Codes:
    """The codes that the door turns into these rows."""

    def values(level: Level) -> BlockValues:
        return BlockValues(level.data, FORMATS[level.kind], level.size)

    zero = None if rows.zero is None else values(rows.zero)
    scales, norm = tuple(map(values, rows.levels)), largest_norm(rows)
    more = tuple(types.Part(part.data, FORMATS[part.kind], part.dim) for part in rows.more)
    return Codes(rows.data, FORMATS[rows.kind], rows.dim, norm, rows.scale, rows.bias, scales, zero, rows.tables, more)


def assert_same_bits(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))
