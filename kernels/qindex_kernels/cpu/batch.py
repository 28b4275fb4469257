"""Queries as the fast passes want them: padded, rounded to int8, with the error that the rounding can make."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.sources import helper

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


class Bounds(NamedTuple):
    """What the error of a fast pass depends on, beside the query."""

    norm: float  # no decoded and scaled row is longer, nor its levels or its zeros alone
    bias: float  # no row bias is larger
    scale: float  # no row scale is larger
    signs: bool  # rows of signs under a row scale
    int8: bool  # the fast pass takes the int8 form of the query


class Batch(NamedTuple):
    """Queries, padded with zeros to whole registers: float32, and as `step * fast` with an int8 `fast`."""

    values: NDArray[np.float32]
    fast: NDArray[np.int8]
    starts: NDArray[np.int32]  # -BIAS times the sum of each four of `fast`
    sums: NDArray[np.float32]  # the sum of each 16 of `fast`
    shift: NDArray[np.int64]  # -BIAS times the sum of all
    step: NDArray[np.float32]
    margin: NDArray[np.float64]


def empty_batch(values: NDArray[np.float32], step: int) -> Batch:
    """Room for queries whose rows are read `step` dimensions at a time."""
    m, dim = values.shape
    width = -(-dim // step) * step
    padded = np.zeros((m, width), np.float32)
    padded[:, :dim] = values
    return Batch(
        values=padded,
        fast=np.zeros((m, width), np.int8),
        starts=np.zeros((m, width // 4), np.int32),
        sums=np.zeros((m, -(-dim // 256) * 16), np.float32),
        shift=np.zeros(m, np.int64),
        step=np.ones(m, np.float32),
        margin=np.empty(m),
    )


@helper
def prepare(batch, dim, offset, bias, step_length, bounds):
    """Fill a batch: give each query an int8 form, and bound the error of its fast scores.

    `bias` and `step_length` are BIAS and STEP of unpack.py.
    """
    padded, fast, starts, sums = batch.values, batch.fast, batch.starts, batch.sums
    shift, step, margin = batch.shift, batch.step, batch.margin
    for i in range(len(padded)):
        largest, squares = np.float32(0), 0.0
        for d in range(dim):
            value = padded[i, d]
            largest = max(largest, abs(value))
            squares += np.float64(value) * np.float64(value)
        if largest / np.float32(127) >= SMALLEST_NORMAL:  # else the int8 form is zero and misses the whole query
            step[i] = largest / np.float32(127)
        missed, missed_squares = 0.0, 0.0
        for d in range(dim):
            code = np.rint(padded[i, d] / step[i])
            fast[i, d] = np.int8(code)
            starts[i, d // 4] -= bias * np.int32(code)
            sums[i, d // 16] += code
            shift[i] -= bias * np.int64(code)
            miss = abs(np.float64(padded[i, d]) - np.float64(step[i]) * code)
            missed += miss
            missed_squares += miss * miss
        # What the int8 form misses: Cauchy-Schwarz; for rows of signs the sum of the misses, under a row scale that is
        # at most norm / sqrt(dim).
        margin[i] = 0.0
        if bounds.signs:
            margin[i] = missed * bounds.norm / np.sqrt(dim)
        elif bounds.int8:
            margin[i] = np.sqrt(missed_squares) * bounds.norm
        # Rounding in float32: at most dim / 16 additions in a lane, a few to join the lanes, a few to decode and to
        # finish, each wrong by half a unit of 2 ** -23 of what the sums can reach; twice that. Levels and zeros are
        # summed apart. Last, the underflow of products, under the unit and the row scale.
        reach = 2 * np.sqrt(squares) * bounds.norm + abs(offset[i]) + bounds.bias
        margin[i] += (dim / 16 + 24) * 2.0**-23 * reach
        margin[i] += dim * SMALLEST_NORMAL * (1 + np.float64(largest)) * (1 + bounds.scale * 2.0**14)
    if step_length > 64:
        split_order(fast, step_length)


@helper
def split_order(codes, step):
    """Put queries in the order in which split kinds (unpack.py) read rows, in place."""
    apart = step // 64
    before = np.empty(step, np.int8)
    for i in range(len(codes)):
        for start in range(0, codes.shape[1], step):
            for d in range(step):
                before[d] = codes[i, start + d]
            for d in range(step):
                codes[i, start + d % apart * 64 + d // apart] = before[d]
