"""Sums of all queries with a group of coded rows, on the integer tile: what products and batches of searches share."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import LINE, aligned
from qindex_kernels.cpu.addresses import RowAddresses, block_scales, row_address
from qindex_kernels.cpu.inner import call
from qindex_kernels.cpu.sources import helper, inlined
from qindex_kernels.cpu.tile import add_integer_tile

TILE_ROWS = 24  # whole tiles of 6, 8 and 12 rows
GROUP_BYTES = 1 << 15  # of unpacked rows: the more of them, the longer panels stay in the L1 cache


class Group(NamedTuple):
    """Room for a group of rows."""

    unpacked: NDArray[np.uint8]  # rows of width + LINE bytes: no power of two, as that of panels
    scales: NDArray[np.float32]  # (rows, blocks), times the unit of the integers
    zeros: NDArray[np.float32]  # (rows, blocks)
    sums: NDArray[np.float32]  # (rows, queries, in whole panels); of a search, the queries of one tile


def group_of_rows(rows: RowAddresses, width: int, n_panels: int) -> Group:
    """Room for as many rows as GROUP_BYTES hold, and their sums with `n_panels` panels."""
    n = max(1, min(GROUP_BYTES // (width + LINE), rows.n) // TILE_ROWS) * TILE_ROWS
    return Group(
        unpacked=aligned(n * (width + LINE)),
        scales=np.zeros((n, rows.blocks), np.float32),
        zeros=np.zeros((n, rows.blocks), np.float32),
        sums=np.zeros((n, 16 * n_panels), np.float32),
    )


@helper
def unpack_group(inner, rows, first, group):
    """The rows from `first` on as bytes, with the block scales of their integers; past the end the last row again."""
    stride = len(group.unpacked) // len(group.scales)
    for j in range(len(group.scales)):
        row = min(first + j, rows.n - 1)
        table = rows.table + row * rows.table_row
        out = np.intp(group.unpacked.ctypes.data) + j * stride
        call(inner.unpack, (row_address(rows, row), rows.dim, table, rows.table_block, rows.block, out))
        own = 4 * rows.blocks * j
        block_scales(rows, row, np.intp(group.scales.ctypes.data) + own, np.intp(group.zeros.ctypes.data) + own)
        for b in range(rows.blocks):
            group.scales[j, b] *= np.float32(rows.integer_unit)


@inlined
def tile_shape(panels_left):
    """Rows and panels of the tile that fits."""
    if panels_left >= 4:
        return 6, 4
    return (8, 2) if panels_left >= 2 else (12, 1)


@inlined
def add_block(rows, panels, p, b, group, j, sums, sum_stride, ahead, asked):
    """Add block b of the dimensions of a tile, from row j of the group and panel p on, to `sums`.

    Meanwhile what the next group will read is asked for, from `ahead` on, `asked` bytes every second step.
    """
    width = (panels.stride - LINE) // 16
    at = b * rows.block
    quads = (rows.block if b + 1 < rows.blocks else width - at) // 4
    stride, scale_stride, lanes = width + LINE, 4 * rows.blocks, 64 * panels.n
    row = np.intp(group.unpacked.ctypes.data) + j * stride + at
    scale = np.intp(group.scales.ctypes.data) + j * scale_stride + 4 * b
    panel = np.intp(panels.codes.ctypes.data) + p * panels.stride + at * 16
    start = np.intp(panels.starts.ctypes.data) + lanes * b + 64 * p
    step = np.intp(panels.steps.ctypes.data) + lanes * b + 64 * p
    count, _ = tile_shape(panels.n - p)
    if count == 6:
        add_integer_tile(
            6, 4, row, stride, panel, panels.stride, quads, start, scale, scale_stride, step, sums, sum_stride, ahead,
            asked,
        )  # fmt: skip
    elif count == 8:
        add_integer_tile(
            8, 2, row, stride, panel, panels.stride, quads, start, scale, scale_stride, step, sums, sum_stride, ahead,
            asked,
        )  # fmt: skip
    else:
        add_integer_tile(
            12, 1, row, stride, panel, panels.stride, quads, start, scale, scale_stride, step, sums, sum_stride, ahead,
            asked,
        )  # fmt: skip


@helper
def add_products(inner, rows, first, x, panels, group):
    """group.sums[j, i] = the product of row `first + j` and query i.

    Integer sums within a block are exact; blocks are added in order, each operation rounded to float32. Without steps
    of their own for blocks, the products are still to be multiplied with the query's step. Blocks come in the outer
    loop: their part of the panels stays in the L1 cache.
    """
    unpack_group(inner, rows, first, group)
    n, lanes = group.sums.shape[0], 4 * group.sums.shape[1]
    for j in range(n):
        for i in range(group.sums.shape[1]):
            group.sums[j, i] = 0
    ahead = rows.data + (first + n) * rows.row_bytes
    for b in range(rows.blocks):
        p = 0
        while p < panels.n:
            count, width = tile_shape(panels.n - p)
            # The first panels ask for all: a tile for `per_tile` bytes.
            per_tile = count * rows.row_bytes // rows.blocks if p == 0 else 0
            asked = 8 * per_tile // min(rows.block, rows.dim) + (p == 0)
            for j in range(0, n, count):
                sums = np.intp(group.sums.ctypes.data) + j * lanes + 64 * p
                add_block(rows, panels, p, b, group, j, sums, lanes, ahead, asked)
                ahead += per_tile
            p += width
        if rows.zero != 0:
            for j in range(n):
                for i in range(len(x.codes)):
                    group.sums[j, i] += np.float32(x.totals[b, i]) * group.zeros[j, b] * panels.steps[b, i]
