"""Activations times a matrix of coded rows.

    result[i, j] = scale[j] * <x[i], number[j]> + bias[j]

`matmul`: float32 sums in any order, on bfloat16 tensor cores. Levels are bfloat16 numbers, an activation is the sum of
three, and the products of a block, or of part of one, are summed before they are scaled and added up. (nf4's levels are
split in three like the activations.) Error: at most (dim + 4) * 2 ** -23 * (|scale[j]| * sum over d of |x[i, d]| *
reach[j, d] + |bias[j]|), plus what underflows. The reach is the magnitude of the number, or where blocks have zeros the
sum of those of the scaled level and of the zero. dots.py says why. `gemv` takes a few activations, with half the error.

`matmul_int8`: each x[i] is rounded to int8, sums within a block are integers on tensor cores, and blocks are added in
the order and with the float32 operations of `reference.matmul_int8`, so that results equal it to the bit.
"""

import torch
import triton
import triton.language as tl

from qindex_kernels.gpu.activations import power_of_two, quantized, split
from qindex_kernels.gpu.decode import block_scales, block_zeros
from qindex_kernels.gpu.dots import integer_dots, level_dots, load_queries
from qindex_kernels.gpu.gemv import MAX_ACTIVATIONS, gemv
from qindex_kernels.gpu.launch import launch
from qindex_kernels.gpu.rows import DeviceRows

# (most activations, rows in a tile, activations in a tile, dimensions at a time); compiled for the first line with
# room for all. Larger tiles are faster where there are enough of them for every multiprocessor.
INTEGER_TILES = ((16, 32, 16, 256), (32, 32, 32, 128), (64, 64, 64, 128), (1 << 62, 64, 128, 128))
FLOAT_TILES = ((32, 64, 32, 128), (128, 64, 64, 64), (1 << 62, 128, 64, 64))


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


@triton.jit(do_not_specialize=["m"])
def _matmul_kernel(
    rows, parts, m, result,
    FORM: tl.constexpr, SPAN: tl.constexpr, N: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """A program multiplies N rows with M activations, in spans that lie within a block each."""
    row, row_present, token, token_present = tile(rows.n, m, N, M)
    total = tl.zeros((N, M), tl.float32)
    for first in range(0, rows.dim, SPAN):
        stop = tl.minimum(first + SPAN, rows.dim)
        for offset in range(0, SPAN, WIDTH):
            start = first + offset
            dot = level_dots(rows, FORM, row, row_present, parts, m, token, token_present, start, stop, WIDTH)
            if FORM.level0 != "":
                block = first // FORM.block + tl.arange(0, 1)
                dot *= block_scales(rows, FORM, row, row_present[:, None], block)
            total += dot
            if FORM.zero != "":
                block = first // FORM.block + tl.arange(0, 1)
                added = tl.zeros((M,), tl.float32)
                for part in tl.static_range(3):
                    value = load_queries(parts, token + part * m, token_present, start, stop, rows.dim, WIDTH)
                    added += tl.sum(value.to(tl.float32), 1)
                total += added[None, :] * block_zeros(rows, FORM, row, row_present[:, None], block)
    store(rows, result, total, row, row_present, token, token_present)


@triton.jit(do_not_specialize=["m"])
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


def matmul(rows: DeviceRows, x: torch.Tensor) -> torch.Tensor:
    """x float32 (m, dim) times the rows: (m, n) float32."""
    m, n = x.shape[0], rows.n
    if m == 0 or n == 0:
        return torch.empty((m, n), dtype=torch.float32, device=x.device)
    x = x.contiguous()
    if m <= MAX_ACTIVATIONS:
        return gemv(rows, x)
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    parts = split(x)
    tile_n, tile_m, most = next(one[1:] for one in FLOAT_TILES if m <= one[0])
    span, width = (most, most) if rows.block % most == 0 else (rows.block, min(most, power_of_two(rows.block)))
    with torch.cuda.device_of(x):
        launch(
            rows.compiled, _matmul_kernel, -(-n // tile_n) * -(-m // tile_m), (rows.pointers, parts, m, result),
            (rows.form, span, tile_n, tile_m, width), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result


def matmul_int8(rows: DeviceRows, x: torch.Tensor, x_block: int) -> torch.Tensor:
    """As `reference.matmul_int8`, to the bit: x float32 (m, dim), finite, of rows that are no small floats."""
    m, n = x.shape[0], rows.n
    result = torch.empty((m, n), dtype=torch.float32, device=x.device)
    if m == 0 or n == 0:
        return result
    fast, steps = quantized(x.contiguous(), x_block)
    tile_n, tile_m, most = next(one[1:] for one in INTEGER_TILES if m <= one[0])
    width = min(most, max(32, power_of_two(rows.block or most)))
    with torch.cuda.device_of(x):
        launch(
            rows.compiled, _matmul_int8_kernel, -(-n // tile_n) * -(-m // tile_m),
            (rows.of_integers.pointers, fast, steps, m, result),
            (rows.form, x_block > 0, tile_n, tile_m, width), num_warps=4, num_stages=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result
