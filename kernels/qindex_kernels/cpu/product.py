"""Sums of all queries with a group of coded rows, on the integer tile: what products and batches of searches share."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import LINE, aligned
from qindex_kernels.cpu.addresses import RowAddresses, block_scales, row_address
from qindex_kernels.cpu.inner import call
from qindex_kernels.cpu.sources import helper
from qindex_kernels.cpu.tile import add_integer_tile

GROUP = 24  # rows unpacked at once: whole tiles of 6, 8 and 12


class Group(NamedTuple):
    """Room for a group of rows."""

    unpacked: NDArray[np.uint8]  # GROUP rows of width + LINE bytes: no power of two, as that of panels
    scales: NDArray[np.float32]  # (GROUP, blocks), times the unit of the integers
    zeros: NDArray[np.float32]  # (GROUP, blocks)
    sums: NDArray[np.float32]  # (GROUP, queries, in whole panels)


def group_of_rows(rows: RowAddresses, width: int, n_panels: int) -> Group:
    return Group(
        unpacked=aligned(GROUP * (width + LINE)),
        scales=np.zeros((GROUP, rows.blocks), np.float32),
        zeros=np.zeros((GROUP, rows.blocks), np.float32),
        sums=np.zeros((GROUP, 16 * n_panels), np.float32),
    )


@helper
def add_products(inner, rows, first, x, panels, group):
    """group.sums[j, i] = the product of row `first + j` and query i; past the end, the last row comes again.

    Integer sums within a block are exact; blocks are added in order, each operation rounded to float32. Without steps
    of their own for blocks, the products are still to be multiplied with the query's step.
    """
    width = x.codes.shape[1]
    stride = width + LINE
    unpacked = np.intp(group.unpacked.ctypes.data)
    for j in range(GROUP):
        row = min(first + j, rows.n - 1)
        table = rows.table + row * rows.table_row
        out = unpacked + j * stride
        call(inner.unpack, (row_address(rows, row), rows.dim, table, rows.table_block, rows.block, out))
        block_scales(rows, row, group.scales[j], group.zeros[j])
        for b in range(rows.blocks):
            group.scales[j, b] *= np.float32(rows.integer_unit)
        for i in range(group.sums.shape[1]):
            group.sums[j, i] = 0
    following, per_block = rows.data + (first + GROUP) * rows.row_bytes, GROUP * rows.row_bytes // rows.blocks
    for b in range(rows.blocks):
        at = b * rows.block
        length = rows.block if b + 1 < rows.blocks else width - at
        add_block(unpacked, stride, panels, b, at, length // 4, group, following + b * per_block, per_block)
        if rows.zero != 0:
            for j in range(GROUP):
                for i in range(len(x.codes)):
                    group.sums[j, i] += np.float32(x.totals[b, i]) * group.zeros[j, b] * panels.steps[b, i]


@helper
def add_block(unpacked, stride, panels, b, at, quads, group, ahead, ahead_bytes):
    """Block b of the dimensions, from `at` on, of a group of rows against all panels.

    Meanwhile `ahead_bytes` from `ahead` on, what the next group will read, are asked for.
    """
    lanes, scale_stride = 64 * panels.n, 4 * group.scales.shape[1]
    row, scale = unpacked + at, np.intp(group.scales.ctypes.data) + 4 * b
    p = 0
    while p < panels.n:
        panel = np.intp(panels.codes.ctypes.data) + p * panels.stride + at * 16
        start = np.intp(panels.starts.ctypes.data) + lanes * b + 64 * p
        step = np.intp(panels.steps.ctypes.data) + lanes * b + 64 * p
        out = np.intp(group.sums.ctypes.data) + 64 * p
        if panels.n - p >= 4:
            asked = ahead_bytes * 6 // GROUP * 2 // quads
            for j in range(0, GROUP, 6):
                add_integer_tile(
                    6, 4, row + j * stride, stride, panel, panels.stride, quads, start, scale + j * scale_stride,
                    scale_stride, step, out + j * lanes, lanes, ahead + ahead_bytes * j // GROUP, asked,
                )  # fmt: skip
            p += 4
        elif panels.n - p >= 2:
            asked = ahead_bytes * 8 // GROUP * 2 // quads
            for j in range(0, GROUP, 8):
                add_integer_tile(
                    8, 2, row + j * stride, stride, panel, panels.stride, quads, start, scale + j * scale_stride,
                    scale_stride, step, out + j * lanes, lanes, ahead + ahead_bytes * j // GROUP, asked,
                )  # fmt: skip
            p += 2
        else:
            asked = ahead_bytes * 12 // GROUP * 2 // quads
            for j in range(0, GROUP, 12):
                add_integer_tile(
                    12, 1, row + j * stride, stride, panel, panels.stride, quads, start, scale + j * scale_stride,
                    scale_stride, step, out + j * lanes, lanes, ahead + ahead_bytes * j // GROUP, asked,
                )  # fmt: skip
            p += 1
        ahead_bytes = 0  # all is asked for
