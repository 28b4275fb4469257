"""Matrix products with coded rows: a language model's linear layer, or many queries against all rows.

    matmul       x (m, dim) float32 times the decoded rows: sums in float32, 16 lanes, fused multiply-adds
    matmul_int8  x rounded to int8: exact integer sums within a block, blocks added in order in float32, as
                 `reference.matmul_int8` says; equal to it to the bit on every target

No result depends on the number of rows or queries in a call. Rows are unpacked into a scratch that stays in the cache,
a few at a time, while all queries pass over them; nothing is ever unpacked through memory.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import (
    addressed,
    block_scales,
    has_blocks,
    kind_of,
    row_address,
    writable,
)
from qindex_kernels.cpu.batch import SMALLEST_NORMAL, split_order
from qindex_kernels.cpu.exact import decode_row, decode_scratch
from qindex_kernels.cpu.inner import call, inner
from qindex_kernels.cpu.simd import (
    add_i32,
    add_product,
    keep_alive,
    larger_size,
    largest_lane,
    load_f32,
    load_i32,
    peek_f32,
    peek_i32,
    poke_i32,
    scaled,
    splat_i32,
    store_f32,
    store_quotients,
    transpose,
    zero_f32,
)
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
def quantized(x, size, step_length):
    """Rows of x as int8 codes, padded with zeros to whole registers, and a float32 step for each `size` dimensions.

    As `reference.quantize`, but in the order of the kind. `size` is a multiple of 16, or all dimensions.
    """
    m, dim = x.shape
    width = (dim + step_length - 1) // step_length * step_length
    row, codes = np.zeros(width, np.float32), np.zeros((m, width), np.int8)
    steps = np.ones((m, (dim + size - 1) // size), np.float32)
    for i in range(m):
        row[:dim] = x[i]
        source, target = np.intp(row.ctypes.data), np.intp(codes[i].ctypes.data)
        for b in range(steps.shape[1]):
            start, stop = b * size, min((b + 1) * size, dim)
            largest = zero_f32()
            for d in range(start, stop, 16):
                largest = larger_size(largest, load_f32(source + 4 * d))
            step = largest_lane(largest) / np.float32(127)
            if step < SMALLEST_NORMAL:
                step = np.float32(1)
            steps[i, b] = step
            for d in range(start, stop, 16):
                store_quotients(target + d, load_f32(source + 4 * d), step)
    keep_alive(row)
    if step_length > 64:
        split_order(codes, step_length)
    return codes, steps


@njit
def panels_of(codes, n_panels, panel_stride):
    """The codes of 16 queries, interleaved by 4 bytes: [panel][quad][query][4]."""
    panels = aligned(n_panels * panel_stride)
    for i in range(len(codes)):
        source = np.intp(codes[i].ctypes.data)
        target = np.intp(panels.ctypes.data) + i // 16 * panel_stride + i % 16 * 4
        for quad in range(codes.shape[1] // 4):
            poke_i32(target + 64 * quad, peek_i32(source + 4 * quad))
    return panels


@njit
def block_totals(codes, n_panels, block, blocks):
    """The sum of the codes of each query in each block (the last takes what is left): (blocks, queries) int32."""
    totals = np.zeros((blocks, 16 * n_panels), np.int32)
    for i in range(len(codes)):
        for b in range(blocks):
            total = np.int32(0)
            stop = (b + 1) * block if b + 1 < blocks else codes.shape[1]
            for code in codes[i, b * block : stop]:
                total += np.int32(code)
            totals[b, i] = total
    return totals


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
        block_scales(rows, row, scales[j], zeros[j])
    scales *= np.float32(rows.integer_unit)


class Panels(NamedTuple):
    """What the rows are multiplied with, as addresses: int8 codes, and what goes with each of their blocks."""

    n: int  # of 16 queries
    codes: int
    stride: int
    starts: int  # int32: -BIAS times the sum of a query's codes in a block; blocks one behind the other
    steps: int  # float32


@njit
def add_block(unpacked, row_stride, panels, b, at, quads, scales, scale_stride, sums, ahead, ahead_bytes):
    """Block b of the dimensions, from `at` on, of a group of rows against all panels."""
    sum_stride = 64 * panels.n
    p = 0
    while p < panels.n:
        panel = panels.codes + p * panels.stride + at * 16
        start, step = panels.starts + sum_stride * b + 64 * p, panels.steps + sum_stride * b + 64 * p
        left = panels.n - p
        if left >= 4:
            asked = ahead_bytes * 6 // GROUP * 2 // quads
            for j in range(0, GROUP, 6):
                there = ahead + ahead_bytes * j // GROUP
                row, scale, out = unpacked + j * row_stride, scales + j * scale_stride, sums + j * sum_stride + 64 * p
                add_integer_tile(
                    6, 4, row, row_stride, panel, panels.stride, quads, start, scale, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
            p += 4
        elif left >= 2:
            asked = ahead_bytes * 8 // GROUP * 2 // quads
            for j in range(0, GROUP, 8):
                there = ahead + ahead_bytes * j // GROUP
                row, scale, out = unpacked + j * row_stride, scales + j * scale_stride, sums + j * sum_stride + 64 * p
                add_integer_tile(
                    8, 2, row, row_stride, panel, panels.stride, quads, start, scale, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
            p += 2
        else:
            asked = ahead_bytes * 12 // GROUP * 2 // quads
            for j in range(0, GROUP, 12):
                there = ahead + ahead_bytes * j // GROUP
                row, scale, out = unpacked + j * row_stride, scales + j * scale_stride, sums + j * sum_stride + 64 * p
                add_integer_tile(
                    12, 1, row, row_stride, panel, panels.stride, quads, start, scale, scale_stride, step, out,
                    sum_stride, there, asked,
                )  # fmt: skip
            p += 1
        ahead_bytes = 0  # all is asked for


@njit(nogil=True, cache=True)
def integer_product(inner, rows, x, x_block, out, _sources):
    m, dim = x.shape
    width = (dim + inner.step - 1) // inner.step * inner.step
    row_stride = width + LINE  # no power of two, so that rows do not compete for the same lines of the cache
    codes, x_steps = quantized(x, rows.block if x_block else dim, inner.step)
    n_panels = panels_for(m)
    packed = panels_of(codes, n_panels, 16 * width + LINE)
    totals = block_totals(codes, n_panels, rows.block, rows.blocks)
    starts = (-inner.bias * totals).astype(np.int32)
    steps = np.ones((rows.blocks, 16 * n_panels), np.float32)
    if x_block:
        steps[:, :m] = x_steps.T
    panels = Panels(
        n_panels,
        np.intp(packed.ctypes.data),
        16 * width + LINE,
        np.intp(starts.ctypes.data),
        np.intp(steps.ctypes.data),
    )
    unpacked, sums = aligned(GROUP * row_stride), np.empty((GROUP, 16 * n_panels), np.float32)
    scales, zeros = np.empty((GROUP, rows.blocks), np.float32), np.zeros((GROUP, rows.blocks), np.float32)
    row_at, scale_at, sum_at = np.intp(unpacked.ctypes.data), np.intp(scales.ctypes.data), np.intp(sums.ctypes.data)
    per_block = GROUP * rows.row_bytes // rows.blocks
    for first in range(0, rows.n, GROUP):
        unpack_group(inner, rows, first, width, unpacked, scales, zeros)
        sums[:] = 0
        following = rows.data + (first + GROUP) * rows.row_bytes
        for b in range(rows.blocks):
            at = b * rows.block
            quads = (rows.block if b + 1 < rows.blocks else width - at) // 4
            add_block(
                row_at + at, row_stride, panels, b, at, quads, scale_at + 4 * b, 4 * rows.blocks, sum_at,
                following + b * per_block, per_block,
            )  # fmt: skip
            if rows.zero != 0:
                for j in range(GROUP):
                    for i in range(m):
                        sums[j, i] += np.float32(totals[b, i]) * zeros[j, b] * steps[b, i]
        count = min(GROUP, rows.n - first)
        for j in range(count):
            if not x_block:
                for i in range(m):
                    sums[j, i] *= x_steps[i, 0]
            finish_row(rows, first + j, sums[j])
        for i in range(m):
            for j in range(count):
                out[i, first + j] = sums[j, i]
    keep_alive(packed)
    keep_alive(starts)
    keep_alive(unpacked)


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
    """The same as `integer_product` for few queries: rows are summed as they lie."""
    m, dim = x.shape
    codes, x_steps = quantized(x, rows.block if x_block else dim, inner.step)
    totals = block_totals(codes, (m + 15) // 16, rows.block, rows.blocks)
    if not x_block:
        x_steps = np.repeat(x_steps, rows.blocks).reshape(m, rows.blocks)
    raw = np.zeros((max((dim + 63) // 64 * 4, rows.blocks), 16), np.int32)
    blocks = (rows.blocks + 15) // 16 * 16
    scales, zeros = np.zeros((32, blocks), np.float32), np.zeros((32, blocks), np.float32)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        if has_blocks(rows):
            for first in range(start, stop, 16):
                if first + 16 <= stop:
                    gemv_blocks(inner, rows, first, 16, codes, totals, x_steps, x_block, raw, scales, zeros, out)
                else:
                    for row in range(first, stop):
                        gemv_blocks(inner, rows, row, 1, codes, totals, x_steps, x_block, raw, scales, zeros, out)
        else:
            for first in range(start, stop, PLAIN_ROWS):
                gemv_plain(inner, rows, first, min(PLAIN_ROWS, stop - first), codes, totals, x_steps, out)


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
    """16 rows, or one. `scales` and `zeros` are scratch: 16 rows of blocks, then all blocks of 16 rows."""
    parts = 1 if rows.block % 64 == 0 else rows.block // 16  # of a block
    stride, turned = 4 * scales.shape[1], 16 * scales.shape[1]
    scale_at, zero_at = np.intp(scales.ctypes.data), np.intp(zeros.ctypes.data)
    for j in range(n):
        block_scales(rows, first + j, scales[j], zeros[j])
    for b in range(0, rows.blocks, 16):
        transpose(scale_at + 4 * b, stride, scale_at + 4 * turned + 64 * b)
        if rows.zero != 0:
            transpose(zero_at + 4 * b, stride, zero_at + 4 * turned + 64 * b)
    row_bytes, table_row = (rows.row_bytes, rows.table_row) if n > 1 else (0, 0)
    table, at = rows.table + first * rows.table_row, row_address(rows, first)
    raw_at = np.intp(raw.ctypes.data)
    sums = np.empty(16, np.float32)
    unit = np.float32(rows.integer_unit)
    for i in range(len(queries)):
        query = np.intp(queries[i].ctypes.data)
        for j in range(0, n, 4):
            call(
                inner.block_sums,
                (
                    query, at + j * row_bytes, row_bytes, rows.dim, table + j * table_row, table_row, rows.table_block,
                    rows.block, raw_at + 4 * j,
                ),
            )  # fmt: skip
        total = zero_f32()
        for b in range(rows.blocks):
            dots = splat_i32(np.int32(-inner.bias * totals[b, i]))
            for part in range(b * parts, min((b + 1) * parts, len(raw))):
                dots = add_i32(dots, load_i32(raw_at + 64 * part))
            step = x_steps[i, b] if x_block else np.float32(1)
            scale = scaled(load_f32(scale_at + 4 * turned + 64 * b), unit)
            total = add_product(total, dots, scale, step)
            if rows.zero != 0:
                dots = splat_i32(np.int32(totals[b, i]))
                total = add_product(total, dots, load_f32(zero_at + 4 * turned + 64 * b), step)
        store_f32(np.intp(sums.ctypes.data), total)
        for j in range(n):
            one = sums[j] if x_block else sums[j] * x_steps[i, 0]
            if rows.scale != 0:
                one *= peek_f32(rows.scale + 4 * (first + j))
            if rows.bias != 0:
                one += peek_f32(rows.bias + 4 * (first + j))
            out[i, first + j] = one


def matmul(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (m, dim) times the decoded rows, plus their bias: (m, n).

    A sum of products is off by at most (dim / 16 + 6) * 2 ** -24 times the sum of their magnitudes; row scale and bias
    round once each. `reference.matmul` gives it without that error.
    """
    addresses, _tail = addressed(rows)
    out = np.empty((len(x), len(rows.data)), np.float32)
    x = writable(x)
    float_product(inner(kind_of(rows)), addresses, x, out, SOURCES)
    return out


def matmul_int8(rows: Rows, x: NDArray[np.float32], x_block: int) -> NDArray[np.float32]:
    """As `reference.matmul_int8`, to the bit."""
    addresses, _tail = addressed(rows)
    out = np.empty((len(x), len(rows.data)), np.float32)
    x = writable(x)
    product = integer_gemv if len(x) <= GEMV_QUERIES else integer_product
    product(inner(kind_of(rows)), addresses, x, x_block, out, SOURCES)
    return out
