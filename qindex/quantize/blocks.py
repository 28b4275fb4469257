"""From float rows to `Codes` with scales of blocks, and back: the MX, NV, NF4 and group-scaled formats.

`encode` does it in three steps, which solvers (qindex/lowbit/solvers) take one by one, with grids of their own:
`covering` gives the grid of each block that covers its numbers, `stored` rounds the scales and zeros to what is stored,
and `rounded` chooses the nearest levels.

All schemes share one rule. The scale of a block is `max|v| / max_value` of the number format. It is rounded to what
will be stored, and then the codes are rounded against the stored scale; where that is the smaller one, numbers beyond
the largest level saturate. A block whose scale is too small to be stored decodes to zeros, or to its zero.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex.formats import (
    E2M1,
    E2M3,
    E4M3,
    E8M0,
    FLOAT16,
    FLOAT32,
    INT4,
    INT6,
    INT8,
    NF4,
    SCALE_FORMATS,
    Format,
    places,
)
from qindex.io import register
from qindex.memory import empty
from qindex.quantize.rows import BLOCK, ROUNDED_UP
from qindex.types import BLOCK_GRAIN, MAX_DIM, BlockValues, Codes, Vectors, as_vectors, row_norms


@register("Scheme")
@dataclass(frozen=True)
class Scheme:
    """How rows become low-bit codes: a number format, and the scales that blocks of dimensions share."""

    format: Format  # of the numbers, with 8 bits or fewer
    block: int = 0  # dimensions under one scale, a multiple of 16; 0: one float32 scale a row
    scale: Format = FLOAT32  # of the block scales: float32, float16, e8m0 (rounded up to a power of two) or e4m3
    # What e4m3 scales are relative to: a float32 scale for this many dimensions of a row, or for the whole matrix.
    outer: int | Literal["matrix"] | None = None
    affine: bool = False  # blocks reach from their minimum to their maximum and have a zero, in the format of the scale
    table: tuple[int, ...] = ()  # codebook formats: the levels of all rows, ascending int8 numbers

    def __post_init__(self) -> None:
        if self.format.kind in ("float", "exponent", "one_hot"):
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
        self._check_table()

    def _check_table(self) -> None:
        if self.format.kind != "codebook":
            if self.table:
                raise ValueError(f"table goes with codebook formats, got {self.table} for {self.format.name}")
            return
        entries = 1 << self.format.bits
        ascending = all(type(level) is int for level in self.table) and sorted(set(self.table)) == list(self.table)
        if len(self.table) != entries or not ascending or not -128 <= min(self.table) <= max(self.table) <= 127:
            raise ValueError(
                f"table must be {entries} ascending integers from -128 to 127 for {self.format.name}, got {self.table}"
            )

    @cached_property
    def levels(self) -> NDArray[np.float32]:
        """The levels that a block has, ascending and finite: symmetric integers leave out the lowest."""
        if self.table:
            return np.array(self.table, np.float32)
        levels = self.format.levels[np.isfinite(self.format.levels)]
        return np.unique(levels if self.affine else levels[np.abs(levels) <= self.format.max_value])

    def nearest(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The level nearest to each number, numbers and levels alike before scales and zeros: any shape, float32."""
        if self.table:
            return self.levels[places(values, self.levels)]
        return self.format.nearest(np.clip(values, self.levels[0], self.levels[-1]))

    def nbytes(self, n: int, dim: int) -> int:
        """Bytes of the codes of (n, dim) numbers with all that rides with them: what `encode(...).nbytes` is."""
        total = n * self.format.row_bytes(dim) + len(self.table)
        if not self.block:
            return total + 4 * n
        total += n * -(-dim // self.block) * (self.scale.bits // 8) * (2 if self.affine else 1)
        outers = 0
        if self.outer is not None:
            outers = 1 if self.outer == "matrix" else n * -(-dim // self.outer)
        return total + 4 * outers

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


class Grid(NamedTuple):
    """What the levels of each block should stand for, before it is rounded to what is stored."""

    scale: NDArray[np.float32]  # (n, blocks); one block where the scheme has a scale for each row
    middle: NDArray[np.float32] | None = None  # affine schemes: what the middle of the levels stands for


def encode(values: Vectors, scheme: Scheme, matrix: float | None = None) -> Codes:
    """Codes of (n, dim) floats; the last block is cut short where dim is no multiple of it.

    `matrix` is the scale of the whole matrix where the scheme has one, as `matrix_scale` gives it (default: for these
    values), so that rows coded later can lie in the same matrix; blocks beyond its range saturate.

    Raises ValueError where float16 cannot hold the scale or the zero of a block.
    """
    if matrix is not None and scheme.outer != "matrix":
        raise ValueError(f'matrix goes with schemes of outer="matrix", got {matrix} for outer={scheme.outer!r}')
    values = as_vectors(values, "values")
    outer = None if matrix is None else np.full((1, 1), matrix, np.float32)
    return rounded(values, scheme, stored(covering(values, scheme), scheme, values.shape[1], outer))


def covering(values: Vectors, scheme: Scheme) -> Grid:
    """The grids that reach as far as the numbers of each block do."""
    starts = np.arange(0, values.shape[1], scheme.block or values.shape[1])
    lower: NDArray[np.float32] = np.minimum.reduceat(values, starts, axis=1)
    upper: NDArray[np.float32] = np.maximum.reduceat(values, starts, axis=1)
    if scheme.affine:
        return Grid(_divided(upper - lower, np.ptp(scheme.levels)), (lower + upper) * np.float32(0.5))
    return Grid(_divided(np.maximum(upper, -lower), np.abs(scheme.levels).max()))


def outer_scales(scale: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32] | None:
    """What the scales (n, blocks) are relative to, so that the largest becomes the largest e4m3.

    (n, outer blocks), or (1, 1) for the whole matrix, float32; None for schemes without.
    """
    if scheme.outer is None:
        return None
    largest = np.maximum.reduceat(scale, np.arange(0, scale.shape[1], scheme.outer_size // scheme.block), axis=1)
    if scheme.outer == "matrix":
        largest = largest.max(axis=0, initial=0, keepdims=True)
    return _divided(largest, np.float32(E4M3.max_value))


def stored(grid: Grid, scheme: Scheme, dim: int, outer: NDArray[np.float32] | None = None) -> Codes:
    """Codes whose scales and zeros are those of `grid`, rounded to what is stored, and whose data are zeros.

    `outer` is as `outer_scales` gives it (default: for this grid); scales beyond its range saturate.
    """
    n = len(grid.scale)
    scale: NDArray[np.float32] | None = None
    scales: tuple[BlockValues, ...] = ()
    zero = None
    if not scheme.block:
        scale = np.ascontiguousarray(grid.scale[:, 0])
    elif scheme.outer is None:
        scales = (_stored(grid.scale, scheme.scale, scheme.block),)
    else:
        outer = outer_scales(grid.scale, scheme) if outer is None else outer
        assert outer is not None
        relative = _divided(grid.scale, _spread(outer, scheme.outer_size // scheme.block, grid.scale.shape[1]))
        shared = outer[0] if scheme.outer == "matrix" else outer
        scales = (_stored(relative, E4M3, scheme.block), _stored(shared, FLOAT32, scheme.outer_size))
    if grid.middle is not None:
        # The middle of the levels stands for the middle of the block, whichever way its scale was rounded.
        middle = np.float32((scheme.levels[0] + scheme.levels[-1]) / 2)
        zero = _stored(grid.middle - _products(scales, dim) * middle, scheme.scale, scheme.block)
    data = empty((n, scheme.format.row_bytes(dim)), np.uint8)
    data[:] = 0
    tables = np.array([scheme.table], np.int8) if scheme.table else None
    return Codes(data, scheme.format, dim, 0.0, scale=scale, scales=scales, zero=zero, tables=tables)


def rounded(values: Vectors, scheme: Scheme, codes: Codes) -> Codes:
    """These codes with the levels nearest to (n, dim) floats, given the scales and zeros as `stored` gives them."""
    data = empty(codes.data.shape, np.uint8)
    codes = dataclasses.replace(codes, data=data)
    max_norm = 0.0
    for rows in _parts(len(codes)):
        part = codes[rows]
        block_scale, block_zero = block_numbers(part)
        size = part.block or part.dim
        scale = _spread(block_scale, size, part.dim)
        zero = None if block_zero is None else _spread(block_zero, size, part.dim)
        levels = scheme.nearest(in_levels(values[rows], scale, zero))
        data[rows] = scheme.format.pack(places(levels, scheme.levels)) if scheme.table else scheme.format.encode(levels)
        parts = [levels * scale]
        if zero is not None:  # levels and zeros may cancel, and a fast scan rounds each for itself
            parts += [parts[0] + zero, (parts[0] + zero) - parts[0]]
        max_norm = max(max_norm, *(float(row_norms(numbers).max()) for numbers in parts))
    return dataclasses.replace(codes, max_norm=max_norm * ROUNDED_UP)


def block_numbers(codes: Codes) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The scale and the zero of each block, decoded, as `stored` gives them: (n or 1, blocks) float32 each."""
    if codes.scale is not None:
        return codes.scale[:, None], None
    zero = None if codes.zero is None else np.atleast_2d(codes.zero.values)
    return _products(codes.blocks, codes.dim), zero


def in_levels(
    values: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """The numbers whose nearest levels stand for `values` under these scales and zeros, of the shape of `values`.

    `scheme.nearest` gives those levels, and `level * scale + zero` is what they stand for.
    """
    return _divided(values if zero is None else values - zero, scale)


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
    if np.all(by > 0):  # many times as fast
        return numbers / by
    return np.divide(numbers, by, out=np.zeros_like(numbers), where=by > 0)


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
