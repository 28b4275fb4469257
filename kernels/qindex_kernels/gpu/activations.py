"""Float32 queries and activations, made ready for tensor cores: rounded to int8, or split into bfloat16 parts."""

import torch
import triton
import triton.language as tl

from qindex_kernels import reference
from qindex_kernels.gpu.launch import launch, ready

SMALLEST_NORMAL = tl.constexpr(reference.SMALLEST_NORMAL.item())
MAX_WIDTH = 4096  # numbers that a program holds at once


@triton.jit
def step_of(largest):
    """The step of int8 codes of numbers, from the bits of the largest magnitude: those of NaN are above all others."""
    step = tl.div_rn(largest.to(tl.float32, bitcast=True), 127.0)
    return tl.where(step < SMALLEST_NORMAL, 1.0, step)


@triton.jit
def magnitude_bits(x):
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def int8_codes(x, step):
    """x / step, which lies in [-127, 127], rounded half to even: float32."""
    return (tl.div_rn(x, step) + 12582912.0) - 12582912.0  # 1.5 * 2 ** 23, whose neighbours are the next integers


@triton.jit
def bfloat16_parts(x):
    """Three bfloat16 numbers whose sum is a float32 one, and each of which is the next eight bits of it."""
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    rest = x - high
    middle = (rest.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), middle.to(tl.bfloat16), (rest - middle).to(tl.bfloat16)


@triton.jit
def _quantize_kernel(x, codes, steps, dim, size, WIDTH: tl.constexpr):
    """A program rounds `size` numbers, a row or a block of one, which share a step."""
    groups = tl.cdiv(dim, size)
    first = tl.program_id(0) % groups * size
    row = tl.program_id(0) // groups
    start = row.to(tl.int64) * dim
    stop = tl.minimum(first + size, dim)
    largest = tl.zeros((WIDTH,), tl.int32)
    for offset in range(first, stop, WIDTH):
        d = offset + tl.arange(0, WIDTH)
        largest = tl.maximum(largest, magnitude_bits(tl.load(x + start + d, mask=d < stop, other=0)))
    step = step_of(tl.max(largest, 0))
    tl.store(steps + tl.program_id(0), step)
    for offset in range(first, stop, WIDTH):
        d = offset + tl.arange(0, WIDTH)
        value = tl.load(x + start + d, mask=d < stop, other=0)
        tl.store(codes + start + d, int8_codes(value, step).to(tl.int8), mask=d < stop)


def power_of_two(size: int) -> int:
    """The next one. (Triton's own, and its cdiv, take as long as a small kernel.)"""
    return 1 << (size - 1).bit_length()


def quantized(x: torch.Tensor, block: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.quantize`, of contiguous x: int8 codes (m, dim) and steps (m, blocks or 1).

    A row or a block that is not finite gets a step that is not.
    """
    m, dim = x.shape
    size = block or dim
    groups = -(-dim // size)
    codes = torch.empty((m, dim), dtype=torch.int8, device=x.device)
    steps = torch.empty((m, groups), dtype=torch.float32, device=x.device)
    width = min(MAX_WIDTH, power_of_two(min(size, dim)))
    with torch.cuda.device_of(x):
        launch(
            ready(x.device, dim, size), _quantize_kernel, m * groups, (x, codes, steps, dim, size), (width,),
            num_warps=max(1, min(8, width // 256)), enable_fp_fusion=False,
        )  # fmt: skip
    return codes, steps


@triton.jit(do_not_specialize=["m"])
def _split_kernel(x, parts, m, dim, WIDTH: tl.constexpr):
    """A program splits WIDTH numbers."""
    size = m.to(tl.int64) * dim
    at = tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    high, middle, low = bfloat16_parts(tl.load(x + at, mask=at < size, other=0))
    tl.store(parts + at, high, mask=at < size)
    tl.store(parts + size + at, middle, mask=at < size)
    tl.store(parts + 2 * size + at, low, mask=at < size)


def split(x: torch.Tensor) -> torch.Tensor:
    """Contiguous x (m, dim) as the sum of three: bfloat16 (3 * m, dim), the leading bits first."""
    m, dim = x.shape
    parts = torch.empty((3 * m, dim), dtype=torch.bfloat16, device=x.device)
    with torch.cuda.device_of(x):
        launch(
            ready(x.device, dim), _split_kernel, -(-m * dim // 1024), (x, parts, m, dim), (1024,),
            enable_fp_fusion=False,
        )  # fmt: skip
    return parts
