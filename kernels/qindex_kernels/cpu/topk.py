"""The k best rows for each query, exact, in one pass over the codes.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], numbers[j]>      in float64, rounded to float32 once

A fast pass over a block of rows (int8 query, or float32 sums) gives scores that are wrong by at most a margin; rows
that it does not rule out are scored exactly (candidates.py). Few queries pass over rows as they lie; from
BATCH_QUERIES on, rows are unpacked for a tile, and meet all queries before the next are read.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import (
    RowAddresses,
    address,
    addressed,
    block_scales,
    fine_address,
    functions_for,
    kind_of,
    read_rows,
    row_address,
    zero_address,
)
from qindex_kernels.cpu.candidates import begin, finish, offer, read_search, search_for
from qindex_kernels.cpu.exact import decoding, scratch_bytes
from qindex_kernels.cpu.inner import INTEGER_KINDS, BlockRows, call, read_block_rows, read_inner
from qindex_kernels.cpu.lanes import add_lanes, fill_lanes, lane_group, lane_panels
from qindex_kernels.cpu.lookups import LANES
from qindex_kernels.cpu.product import (
    add_float_panels,
    add_panels,
    decode_group,
    group_for,
    read_group,
    tile_shape,
    unpack_group,
)
from qindex_kernels.cpu.queries import (
    Queries,
    bits_stride,
    contiguous,
    fill_float_panels,
    fill_panels,
    order,
    order_masked,
    pack_signs,
    panels_for,
    prepare,
    queries_for,
    read_panels,
    read_queries,
    shift_of,
)
from qindex_kernels.cpu.record import Room
from qindex_kernels.cpu.simd import (
    add_i32,
    as_f32,
    at_least,
    first_lanes,
    load_f32,
    load_first,
    load_i32,
    lowest_bit,
    peek_f32,
    peek_i8,
    peek_i32,
    peek_u8,
    poke_f32,
    poke_i32,
    reaching,
    scaled,
    shifted,
    splat_i32,
    store_f32,
    store_i32,
    sum_f32,
    times,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.unpack import SCALE_FLOAT32, scales16
from qindex_kernels.layout import Rows

BATCH_QUERIES = 8  # from so many on, unpacking rows for a tile pays

BLOCK_BYTES = 1 << 15  # of codes: L1 keeps them beside the query and the scores


@kernel
def scan(inner_at, rows_at, queries_at, search_at, blocks_at, room, block):
    """`room` has what `scan_room` says, for blocks of `block` rows."""
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    queries, search = read_queries(queries_at), read_search(search_at)
    by_bits = ready(inner, rows, queries, room, block)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, block):
            n = min(block, stop - first)
            if rows.has_blocks != 0 and rows.one_block == 0:
                place_blocks(
                    rows, first, n, blocks_at, place_of_sums(queries, room, block) + 4 * queries.m * queries.lanes
                )
            for i in range(queries.m):
                scan_block(inner, rows, queries, search, i, first, n, blocks_at, room, block, by_bits)


@helper
def ready(inner, rows, queries, room, block):
    """Bring queries into the order in which rows are read; whether they are signs, which lie in `room` then."""
    by_bits = inner.hamming != 0 and pack_signs(queries, room + 4 * block)
    order(queries)
    order_masked(queries, inner)
    if rows.has_blocks != 0 and rows.one_block == 0:
        fill_starts(inner, rows, queries, room + 4 * block, place_of_sums(queries, room, block))
    return by_bits


@inlined
def place_of_sums(queries, room, block):
    """Where `fill_starts` has the sums of queries; the starts are before, and block scales behind them."""
    return room + 4 * block + 4 * queries.m * queries.width


@helper
def scan_block(inner, rows, queries, search, i, first, n, blocks_at, room, block, by_bits):
    """Offer query i those of n rows from `first` on that its fast pass does not rule out."""
    query = queries.codes + queries.width * i
    if inner.integers == 0:
        query = queries.values + 4 * queries.width * i
    if rows.has_blocks != 0 and rows.one_block == 0:
        blocks = read_block_rows(blocks_at)
        blocks.query, blocks.out = query, room
        blocks.starts = room + 4 * block + 4 * queries.width * i
        blocks.sums = place_of_sums(queries, room, block) + 4 * queries.lanes * i
        call(inner.block_dots if inner.integers != 0 else inner.float_block_dots, (blocks_at,))
    elif by_bits:
        bits, stride, at = room + 4 * block, bits_stride(queries.dim), row_address(rows, first)
        mask, last = bits + queries.m * stride, at + (n - 1) * rows.row_bytes
        call(inner.hamming, (bits + i * stride, mask, at, rows.row_bytes, n, last, room))
    else:
        function = inner.dots if inner.integers != 0 else inner.float_dots
        tables, at = rows.table + first * rows.table_row, row_address(rows, first)
        call(function, (query, at, rows.row_bytes, rows.dim, n, tables, rows.table_row, room))
        if rows.next != 0:
            add_parts(rows, query, first, n, room, room + 4 * (block + 16))
    complete(inner, rows, queries, by_bits, i, first, n, room, np.float32(search.base))
    look(inner, rows, queries, search, i, first, n, room)


@helper
def add_parts(rows, query, first, n, raw, scratch):
    """Add the integer sums of the parts behind the first."""
    following = rows.next
    while following != 0:
        part = read_rows(following)
        function, at = read_inner(part.scanning).dots, row_address(part, first)
        call(function, (query + part.start, at, part.row_bytes, part.dim, n, part.table, 0, scratch))
        for j in range(0, 4 * n, 64):
            store_i32(raw + j, add_i32(load_i32(raw + j), load_i32(scratch + j)))
        following = part.next


def scan_room(rows: RowAddresses, m: int, width: int, lanes: int, block: int) -> int:
    """Bytes of scratch: dot products of a block, starts and sums of queries, and float32 scales of a block."""
    scales = 2 * 4 * block * lanes if rows.coarse else 0
    parts = 4 * (block + 16) if rows.next else 0
    return 4 * (block + 16) + 4 * m * width + 4 * m * lanes + scales + parts


@helper
def fill_starts(inner, rows, queries, starts, sums):
    """What `BlockRows` wants of queries beside their numbers."""
    step, width = queries.step_length, queries.width
    for i in range(queries.m):
        if inner.integers != 0:
            for at in range(0, width, step):
                total = starts + 4 * width * i + at // step * 64
                for lane in range(16):
                    poke_i32(total + 4 * lane, np.int32(0))
                for d in range(at, at + step):
                    lane = total + d % 64 // 4 * 4
                    poke_i32(lane, peek_i32(lane) - inner.bias * np.int32(peek_i8(queries.codes + width * i + d)))
        unit = np.float32(rows.unit if inner.integers == 0 else rows.integer_unit)
        for b in range(rows.blocks):
            at = 4 * (queries.lanes * i + b)
            total = np.float32(0)
            if inner.integers != 0:
                total += peek_i32(queries.totals + at)
            else:
                for d in range(b * rows.block, min((b + 1) * rows.block, rows.dim)):
                    total += peek_f32(queries.values + 4 * (width * i + d))
            poke_f32(sums + at, total / unit)


@helper
def place_blocks(rows, first, n, blocks_at, scratch):
    """Say where a block of rows lies, with its scales; those of two levels are multiplied into `scratch`."""
    blocks = read_block_rows(blocks_at)
    blocks.n = n
    blocks.rows = row_address(rows, first)
    blocks.table = rows.table + first * rows.table_row
    if rows.fine != 0:
        blocks.scale = fine_address(rows, first)
    if rows.zero != 0:
        blocks.zero = zero_address(rows, first)
    if rows.coarse != 0 and rows.common == 0:
        for j in range(n):
            block_scales(rows, first + j, scratch + j * blocks.scale_row, scratch + (n + j) * blocks.scale_row)
        blocks.scale = scratch


@helper
def complete(inner, rows, queries, by_bits, i, first, n, raw, base):
    """Fast scores from the sums at `raw`, in their place: sum * step * unit * scale + bias + base; -inf behind them."""
    factor, shift = np.float32(rows.unit), np.int32(0)
    if inner.integers != 0:
        factor = np.float32(rows.integer_unit) * peek_f32(queries.steps + 4 * queries.lanes * i)
        shift = shift_of(inner, rows, queries, i, 0, True)
    if by_bits:  # <signs, signs> = dim - 2 * differing bits
        factor, shift = np.float32(-127) * factor, np.int32(-queries.dim)
    if rows.common != 0:
        factor *= np.float32(rows.common)
    integers = inner.integers != 0 and (rows.has_blocks == 0 or rows.one_block != 0)
    fine = fine_address(rows, first)
    scale, bias = rows.scale + 4 * first, rows.bias + 4 * first
    for j in range(0, n, 16):
        at, left = 4 * j, n - j
        sums = as_f32(add_i32(load_i32(raw + at), splat_i32(shift))) if integers else load_f32(raw + at)
        scores = scaled(sums, factor)
        if rows.one_block != 0:
            scores = times(scores, first_lanes(scales16(rows.fine_kind, fine + j * rows.fine_row), left))
        if rows.scale != 0:
            scores = times(scores, load_first(scale + at, left))
        if rows.bias != 0:
            scores = sum_f32(scores, load_first(bias + at, left))
        store_f32(raw + at, shifted(scores, base))
    for j in range(n, (n + 15) // 16 * 16):
        poke_f32(raw + 4 * j, np.float32(-np.inf))


@helper
def look(inner, rows, queries, search, i, first, n, fast):
    """Offer the rows of a block whose fast scores are not below what is needed."""
    for group in range(0, n, 16):
        found = at_least(fast + 4 * group, peek_f32(search.needed + 4 * i))
        while found != 0:
            j = group + lowest_bit(found)
            found &= found - 1
            score = peek_f32(fast + 4 * j)
            if score < peek_f32(search.needed + 4 * i) or j >= n:
                continue
            if search.allow == 0 or peek_u8(search.allow + first + j) != 0:
                offer(inner, rows, queries, search, i, first + j, score)


@kernel
def scan_batch(inner_at, rows_at, queries_at, search_at, panels_at, group_at):
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    queries, search = read_queries(queries_at), read_search(search_at)
    panels, group = read_panels(panels_at), read_group(group_at)
    for first in range(0, rows.n, group.n):
        meet(inner, rows, queries, search, panels, group, first, rows.n)


@helper
def meet(inner, rows, queries, search, panels, group, first, stop):
    """Offer the lanes of panels those of a group of rows, from `first` up to `stop`, that they do not rule out."""
    if rows.one_hot != 0:
        add_lanes(inner, rows, panels, first, group)
    elif inner.integers != 0:
        unpack_group(inner, rows, first, group)
    else:
        decode_group(inner, rows, first, group)
    p = 0
    while p < panels.n:
        if rows.one_hot != 0:
            pass  # there are no other panels
        elif inner.integers != 0:
            add_panels(rows, panels, p, group, 0, first + group.n)
        else:
            add_float_panels(panels, p, group)
        width = tile_shape(panels.n - p)[1]
        for j in range(min(group.n, stop - first)):
            row = first + j
            if search.allow != 0 and peek_u8(search.allow + row) == 0:
                continue
            bias = peek_f32(rows.bias + 4 * row) if rows.bias != 0 else np.float32(0)
            for panel in range(width):
                lane, fast = 16 * (p + panel), group.sums + j * group.sum_stride + 64 * panel
                look_at_lanes(inner, rows, queries, search, panels, lane, row, fast, bias)
        p += width


@helper
def look_at_lanes(inner, rows, queries, search, panels, first, row, fast, bias):
    """Offer a row to those of the 16 lanes from `first` on whose fast scores are not below what is needed."""
    needed = (search.needed if panels.members == 0 else panels.needed) + 4 * first
    found = reaching(fast, bias, needed)
    while found != 0:
        lane = lowest_bit(found)
        found &= found - 1
        score = peek_f32(fast + 4 * lane) + bias
        if panels.members == 0:
            offer(inner, rows, queries, search, first + lane, row, score)
        else:
            i, base = (
                np.intp(peek_i32(panels.members + 4 * (first + lane))),
                peek_f32(panels.bases + 4 * (first + lane)),
            )
            search.base = base
            offer(inner, rows, queries, search, i, row, score + base)
            poke_f32(needed + 4 * lane, peek_f32(search.needed + 4 * i) - base)


def topk(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `reference.topk`, to the bit."""
    m, found = len(values), addressed(rows)
    if found.one_hot and m > LANES:  # their tables fill the L2 cache
        starts = range(0, m, LANES)
        parts = [topk(rows, values[i : i + LANES], offset[i : i + LANES], ids, allow, k, max_norm) for i in starts]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])
    values, offset = contiguous(values), contiguous(offset)
    scores, kept = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
    spare: list[Scan] = []
    if m < BATCH_QUERIES and k <= KEPT_K:
        if len(found.spare) > KEPT_SCANS:
            found.spare.clear()
        spare = found.spare.setdefault((m, k), [])
    # A list is safe between threads; two that search at once find two scans in it, or make them.
    room = spare.pop() if spare else Scan(rows, m, k, m >= BATCH_QUERIES)
    room.run(values, offset, (address(ids), address(allow)), max_norm, scores, kept)
    spare.append(room)
    return kept, scores


# Rooms for scans that rows keep from call to call: making one takes as long as scanning a thousand rows.
KEPT_SCANS, KEPT_K = 16, 1000


class Scan:
    """What `m` queries for `k` rows need beside their numbers. It does not keep the rows alive."""

    def __init__(self, rows: Rows, m: int, k: int, many: bool) -> None:
        found = addressed(rows)
        self.integers, self.many = kind_of(rows) in INTEGER_KINDS, many
        by_blocks = found.has_blocks and not found.one_block
        signs = rows.kind == "sign" and not by_blocks and not rows.more
        dots = f"{'' if self.integers else 'float_'}{'block_' if by_blocks else ''}dots"
        names = ("unpack" if self.integers else "decode",) if self.many else (*("hamming",) * signs, dots)
        if found.one_hot and self.many:
            names = ("lane_sums",)
        self.functions = functions_for(rows, *names, *decoding(found), scanning=not self.many and not by_blocks)
        # A row scale times the smallest level is at most the norm of a row, unless block scales or float32 make that
        # tiny: then the largest scale is known.
        self.scale_of_norm = 0.0 if rows.block or rows.kind == "float32" else 2.0**36
        self.largest_scale, self.largest_bias = found.largest_scale, found.largest_bias
        self.queries = queries_for(found, m, self.functions.step)
        self.search = search_for(
            m, k, found.n, scratch_bytes(found), signs=signs, one_hot=found.one_hot, integers=self.integers
        )
        self.known = self.functions.address, found.address, self.queries.address, self.search.address
        self.one_hot = found.one_hot
        if self.many and self.one_hot:
            self.panels, self.group = lane_panels(self.queries), lane_group(found)
        elif self.many:
            number_bytes = 1 if self.integers else 4
            self.panels = panels_for(self.queries, number_bytes)
            self.group = group_for(found, self.queries, self.panels.n, 4, number_bytes)
        else:
            row_bytes, grain = sum(part.row_bytes for part in (found, *found.more)), 64 if self.one_hot else 16
            self.block = max(grain, BLOCK_BYTES // row_bytes // grain * grain)
            self.blocks = block_rows(found, self.queries)
            self.room = Room(scan_room(found, m, self.queries.width, self.queries.lanes, self.block))

    def run(
        self,
        values: NDArray[np.float32],
        offset: NDArray[np.float64],
        places: tuple[int, int],
        max_norm: float,
        scores: NDArray[np.float32],
        kept: NDArray[np.int64],
    ) -> None:
        """Fill `scores` and `kept`; `places` are the addresses of ids and of what is allowed."""
        self.begin(values, offset, places, max_norm, scores, kept)
        if not self.many:
            scan(*self.known, self.blocks.address, self.room.pieces[0], self.block)
        else:
            if self.one_hot:
                fill_lanes(self.panels.address, self.queries.address)
            elif self.integers:
                fill_panels(self.panels.address, self.queries.address, self.functions.address)
            else:
                fill_float_panels(self.panels.address, self.queries.address)
            scan_batch(*self.known, self.panels.address, self.group.address)
        finish(*self.known)

    def begin(
        self,
        values: NDArray[np.float32],
        offset: NDArray[np.float64],
        places: tuple[int, int],
        max_norm: float,
        scores: NDArray[np.float32],
        kept: NDArray[np.int64],
        largest_base: float = 0.0,
    ) -> None:
        """Take queries; no row has been looked at. No base of rows is larger than `largest_base`."""
        queries, search = self.queries, self.search
        search.ids, search.allow = places
        search.norm, search.scale = max_norm, max_norm * self.scale_of_norm or self.largest_scale
        search.bias, search.base = self.largest_bias + largest_base, 0.0
        prepare(queries.address, self.integers, values)
        begin(search.address, queries.address, offset, scores, kept)


def block_rows(rows: RowAddresses, queries: Queries) -> BlockRows:
    """What stays the same from block of rows to block of rows."""
    through_scratch = rows.coarse and not rows.common
    return BlockRows(
        places=rows.places,
        row_bytes=rows.row_bytes,
        dim=rows.dim,
        table_row=rows.table_row,
        table_block=rows.table_block,
        block=rows.block,
        blocks=rows.blocks,
        scale_kind=SCALE_FLOAT32 if through_scratch else rows.fine_kind,
        scale_bytes=4 if through_scratch else rows.fine_bytes,
        scale_row=4 * queries.lanes if through_scratch else rows.fine_row,
        zero_kind=rows.zero_kind,
        zero_bytes=rows.zero_bytes,
        zero_row=rows.zero_row,
    )
