"""`topk` of many queries at once over rows of integers: the fast pass runs on the integer tile.

As in topk.py, a row whose fast score plus the query's margin cannot reach the k-th best so far is out, and any other is
scored exactly at once. Here a group of rows meets all queries before the next is read.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import fill_panels, quantize
from qindex_kernels.cpu.batch import prepare
from qindex_kernels.cpu.exact import exact_score
from qindex_kernels.cpu.heap import is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.product import add_block, tile_shape, unpack_group
from qindex_kernels.cpu.simd import lowest_bit, peek_f32, peek_u8, reaching
from qindex_kernels.cpu.sources import helper, inlined, kernel


class Thresholds(NamedTuple):
    """What the fast scores of all queries, in whole panels, are compared with."""

    steps: NDArray[np.float32]  # one where blocks have steps of their own
    offsets: NDArray[np.float32]
    needed: NDArray[np.float32]  # the k-th best score so far less the margin; infinite behind the last query


def thresholds(n_panels: int) -> Thresholds:
    n = 16 * n_panels
    return Thresholds(np.ones(n, np.float32), np.zeros(n, np.float32), np.full(n, np.inf, np.float32))


@kernel
def scan_batch(
    inner, batch, x, panels, group, limits, offset, rows, ids, allow, bounds, decoded, scores, kept
):  # fmt: skip
    prepare(batch, rows.dim, offset, inner.bias, inner.step, bounds)
    quantize(x, rows, inner.step)
    fill_panels(x, panels, inner.bias)
    for i in range(len(offset)):
        limits.steps[i], limits.offsets[i], limits.needed[i] = x.steps[i, 0], offset[i], -np.inf
    n, lanes, sums = len(group.sums), 4 * group.sums.shape[1], np.intp(group.sums.ctypes.data)
    steps, offsets = np.intp(limits.steps.ctypes.data), np.intp(limits.offsets.ctypes.data)
    needed = np.intp(limits.needed.ctypes.data)
    for first in range(0, rows.n, n):
        unpack_group(inner, rows, first, group)
        p = 0
        while p < panels.n:
            count, width = tile_shape(panels.n - p)
            per_block = count * rows.row_bytes // rows.blocks if p == 0 else 0
            asked = 8 * per_block // min(rows.block, rows.dim) + (p == 0)
            for j in range(0, n, count):
                # The sums of a tile are looked at while they are in the L1 cache.
                for row in range(count):
                    for i in range(group.sums.shape[1]):
                        group.sums[row, i] = 0
                ahead = rows.data + (first + n + j) * rows.row_bytes
                for b in range(rows.blocks):
                    add_block(rows, panels, p, b, group, j, sums, lanes, ahead, asked)
                    ahead += per_block
                    if rows.zero != 0:
                        add_zeros(x, p, b, group, j, count)
                for row in range(first + j, min(first + j + count, rows.n)):
                    if allow != 0 and peek_u8(allow + row) == 0:
                        continue
                    scale = peek_f32(rows.scale + 4 * row) if rows.scale != 0 else np.float32(1)
                    bias = peek_f32(rows.bias + 4 * row) if rows.bias != 0 else np.float32(0)
                    fast = sums + lanes * (row - first - j)
                    for panel in range(width):
                        at = 64 * (p + panel)
                        found = reaching(fast + 64 * panel, steps + at, scale, offsets + at, bias, needed + at)
                        while found != 0:
                            i = 16 * (p + panel) + lowest_bit(found)
                            found &= found - 1
                            refine(inner, batch, i, limits, offset, rows, row, ids, decoded, scores, kept)
            p += width
    sort_best_first(scores, kept, ids)


@helper
def add_zeros(x, p, b, group, j, count):
    """The part of the zeros of block b in the sums of a tile."""
    for row in range(count):
        for i in range(16 * p, min(16 * p + group.sums.shape[1], len(x.codes))):
            group.sums[row, i - 16 * p] += np.float32(x.totals[b, i]) * group.zeros[j + row, b]


@inlined
def refine(inner, batch, i, limits, offset, rows, row, ids, decoded, scores, kept):
    """Score a row exactly for query i, and keep it if it is good enough."""
    score = exact_score(inner, batch.values[i].ctypes.data, offset[i], rows, row, decoded)
    if is_worse(scores[i, 0], kept[i, 0], score, row, ids):
        replace_worst(scores[i], kept[i], score, row, ids)
        limits.needed[i] = np.float32(scores[i, 0] - batch.margin[i])
