"""Queries on a GPU: one transfer, and a kernel that makes of them what a scan takes and bounds the scan's errors."""

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from qindex_kernels.gpu.activations import SMALLEST_NORMAL, int8_codes, magnitude_bits, power_of_two, step_of
from qindex_kernels.gpu.launch import launch
from qindex_kernels.gpu.rows import DECODERS, DeviceRows, moved


class DeviceQueries(NamedTuple):
    """Queries, in the space of the rows."""

    values: torch.Tensor  # float32 (m, dim)
    offset: torch.Tensor  # float64 (m,)
    margin: torch.Tensor  # float64 (m,), of fast scores
    fast: torch.Tensor  # what the scan takes: values, or these rounded to bfloat16 or int8
    step: torch.Tensor | None  # float32 (m,) of int8

    def of(self, chosen: NDArray[np.int64]) -> "DeviceQueries":
        there = moved(chosen, self.values.device)
        return DeviceQueries(*(None if one is None else one[there] for one in self))


def takes_integers(rows: DeviceRows) -> bool:
    """Whether whole rows are integers times a number, so that int8 queries give sums without rounding."""
    return not rows.block and DECODERS[rows.kind].family in ("grid", "e2m1")


@triton.jit
def column_values(values, columns, first, dim, WIDTH: tl.constexpr):
    """Numbers of a query, in the space of the rows."""
    d = first + tl.arange(0, WIDTH)
    value = tl.load(values + d, mask=d < dim, other=0)
    if columns is not None:
        value *= tl.load(columns + d, mask=d < dim, other=0)
    return value


@triton.jit
def _prepare_kernel(values, columns, offset, bounds, fast, steps, margins, dim, WIDTH: tl.constexpr):
    """A program turns a query into what the scan takes, and bounds how far fast scores are off: margins, float64.

    bounds: a margin is the first of them, and the others times the lengths of the query and of what rounding missed of
    it, and times the offset.
    """
    query = tl.program_id(0)
    start = query.to(tl.int64) * dim
    largest = tl.zeros((WIDTH,), tl.int32)
    squares = tl.zeros((WIDTH,), tl.float64)
    for first in range(0, dim, WIDTH):
        value = column_values(values + start, columns, first, dim, WIDTH)
        squares += value.to(tl.float64) * value.to(tl.float64)
        largest = tl.maximum(largest, magnitude_bits(value))
    step = step_of(tl.max(largest, 0))
    missed = tl.zeros((WIDTH,), tl.float64)
    for first in range(0, dim, WIDTH):
        d = first + tl.arange(0, WIDTH)
        value = column_values(values + start, columns, first, dim, WIDTH)
        if columns is not None:
            tl.store(values + start + d, value, mask=d < dim)
        if steps is not None:
            code = int8_codes(value, step)
            tl.store(fast + start + d, code.to(tl.int8), mask=d < dim)
            error = value.to(tl.float64) - step.to(tl.float64) * code.to(tl.float64)
            missed += error * error
        elif fast is not None:
            rounded = value.to(tl.bfloat16)
            tl.store(fast + start + d, rounded, mask=d < dim)
            error = value.to(tl.float64) - rounded.to(tl.float32).to(tl.float64)
            missed += error * error
    if steps is not None:
        tl.store(steps + query, step)
    margin = tl.load(bounds) + tl.load(bounds + 1) * tl.sqrt(tl.sum(squares, 0))
    margin += tl.load(bounds + 2) * tl.sqrt(tl.sum(missed, 0)) + tl.load(bounds + 3) * tl.abs(tl.load(offset + query))
    tl.store(margins + query, margin)


def prepared(
    rows: DeviceRows,
    columns: torch.Tensor | None,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    way: str,
    max_norm: float,
) -> DeviceQueries:
    """Queries of one transfer.

    A float32 score may lie from the exact one, itself rounded, as far as the sum of dim products in any order: dots.py
    says, fewer than 2 * dim roundings of 2 ** -24 of the sum of magnitudes, which Cauchy-Schwarz bounds by |query| *
    max_norm; a few more finish the score. What a rounded query missed is multiplied with numbers that are max_norm long
    at most; a rounded number is off by 2 ** -9 of itself. Last comes what underflows, under the largest row scale.
    """
    m, dim = values.shape
    roundings, underflow = dim + 16, SMALLEST_NORMAL.value * (1 + rows.max_scale)
    by_length = roundings * (2.0**-23 * max_norm + underflow)
    if way == "bfloat16" and (rows.block or not rows.form.exact):
        by_length += 1.01 * 2.0**-9 * max_norm
    constant = roundings * (2.0**-23 * rows.max_bias + underflow * (1 + max_norm))
    bounds = (constant, by_length, max_norm, roundings * 2.0**-23)

    first = -(-8 * (4 + m) // 16) * 16  # of the values, where GPUs load 16 bytes at once
    sent = np.empty(first + 4 * m * dim, np.uint8)
    numbers = sent[: 8 * (4 + m)].view(np.float64)
    numbers[:4], numbers[4:] = bounds, offset
    sent[first:].view(np.float32).reshape(m, dim)[...] = values
    there = torch.from_numpy(sent).to(rows.data.device)
    numbers, values = there[: 8 * (4 + m)].view(torch.float64), there[first:].view(torch.float32).view(m, dim)

    margin = torch.empty(m, dtype=torch.float64, device=there.device)
    fast = step = None
    if way != "float32":
        fast = torch.empty((m, dim), dtype=torch.int8 if way == "int8" else torch.bfloat16, device=there.device)
    if way == "int8":
        step = torch.empty(m, dtype=torch.float32, device=there.device)
    width = min(1024, power_of_two(dim))
    launch(
        rows.compiled, _prepare_kernel, m, (values, columns, numbers[4:], numbers, fast, step, margin, dim), (width,),
        num_warps=max(1, width // 256), enable_fp_fusion=False,
    )  # fmt: skip
    return DeviceQueries(values, numbers[4:], margin, values if fast is None else fast, step)
