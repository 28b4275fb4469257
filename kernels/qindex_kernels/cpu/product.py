"""Sums of all queries with a group of coded rows, on the tiles: batches of searches."""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses, block_scales, read_rows, row_address
from qindex_kernels.cpu.exact import decode_row
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import Queries
from qindex_kernels.cpu.record import INTEGER, LINE, REAL, Record, Room, reader
from qindex_kernels.cpu.simd import load_f32, peek_f32, poke_f32, scaled, store_f32, store_i32, sum_f32, times, zero_i32
from qindex_kernels.cpu.sources import helper, inlined
from qindex_kernels.cpu.tile import add_float_tile, add_integer_tile

TILE_ROWS = 24  # whole tiles of 6, 8 and 12 rows
GROUP_BYTES = 1 << 15  # of unpacked rows: the more of them, the longer panels stay in the L1 cache
PANEL_BYTES = 1 << 14  # of panels that meet a group at a time: the L1 cache holds them beside the rows
FLOAT_DIMS = 64  # of four panels of numbers, which the L1 cache holds


class Group(Record):
    """Room for a group of rows."""

    _fields_ = (
        ("n", INTEGER),
        ("width", INTEGER),  # of queries: dimensions in whole steps
        ("stride", INTEGER),  # bytes of an unpacked row: no power of two, as that of panels
        ("unpacked", INTEGER),
        ("scale_stride", INTEGER),  # bytes of the scales, and of the zeros, of a row
        ("scales", INTEGER),  # float32, times the unit of the integers
        ("zeros", INTEGER),  # float32
        ("sum_stride", INTEGER),  # bytes of the sums of a row
        ("sums", INTEGER),  # float32 (n, lanes), or the lanes of one tile
        ("dots", INTEGER),  # int32, likewise: integer sums of a part of a block
        ("ahead", REAL),  # bytes of the rows of a tile for each dimension: the first panels ask for as many
        ("asked", INTEGER),  # in two steps of the tile
        ("decoded_scales", INTEGER),  # room for exact.decode_row
    )


read_group = reader(Group)


def group_for(rows: RowAddresses, queries: Queries, n_panels: int, n_sums: int, number_bytes: int = 1) -> Group:
    """Room for as many rows as GROUP_BYTES hold, and their sums with `n_sums` of the `n_panels` panels.

    Numbers take one byte as integers, or four.
    """
    stride = -(-queries.width * number_bytes // LINE) * LINE + LINE
    scale_stride, sum_stride = max(4 * queries.lanes, LINE), LINE * n_sums
    n = max(1, min(number_bytes * GROUP_BYTES // stride, rows.n) // TILE_ROWS) * TILE_ROWS
    room = Room(n * stride, n * scale_stride, n * scale_stride, n * sum_stride, 2 * stride, n * sum_stride)
    unpacked, scales, zeros, sums, decoded_scales, dots = room.pieces
    ahead = tile_shape.py_func(n_panels)[0] * rows.row_bytes / rows.dim
    group = Group(
        n=n, width=queries.width, stride=stride, unpacked=unpacked, scale_stride=scale_stride, scales=scales,
        zeros=zeros, sum_stride=sum_stride, sums=sums, dots=dots, ahead=ahead, asked=int(8 * ahead) + 1,
        decoded_scales=decoded_scales,
    )  # fmt: skip
    group.room = room
    return group


@helper
def unpack_group(inner, rows, first, group):
    """The rows from `first` on as bytes, with the block scales of their integers; past the end the last row again.

    Block scales and zeros come multiplied with the scales of rows.
    """
    unit = np.float32(rows.integer_unit)
    for j in range(group.n):
        row = min(first + j, rows.n - 1)
        table, out = rows.table + row * rows.table_row, group.unpacked + j * group.stride
        call(inner.unpack, (row_address(rows, row), rows.dim, table, rows.table_block, rows.block, out))
        if rows.next != 0:
            unpack_parts(rows, row, out)
        scales, zeros = group.scales + j * group.scale_stride, group.zeros + j * group.scale_stride
        block_scales(rows, row, scales, zeros)
        own = np.float32(1)
        if rows.scale != 0:
            own = peek_f32(rows.scale + 4 * row)
        for at in range(0, group.scale_stride, 64):
            store_f32(scales + at, scaled(scaled(load_f32(scales + at), unit), own))
            store_f32(zeros + at, scaled(load_f32(zeros + at), own))


@helper
def unpack_parts(rows, row, out):
    """The parts of a row behind the first."""
    following = rows.next
    while following != 0:
        part = read_rows(following)
        function, target = read_inner(part.functions).unpack, out + part.start
        call(function, (row_address(part, row), part.dim, part.table, 0, part.dim, target))
        following = part.next


@inlined
def tile_shape(panels_left):
    """Rows and panels of the tile that fits."""
    if panels_left >= 4:
        return 6, 4
    return (8, 2) if panels_left >= 2 else (12, 1)


@inlined
def add_tile(rows, panels, p, b, at, stop, end, group, j, offset, next_row):
    """Add dimensions `at` to `stop` of block b, which ends at `end`, for row j of the group, panel p, and those beside.

    Parts of a block meet in `group.dots`; its last part adds to `group.sums`; rows of both begin `offset` bytes on.
    The first panels ask for the rows from `next_row` on, as much as the tile reads itself.
    """
    lanes, n, quads = LINE * panels.n, tile_shape(panels.n - p)[1], (stop - at) // 4
    row = group.unpacked + j * group.stride + at
    scale, step = group.scales + j * group.scale_stride + 4 * b, panels.steps + lanes * b + LINE * p
    panel = panels.codes + p * panels.stride + at * 16
    dots = group.dots + j * group.sum_stride + offset
    start, start_stride = panels.starts + lanes * b + LINE * p, 0
    if at != b * rows.block:
        start, start_stride = dots, group.sum_stride
    last = 1 if stop == end else 0
    out, out_stride = (group.sums + j * group.sum_stride + offset if last != 0 else dots), group.sum_stride
    ahead = rows.data + next_row * rows.row_bytes + np.intp(at * group.ahead)
    asked = group.asked if p == 0 else 0
    if n == 4:
        add_integer_tile(
            6, 4, row, group.stride, panel, panels.stride, quads, start, start_stride, last, scale, group.scale_stride,
            step, out, out_stride, ahead, asked,
        )  # fmt: skip
    elif n == 2:
        add_integer_tile(
            8, 2, row, group.stride, panel, panels.stride, quads, start, start_stride, last, scale, group.scale_stride,
            step, out, out_stride, ahead, asked,
        )  # fmt: skip
    else:
        add_integer_tile(
            12, 1, row, group.stride, panel, panels.stride, quads, start, start_stride, last, scale,
            group.scale_stride, step, out, out_stride, ahead, asked,
        )  # fmt: skip


@helper
def add_panels(rows, panels, p, group, offset, next_row):
    """group.sums[j, i] = the product of row j of the group and query i, of the panels from p on that a tile takes.

    Integer sums within a block are exact; blocks are added in order, each operation rounded to float32. Dimensions come
    in the outer loop: their part of the panels stays in the L1 cache. Rows of sums begin `offset` bytes on. What lies
    from `next_row` on is asked for.
    """
    count, n = tile_shape(panels.n - p)
    clear(group, offset, n)
    at, most = 0, PANEL_BYTES // (16 * n)
    for b in range(rows.blocks):
        end = (b + 1) * rows.block if b + 1 < rows.blocks else group.width
        while at < end:
            stop = min(at + most, end)
            for j in range(0, group.n, count):
                add_tile(rows, panels, p, b, at, stop, end, group, j, offset, next_row + j)
            at = stop
        if rows.zero != 0:
            add_zeros(panels, p, b, group, group.sums + offset, n)


@helper
def add_zeros(panels, p, b, group, sums, n):
    """The part of the zeros of block b."""
    at = LINE * (panels.n * b + p)
    for j in range(group.n):
        zero = peek_f32(group.zeros + j * group.scale_stride + 4 * b)
        for lane in range(0, LINE * n, LINE):
            term = times(scaled(load_f32(panels.totals + at + lane), zero), load_f32(panels.steps + at + lane))
            total = sums + j * group.sum_stride + lane
            store_f32(total, sum_f32(load_f32(total), term))


@helper
def clear(group, offset, n):
    for j in range(group.n):
        for at in range(offset, offset + LINE * n, LINE):
            store_i32(group.sums + j * group.sum_stride + at, zero_i32())


@helper
def decode_group(inner, rows, first, group):
    """The rows from `first` on as float32 numbers, with the scales of rows; past the end the last row comes again."""
    for j in range(group.n):
        row = min(first + j, rows.n - 1)
        decode_row(inner, rows, row, group.unpacked + j * group.stride, group.decoded_scales)
        scale = np.float32(1)
        if rows.scale != 0:
            scale = peek_f32(rows.scale + 4 * row)
        poke_f32(group.scales + j * group.scale_stride, scale)


@helper
def add_float_panels(panels, p, group):
    """As `add_panels`, of numbers: each lane adds FLOAT_DIMS products in order, and then such sums."""
    count, n = tile_shape(panels.n - p)
    clear(group, 0, n)
    for d in range(0, group.width, FLOAT_DIMS):
        dims, panel = min(FLOAT_DIMS, group.width - d), panels.codes + p * panels.stride + 64 * d
        for j in range(0, group.n, count):
            row, scale = group.unpacked + j * group.stride + 4 * d, group.scales + j * group.scale_stride
            out = group.sums + j * group.sum_stride
            if count == 6:
                add_float_tile(
                    6, 4, row, group.stride, panel, panels.stride, dims, scale, group.scale_stride, out,
                    group.sum_stride,
                )  # fmt: skip
            elif count == 8:
                add_float_tile(
                    8, 2, row, group.stride, panel, panels.stride, dims, scale, group.scale_stride, out,
                    group.sum_stride,
                )  # fmt: skip
            else:
                add_float_tile(
                    12, 1, row, group.stride, panel, panels.stride, dims, scale, group.scale_stride, out,
                    group.sum_stride,
                )  # fmt: skip
