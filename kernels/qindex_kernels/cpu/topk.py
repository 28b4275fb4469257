"""The k best rows for each query, exact, in one pass over the codes.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], numbers[j]>      in float64, rounded to float32 once

A fast pass over a block of rows (int8 query, or float32 sums) gives scores that are wrong by at most `margin[i]`. A row
whose fast score plus the margin cannot reach the k-th best score so far is out; any other is scored exactly, at once,
and enters a heap if it is good enough. So the result is that of exact scoring, whatever the fast pass does, and equal
on every target. Ties go to the smaller id.

A block of rows is small enough to stay in the L1 or L2 cache while every query passes over it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import activations, panels
from qindex_kernels.cpu.addresses import (
    RowAddresses,
    address,
    addressed,
    group_scales,
    has_blocks,
    kind_of,
    row_address,
    writable,
)
from qindex_kernels.cpu.batch import Bounds, empty_batch, prepare
from qindex_kernels.cpu.exact import decode_row, decode_scratch, exact_score
from qindex_kernels.cpu.heap import is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import INTEGER_KINDS, call, inner
from qindex_kernels.cpu.product import group_of_rows
from qindex_kernels.cpu.simd import any_at_least, fma_f32, load_f32, peek_f32, peek_u8, store_sums_f32, zero_f32
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.topk_batch import scan_batch, thresholds
from qindex_kernels.layout import Rows

BATCH_QUERIES = 8  # from so many on, unpacking rows for the integer tile pays

BLOCK_BYTES = 1 << 15  # of codes: L1 keeps them beside the query and the scores


@inlined
def refine(inner, batch, i, offset, rows, first, n, ids, allow, scores, kept, scratch):
    """Score exactly, and keep if good enough, each row of the block that its fast score does not rule out."""
    approx, query, margin = scratch.approx, batch.values[i].ctypes.data, batch.margin[i]
    threshold = np.float32(scores[0] - margin)
    for group in range(0, n, 16):
        if not any_at_least(approx.ctypes.data + 4 * group, threshold):
            continue
        for j in range(group, min(group + 16, n)):
            row = first + j
            if approx[j] < threshold or (allow != 0 and peek_u8(allow + row) == 0):
                continue
            score = exact_score(inner, query, offset, rows, row, scratch.decoded)
            if is_worse(scores[0], kept[0], score, row, ids):
                replace_worst(scores, kept, score, row, ids)
                threshold = np.float32(scores[0] - margin)


@helper
def finish(raw, approx, n, first, shift, factor, offset, rows):
    """Fast scores from raw dot products: approx = (raw + shift) * factor * scale + (bias + offset)."""
    factor, offset = np.float32(factor), np.float32(offset)
    for j in range(n):
        approx[j] = np.float32(raw[j] + shift) * factor
    if rows.scale != 0:
        for j in range(n):
            approx[j] *= peek_f32(rows.scale + 4 * (first + j))
    if rows.bias != 0:
        for j in range(n):
            approx[j] += peek_f32(rows.bias + 4 * (first + j))
    for j in range(n):
        approx[j] += offset
    for j in range(n, (n + 15) // 16 * 16):
        approx[j] = -np.inf


@inlined
def fast_scores(inner, batch, i, offset, rows, first, n, scratch):
    """Fast scores of a block of rows for query i."""
    raw, approx, scales, zeros = scratch.raw, scratch.approx, scratch.scales, scratch.zeros
    at, query = row_address(rows, first), batch.values[i].ctypes.data
    tables, dim, row_bytes = rows.table + first * rows.table_row, rows.dim, rows.row_bytes
    if inner.integers == 0 and has_blocks(rows):
        numbers = scratch.decoded[2].ctypes.data
        for j in range(n):
            decode_row(inner, rows, first + j, numbers, scratch.decoded)
            total = zero_f32()
            for line in range(0, 4 * dim, 64):
                total = fma_f32(total, load_f32(numbers + line), load_f32(query + line))
            store_sums_f32(approx.ctypes.data + 4 * j, total, total, total, total)
        finish(approx, approx, n, first, np.float32(0), 1.0, offset, rows)
    elif inner.integers == 0:
        call(inner.float_dots, (query, at, row_bytes, dim, n, tables, rows.table_row, approx.ctypes.data))
        finish(approx, approx, n, first, np.float32(0), rows.unit, offset, rows)
    elif has_blocks(rows):
        call(
            inner.block_dots,
            (
                batch.fast[i].ctypes.data, batch.starts[i].ctypes.data, at, row_bytes, dim, n, tables, rows.table_row,
                rows.table_block, rows.block, scales.ctypes.data, 4 * scales.shape[1], approx.ctypes.data,
            ),
        )  # fmt: skip
        if rows.zero != 0:
            for j in range(n):
                total = zero_f32()
                for group in range(0, 4 * batch.sums.shape[1], 64):
                    line = load_f32(zeros[j].ctypes.data + group)
                    total = fma_f32(total, line, load_f32(batch.sums[i].ctypes.data + group))
                store_sums_f32(raw.ctypes.data, total, total, total, total)
                approx[j] += peek_f32(raw.ctypes.data) / np.float32(rows.integer_unit)
        finish(approx, approx, n, first, np.float32(0), batch.step[i] * rows.integer_unit, offset, rows)
    else:
        query = batch.fast[i].ctypes.data
        call(inner.dots, (query, at, row_bytes, dim, n, tables, rows.table_row, raw.ctypes.data))
        finish(raw, approx, n, first, batch.shift[i], batch.step[i] * rows.integer_unit, offset, rows)


class Scratch(NamedTuple):
    """Room for one block of rows."""

    raw: NDArray[np.int32]
    approx: NDArray[np.float32]
    decoded: NDArray[np.float32]  # exact.decode_scratch
    scales: NDArray[np.float32]  # of rows with block scales, one for each 16 dimensions
    zeros: NDArray[np.float32]


def scratch_for(rows: RowAddresses, block: int, with_scales: bool) -> Scratch:
    shape = (block, -(-rows.dim // 256) * 16) if with_scales else (0, 0)
    return Scratch(
        raw=np.empty(block, np.int32),
        approx=np.empty(block + 4, np.float32),  # sums are stored four at a time
        decoded=decode_scratch(rows.dim),
        scales=np.zeros(shape, np.float32),
        zeros=np.zeros(shape, np.float32),
    )


@kernel
def scan(inner, batch, offset, rows, ids, allow, bounds, scratch, scores, kept):
    prepare(batch, rows.dim, offset, inner.bias, inner.step, bounds)
    block = len(scratch.raw)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, block):
            n = min(block, stop - first)
            if len(scratch.scales) > 0:
                group_scales(rows, first, n, scratch.scales, scratch.zeros)
            for i in range(len(offset)):
                fast_scores(inner, batch, i, offset[i], rows, first, n, scratch)
                refine(inner, batch, i, offset[i], rows, first, n, ids, allow, scores[i], kept[i], scratch)
    sort_best_first(scores, kept, ids)


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
    offset = writable(offset)
    scores = np.full((len(values), k), -np.inf, np.float32)
    kept = np.full((len(values), k), -1, np.int64)
    addresses, _tail = addressed(rows)
    kind, places, limits = kind_of(rows), (address(ids), address(allow)), bounds(rows, max_norm)
    if kind in INTEGER_KINDS and len(values) >= BATCH_QUERIES:
        functions = inner(kind, "unpack", "decode")
        batch = empty_batch(values, functions.step)
        x = activations(values, addresses, functions.step, per_block=False)
        packed = panels(x)
        group = group_of_rows(addresses, x.codes.shape[1], 4)
        decoded = decode_scratch(rows.dim)
        scan_batch(
            functions, batch, x, packed, group, thresholds(packed.n), offset, addresses, *places, limits, decoded,
            scores, kept,
        )  # fmt: skip
        return kept, scores
    functions = inner(kind, "block_dots" if rows.block else "dots", "decode")
    batch = empty_batch(values, functions.step)
    block = max(16, BLOCK_BYTES // addresses.row_bytes // 16 * 16)
    scratch = scratch_for(addresses, block, rows.block > 0 and functions.integers > 0)
    scan(functions, batch, offset, addresses, *places, limits, scratch, scores, kept)
    return kept, scores


def bounds(rows: Rows, max_norm: float) -> Bounds:
    """What limits the error of the fast pass over rows."""
    blocks, kind = rows.block > 0, kind_of(rows)
    bias = 0.0 if rows.bias is None or not len(rows.bias) else max(float(rows.bias.max()), -float(rows.bias.min()))
    # A row scale times the smallest level is at most the norm of a row, unless block scales or float32 make that tiny.
    scale = max_norm * 2.0**36
    if blocks or rows.kind == "float32":
        scale = 1.0 if rows.scale is None or not len(rows.scale) else float(np.abs(rows.scale).max())
    return Bounds(max_norm, bias, scale, rows.kind == "sign" and not blocks, kind in INTEGER_KINDS)
