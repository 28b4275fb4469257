"""A few float32 activations times a matrix of coded rows; bound by reading the codes, which are read once.

    result[i, j] = scale[j] * <x[i], number[j]> + bias[j]                                            in float32

Error: at most (dim + 4) * 2 ** -24 * (|scale[j]| * sum over d of |x[i, d] * number[j, d]| + |bias[j]|), plus what
underflows.
"""

import torch
import triton
import triton.language as tl

from qindex_kernels.gpu.activations import power_of_two
from qindex_kernels.gpu.dots import dots_of_few
from qindex_kernels.gpu.launch import launch
from qindex_kernels.gpu.rows import DeviceRows

MAX_ACTIVATIONS = 8  # more are faster in the tiles of `matmul`
ROWS = 8  # few, so that a matrix of 4,096 rows still gives every multiprocessor several programs
WIDTH = 1024  # dimensions at a time


@triton.jit(do_not_specialize=["m"])
def _gemv_kernel(rows, x, m, result, FORM: tl.constexpr, N: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr):
    """A program multiplies N rows with all activations."""
    row = tl.program_id(0) * N + tl.arange(0, N)
    present = row < rows.n
    token = tl.arange(0, M)
    total = dots_of_few(rows, FORM, row, present, x, 0, m, M, WIDTH)
    if rows.scale is not None:
        total *= tl.load(rows.scale + row, mask=present, other=0)[None, :]
    if rows.bias is not None:
        total += tl.load(rows.bias + row, mask=present, other=0)[None, :]
    at = token.to(tl.int64)[:, None] * rows.n + row[None, :]
    tl.store(result + at, total, mask=(token < m)[:, None] & present[None, :])


def gemv(rows: DeviceRows, x: torch.Tensor) -> torch.Tensor:
    """x float32 (m, dim), a few of them, times the rows: (m, n) float32."""
    m, n = x.shape[0], rows.n
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        launch(
            rows.compiled, _gemv_kernel, -(-n // ROWS), (rows.pointers, x, m, result),
            (rows.form, ROWS, power_of_two(m), WIDTH), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result
