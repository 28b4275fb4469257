"""Rows as the compiled kernels take them: addresses and strides, with room to read whole registers."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.simd import peek_f32, poke_f32
from qindex_kernels.cpu.sources import helper, inlined
from qindex_kernels.cpu.unpack import (
    BITS1,
    BITS2,
    BITS3,
    BITS4,
    BITS5,
    BITS6,
    BITS7,
    E2M3,
    E3M2,
    E3M4,
    E4M3,
    E5M2,
    FLOAT16,
    FLOAT32,
    INT8,
    INTEGER_UNIT,
    NF4,
    PLANES,
    SCALE_E4M3,
    SCALE_E8M0,
    SCALE_FLOAT16,
    SCALE_FLOAT32,
    SPLIT2,
    SPLIT4,
    STEP,
    UNIT,
    decode_scales,
    scale_at,
)
from qindex_kernels.layout import Level, Rows

SCALE_KINDS = {"float32": SCALE_FLOAT32, "float16": SCALE_FLOAT16, "e4m3": SCALE_E4M3, "e8m0": SCALE_E8M0}


class Storage(NamedTuple):
    """What a format is to a kernel: its kind, and for kinds with tables the levels, `unit * table`."""

    kind: int
    unit: float = 1.0
    table: tuple[int, ...] = ()


def _grid(bits: int) -> tuple[int, ...]:
    return tuple(range(-(1 << bits - 1), 1 << bits - 1))


def _half_grid(bits: int) -> tuple[int, ...]:
    return tuple(range(1 - (1 << bits), 1 << bits, 2))


_E2M1_HALVES = (0, 1, 2, 3, 4, 6, 8, 12)

FORMATS = {
    "float32": Storage(FLOAT32),
    "float16": Storage(FLOAT16),
    "e4m3": Storage(E4M3),
    "e5m2": Storage(E5M2),
    "e3m4": Storage(E3M4),
    "e3m2": Storage(E3M2),
    "e2m3": Storage(E2M3),
    "nf4": Storage(NF4),
    "int8": Storage(INT8),
    "sign": Storage(BITS1),
    "ternary": Storage(BITS2, 1.0, (-1, 0, 1, 0)),
    "int2": Storage(BITS2, 1.0, _grid(2)),
    "half2": Storage(BITS2, 0.5, _half_grid(2)),
    "table2": Storage(BITS2),
    "int3": Storage(BITS3, 1.0, _grid(3)),
    "half3": Storage(BITS3, 0.5, _half_grid(3)),
    "table3": Storage(BITS3),
    "int4": Storage(BITS4, 1.0, _grid(4)),
    "half4": Storage(BITS4, 0.5, _half_grid(4)),
    "e2m1": Storage(BITS4, 0.5, (*_E2M1_HALVES, *(-half for half in _E2M1_HALVES))),
    "table4": Storage(BITS4),
    "int5": Storage(BITS5),
    "int6": Storage(BITS6),
    "int7": Storage(BITS7),
}

_TABLES = {name: np.array(storage.table or [0], np.int8) for name, storage in FORMATS.items()}


class RowAddresses(NamedTuple):
    """Coded rows and what goes with them; an address of 0 stands for none."""

    n: int
    dim: int
    row_bytes: int
    data: int
    tail: int  # where row 0 would lie if the rows from tail_start on lay where their padded copy does
    tail_start: int
    unit: float  # decode16 times this gives levels
    integer_unit: float  # and integers times this
    scale: int  # float32
    bias: int  # float32
    table: int
    table_row: int  # bytes from the tables of one row to those of the next; 0 where rows share them
    table_block: int  # and from block to block
    block: int  # dimensions under one scale; all where there are no blocks
    blocks: int
    fine: int  # the two levels of the scale tree; kinds as in unpack.scale_at, row strides in numbers
    fine_kind: int
    fine_row: int
    coarse: int
    coarse_kind: int
    coarse_row: int
    coarse_ratio: int  # blocks under one number of the coarse level
    zero: int
    zero_kind: int
    zero_row: int


def address(array: NDArray[np.generic] | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


def writable(array: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous and writable: other arrays have another type, for which numba would compile another kernel."""
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")


def addressed(rows: Rows) -> tuple[RowAddresses, NDArray[np.uint8]]:
    """The addresses of rows, and the padded copy of the last ones, which must outlive the addresses.

    Reads of whole registers would leave the array at its end, so the last rows (few, often none) are read from a
    copy with room behind it.
    """
    n, row_bytes = rows.data.shape
    storage = FORMATS[rows.kind]
    over = overread(kind_of(rows), rows.dim)
    tail_start = n - min(n, -(-over // row_bytes))
    tail = np.zeros((n - tail_start) * row_bytes + over, np.uint8)
    tail[: (n - tail_start) * row_bytes] = rows.data[tail_start:].reshape(-1)
    block = rows.block or rows.dim
    blocks = -(-rows.dim // block)
    fine = _level(rows.levels[0] if rows.levels else None)
    coarse = _level(rows.levels[1] if len(rows.levels) > 1 else None)
    zero = _level(rows.zero)
    table = _TABLES[rows.kind] if rows.tables is None else rows.tables
    own_table, many_tables = table.ndim == 3, table.ndim > 1 and table.shape[-2] > 1
    entries = table.shape[-1]
    found = RowAddresses(
        n=n,
        dim=rows.dim,
        row_bytes=row_bytes,
        data=address(rows.data),
        tail=address(tail) - tail_start * row_bytes,
        tail_start=tail_start,
        unit=storage.unit * UNIT.get(storage.kind, 1.0),
        integer_unit=storage.unit * INTEGER_UNIT.get(storage.kind, 1.0),
        scale=address(rows.scale),
        bias=address(rows.bias),
        table=address(table),
        table_row=entries * table.shape[1] if own_table else 0,
        table_block=entries if many_tables else 0,
        block=block,
        blocks=blocks,
        fine=fine[0],
        fine_kind=fine[1],
        fine_row=fine[2],
        coarse=coarse[0],
        coarse_kind=coarse[1],
        coarse_row=coarse[2],
        coarse_ratio=max(1, rows.levels[1].size // block) if len(rows.levels) > 1 else 1,
        zero=zero[0],
        zero_kind=zero[1],
        zero_row=zero[2],
    )
    return found, tail


def overread(kind: int, dim: int) -> int:
    """Bytes behind a row that kernels may read: they take STEP dimensions at a time, of each plane."""
    end = start = 0
    for width in PLANES[kind]:
        end = max(end, start + -(-dim // STEP[kind]) * STEP[kind] // 8 * width)
        start += (dim * width + 7) // 8
    return end - start


# Formats whose integers need no table: kinds that are read in split order, where no step holds more than one scale.
_SPLIT = {"int2": SPLIT2, "int4": SPLIT4}


def kind_of(rows: Rows) -> int:
    """How a kernel reads these rows."""
    split = _SPLIT.get(rows.kind)
    return FORMATS[rows.kind].kind if split is None or rows.block % STEP[split] else split


def _level(level: Level | None) -> tuple[int, int, int]:
    if level is None:
        return 0, 0, 0
    return address(level.data), SCALE_KINDS[level.kind], level.data.shape[1] if level.data.ndim == 2 else 0


@njit(inline="always")
def row_address(rows, row):
    return (rows.data if row < rows.tail_start else rows.tail) + row * rows.row_bytes


@njit(inline="always")
def has_blocks(rows):
    return rows.fine != 0 or rows.zero != 0 or rows.table_block != 0


@inlined
def block_scales(rows, row, scales, zeros):
    """Write the scale and the zero of each block of a row to two addresses."""
    if rows.fine != 0:
        decode_scales(rows.fine_kind, rows.fine, row * rows.fine_row, rows.blocks, scales)
    else:
        for b in range(rows.blocks):
            poke_f32(scales + 4 * b, np.float32(1))
    if rows.coarse != 0:
        for b in range(rows.blocks):
            coarse = scale_at(rows.coarse_kind, rows.coarse, row * rows.coarse_row + b // rows.coarse_ratio)
            poke_f32(scales + 4 * b, peek_f32(scales + 4 * b) * coarse)
    if rows.zero != 0:
        decode_scales(rows.zero_kind, rows.zero, row * rows.zero_row, rows.blocks, zeros)


@helper
def group_scales(rows, first, n, scales, zeros):
    """Fill n rows of `scales` and `zeros` with those of each 16 dimensions of n rows.

    What is behind the last group stays as it was. A row of `scales` has room for the blocks.
    """
    per_block, groups = rows.block // 16, (rows.dim + 15) // 16
    for j in range(n):
        scale, zero = np.intp(scales.ctypes.data) + 4 * j * scales.shape[1], np.intp(zeros.ctypes.data)
        zero += 4 * j * zeros.shape[1]
        block_scales(rows, first + j, scale, zero)
        if per_block > 1:  # backwards, in place: a block's groups begin no earlier than its own number
            for b in range(rows.blocks - 1, -1, -1):
                block_scale, block_zero = peek_f32(scale + 4 * b), peek_f32(zero + 4 * b)
                for group in range(b * per_block, min((b + 1) * per_block, groups)):
                    poke_f32(scale + 4 * group, block_scale)
                    if rows.zero != 0:
                        poke_f32(zero + 4 * group, block_zero)
