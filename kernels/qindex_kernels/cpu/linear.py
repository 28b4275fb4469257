"""Products of many tokens with coded rows whose integers meet those of the tokens: the linear layer of a batch.

Here rows, the output channels, are the lanes: 16 of them are unpacked and interleaved by 4 bytes into a panel, four
panels a group, and 4 bytes of a token are broadcast to meet 64 bytes of a panel. So results lie as they are stored,
scales of rows are vectors, and what is laid out anew is the rows, once for all tokens.
"""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses, block_scales, read_rows, row_address
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import Queries, order, read_queries, take_all
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    load_f32,
    peek_f32,
    peek_i32,
    poke_f32,
    prefetch,
    scaled,
    splat_f32,
    store_f32,
    store_first,
    sum_f32,
    times,
    transpose,
    zero_f32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.tile import add_channel_tile, channel_tile

TOKENS = 6  # of a tile: with four panels, 24 sums in registers, and four for the panels
PANELS = 4
GROUP = 16 * PANELS  # rows
PANEL_BYTES = 1 << 19  # of panels that tokens pass over while the L2 cache holds them
TOKENS_AT_ONCE = 8 * TOKENS  # pass over one group after the other, so that their results are written side by side


class Channels(Record):
    """Room for some groups of rows as the lanes of a tile."""

    _fields_ = (
        ("groups", INTEGER),
        ("panel_bytes", INTEGER),  # of a group
        ("panels", INTEGER),  # unsigned bytes: (groups, quads of dimensions, GROUP, 4)
        ("block_bytes", INTEGER),  # of the scales of a group
        ("scales", INTEGER),  # float32 (groups, blocks, GROUP), times the unit of the integers
        ("zeros", INTEGER),
        ("row_scales", INTEGER),  # float32 (groups, GROUP)
        ("biases", INTEGER),
        ("stride", INTEGER),  # bytes of an unpacked row: no power of two
        ("unpacked", INTEGER),  # 16 rows
        ("scale_stride", INTEGER),
        ("unpacked_scales", INTEGER),
        ("unpacked_zeros", INTEGER),
        ("sums", INTEGER),  # float32 (TOKENS, GROUP)
        ("one", INTEGER),  # float32: the step of every block where steps are of whole tokens
    )


read_channels = reader(Channels)


def channels_for(rows: RowAddresses, queries: Queries) -> Channels:
    panel_bytes, block_bytes = GROUP * queries.width, 4 * GROUP * queries.lanes
    groups = max(1, min(PANEL_BYTES // panel_bytes, -(-rows.n // GROUP)))
    stride, scale_stride = queries.width + LINE, 4 * queries.lanes + LINE
    room = Room(
        groups * panel_bytes, groups * block_bytes, groups * block_bytes if rows.zero else 0, 4 * GROUP * groups,
        4 * GROUP * groups, 16 * stride, 16 * scale_stride, 16 * scale_stride, 4 * TOKENS * GROUP, 4,
        blank=True,
    )  # fmt: skip
    panels, scales, zeros, row_scales, biases, unpacked, unpacked_scales, unpacked_zeros, sums, one = room.pieces
    channels = Channels(
        groups=groups, panel_bytes=panel_bytes, panels=panels, block_bytes=block_bytes, scales=scales, zeros=zeros,
        row_scales=row_scales, biases=biases, stride=stride, unpacked=unpacked, scale_stride=scale_stride,
        unpacked_scales=unpacked_scales, unpacked_zeros=unpacked_zeros, sums=sums, one=one,
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
    poke_f32(channels.one, np.float32(1))
    out_at = np.intp(out.ctypes.data)
    for first in range(0, rows.n, GROUP * channels.groups):
        groups = min(channels.groups, (rows.n - first + GROUP - 1) // GROUP)
        for g in range(groups):
            unpack_channels(inner, rows, queries, channels, g, first + GROUP * g)
        for start in range(0, queries.m, TOKENS_AT_ONCE):
            for g in range(groups):
                for i in range(start, min(start + TOKENS_AT_ONCE, queries.m), TOKENS):
                    # The last tile takes some tokens again.
                    multiply(inner, rows, queries, channels, g, first + GROUP * g, min(i, queries.m - TOKENS), out_at)


@inlined
def unpack_channels(inner, rows, queries, channels, g, first):
    """The rows from `first` on as group g; past the end the last row again."""
    unit, lanes, block = np.float32(rows.integer_unit), 4 * GROUP * g, channels.block_bytes * g
    for p in range(PANELS):
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
            transpose(channels.unpacked + d, channels.stride, panel + GROUP * d, 4 * GROUP)
        if rows.has_blocks != 0:
            unpack_scales(rows, channels, first + 16 * p, block + LINE * p)
    if rows.has_blocks != 0:
        for at in range(channels.scales + block, channels.scales + block + 4 * GROUP * rows.blocks, LINE):
            store_f32(at, scaled(load_f32(at), unit))


@helper
def unpack_scales(rows, channels, first, block):
    """The scales and the zeros of the blocks of 16 rows, `block` bytes on."""
    stride = channels.scale_stride
    for j in range(16):
        row = min(first + j, rows.n - 1)
        block_scales(rows, row, channels.unpacked_scales + j * stride, channels.unpacked_zeros + j * stride)
    for b in range(0, rows.blocks, 16):
        at = block + 4 * GROUP * b
        transpose(channels.unpacked_scales + 4 * b, stride, channels.scales + at, 4 * GROUP)
        if rows.zero != 0:
            transpose(channels.unpacked_zeros + 4 * b, stride, channels.zeros + at, 4 * GROUP)


@inlined
def multiply(inner, rows, queries, channels, g, first, i, out):
    """The products of the tokens from i on with group g, the rows from `first` on, which has the results."""
    own, lanes, out_stride = 4 * queries.lanes, 4 * GROUP * g, 4 * rows.n
    out += i * out_stride + 4 * first
    for t in range(TOKENS):
        for lane in range(0, 4 * GROUP, LINE):
            prefetch(out + t * out_stride + lane)
    if rows.has_blocks != 0:
        multiply_blocks(inner, rows, queries, channels, g, i)
    else:
        whole = first + GROUP <= rows.n
        panels = channels.panels + channels.panel_bytes * g
        channel_tile(
            TOKENS, PANELS, queries.codes + queries.width * i, queries.width, panels, queries.width // 4,
            queries.totals + own * i, own, -inner.bias, np.float32(rows.integer_unit),
            queries.steps + own * i, own, channels.row_scales + lanes, channels.biases + lanes,
            out if whole else channels.sums, out_stride if whole else 4 * GROUP,
        )  # fmt: skip
        if whole:
            return
    n = min(GROUP, rows.n - first)
    for t in range(TOKENS):
        step = np.float32(1)
        if queries.per_block == 0:
            step = peek_f32(queries.steps + own * (i + t))
        for lane in range(0, 4 * n, LINE):
            total = load_f32(channels.sums + 4 * GROUP * t + lane)
            if rows.has_blocks != 0:
                total = times(scaled(total, step), load_f32(channels.row_scales + lanes + lane))
                total = sum_f32(total, load_f32(channels.biases + lanes + lane))
            if n == GROUP:
                store_f32(out + t * out_stride + lane, total)
            else:
                store_first(out + t * out_stride + lane, total, n - lane // 4)


@inlined
def multiply_blocks(inner, rows, queries, channels, g, i):
    """Leaves in `sums` the sums over the blocks."""
    for at in range(channels.sums, channels.sums + 4 * TOKENS * GROUP, LINE):
        store_f32(at, zero_f32())
    own, width = 4 * queries.lanes, queries.width
    tokens, panels = queries.codes + width * i, channels.panels + channels.panel_bytes * g
    totals, steps, step_stride, step_bytes = queries.totals + own * i, channels.one, 0, 0
    scales, zeros = channels.scales + channels.block_bytes * g, channels.zeros + channels.block_bytes * g
    if queries.per_block != 0:
        steps, step_stride, step_bytes = queries.steps + own * i, own, 4
    for b in range(rows.blocks):
        start = b * rows.block
        stop = start + rows.block if b + 1 < rows.blocks else width
        add_channel_tile(
            TOKENS, PANELS, tokens + start, width, panels + GROUP * start, (stop - start) // 4, totals + 4 * b, own,
            -inner.bias, scales + 4 * GROUP * b, steps + step_bytes * b, step_stride, channels.sums,
        )  # fmt: skip
        if rows.zero != 0:
            add_zeros(zeros + 4 * GROUP * b, totals + 4 * b, own, steps + step_bytes * b, step_stride, channels.sums)


@helper
def add_zeros(zeros, totals, own, steps, step_stride, sums):
    """The part of the zeros of a block."""
    for t in range(TOKENS):
        total = splat_f32(np.float32(peek_i32(totals + own * t)))
        step = splat_f32(peek_f32(steps + step_stride * t))
        for lane in range(0, 4 * GROUP, LINE):
            at = sums + 4 * GROUP * t + lane
            store_f32(at, sum_f32(load_f32(at), times(times(total, load_f32(zeros + lane)), step)))
