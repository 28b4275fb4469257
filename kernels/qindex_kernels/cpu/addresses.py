"""Rows as the compiled kernels take them: addresses and strides, with room to read whole registers."""

import ctypes
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.inner import DECODING, INTEGER_KINDS, Inner, equip, inner, of_kind
from qindex_kernels.cpu.record import INTEGER, REAL, Record, reader
from qindex_kernels.cpu.simd import first_lane, load_f32, peek_f32, poke_f32, scaled, splat_f32, store_f32
from qindex_kernels.cpu.sources import helper, inlined
from qindex_kernels.cpu.unpack import (
    BIAS,
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
    MASKED1,
    MASKED2,
    MASKED4,
    NF4,
    ONE_HOT4,
    ONE_HOT8,
    PLANES,
    SCALE_E4M3,
    SCALE_E8M0,
    SCALE_FLOAT16,
    SCALE_FLOAT32,
    SPAN,
    SPLIT2,
    SPLIT4,
    STEP,
    UNIT,
    scales16,
)
from qindex_kernels.layout import Part, Rows

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
    "onehot4": Storage(ONE_HOT4),
    "onehot8": Storage(ONE_HOT8),
}

LEVELS = ("fine", "coarse", "zero")

_TABLES = {name: np.array(storage.table or [0], np.int8) for name, storage in FORMATS.items()}


class RowAddresses(Record):
    """Coded rows and what goes with them; an address of 0 stands for none.

    Rows in several parts have a record for each. What goes with the rows is in the first.

    Reads of whole registers would leave arrays at their ends, so the rows from `tail_start` on are read from copies
    with room behind them. A tail address is where row 0 would lie if all rows lay where their copies do.
    """

    _fields_ = (
        ("n", INTEGER),
        ("dim", INTEGER),  # of this part
        ("row_bytes", INTEGER),
        ("one_hot", INTEGER),  # bits of a code that makes one of 2 ** bits numbers 1; 0 in other formats
        ("data", INTEGER),
        ("data_tail", INTEGER),
        ("tail_start", INTEGER),
        ("unit", REAL),  # decode16 times this gives levels
        ("integer_unit", REAL),  # and integers times this; 1 where query_unit is another
        ("query_unit", REAL),  # of several parts: what a query is multiplied with instead, before it is rounded
        ("start", INTEGER),  # where the numbers of this part begin in a query: each part takes whole steps
        ("width", INTEGER),  # of a query, in the first record; in others that of their part
        ("extent", INTEGER),  # of a decoded row: dim, or up to the end of the last part
        ("functions", INTEGER),  # the inner.Inner of a part behind the first
        ("scanning", INTEGER),  # and another, for scans
        ("next", INTEGER),  # the part that follows
        ("scale", INTEGER),  # float32
        ("bias", INTEGER),  # float32
        ("table", INTEGER),
        ("table_row", INTEGER),  # bytes from the tables of one row to those of the next; 0 where rows share them
        ("table_block", INTEGER),  # and from block to block
        ("block", INTEGER),  # dimensions under one scale; all where there are no blocks
        ("blocks", INTEGER),
        ("has_blocks", INTEGER),
        ("one_block", INTEGER),  # whether a block is a whole row, so that its scale is a factor of the row's sum
        ("places", INTEGER),  # as inner.BlockRows has them
        # The two levels of the scale tree and the zeros: kind as in unpack.scales16, bytes of a number and of a row.
        *((f"{level}{part}", INTEGER) for level in LEVELS for part in ("", "_tail", "_kind", "_bytes", "_row")),
        ("coarse_ratio", INTEGER),  # blocks under one number of the coarse level
        # The one number of the coarse level, where all rows share it and have no zeros: a fast pass may take the sums
        # of all blocks times this. Else 0.
        ("common", REAL),
        ("largest_bias", REAL),  # magnitudes
        ("largest_scale", REAL),
    )


read_rows = reader(RowAddresses)

LEVEL_READ = 16  # block scales and zeros are read so many at a time


def address(array: NDArray[np.generic] | None) -> int:
    if array is None:
        return 0
    if array.flags.writeable and array.flags.c_contiguous and array.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # faster than `array.ctypes`
    return int(array.ctypes.data)


_known: WeakKeyDictionary[Rows, RowAddresses] = WeakKeyDictionary()


def addressed(rows: Rows) -> RowAddresses:
    """The addresses of rows, with the padded copies of the last ones; kept as long as the rows are."""
    found = _known.get(rows)
    if found is None:
        # Of two threads that come first, both get the one that is kept: rooms hold its address alone.
        found = _known.setdefault(rows, _addressed(rows))
    return found


def _addressed(rows: Rows) -> RowAddresses:
    n = len(rows.data)
    block = rows.block or rows.dim
    table = _TABLES[rows.kind] if rows.tables is None else rows.tables
    entries, own_table, many_tables = table.shape[-1], table.ndim == 3, table.ndim > 1 and table.shape[-2] > 1
    levels = dict(zip(LEVELS, (*(*rows.levels, None, None)[:2], rows.zero), strict=True))
    over = {name: LEVEL_READ * level.data.itemsize for name, level in levels.items() if level is not None}
    kinds = [kind_of(rows), *(FORMATS[part.kind].kind for part in rows.more)]
    over_data = [overread(kind, part.dim) for kind, part in zip(kinds, rows.parts, strict=True)]
    per_row = [(behind, part.data.shape[1]) for behind, part in zip(over_data, rows.parts, strict=True)]
    per_row += [(over[name], levels[name].data[0].nbytes) for name in over if levels[name].data.ndim == 2]
    tail_start = max(0, n - max(-(-behind // own) for behind, own in per_row))
    copies = [_padded(part.data[tail_start:], behind) for part, behind in zip(rows.parts, over_data, strict=True)]
    places = _places(kinds[0], rows.dim, block)
    found = RowAddresses(
        **_where(rows.parts[0], kinds[0], copies[0], tail_start),
        scale=address(rows.scale),
        bias=address(rows.bias),
        table=address(table),
        table_row=entries * table.shape[1] if own_table else 0,
        table_block=entries if many_tables else 0,
        block=block,
        blocks=-(-rows.dim // block),
        has_blocks=bool(rows.block) or many_tables,
        one_block=bool(rows.levels)
        and block >= rows.dim
        and rows.zero is None
        and not many_tables
        and rows.levels[0].data.ndim == 2
        and (len(rows.levels) == 1 or _common(rows) != 0),
        places=address(places),
        common=_common(rows),
        largest_bias=_largest(rows.bias, 0.0),
        largest_scale=_largest(rows.scale, 1.0),
        coarse_ratio=max(1, rows.levels[1].size // block) if len(rows.levels) > 1 else 1,
    )
    found.more = []  # the records of other parts
    for part, kind, copy in zip(rows.more, kinds[1:], copies[1:], strict=True):
        record = RowAddresses(**_where(part, kind, copy, tail_start), table=address(_TABLES[part.kind]))
        _append(found, record, part.kind)
    if rows.more:  # integers of all parts add up once their units are in the query
        for one in (found, *found.more):
            one.query_unit, one.integer_unit = one.integer_unit, 1.0
    for name in over:
        data = levels[name].data
        own = data.ndim == 2
        copies.append(_padded(data[tail_start:] if own else data, over[name]))
        row = data.shape[1] * data.itemsize if own else 0
        setattr(found, name, address(data if own else copies[-1]))
        setattr(found, f"{name}_tail", address(copies[-1]) - tail_start * row)
        setattr(found, f"{name}_kind", SCALE_KINDS[levels[name].kind])
        setattr(found, f"{name}_bytes", data.itemsize)
        setattr(found, f"{name}_row", row)
    # What topk keeps from call to call, topk_symmetric, and products with few queries.
    found.spare, found.spare_coded, found.spare_few = {}, {}, {}
    keep = [part.data for part in rows.parts] + [level.data for level in rows.levels]
    found.keep = (*keep, rows.scale, rows.bias, table, places, copies)
    return found


def _where(part: Part, kind: int, tail: NDArray[np.uint8], tail_start: int) -> dict[str, Any]:
    """What the record of a part says of it alone."""
    n, row_bytes = part.data.shape
    storage = FORMATS[part.kind]
    return {
        "n": n,
        "dim": part.dim,
        "row_bytes": row_bytes,
        "one_hot": SPAN[kind].bit_length() - 1 if kind in SPAN else 0,
        "data": address(part.data),
        "data_tail": address(tail) - tail_start * row_bytes,
        "tail_start": tail_start,
        "unit": storage.unit * UNIT.get(kind, 1.0),
        "integer_unit": storage.unit * INTEGER_UNIT.get(kind, 1.0),
        "query_unit": 1.0,
        "width": -(-part.dim // STEP[kind]) * STEP[kind],
        "extent": part.dim,
    }


def _append(rows: RowAddresses, part: RowAddresses, kind: str) -> None:
    """Let a part follow the last."""
    natural = FORMATS[kind].kind
    part.inner, part.scan = of_kind(natural), of_kind(_SCANNED.get(kind, natural))
    part.functions, part.scanning, part.start = part.inner.address, part.scan.address, rows.width
    rows.extent = rows.width + part.dim
    rows.width += part.width
    (rows, *rows.more)[-1].next = part.address
    rows.more.append(part)


def _common(rows: Rows) -> float:
    if len(rows.levels) < 2 or rows.zero is not None:
        return 0.0
    coarse = rows.levels[1]
    return float(coarse.data[0]) if coarse.data.shape == (1,) and coarse.kind == "float32" else 0.0


def _largest(array: NDArray[np.float32] | None, of_none: float) -> float:
    return of_none if array is None or not len(array) else max(float(array.max()), -float(array.min()))


def _places(kind: int, dim: int, block: int) -> NDArray[np.int32]:
    """The block of each of 16 lanes: of the 4 dimensions of a lane at each step, or of each 16 dimensions."""
    if kind in INTEGER_KINDS:
        step = STEP[kind]
        return ((np.arange(0, dim, step)[:, None] + 4 * np.arange(16)) // block).astype(np.int32)
    return np.repeat(np.arange(0, dim, 16) // block, 16).astype(np.int32)


def _padded(array: NDArray[Any], n_bytes: int) -> NDArray[np.uint8]:
    """A copy with `n_bytes` zeros behind it."""
    copy = np.zeros(array.nbytes + n_bytes, np.uint8)
    copy[: array.nbytes] = array.reshape(-1).view(np.uint8)
    return copy


def overread(kind: int, dim: int) -> int:
    """Bytes behind a row that kernels may read: they take STEP dimensions of each plane, or whole registers of bits."""
    bits = dim * {BITS1: 1, BITS2: 2}.get(kind, 0)  # in whole registers
    end, start, span = -(-bits // 512) * 64, 0, SPAN.get(kind, 1)
    for width in PLANES[kind]:
        end = max(end, start + -(-dim // STEP[kind]) * STEP[kind] // span * width // 8)
        start += (dim // span * width + 7) // 8
    return end - start


# Formats whose integers need no table: kinds that are read in split order, where no step holds more than one scale.
_SPLIT = {"int2": SPLIT2, "int4": SPLIT4}


def kind_of(rows: Rows) -> int:
    """How a kernel reads these rows."""
    split = None if rows.more else _SPLIT.get(rows.kind)
    return FORMATS[rows.kind].kind if split is None or rows.block % STEP[split] else split


# How products with few queries read the same formats, in blocks that hold no whole step of the split kinds.
_MASKED = {"int2": MASKED2, "int4": MASKED4}


def functions_for_few(rows: Rows) -> Inner:
    """The functions for products with few queries."""
    kind, masked = kind_of(rows), _MASKED.get(rows.kind)
    if masked is None or kind in (SPLIT2, SPLIT4) or not rows.block or rows.block % STEP[masked]:
        return inner(kind, "block_sums" if addressed(rows).has_blocks else "dots")
    found = of_kind(masked)
    equip(found, ["block_sums"])
    found.bias = BIAS[SPLIT4 if masked == MASKED4 else SPLIT2]  # of integers, and not of half-integers
    return found


# How a scan reads signs and half-integers, unless they have several blocks.
_SCANNED = {"sign": MASKED1, "half2": MASKED2, "half4": MASKED4}


def functions_for(rows: Rows, *names: str, scanning: bool = False) -> Inner:
    """The functions for rows, and for their parts, by name. A scan may read codes otherwise than who decodes them."""
    for part in addressed(rows).more:
        equip(part.scan if scanning else part.inner, [name for name in names if name not in DECODING])
        equip(part.inner, [name for name in names if name in DECODING])
    kind = kind_of(rows)
    return inner(_SCANNED.get(rows.kind, kind) if scanning else kind, *names)


@inlined
def row_address(rows, row):
    return (rows.data if row < rows.tail_start else rows.data_tail) + row * rows.row_bytes


@inlined
def fine_address(rows, row):
    return (rows.fine if row < rows.tail_start else rows.fine_tail) + row * rows.fine_row


@inlined
def zero_address(rows, row):
    return (rows.zero if row < rows.tail_start else rows.zero_tail) + row * rows.zero_row


@inlined
def block_scales(rows, row, scales, zeros):
    """Write the scale and the zero of each block of a row to two addresses, with room for whole registers."""
    fine, zero = fine_address(rows, row), zero_address(rows, row)
    for b in range(0, rows.blocks, 16):
        found = splat_f32(np.float32(1))
        if rows.fine != 0:
            found = scales16(rows.fine_kind, fine + b * rows.fine_bytes)
        store_f32(scales + 4 * b, found)
        if rows.zero != 0:
            store_f32(zeros + 4 * b, scales16(rows.zero_kind, zero + b * rows.zero_bytes))
    if rows.coarse != 0:
        multiply_coarse(rows, row, scales)


@helper
def multiply_coarse(rows, row, scales):
    coarse = (rows.coarse if row < rows.tail_start else rows.coarse_tail) + row * rows.coarse_row
    for first in range(0, rows.blocks, rows.coarse_ratio):
        factor = first_lane(scales16(rows.coarse_kind, coarse + first // rows.coarse_ratio * rows.coarse_bytes))
        stop = min(first + rows.coarse_ratio, rows.blocks)
        whole = first + (stop - first) // 16 * 16
        for b in range(first, whole, 16):
            store_f32(scales + 4 * b, scaled(load_f32(scales + 4 * b), factor))
        for b in range(whole, stop):
            poke_f32(scales + 4 * b, peek_f32(scales + 4 * b) * factor)


@helper
def group_scales(rows, row, scales, zeros):
    """The same for each 16 dimensions of a row."""
    block_scales(rows, row, scales, zeros)
    per_block, groups = rows.block // 16, (rows.extent + 15) // 16
    if per_block > 1:  # backwards, in place: a block's groups begin no earlier than its own number
        for b in range(rows.blocks - 1, -1, -1):
            block_scale, block_zero = peek_f32(scales + 4 * b), peek_f32(zeros + 4 * b)
            for group in range(b * per_block, min((b + 1) * per_block, groups)):
                poke_f32(scales + 4 * group, block_scale)
                if rows.zero != 0:
                    poke_f32(zeros + 4 * group, block_zero)
