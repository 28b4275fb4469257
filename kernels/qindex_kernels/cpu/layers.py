"""Normalisation and activation functions, row by row and register by register, as `reference_layers` defines them.

Every register goes the same way: the last of an array, or of a row, is padded with zeros. So no number's result depends
on where it lies.
"""

import math

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.functions import gelu_f32, gelu_tanh_f32, silu_f32, sum_of_lanes_f32, tanh_f32
from qindex_kernels.cpu.record import LINE
from qindex_kernels.cpu.simd import (
    first_lanes,
    load_f32,
    load_first,
    scaled,
    shifted,
    store_f32,
    store_first,
    sum_f32,
    times,
    zero_f32,
)
from qindex_kernels.cpu.sources import inlined, kernel
from qindex_kernels.reference_layers import LANES

GELU, GELU_TANH, SILU, TANH = range(4)


@kernel
def apply(function, x, out, n):
    """A function of each of n numbers."""
    whole = 4 * (n // LANES * LANES)
    if function == GELU:
        for at in range(0, whole, LINE):
            store_f32(out + at, gelu_f32(load_f32(x + at)))
        store_first(out + whole, gelu_f32(load_first(x + whole, n % LANES)), n % LANES)
    elif function == GELU_TANH:
        for at in range(0, whole, LINE):
            store_f32(out + at, gelu_tanh_f32(load_f32(x + at)))
        store_first(out + whole, gelu_tanh_f32(load_first(x + whole, n % LANES)), n % LANES)
    elif function == SILU:
        for at in range(0, whole, LINE):
            store_f32(out + at, silu_f32(load_f32(x + at)))
        store_first(out + whole, silu_f32(load_first(x + whole, n % LANES)), n % LANES)
    else:
        for at in range(0, whole, LINE):
            store_f32(out + at, tanh_f32(load_f32(x + at)))
        store_first(out + whole, tanh_f32(load_first(x + whole, n % LANES)), n % LANES)


@kernel
def normalise(x, m, dim, weight, bias, eps, centred, out):
    """Rows of `dim` numbers; with `centred`, their mean is taken off. `bias` may be 0: none."""
    for _ in range(m):
        mean = np.float32(0)
        if centred:
            mean = row_sum(x, dim) / np.float32(dim)
        factor = np.float32(1) / np.float32(math.sqrt(square_sum(x, dim, mean) / np.float32(dim) + np.float32(eps)))
        whole = 4 * (dim // LANES * LANES)
        for at in range(0, whole, LINE):
            result = times(scaled(shifted(load_f32(x + at), -mean), factor), load_f32(weight + at))
            if bias != 0:
                result = sum_f32(result, load_f32(bias + at))
            store_f32(out + at, result)
        if dim % LANES:
            n = dim % LANES
            result = times(scaled(shifted(load_first(x + whole, n), -mean), factor), load_first(weight + whole, n))
            if bias != 0:
                result = sum_f32(result, load_first(bias + whole, n))
            store_first(out + whole, result, n)
        x += 4 * dim
        out += 4 * dim


@inlined
def row_sum(x, dim):
    total, whole = zero_f32(), 4 * (dim // LANES * LANES)
    for at in range(0, whole, LINE):
        total = sum_f32(total, load_f32(x + at))
    if dim % LANES:
        total = sum_f32(total, load_first(x + whole, dim % LANES))
    return sum_of_lanes_f32(total)


@inlined
def square_sum(x, dim, mean):
    total, whole = zero_f32(), 4 * (dim // LANES * LANES)
    for at in range(0, whole, LINE):
        number = shifted(load_f32(x + at), -mean)
        total = sum_f32(total, times(number, number))
    if dim % LANES:
        number = first_lanes(shifted(load_first(x + whole, dim % LANES), -mean), dim % LANES)
        total = sum_f32(total, times(number, number))
    return sum_of_lanes_f32(total)


def gelu(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """As `reference_layers.gelu`. Arrays are C-contiguous, here and below."""
    apply(GELU, x.ctypes.data, out.ctypes.data, x.size)


def gelu_tanh(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """As `reference_layers.gelu_tanh`."""
    apply(GELU_TANH, x.ctypes.data, out.ctypes.data, x.size)


def silu(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """As `reference_layers.silu`."""
    apply(SILU, x.ctypes.data, out.ctypes.data, x.size)


def tanh(x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """As `reference_layers.tanh`."""
    apply(TANH, x.ctypes.data, out.ctypes.data, x.size)


def layer_norm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    eps: float,
    out: NDArray[np.float32],
) -> None:
    """As `reference_layers.layer_norm`, to the bit."""
    bias_at = 0 if bias is None else bias.ctypes.data
    normalise(x.ctypes.data, *x.shape, weight.ctypes.data, bias_at, eps, True, out.ctypes.data)


def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, out: NDArray[np.float32]) -> None:
    """As `reference_layers.rms_norm`, to the bit."""
    normalise(x.ctypes.data, *x.shape, weight.ctypes.data, 0, eps, False, out.ctypes.data)
