"""Activations times a matrix of coded rows.

    result[i, j] = scale[j] * <x[i], number[j]> + bias[j]

`matmul`: float32 sums in any order, within the error that gemv.py states. `matmul_int8`: each x[i] is rounded to int8,
sums within a block are integers on tensor cores, and blocks are added in the order and with the float32 operations of
`reference.matmul_int8`, so that results equal it to the bit.
"""

import numpy as np
import torch
import triton
import triton.language as tl

from qindex_kernels import reference
from qindex_kernels.gpu.decode import block_scales, block_zeros
from qindex_kernels.gpu.dots import dots, integer_dots, load_queries
from qindex_kernels.gpu.gemv import MAX_ACTIVATIONS, gemv
from qindex_kernels.gpu.rows import DeviceRows, form, pointers

# (most activations, rows in a tile, activations in a tile, warps); compiled for the first line that holds all.
INTEGER_TILES = ((16, 32, 16, 4), (64, 64, 64, 4), (1 << 62, 128, 128, 8))
INTEGER_WIDTH = 128  # dimensions at a time, of a longer block
NF4_INTEGERS = np.rint(reference.LEVELS["nf4"] / reference.UNITS["nf4"]).astype(np.int8)
FLOAT_TILE = (64, 64)
FLOAT_WIDTH = 32


@triton.jit
def store(rows, result, total, row, row_present, token, token_present):
    """Finish and write a tile of sums (N, M)."""
    if rows.scale is not None:
        total *= tl.load(rows.scale + row, mask=row_present, other=0)[:, None]
    if rows.bias is not None:
        total += tl.load(rows.bias + row, mask=row_present, other=0)[:, None]
    at = token.to(tl.int64)[None, :] * rows.n + row[:, None]
    tl.store(result + at, total, mask=row_present[:, None] & token_present[None, :])


@triton.jit
def tile(n, m, N: tl.constexpr, M: tl.constexpr):
    """This program's rows (N,) and activations (M,), and which of them there are."""
    tiles = tl.cdiv(m, M)
    row = tl.program_id(0) // tiles * N + tl.arange(0, N)
    token = tl.program_id(0) % tiles * M + tl.arange(0, M)
    return row, row < n, token, token < m


@triton.jit
def _matmul_kernel(rows, x, m, result, FORM: tl.constexpr, N: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr):
    """A program multiplies N rows with M float32 activations."""
    row, row_present, token, token_present = tile(rows.n, m, N, M)
    total = dots(rows, FORM, row, row_present, x, token, token_present, WIDTH)
    store(rows, result, total, row, row_present, token, token_present)


@triton.jit
def _matmul_int8_kernel(
    rows, x, steps, m, result,
    FORM: tl.constexpr, BLOCK_STEPS: tl.constexpr, N: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """A program multiplies N rows with M int8 activations, which have a step each, or one for each block."""
    row, row_present, token, token_present = tile(rows.n, m, N, M)
    total = tl.zeros((N, M), tl.float32)
    if FORM.block:
        for first in range(0, rows.dim, FORM.block):
            product = integer_dots(rows, FORM, row, row_present, x, token, token_present, first, FORM.block, WIDTH)
            block = first // FORM.block + tl.arange(0, 1)
            if FORM.level0 != "":
                scale = block_scales(rows, FORM, row, row_present[:, None], block) * FORM.unit
                term = product.to(tl.float32) * scale
            else:
                term = product.to(tl.float32) * FORM.unit
            if BLOCK_STEPS:
                at = token.to(tl.int64) * tl.cdiv(rows.dim, FORM.block) + block
                step = tl.load(steps + at, mask=token_present, other=0)[None, :]
                term *= step
            total += term
            if FORM.zero != "":
                added = tl.zeros((M,), tl.int32)
                stop = tl.minimum(first + FORM.block, rows.dim)
                for offset in range(0, FORM.block, WIDTH):
                    value = load_queries(x, token, token_present, first + offset, stop, rows.dim, WIDTH)
                    added += tl.sum(value.to(tl.int32), 1)
                zero = block_zeros(rows, FORM, row, row_present[:, None], block)
                term = added.to(tl.float32)[None, :] * zero
                if BLOCK_STEPS:
                    term *= step
                total += term
    else:
        product = integer_dots(rows, FORM, row, row_present, x, token, token_present, 0, rows.dim, WIDTH)
        total += product.to(tl.float32) * FORM.unit
    if not BLOCK_STEPS:
        total *= tl.load(steps + token, mask=token_present, other=0)[None, :]
    store(rows, result, total, row, row_present, token, token_present)


def quantized(x: torch.Tensor, block: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.quantize`: int8 codes (m, dim) and steps (m, blocks or 1)."""
    m, dim = x.shape
    size = block or dim
    blocks = torch.nn.functional.pad(x, (0, -dim % size)).reshape(m, -1, size)
    # A device tensor: torch divides CUDA tensors by a Python number as a product with its reciprocal.
    step = blocks.abs().amax(2) / torch.full((), 127.0, device=x.device)
    step[step < reference.SMALLEST_NORMAL.item()] = 1
    codes = torch.round(blocks / step[:, :, None]).to(torch.int8)
    return codes.reshape(m, -1)[:, :dim].contiguous(), step


def matmul(rows: DeviceRows, x: torch.Tensor) -> torch.Tensor:
    """x float32 (m, dim) times the rows: (m, n) float32."""
    m, n = len(x), len(rows.data)
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    if m == 0 or n == 0:
        return result
    x = x.contiguous()
    if m <= MAX_ACTIVATIONS:
        return gemv(rows, x)
    tile_n, tile_m = FLOAT_TILE
    with torch.cuda.device_of(x):
        _matmul_kernel[(triton.cdiv(n, tile_n) * triton.cdiv(m, tile_m),)](
            pointers(rows), x, m, result,
            FORM=form(rows), N=tile_n, M=tile_m, WIDTH=FLOAT_WIDTH, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
    return result


def matmul_int8(rows: DeviceRows, x: torch.Tensor, x_block: int) -> torch.Tensor:
    """As `reference.matmul_int8`, to the bit: x float32 (m, dim), finite, of rows that are no small floats."""
    m, n = len(x), len(rows.data)
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    if m == 0 or n == 0:
        return result
    if rows.kind == "nf4":  # its levels are rounded to integers, as reference.UNITS says
        rows = rows._replace(table=torch.from_numpy(NF4_INTEGERS).to(x.device))
    fast, steps = quantized(x, x_block)
    tile_n, tile_m, warps = next(one[1:] for one in INTEGER_TILES if m <= one[0])
    width = INTEGER_WIDTH if not rows.block else min(INTEGER_WIDTH, max(32, triton.next_power_of_2(rows.block)))
    with torch.cuda.device_of(x):
        _matmul_int8_kernel[(triton.cdiv(n, tile_n) * triton.cdiv(m, tile_m),)](
            pointers(rows), fast, steps, m, result,
            FORM=form(rows), BLOCK_STEPS=x_block > 0, N=tile_n, M=tile_m, WIDTH=width, num_warps=warps,
            enable_fp_fusion=False,
        )  # fmt: skip
    return result
