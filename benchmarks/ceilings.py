"""What the machine can do at most, one thread: read bandwidth, and the peak of two instructions in registers.

    read            loads every byte of an array once and combines them with exclusive or
    integer_peak    `dot_u8i8`, the word that all integer sums are made of (`vpdpbusd` with VNNI), no loads or stores
    float_peak      `fma_f32`, likewise

The operand of each step is the sum so far, and chains begin with different numbers: nothing can be moved out of the
loop, and no two chains become one, on any instruction set.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

from qindex_kernels.cpu.simd import (
    dot_u8i8,
    fma_f32,
    load_bytes,
    load_f32,
    load_i32,
    prefetch,
    store_bytes,
    store_f32,
    store_i32,
)
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.vectors import i32x16, u8x64

STEPS = 100_000
# Enough to hide the latency of an instruction; without AVX-512 a chain takes several registers and instructions.
CHAINS = 12 if PATH == "avx512" else 4
OPERATIONS = {"integer": 128 * STEPS * CHAINS, "float": 32 * STEPS * CHAINS}  # a multiplication and an addition are two
READ_AHEAD = 4096


@intrinsic
def either(typingctx, a, b):
    """The exclusive or of two vectors of bytes."""
    return u8x64(u8x64, u8x64), lambda context, builder, signature, args: builder.xor(*args)


@intrinsic
def as_bytes(typingctx, a):
    """The bits of sixteen int32 numbers as 64 bytes."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.VectorType(ir.IntType(8), 64))

    return u8x64(i32x16), codegen


@njit(nogil=True)
def _read(address, n_bytes, out):
    a = b = c = d = load_bytes(out)
    for at in range(address, address + n_bytes - 255, 256):
        for line in range(0, 256, 64):
            prefetch(at + READ_AHEAD + line)
        a, b = either(a, load_bytes(at)), either(b, load_bytes(at + 64))
        c, d = either(c, load_bytes(at + 128)), either(d, load_bytes(at + 192))
    store_bytes(out, either(either(a, b), either(c, d)))


@njit(nogil=True)
def _twelve_integer_chains(steps, out):
    a, b, c, d = load_i32(out), load_i32(out + 4), load_i32(out + 8), load_i32(out + 12)
    e, f, g, h = load_i32(out + 16), load_i32(out + 20), load_i32(out + 24), load_i32(out + 28)
    i, j, k, m = load_i32(out + 32), load_i32(out + 36), load_i32(out + 40), load_i32(out + 44)
    other = load_bytes(out)
    for _ in range(steps):
        a, b = dot_u8i8(a, as_bytes(a), other), dot_u8i8(b, as_bytes(b), other)
        c, d = dot_u8i8(c, as_bytes(c), other), dot_u8i8(d, as_bytes(d), other)
        e, f = dot_u8i8(e, as_bytes(e), other), dot_u8i8(f, as_bytes(f), other)
        g, h = dot_u8i8(g, as_bytes(g), other), dot_u8i8(h, as_bytes(h), other)
        i, j = dot_u8i8(i, as_bytes(i), other), dot_u8i8(j, as_bytes(j), other)
        k, m = dot_u8i8(k, as_bytes(k), other), dot_u8i8(m, as_bytes(m), other)
    for part in (a, b, c, d, e, f, g, h, i, j, k, m):
        store_i32(out, part)
        out += 64


@njit(nogil=True)
def _four_integer_chains(steps, out):
    a, b, c, d = load_i32(out), load_i32(out + 4), load_i32(out + 8), load_i32(out + 12)
    other = load_bytes(out)
    for _ in range(steps):
        a, b = dot_u8i8(a, as_bytes(a), other), dot_u8i8(b, as_bytes(b), other)
        c, d = dot_u8i8(c, as_bytes(c), other), dot_u8i8(d, as_bytes(d), other)
    for part in (a, b, c, d):
        store_i32(out, part)
        out += 64


@njit(nogil=True)
def _twelve_float_chains(steps, out):
    a, b, c, d = load_f32(out), load_f32(out + 4), load_f32(out + 8), load_f32(out + 12)
    e, f, g, h = load_f32(out + 16), load_f32(out + 20), load_f32(out + 24), load_f32(out + 28)
    i, j, k, m = load_f32(out + 32), load_f32(out + 36), load_f32(out + 40), load_f32(out + 44)
    half = load_f32(out)
    for _ in range(steps):
        a, b, c = fma_f32(half, a, half), fma_f32(half, b, half), fma_f32(half, c, half)
        d, e, f = fma_f32(half, d, half), fma_f32(half, e, half), fma_f32(half, f, half)
        g, h, i = fma_f32(half, g, half), fma_f32(half, h, half), fma_f32(half, i, half)
        j, k, m = fma_f32(half, j, half), fma_f32(half, k, half), fma_f32(half, m, half)
    for part in (a, b, c, d, e, f, g, h, i, j, k, m):
        store_f32(out, part)
        out += 64


@njit(nogil=True)
def _four_float_chains(steps, out):
    a, b, c, d = load_f32(out), load_f32(out + 4), load_f32(out + 8), load_f32(out + 12)
    half = load_f32(out)
    for _ in range(steps):
        a, b = fma_f32(half, a, half), fma_f32(half, b, half)
        c, d = fma_f32(half, c, half), fma_f32(half, d, half)
    for part in (a, b, c, d):
        store_f32(out, part)
        out += 64


_integer_chains, _float_chains = (
    (_twelve_integer_chains, _twelve_float_chains) if PATH == "avx512" else (_four_integer_chains, _four_float_chains)
)
_registers = np.full(16 * 12, 0.5, np.float32)


def read(data: NDArray[Any]) -> None:
    """Load every byte of a contiguous array once (the last 255 at most are left)."""
    _read(data.ctypes.data, data.nbytes, _registers.ctypes.data)


def integer_peak() -> None:
    """OPERATIONS["integer"] operations on bytes."""
    _integer_chains(STEPS, _registers.ctypes.data)


def float_peak() -> None:
    """OPERATIONS["float"] operations on float32 numbers."""
    _registers[:] = 0.5
    _float_chains(STEPS, _registers.ctypes.data)
