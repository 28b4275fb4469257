"""Products of many tokens with coded rows whose integers meet those of the tokens: the linear layer of a batch.

Here rows, the output channels, are the lanes: 16 of them are unpacked and interleaved by 4 bytes into a panel, some
panels a group, and 4 bytes of a token are broadcast to meet 64 bytes of a panel. So results lie as they are stored,
scales of rows are vectors, and what is laid out anew is the rows, once for all tokens.
"""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses, block_scales, read_rows, row_address
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import Queries, order, read_queries, take_all
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    as_f32,
    load_f32,
    load_i32,
    peek_f32,
    poke_f32,
    prefetch,
    scaled,
    splat_i32,
    store_f32,
    store_first,
    store_i32,
    times_i32,
    transpose,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.tile import block_tile, channel_tile

TOKENS = 6  # of a tile
PANELS = 4  # 24 sums in registers, and four for the panels
BLOCK_PANELS = 2  # of rows with blocks: 12 integer sums, and 12 of blocks
PANEL_BYTES = 1 << 19  # of panels that tokens pass over while the L2 cache holds them
TOKENS_AT_ONCE = 8 * TOKENS  # pass over one group after the other, so that their results are written side by side


class Channels(Record):
    """Room for some groups of rows as the lanes of a tile."""

    _fields_ = (
        ("groups", INTEGER),
        ("group", INTEGER),  # rows in one
        ("panel_bytes", INTEGER),  # of a group
        ("panels", INTEGER),  # unsigned bytes: (groups, quads of dimensions, group, 4)
        ("block_bytes", INTEGER),  # of the scales of a group
        ("scales", INTEGER),  # float32 (groups, blocks, group), times the unit of the integers
        ("zeros", INTEGER),
        ("row_scales", INTEGER),  # float32 (groups, group)
        ("biases", INTEGER),
        ("stride", INTEGER),  # bytes of an unpacked row: no power of two
        ("unpacked", INTEGER),  # 16 rows
        ("scale_stride", INTEGER),
        ("unpacked_scales", INTEGER),
        ("unpacked_zeros", INTEGER),
        ("starts", INTEGER),  # int32, as the totals of queries: what BIAS adds too much to integer sums, negative
        ("totals", INTEGER),  # the totals of queries in float32, where there are zeros
        ("results", INTEGER),  # float32 (TOKENS, group)
    )


read_channels = reader(Channels)


def channels_for(rows: RowAddresses, queries: Queries) -> Channels:
    group = 16 * (BLOCK_PANELS if rows.has_blocks else PANELS)
    panel_bytes, block_bytes = group * queries.width, 4 * group * queries.lanes
    groups = max(1, min(PANEL_BYTES // panel_bytes, -(-rows.n // group)))
    stride, scale_stride = queries.width + LINE, 4 * queries.lanes + LINE
    room = Room(
        groups * panel_bytes, groups * block_bytes, groups * block_bytes if rows.zero else 0, 4 * group * groups,
        4 * group * groups, 16 * stride, 16 * scale_stride, 16 * scale_stride, 4 * queries.lanes * queries.m,
        4 * queries.lanes * queries.m if rows.zero else 0, 4 * TOKENS * group,
        blank=True,
    )  # fmt: skip
    panels, scales, zeros, row_scales, biases, unpacked, *unpacked_levels, starts, totals, results = room.pieces
    channels = Channels(
        groups=groups, group=group, panel_bytes=panel_bytes, panels=panels, block_bytes=block_bytes, scales=scales,
        zeros=zeros, row_scales=row_scales, biases=biases, stride=stride, unpacked=unpacked, scale_stride=scale_stride,
        unpacked_scales=unpacked_levels[0], unpacked_zeros=unpacked_levels[1], starts=starts, totals=totals,
        results=results,
    )  # fmt: skip
    channels.room = room
    return channels


@kernel
def integer_product(inner_at, rows_at, queries_at, channels_at, x, out):
    """Of at least TOKENS queries. As `gemv.integer_gemv`, to the bit."""
    inner, rows, queries = read_inner(inner_at), read_rows(rows_at), read_queries(queries_at)
    channels = read_channels(channels_at)
    take_all(queries, rows, True, x)
    order(queries)
    take_totals(inner, rows, queries, channels)
    out_at, group = np.intp(out.ctypes.data), channels.group
    for first in range(0, rows.n, group * channels.groups):
        groups = min(channels.groups, (rows.n - first + group - 1) // group)
        for g in range(groups):
            unpack_channels(inner, rows, queries, channels, g, first + group * g)
        for start in range(0, queries.m, TOKENS_AT_ONCE):
            for g in range(groups):
                for i in range(start, min(start + TOKENS_AT_ONCE, queries.m), TOKENS):
                    # The last tile takes some tokens again.
                    multiply(rows, queries, channels, g, first + group * g, min(i, queries.m - TOKENS), out_at)


@helper
def take_totals(inner, rows, queries, channels):
    for at in range(0, 4 * queries.lanes * queries.m, LINE):
        totals = load_i32(queries.totals + at)
        store_i32(channels.starts + at, times_i32(totals, splat_i32(np.int32(-inner.bias))))
        if rows.zero != 0:
            store_f32(channels.totals + at, as_f32(totals))


@inlined
def unpack_channels(inner, rows, queries, channels, g, first):
    """The rows from `first` on as group g; past the end the last row again."""
    unit, block = np.float32(rows.integer_unit), channels.block_bytes * g
    across = 4 * channels.group
    lanes = across * g
    for p in range(channels.group // 16):
        for j in range(16):
            row = min(first + 16 * p + j, rows.n - 1)
            table, out = rows.table + row * rows.table_row, channels.unpacked + j * channels.stride
            call(inner.unpack, (row_address(rows, row), rows.dim, table, rows.table_block, rows.block, out))
            lane, scale, bias = lanes + 4 * (16 * p + j), np.float32(1), np.float32(-0.0)  # which change nothing
            if rows.scale != 0:
                scale = peek_f32(rows.scale + 4 * row)
            if rows.bias != 0:
                bias = peek_f32(rows.bias + 4 * row)
            poke_f32(channels.row_scales + lane, scale)
            poke_f32(channels.biases + lane, bias)
        panel = channels.panels + channels.panel_bytes * g + LINE * p
        for d in range(0, queries.width, 64):
            transpose(channels.unpacked + d, channels.stride, panel + channels.group * d, across)
        if rows.has_blocks != 0:
            unpack_scales(rows, channels, first + 16 * p, block + LINE * p)
    if rows.has_blocks != 0:
        for at in range(channels.scales + block, channels.scales + block + across * rows.blocks, LINE):
            store_f32(at, scaled(load_f32(at), unit))


@helper
def unpack_scales(rows, channels, first, block):
    """The scales and the zeros of the blocks of 16 rows, `block` bytes on."""
    stride, across = channels.scale_stride, 4 * channels.group
    for j in range(16):
        row = min(first + j, rows.n - 1)
        block_scales(rows, row, channels.unpacked_scales + j * stride, channels.unpacked_zeros + j * stride)
    for b in range(0, rows.blocks, 16):
        at = block + across * b
        transpose(channels.unpacked_scales + 4 * b, stride, channels.scales + at, across)
        if rows.zero != 0:
            transpose(channels.unpacked_zeros + 4 * b, stride, channels.zeros + at, across)


@inlined
def multiply(rows, queries, channels, g, first, i, out):
    """The products of the tokens from i on with group g, the rows from `first` on, which has the results."""
    n, across, out_stride = min(channels.group, rows.n - first), 4 * channels.group, 4 * rows.n
    out += i * out_stride + 4 * first
    for t in range(TOKENS):
        for lane in range(0, across, LINE):
            prefetch(out + t * out_stride + lane)
    if n == channels.group:
        multiply_group(rows, queries, channels, g, i, out, out_stride)
        return
    multiply_group(rows, queries, channels, g, i, channels.results, across)
    for t in range(TOKENS):
        for lane in range(0, 4 * n, LINE):
            store_first(out + t * out_stride + lane, load_f32(channels.results + across * t + lane), n - lane // 4)


@helper
def multiply_group(rows, queries, channels, g, i, out, out_stride):
    """The same of all rows of a group."""
    own = 4 * queries.lanes
    lanes, tokens = 4 * channels.group * g, queries.codes + queries.width * i
    panels, steps, starts = (
        channels.panels + channels.panel_bytes * g,
        queries.steps + own * i,
        channels.starts + own * i,
    )
    row_scales, biases = channels.row_scales + lanes, channels.biases + lanes
    if rows.has_blocks == 0:
        channel_tile(
            TOKENS, PANELS, tokens, queries.width, panels, queries.width // 4, starts, own,
            np.float32(rows.integer_unit), steps, row_scales, biases, out, out_stride,
        )  # fmt: skip
        return
    totals, block = channels.totals + own * i, channels.block_bytes * g
    quads, last_quads = rows.block // 4, (queries.width - (rows.blocks - 1) * rows.block) // 4
    scales, zeros = channels.scales + block, channels.zeros + block
    if rows.zero != 0 and queries.per_block != 0:
        block_tile(
            TOKENS, BLOCK_PANELS, 1, 1, tokens, queries.width, panels, rows.blocks, quads, last_quads, starts, totals,
            own, scales, zeros, steps, row_scales, biases, out, out_stride,
        )  # fmt: skip
    elif rows.zero != 0:
        block_tile(
            TOKENS, BLOCK_PANELS, 1, 0, tokens, queries.width, panels, rows.blocks, quads, last_quads, starts, totals,
            own, scales, zeros, steps, row_scales, biases, out, out_stride,
        )  # fmt: skip
    elif queries.per_block != 0:
        block_tile(
            TOKENS, BLOCK_PANELS, 0, 1, tokens, queries.width, panels, rows.blocks, quads, last_quads, starts, totals,
            own, scales, zeros, steps, row_scales, biases, out, out_stride,
        )  # fmt: skip
    else:
        block_tile(
            TOKENS, BLOCK_PANELS, 0, 0, tokens, queries.width, panels, rows.blocks, quads, last_quads, starts, totals,
            own, scales, zeros, steps, row_scales, biases, out, out_stride,
        )  # fmt: skip
