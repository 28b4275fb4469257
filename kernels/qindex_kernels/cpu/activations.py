"""The left side of an integer product: queries or tokens, rounded to int8 and packed for the tiles."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import RowAddresses, address
from qindex_kernels.cpu.batch import SMALLEST_NORMAL, split_order
from qindex_kernels.cpu.simd import (
    larger_size,
    largest_lane,
    load_f32,
    peek_i32,
    poke_i32,
    store_quotients,
    zero_f32,
)
from qindex_kernels.cpu.sources import helper

LINE = 64  # bytes of a cache line


class Activations(NamedTuple):
    """Room for what `quantize` fills."""

    values: NDArray[np.float32]  # (m, width), padded with zeros to whole steps
    codes: NDArray[np.int8]  # (m, width), in the order of the kind
    steps: NDArray[np.float32]  # (m, blocks or 1)
    totals: NDArray[np.int32]  # (blocks, m): the sum of the codes of each block; the last takes what is left
    per_block: int  # whether each block has a step of its own


class Panels(NamedTuple):
    """Room for what `fill_panels` makes of activations: 16 at a time, as the lanes of a tile."""

    n: int
    stride: int  # bytes from panel to panel: no power of two, so that panels do not compete in the cache
    codes: NDArray[np.uint8]  # interleaved by 4 bytes: [panel][quad][16][4]
    starts: NDArray[np.int32]  # (blocks, 16 * n): -BIAS times the totals
    steps: NDArray[np.float32]  # (blocks, 16 * n): ones where there is one step a row


def activations(x: NDArray[np.float32], rows: RowAddresses, step: int, per_block: bool) -> Activations:
    m, dim = x.shape
    width = -(-dim // step) * step
    values = np.zeros((m, width), np.float32)
    values[:, :dim] = x
    return Activations(
        values,
        codes=np.zeros((m, width), np.int8),
        steps=np.ones((m, rows.blocks if per_block else 1), np.float32),
        totals=np.zeros((rows.blocks, m), np.int32),
        per_block=int(per_block),
    )


def panels(x: Activations) -> Panels:
    """As many as tiles take: fours, and at the end one, two or four."""
    n = (len(x.codes) + 15) // 16
    n += n % 4 == 3
    stride = 16 * x.codes.shape[1] + LINE
    shape = (len(x.totals), 16 * n)
    return Panels(n, stride, aligned(n * stride), np.zeros(shape, np.int32), np.ones(shape, np.float32))


def aligned(n_bytes: int) -> NDArray[np.uint8]:
    """A zeroed scratch that begins with a cache line."""
    scratch = np.zeros(n_bytes + LINE, np.uint8)
    offset = -address(scratch) % LINE
    return scratch[offset : offset + n_bytes]


@helper
def quantize(x, rows, step_length):
    """As `reference.quantize`, then in the order of the kind, with the sums of codes."""
    width, steps = x.codes.shape[1], x.steps.shape[1]
    for i in range(len(x.values)):
        source, target = np.intp(x.values[i].ctypes.data), np.intp(x.codes[i].ctypes.data)
        for b in range(steps):
            # The padding behind the last block changes nothing.
            start, stop = b * rows.block, (b + 1) * rows.block if b + 1 < steps else width
            largest = zero_f32()
            for d in range(start, stop, 16):
                largest = larger_size(largest, load_f32(source + 4 * d))
            step = largest_lane(largest) / np.float32(127)
            if step < SMALLEST_NORMAL:
                step = np.float32(1)
            x.steps[i, b] = step
            for d in range(start, stop, 16):
                store_quotients(target + d, load_f32(source + 4 * d), step)
        for b in range(rows.blocks):
            total = np.int32(0)
            for d in range(b * rows.block, (b + 1) * rows.block if b + 1 < rows.blocks else width):
                total += np.int32(x.codes[i, d])
            x.totals[b, i] = total
    if step_length > 64:
        split_order(x.codes, step_length)


@helper
def fill_panels(x, panels, bias):
    first = np.intp(panels.codes.ctypes.data)
    for i in range(len(x.codes)):
        source = np.intp(x.codes[i].ctypes.data)
        target = first + i // 16 * panels.stride + i % 16 * 4
        for quad in range(x.codes.shape[1] // 4):
            poke_i32(target + 64 * quad, peek_i32(source + 4 * quad))
    for b in range(len(x.totals)):
        for i in range(len(x.codes)):
            panels.starts[b, i] = -bias * x.totals[b, i]
            if x.per_block != 0:
                panels.steps[b, i] = x.steps[i, b]
