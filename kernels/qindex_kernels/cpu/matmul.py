"""Matrix products with coded rows: a language model's linear layer, or many queries against all rows.

    matmul       x (m, dim) float32 times the decoded rows: sums in float32, 16 lanes, fused multiply-adds
    matmul_int8  x rounded to int8: exact integer sums within a block, blocks added in order in float32, as
                 `reference.matmul_int8` says; equal to it to the bit on every target

No result depends on the number of rows or queries in a call. Rows are unpacked into a scratch that stays in the cache,
a few at a time, while all queries pass over them; nothing is ever unpacked through memory.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import (
    FORMATS,
    addressed,
    block_scale,
    block_zero,
    group_scales,
    has_blocks,
    row_address,
)
from qindex_kernels.cpu.batch import SMALLEST_NORMAL
from qindex_kernels.cpu.exact import decode_row, decode_scratch
from qindex_kernels.cpu.inner import call, inner
from qindex_kernels.cpu.simd import peek_f32
from qindex_kernels.cpu.sources import SOURCES
from qindex_kernels.cpu.tile import add_integer_tile, float_tile
from qindex_kernels.layout import Rows

GROUP = 24  # rows unpacked at once: whole tiles of 6, 8 and 12
PLAIN_ROWS = 64  # rows that stay in the L1 cache while a few queries pass over them
GEMV_QUERIES = 4  # up to so many, unpacking rows for a tile does not pay
LINE = 64


@njit
def aligned(n_bytes):
    """A zeroed scratch that begins with a cache line.

    numba frees an array after its last use by name, whatever addresses of it are still in use: kernels pass scratch on
    as arrays, and take addresses where they call.
    """
    scratch = np.zeros(n_bytes + LINE, np.uint8)
    offset = -np.intp(scratch.ctypes.data) % LINE
    return scratch[offset : offset + n_bytes]


@njit
def quantized(x, size):
    """Rows of x as int8 codes and float32 steps, one for each `size` dimensions: `reference.quantize`."""
    m, dim = x.shape
    codes, steps = np.zeros((m, dim), np.int8), np.ones((m, (dim + size - 1) // size), np.float32)
    for i in range(m):
        for b in range(steps.shape[1]):
            stop = min((b + 1) * size, dim)
            largest = np.float32(0)
            for d in range(b * size, stop):
                largest = max(largest, abs(x[i, d]))
            step = largest / np.float32(127)
            if step < SMALLEST_NORMAL:
                step = np.float32(1)
            steps[i, b] = step
            for d in range(b * size, stop):
                codes[i, d] = np.int8(np.rint(x[i, d] / step))
    return codes, steps


@njit
def panels_of(codes, n_panels, panel_stride):
    """The codes of 16 queries, interleaved by 4 bytes: [panel][quad][query][4]."""
    m, dim = codes.shape
    panels = aligned(n_panels * panel_stride)
    for i in range(m):
        at = i // 16 * panel_stride + i % 16 * 4
        for d in range(dim):
            panels[at + d // 4 * 64 + d % 4] = np.uint8(codes[i, d])
    return panels


@njit
def block_sums(codes, n_panels, block, blocks):
    """The sum of each query's codes in each block: (blocks, 16 * n_panels) int32."""
    sums = np.zeros((blocks, 16 * n_panels), np.int32)
    for i in range(len(codes)):
        for d in range(codes.shape[1]):
            sums[d // block, i] += codes[i, d]
    return sums


@njit
def panels_for(m):
    """Panels of 16 that hold m queries, as tiles take them: fours, and at the end one, two or four."""
    panels = (m + 15) // 16
    return panels + (panels % 4 == 3)


@njit
def unpack_group(inner, rows, first, width, unpacked, scales, zeros):
    """GROUP rows as bytes, with the block scales of their integers; past the end the last row again."""
    for j in range(GROUP):
        row = min(first + j, rows.n - 1)
        table = rows.table + row * rows.table_row
        out = np.intp(unpacked.ctypes.data) + j * (width + LINE)
        call(inner.unpack, (row_address(rows, row), rows.dim, table, rows.table_block, rows.block, out))
        if has_blocks(rows):
            group_scales(rows, row, scales[j], zeros[j])
            scales[j] *= np.float32(rows.integer_unit)
        else:
            scales[j, 0] = np.float32(rows.integer_unit)


@njit
def add_tiles(
    unpacked, width, panels, panel_stride, n_panels, at, quads, starts, scales, steps, sums, ahead, ahead_bytes
):
    """One block of dimensions of a group of rows against all panels. `at` is its first dimension."""
    row_stride, sum_stride = width + LINE, 64 * n_panels
    scale_stride = 4 * scales.shape[1]
    scale = np.intp(scales.ctypes.data) + at // 16 * 4
    first_row, first_panel = np.intp(unpacked.ctypes.data) + at, np.intp(panels.ctypes.data) + at * 16
    first_sum = np.intp(sums.ctypes.data)
    first_start, first_step = np.intp(starts.ctypes.data), np.intp(steps.ctypes.data)
    p = 0
    while p < n_panels:
        panel = first_panel + p * panel_stride
        start, step, total = first_start + 64 * p, first_step + 64 * p, first_sum + 64 * p
        left = n_panels - p
        rows = 6 if left >= 4 else 8 if left >= 2 else 12
        asked = ahead_bytes * rows // GROUP // (quads // 2)
        for j in range(0, GROUP, rows):
            there = ahead + ahead_bytes * j // GROUP
            source, here, out = first_row + j * row_stride, scale + j * scale_stride, total + j * sum_stride
            if rows == 6:
                add_integer_tile(
                    6, 4, source, row_stride, panel, panel_stride, quads, start, here, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
            elif rows == 8:
                add_integer_tile(
                    8, 2, source, row_stride, panel, panel_stride, quads, start, here, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
            else:
                add_integer_tile(
                    12, 1, source, row_stride, panel, panel_stride, quads, start, here, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
        ahead_bytes = 0  # all is asked for
        p += 4 if rows == 6 else 2 if rows == 8 else 1


@njit(nogil=True, cache=True)
def integer_product(inner, rows, x, x_block, out, _sources):
    m, dim = x.shape
    width = (dim + 63) // 64 * 64
    codes, x_steps = quantized(x, rows.block if x_block else dim)
    n_panels = panels_for(m)
    panel_stride = 16 * width + LINE
    panels = panels_of(codes, n_panels, panel_stride)
    totals = block_sums(codes, n_panels, rows.block, rows.blocks)
    starts = (-inner.bias * totals).astype(np.int32)
    steps = np.ones((rows.blocks, 16 * n_panels), np.float32)
    if x_block:
        for b in range(rows.blocks):
            for i in range(m):
                steps[b, i] = x_steps[i, b]
    unpacked = aligned(GROUP * (width + LINE))
    groups = width // 16
    scales, zeros = np.zeros((GROUP, groups), np.float32), np.zeros((GROUP, groups), np.float32)
    sums = np.empty((GROUP, 16 * n_panels), np.float32)
    for first in range(0, rows.n, GROUP):
        unpack_group(inner, rows, first, width, unpacked, scales, zeros)
        sums[:] = 0
        following = rows.data + min(first + GROUP, rows.n - GROUP) * rows.row_bytes
        per_block = GROUP * rows.row_bytes // rows.blocks
        for b in range(rows.blocks):
            at = b * rows.block
            quads = (min(rows.block, dim - at) + 7) // 8 * 2
            add_tiles(
                unpacked, width, panels, panel_stride, n_panels, at, quads, starts[b], scales, steps[b], sums,
                following + b * per_block, per_block,
            )  # fmt: skip
            if rows.zero != 0:
                for j in range(GROUP):
                    zero = zeros[j, at // 16]
                    for i in range(m):
                        sums[j, i] += np.float32(totals[b, i]) * zero * steps[b, i]
        count = min(GROUP, rows.n - first)
        for j in range(count):
            if rows.scale != 0:
                scale = peek_f32(rows.scale + 4 * (first + j))
                for i in range(m):
                    sums[j, i] = sums[j, i] * x_steps[i, 0] * scale if not x_block else sums[j, i] * scale
            elif not x_block:
                for i in range(m):
                    sums[j, i] *= x_steps[i, 0]
            if rows.bias != 0:
                sums[j] += peek_f32(rows.bias + 4 * (first + j))
        for i in range(m):
            for j in range(count):
                out[i, first + j] = sums[j, i]


@njit(nogil=True, cache=True)
def float_product(inner, rows, x, out, _sources):
    m, dim = x.shape
    width = (dim + 63) // 64 * 64
    stride = 4 * width + LINE  # no power of two, so that rows do not compete for the same lines of the cache
    padded = np.zeros((m, stride // 4), np.float32)
    padded[:, :dim] = x
    decoded = aligned(4 * stride)
    scratch = decode_scratch(rows)
    sums = np.empty((4, m), np.float32)
    for first in range(0, rows.n, 4):
        for j in range(4):
            at = np.intp(decoded.ctypes.data) + j * stride
            decode_row(inner, rows, min(first + j, rows.n - 1), at, scratch)
        queries, here = np.intp(padded.ctypes.data), np.intp(sums.ctypes.data)
        source = np.intp(decoded.ctypes.data)
        for i in range(0, m - 3, 4):
            float_tile(4, 4, source, stride, queries + i * stride, stride, dim, here + 4 * i, 4 * m)
        for i in range(m // 4 * 4, m):
            float_tile(4, 1, source, stride, queries + i * stride, stride, dim, here + 4 * i, 4 * m)
        for j in range(min(4, rows.n - first)):
            finish_row(rows, first + j, sums[j])
            out[:, first + j] = sums[j]


@njit
def finish_row(rows, row, sums):
    """The scale and the bias of a row."""
    if rows.scale != 0:
        sums *= peek_f32(rows.scale + 4 * row)
    if rows.bias != 0:
        sums += peek_f32(rows.bias + 4 * row)


@njit(nogil=True, cache=True)
def integer_gemv(inner, rows, x, x_block, out, _sources):
    """The same as `integer_product` for few queries: rows are summed as they lie, four at a time."""
    m, dim = x.shape
    codes, x_steps = quantized(x, rows.block if x_block else dim)
    queries = np.zeros((m, (dim + 63) // 64 * 64), np.int8)
    queries[:, :dim] = codes
    totals = block_sums(codes, (m + 15) // 16, rows.block, rows.blocks)
    if not x_block:
        x_steps = np.repeat(x_steps, rows.blocks).reshape(m, rows.blocks)
    raw = np.zeros((rows.blocks * max(1, (rows.block + 15) // 16) + 4, 4), np.int32)
    scales, zeros = np.zeros((rows.blocks, 4), np.float32), np.zeros((rows.blocks, 4), np.float32)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        if has_blocks(rows):
            for first in range(start, stop, 4):
                if first + 4 <= stop:
                    gemv_blocks(inner, rows, first, 4, queries, totals, x_steps, x_block, raw, scales, zeros, out)
                else:
                    for row in range(first, stop):
                        gemv_blocks(inner, rows, row, 1, queries, totals, x_steps, x_block, raw, scales, zeros, out)
        else:
            for first in range(start, stop, PLAIN_ROWS):
                gemv_plain(inner, rows, first, min(PLAIN_ROWS, stop - first), queries, totals, x_steps, out)


@njit
def gemv_plain(inner, rows, first, n, queries, totals, x_steps, out):
    raw = np.empty(PLAIN_ROWS, np.int32)
    table, at = rows.table + first * rows.table_row, row_address(rows, first)
    for i in range(len(queries)):
        query, here = np.intp(queries[i].ctypes.data), np.intp(raw.ctypes.data)
        call(inner.dots, (query, at, rows.row_bytes, rows.dim, n, table, rows.table_row, here))
        shift = inner.bias * np.int64(totals[0, i])
        for j in range(n):
            out[i, first + j] = np.float32(raw[j] - shift) * np.float32(rows.integer_unit) * x_steps[i, 0]
        if rows.scale != 0:
            for j in range(n):
                out[i, first + j] *= peek_f32(rows.scale + 4 * (first + j))
        if rows.bias != 0:
            for j in range(n):
                out[i, first + j] += peek_f32(rows.bias + 4 * (first + j))


@njit
def gemv_blocks(inner, rows, first, n, queries, totals, x_steps, x_block, raw, scales, zeros, out):
    """Four rows, or one."""
    parts = 1 if rows.block % 64 == 0 else rows.block // 16  # of a block
    for j in range(n):
        for b in range(rows.blocks):
            scales[b, j] = block_scale(rows, first + j, b) * np.float32(rows.integer_unit)
            zeros[b, j] = block_zero(rows, first + j, b)
    row_bytes, table_row = (rows.row_bytes, rows.table_row) if n == 4 else (0, 0)
    table, at = rows.table + first * rows.table_row, row_address(rows, first)
    sums = np.empty(4, np.float32)
    for i in range(len(queries)):
        query, here = np.intp(queries[i].ctypes.data), np.intp(raw.ctypes.data)
        call(
            inner.block_sums,
            (query, at, row_bytes, rows.dim, table, table_row, rows.table_block, rows.block, here),
        )
        sums[:] = 0
        for b in range(rows.blocks):
            step = x_steps[i, b] if x_block else np.float32(1)
            for j in range(4):
                dot = -inner.bias * totals[b, i]
                for part in range(b * parts, (b + 1) * parts):
                    dot += raw[part, j]
                sums[j] += np.float32(dot) * scales[b, j] * step
            if rows.zero != 0:
                for j in range(4):
                    sums[j] += np.float32(totals[b, i]) * zeros[b, j] * step
        for j in range(n):
            total = sums[j] if x_block else sums[j] * x_steps[i, 0]
            if rows.scale != 0:
                total *= peek_f32(rows.scale + 4 * (first + j))
            if rows.bias != 0:
                total += peek_f32(rows.bias + 4 * (first + j))
            out[i, first + j] = total


def matmul(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (m, dim) times the decoded rows, plus their bias: (m, n).

    A sum of products is off by at most (dim / 16 + 6) * 2 ** -24 times the sum of their magnitudes; row scale and bias
    round once each. `reference.matmul` gives it without that error.
    """
    addresses, _tail = addressed(rows)
    out = np.empty((len(x), len(rows.data)), np.float32)
    x = np.require(x, requirements="W")
    float_product(inner(FORMATS[rows.kind].kind), addresses, x, out, SOURCES)
    return out


def matmul_int8(rows: Rows, x: NDArray[np.float32], x_block: int) -> NDArray[np.float32]:
    """As `reference.matmul_int8`, to the bit."""
    addresses, _tail = addressed(rows)
    out = np.empty((len(x), len(rows.data)), np.float32)
    x = np.require(x, requirements="W")
    product = integer_gemv if len(x) <= GEMV_QUERIES else integer_product
    product(inner(FORMATS[rows.kind].kind), addresses, x, x_block, out, SOURCES)
    return out
