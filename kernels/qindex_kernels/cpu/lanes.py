"""Batches of queries against one-hot rows: 32 queries side by side, so that a code is looked up for all of them."""

import numpy as np

from qindex_kernels.cpu.addresses import RowAddresses
from qindex_kernels.cpu.inner import call
from qindex_kernels.cpu.lookups import LANES, interleave
from qindex_kernels.cpu.product import Group
from qindex_kernels.cpu.queries import Panels, Queries, read_panels, read_queries
from qindex_kernels.cpu.record import Room
from qindex_kernels.cpu.simd import as_f32, load_f32, load_i32, peek_f32, poke_f32, scaled, store_f32, times
from qindex_kernels.cpu.sources import helper, kernel

GROUP_ROWS = 256  # their sums take 32 KiB


def lane_panels(queries: Queries) -> Panels:
    """Room for the codes of up to 32 queries as [number][query], and their steps: two panels side by side."""
    room = Room(LANES * queries.width, 4 * LANES)
    panels = Panels(n=2, stride=0, codes=room.pieces[0], steps=room.pieces[1])
    panels.room = room
    return panels


def lane_group(rows: RowAddresses) -> Group:
    """Room for the sums of rows with the lanes."""
    n = min(GROUP_ROWS, -(-rows.n // 4) * 4)
    room = Room(n * 4 * LANES)
    group = Group(n=n, sum_stride=4 * LANES, sums=room.pieces[0])
    group.room = room
    return group


@kernel
def fill_lanes(panels_at, queries_at):
    """Interleave the codes of up to 32 queries."""
    panels, queries = read_panels(panels_at), read_queries(queries_at)
    # There is room for 16 queries, or 32; lanes without a query may hold anything.
    upper = 16 * queries.width if queries.m > 16 else 0
    for d in range(0, queries.width, 16):
        interleave(queries.codes + d, queries.width, upper, panels.codes + LANES * d)
    for i in range(queries.m):
        poke_f32(panels.steps + 4 * i, peek_f32(queries.steps + 4 * queries.lanes * i))


@helper
def add_lanes(inner, rows, panels, first, group):
    """The sums of the rows from `first` on with all lanes, under the steps of queries and the scales of rows."""
    n = min(group.n, rows.n - first)
    call(inner.lane_sums, (panels.codes, rows.data + first * rows.row_bytes, rows.row_bytes, n, group.sums))
    for j in range(n):
        scale = peek_f32(rows.scale + 4 * (first + j)) if rows.scale != 0 else np.float32(1)
        for lane in range(0, 4 * LANES, 64):
            at = group.sums + j * group.sum_stride + lane
            store_f32(at, scaled(times(as_f32(load_i32(at)), load_f32(panels.steps + lane)), scale))
