"""Integer products with few queries: rows are read once and summed as they lie, without unpacking them for a tile."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import quantize
from qindex_kernels.cpu.addresses import RowAddresses, block_scales, has_blocks, row_address
from qindex_kernels.cpu.inner import call
from qindex_kernels.cpu.simd import (
    add_i32,
    add_product,
    load_f32,
    load_i32,
    peek_f32,
    scaled,
    splat_i32,
    store_f32,
    transpose,
    zero_f32,
)
from qindex_kernels.cpu.sources import helper, kernel

PLAIN_ROWS = 64  # rows that stay in the L1 cache while a few queries pass over them
BLOCK_ROWS = 16  # rows with block scales: the lanes of their sums


class GemvScratch(NamedTuple):
    """Room for the integer sums of BLOCK_ROWS rows, or PLAIN_ROWS, and for block scales."""

    raw: NDArray[np.int32]  # (parts, BLOCK_ROWS), or PLAIN_ROWS in one row
    scales: NDArray[np.float32]  # (2, BLOCK_ROWS * blocks): those of rows, then turned to those of blocks
    zeros: NDArray[np.float32]
    sums: NDArray[np.float32]  # (BLOCK_ROWS,)


def gemv_scratch(rows: RowAddresses) -> GemvScratch:
    blocks = -(-rows.blocks // 16) * 16
    return GemvScratch(
        raw=np.zeros((max(-(-rows.dim // 256) * 16, rows.blocks, 4), BLOCK_ROWS), np.int32),
        scales=np.zeros((2, BLOCK_ROWS * blocks), np.float32),
        zeros=np.zeros((2, BLOCK_ROWS * blocks), np.float32),
        sums=np.zeros(BLOCK_ROWS, np.float32),
    )


@kernel
def integer_gemv(inner, rows, x, scratch, out):
    """As `matmul.integer_product`, to the bit."""
    quantize(x, rows, inner.step)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        if has_blocks(rows):
            for first in range(start, stop, BLOCK_ROWS):
                if first + BLOCK_ROWS <= stop:
                    gemv_blocks(inner, rows, first, BLOCK_ROWS, x, scratch, out)
                else:
                    for row in range(first, stop):
                        gemv_blocks(inner, rows, row, 1, x, scratch, out)
        else:
            for first in range(start, stop, PLAIN_ROWS):
                gemv_plain(inner, rows, first, min(PLAIN_ROWS, stop - first), x, scratch.raw, out)


@helper
def gemv_plain(inner, rows, first, n, x, raw, out):
    table, at, here = rows.table + first * rows.table_row, row_address(rows, first), np.intp(raw.ctypes.data)
    unit = np.float32(rows.integer_unit)
    for i in range(len(x.codes)):
        query, step = np.intp(x.codes[i].ctypes.data), x.steps[i, 0]
        call(inner.dots, (query, at, rows.row_bytes, rows.dim, n, table, rows.table_row, here))
        shift = inner.bias * np.int64(x.totals[0, i])
        for j in range(n):
            out[i, first + j] = np.float32(raw[j // BLOCK_ROWS, j % BLOCK_ROWS] - shift) * unit * step
        finish(rows, first, n, out[i])


@helper
def gemv_blocks(inner, rows, first, n, x, scratch, out):
    """BLOCK_ROWS rows, or one."""
    parts = 1 if rows.block % 64 == 0 else rows.block // 16  # of a block
    blocks = scratch.scales.shape[1] // BLOCK_ROWS
    for j in range(n):
        own = 4 * blocks * j
        block_scales(
            rows, first + j, np.intp(scratch.scales.ctypes.data) + own, np.intp(scratch.zeros.ctypes.data) + own
        )
    scales, zeros = np.intp(scratch.scales[1].ctypes.data), np.intp(scratch.zeros[1].ctypes.data)
    for b in range(0, rows.blocks, 16):
        transpose(np.intp(scratch.scales.ctypes.data) + 4 * b, 4 * blocks, scales + 64 * b)
        if rows.zero != 0:
            transpose(np.intp(scratch.zeros.ctypes.data) + 4 * b, 4 * blocks, zeros + 64 * b)
    row_bytes, table_row = (rows.row_bytes, rows.table_row) if n > 1 else (0, 0)
    table, at, raw = rows.table + first * rows.table_row, row_address(rows, first), np.intp(scratch.raw.ctypes.data)
    unit = np.float32(rows.integer_unit)
    for i in range(len(x.codes)):
        query = np.intp(x.codes[i].ctypes.data)
        for j in range(0, n, 4):
            call(
                inner.block_sums,
                (
                    query, at + j * row_bytes, row_bytes, rows.dim, table + j * table_row, table_row, rows.table_block,
                    rows.block, raw + 4 * j,
                ),
            )  # fmt: skip
        total = zero_f32()
        for b in range(rows.blocks):
            dots = splat_i32(np.int32(-inner.bias * x.totals[b, i]))
            for part in range(b * parts, min((b + 1) * parts, len(scratch.raw))):
                dots = add_i32(dots, load_i32(raw + 64 * part))
            step = x.steps[i, b] if x.per_block != 0 else np.float32(1)
            total = add_product(total, dots, scaled(load_f32(scales + 64 * b), unit), step)
            if rows.zero != 0:
                total = add_product(total, splat_i32(x.totals[b, i]), load_f32(zeros + 64 * b), step)
        store_f32(np.intp(scratch.sums.ctypes.data), total)
        for j in range(n):
            out[i, first + j] = scratch.sums[j] if x.per_block != 0 else scratch.sums[j] * x.steps[i, 0]
        finish(rows, first, n, out[i])


@helper
def finish(rows, first, n, out):
    """The scales and the biases of n rows."""
    if rows.scale != 0:
        for row in range(first, first + n):
            out[row] *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        for row in range(first, first + n):
            out[row] += peek_f32(rows.bias + 4 * row)
