"""From float rows to `Codes` with scales of blocks, and back: the MX, NV, NF4 and group-scaled formats.

All schemes share one rule. The scale of a block is `max|v| / max_value` of the number format. It is rounded to what
will be stored, and then the codes are rounded against the stored scale; where that is the smaller one, numbers beyond
the largest level saturate. A block whose scale is too small to be stored decodes to zeros, or to its zero.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qindex.formats import E2M1, E2M3, E4M3, E8M0, FLOAT16, FLOAT32, INT4, INT6, INT8, NF4, SCALE_FORMATS, Format
from qindex.memory import empty
from qindex.quantize.rows import BLOCK, ROUNDED_UP
from qindex.types import BLOCK_GRAIN, MAX_DIM, BlockValues, Codes, Vectors, as_vectors, row_norms


@dataclass(frozen=True)
class Scheme:
    """How rows become low-bit codes: a number format, and the scales that blocks of dimensions share."""

    format: Format  # of the numbers, with 8 bits or fewer
    block: int = 0  # dimensions under one scale, a multiple of 16; 0: one float32 scale a row
    scale: Format = FLOAT32  # of the block scales: float32, float16, e8m0 (rounded up to a power of two) or e4m3
    # What e4m3 scales are relative to: a float32 scale for this many dimensions of a row, or for the whole matrix.
    outer: int | Literal["matrix"] | None = None
    affine: bool = False  # blocks reach from their minimum to their maximum and have a zero, in the format of the scale

    def __post_init__(self) -> None:
        if self.format.kind in ("float", "codebook", "exponent"):
            raise ValueError(f"format must have fixed levels, up to 8 bits of them, got {self.format.name}")
        if self.block % BLOCK_GRAIN or not 0 <= self.block <= MAX_DIM:
            raise ValueError(f"block must be 0 or a multiple of {BLOCK_GRAIN} up to {MAX_DIM}, got {self.block}")
        if not self.block and (self.scale != FLOAT32 or self.affine):
            raise ValueError(f"scale must be float32 and not affine without blocks, got {self.scale.name}: give block")
        if self.scale not in SCALE_FORMATS:
            raise ValueError(f"scale must be float32, float16, e8m0 or e4m3, got {self.scale.name}")
        if (self.scale == E4M3) != (self.outer is not None):
            raise ValueError(f"outer goes with e4m3 scales and only with them, got {self.outer} and {self.scale.name}")
        if self.outer is not None and (self.outer_size % self.block or not self.block < self.outer_size <= MAX_DIM):
            raise ValueError(
                f"outer must be a multiple of block up to {MAX_DIM} (which the matrix counts as), got outer "
                f"{self.outer!r} and block {self.block}"
            )
        if self.affine and (
            self.format.kind not in ("integer", "half_integer") or self.scale not in (FLOAT32, FLOAT16)
        ):
            raise ValueError(
                f"affine goes with integers and float32 or float16 scales, got {self.format.name} and {self.scale.name}"
            )

    @property
    def outer_size(self) -> int:
        """Dimensions under one outer scale; 0 where there is none."""
        return MAX_DIM if self.outer == "matrix" else self.outer or 0


# Bits a number, with a dim that is a multiple of the block: b + 0.25 for MX; 4.5 for NV, and 32 for the matrix; 4.5 for
# nf4, 4.127 for nf4dq at dim 16384 (32 bits a row below that); 4.125, 4.5 and 4.25 for the int4 groups.
SCHEMES = {
    "mxint8": Scheme(INT8, 32, E8M0),
    "mxint6": Scheme(INT6, 32, E8M0),
    "mxint4": Scheme(INT4, 32, E8M0),
    "mxfp8": Scheme(E4M3, 32, E8M0),
    "mxfp6": Scheme(E2M3, 32, E8M0),
    "mxfp4": Scheme(E2M1, 32, E8M0),
    "nvfp4": Scheme(E2M1, 16, E4M3, outer="matrix"),
    "nvint4": Scheme(INT4, 16, E4M3, outer="matrix"),
    "nf4": Scheme(NF4, 64),
    "nf4dq": Scheme(NF4, 64, E4M3, outer=16_384),  # QLoRA's second level: 256 blocks of 64
    "int8": Scheme(INT8),
    "int4": Scheme(INT4),
    "int4g128": Scheme(INT4, 128, FLOAT16),
    "int4g32": Scheme(INT4, 32, FLOAT16),
    "int4g128a": Scheme(INT4, 128, FLOAT16, affine=True),
}


def encode(values: Vectors, scheme: Scheme, matrix: float | None = None) -> Codes:
    """Codes of (n, dim) floats; the last block is cut short where dim is no multiple of it.

    `matrix` is the scale of the whole matrix where the scheme has one, as `matrix_scale` gives it (default: for these
    values), so that rows coded later can lie in the same matrix; blocks beyond its range saturate.

    Raises ValueError where float16 cannot hold the scale or the zero of a block.
    """
    if matrix is not None and scheme.outer != "matrix":
        raise ValueError(f'matrix goes with schemes of outer="matrix", got {matrix} for outer={scheme.outer!r}')
    values = as_vectors(values, "values")
    n, dim = values.shape
    starts = np.arange(0, dim, scheme.block or dim)
    lower: NDArray[np.float32] = np.minimum.reduceat(values, starts, axis=1)
    upper: NDArray[np.float32] = np.maximum.reduceat(values, starts, axis=1)
    wanted = _divided(np.maximum(upper, -lower), np.float32(scheme.format.max_value))
    scale: NDArray[np.float32] | None = None
    scales: tuple[BlockValues, ...] = ()
    zero = None
    if not scheme.block:
        scale = wanted[:, 0]
    elif not scheme.affine:
        scales = _tree(wanted, scheme, matrix)
    else:
        lowest, highest = float(scheme.format.levels.min()), float(scheme.format.levels.max())
        scales = _tree(_divided(upper - lower, np.float32(highest - lowest)), scheme)
        # The middle of the levels stands for the middle of the block, whichever way its scale was rounded.
        middle = (lower + upper - _products(scales, dim) * (lowest + highest)) * np.float32(0.5)
        zero = _stored(middle, scheme.scale, scheme.block)
    data = empty((n, scheme.format.row_bytes(dim)), np.uint8)
    codes = Codes(data, scheme.format, dim, 0.0, scale=scale, scales=scales, zero=zero)
    max_norm = 0.0
    for rows in _parts(n):
        part = codes[rows]
        data[rows] = scheme.format.encode(_in_levels(values[rows], part))
        parts = [_decoded(part)]
        if zero is not None:  # levels and zeros may cancel, and a fast scan rounds each for itself
            levels = _decoded(dataclasses.replace(part, zero=None))
            parts += [levels, parts[0] - levels]
        max_norm = max(max_norm, *(float(row_norms(numbers).max()) for numbers in parts))
    return dataclasses.replace(codes, max_norm=max_norm * ROUNDED_UP)


def decode(codes: Codes) -> Vectors:
    """The rows behind any codes, with all that rides with them: (n, dim) float32."""
    result = np.empty((len(codes), codes.dim), np.float32)
    for rows in _parts(len(codes)):
        result[rows] = _decoded(codes[rows])
    return result


def bits_per_number(codes: Codes) -> float:
    """What one number takes, with its share of everything that rides with the codes."""
    if len(codes) == 0:
        raise ValueError("codes must have at least one row to tell the bits of a number, got none")
    return 8 * codes.nbytes / (len(codes) * codes.dim)


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def matrix_scale(largest: float, scheme: Scheme) -> float:
    """The scale of a matrix whose numbers reach up to `largest`: that of its largest block is the largest e4m3."""
    return float(np.float32(largest) / np.float32(scheme.format.max_value) / np.float32(E4M3.max_value))


def _tree(wanted: NDArray[np.float32], scheme: Scheme, matrix: float | None = None) -> tuple[BlockValues, ...]:
    """Block scales (n, blocks) as the scheme stores them."""
    if scheme.outer is None:
        return (_stored(wanted, scheme.scale, scheme.block),)
    per_outer = scheme.outer_size // scheme.block
    largest = np.maximum.reduceat(wanted, np.arange(0, wanted.shape[1], per_outer), axis=1)
    if scheme.outer == "matrix":
        largest = largest.max(axis=0, initial=0, keepdims=True)
    outer = _divided(largest, np.float32(E4M3.max_value))
    if matrix is not None:
        outer[:] = matrix
    relative = _divided(wanted, _spread(outer, per_outer, wanted.shape[1]))
    shared = outer[0] if scheme.outer == "matrix" else outer
    return _stored(relative, E4M3, scheme.block), _stored(shared, FLOAT32, scheme.outer_size)


def _stored(numbers: NDArray[np.float32], format: Format, size: int) -> BlockValues:
    if format.kind != "float":
        return BlockValues(format.encode(numbers), format, size)
    largest = np.abs(numbers).max(initial=0)
    if largest > format.max_value:
        raise ValueError(
            f"values must have block scales and zeros up to {format.max_value:g} to be stored in {format.name}, "
            f"got {largest:.3g}; divide the values or choose a scheme with float32 scales"
        )
    return BlockValues(numbers.astype(f"f{format.bits // 8}"), format, size)


def _products(scales: tuple[BlockValues, ...], dim: int) -> NDArray[np.float32]:
    """The scale of each finest block, from all levels of a tree: (n or 1, blocks)."""
    size = scales[0].size
    blocks = -(-dim // size)
    product = np.ones((1, blocks), np.float32)
    for level in scales:
        product = product * _spread(np.atleast_2d(level.values), level.size // size, blocks)
    return product


def _spread(numbers: NDArray[np.float32], times: int, length: int) -> NDArray[np.float32]:
    """Each column `times` over, cut to `length` columns."""
    return np.repeat(numbers, min(times, length), axis=1)[:, :length]


def _divided(numbers: NDArray[np.float32], by: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """The quotient, and zero where the divisor is zero."""
    return np.divide(numbers, by, out=np.zeros_like(numbers), where=by > 0)


def _in_levels(values: Vectors, codes: Codes) -> NDArray[np.float32]:
    """The numbers whose nearest levels stand for `values`, given the scales and zeros of `codes`."""
    if codes.scale is not None:
        scale = codes.scale[:, None]
    else:
        scale = _spread(_products(codes.blocks, codes.dim), codes.block, codes.dim)
    if codes.zero is not None:
        return _divided(values - _spread(np.atleast_2d(codes.zero.values), codes.block, codes.dim), scale)
    largest = codes.format.max_value
    # Integers have one more level below than above, which symmetric codes leave out.
    return np.clip(_divided(values, scale), -largest, largest)


def _decoded(codes: Codes) -> Vectors:
    values = codes.levels if codes.tables is None else _looked_up(codes)
    if codes.blocks:
        values *= _spread(_products(codes.blocks, codes.dim), codes.block, codes.dim)
    if codes.zero is not None:
        values += _spread(np.atleast_2d(codes.zero.values), codes.block, codes.dim)
    if codes.scale is not None:
        values *= codes.scale[:, None]
    if codes.column_scale is not None:
        values *= codes.column_scale
    return values


def _looked_up(codes: Codes) -> Vectors:
    """The levels of codebook formats, from the tables beside the codes."""
    tables = codes.tables
    assert tables is not None
    own = np.broadcast_to(tables, (len(codes), *tables.shape[-2:]))
    table = np.arange(codes.dim) // codes.block if own.shape[1] > 1 else np.zeros(codes.dim, np.intp)
    chosen = codes.format.unpack(codes.data, codes.dim)
    return own[np.arange(len(codes))[:, None], table, chosen].astype(np.float32)
