"""Exact scores of chosen rows, equal to those of `reference.score_rows` to the bit.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], number[j]>      in float64, rounded to float32 once

A product of two float32 numbers is exact in float64, so only the order of the sum matters: 32 lanes, then halves.
"""

import torch
import triton
import triton.language as tl

from qindex_kernels.gpu.decode import numbers
from qindex_kernels.gpu.dots import load_queries
from qindex_kernels.gpu.rows import DeviceRows

ROWS = 16


@triton.jit
def exact_scores(rows, FORM: tl.constexpr, row, present, values, offset, query, N: tl.constexpr):
    """Of N rows for one query, int64: (N,) float32."""
    one = query + tl.zeros((1,), tl.int64)
    lanes = tl.zeros((N, 32), tl.float64)
    for start in range(0, rows.dim, 32):
        number = numbers(rows, FORM, row, present, start, 32)
        value = load_queries(values, one, one >= 0, start, rows.dim, rows.dim, 32)
        product = number.to(tl.float64) * value.to(tl.float64)
        # What is decoded beyond the last dimension is no number, and under a huge scale it may be infinite.
        lanes += tl.where((start + tl.arange(0, 32) < rows.dim)[None, :], product, 0.0)
    sums = lanes
    for half in tl.static_range(5):
        sums = tl.sum(tl.reshape(sums, (N, 2, 16 >> half)), 1)
    dot = tl.reshape(sums, (N,))

    if rows.scale is not None:
        dot *= tl.load(rows.scale + row, mask=present, other=0).to(tl.float64)
    base = tl.load(offset + query).to(tl.float64)
    if rows.bias is not None:
        dot += base + tl.load(rows.bias + row, mask=present, other=0).to(tl.float64)
    else:
        dot += base
    return dot.to(tl.float32)


@triton.jit
def _score_rows_kernel(rows, values, offset, chosen, r, scores, FORM: tl.constexpr, N: tl.constexpr):
    """A program scores N of the rows that were chosen for one query."""
    parts = tl.cdiv(r, N)
    query = (tl.program_id(0) // parts).to(tl.int64)
    place = tl.program_id(0) % parts * N + tl.arange(0, N)
    present = place < r
    row = tl.load(chosen + query * r + place, mask=present, other=0)
    score = exact_scores(rows, FORM, row, present, values, offset, query, N)
    tl.store(scores + query * r + place, score, mask=present)


def score_rows(rows: DeviceRows, values: torch.Tensor, offset: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Exact scores of chosen rows: values float32 (m, dim), offset (m,), chosen int64 (m, r) -> float32 (m, r).

    Every row number must lie in [0, n).
    """
    m, r = chosen.shape
    scores = torch.empty((m, r), dtype=torch.float32, device=values.device)
    if scores.numel():
        with torch.cuda.device_of(scores):
            _score_rows_kernel[(m * triton.cdiv(r, ROWS),)](
                rows.pointers, values.contiguous(), offset.contiguous(), chosen.contiguous(), r, scores,
                FORM=rows.form, N=ROWS, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return scores
