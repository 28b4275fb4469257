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
    """Rows of `dim` numbers; with `centred`, their mean is taken off. `bias` may be 0: none.

    Four rows are summed at once, so that one's sum does not wait for another's.
    """
    stride, size = 4 * dim, np.float32(dim)
    for row in range(0, m, 4):
        n = min(4, m - row)
        a = x + row * stride
        b, c, d = a + min(1, n - 1) * stride, a + min(2, n - 1) * stride, a + (n - 1) * stride
        means = (np.float32(0), np.float32(0), np.float32(0), np.float32(0))
        if centred:
            e, f, g, h = sums(a, b, c, d, dim)
            means = (e / size, f / size, g / size, h / size)
        squares = square_sums(a, b, c, d, dim, means)
        for i in range(n):
            factor = np.float32(1) / np.float32(math.sqrt(squares[i] / size + np.float32(eps)))
            write(a + i * stride, dim, means[i], factor, weight, bias, out + (row + i) * stride)


@inlined
def write(x, dim, mean, factor, weight, bias, out):
    whole, n = 4 * (dim // LANES * LANES), dim % LANES
    if bias != 0:
        for at in range(0, whole, LINE):
            result = times(scaled(shifted(load_f32(x + at), -mean), factor), load_f32(weight + at))
            store_f32(out + at, sum_f32(result, load_f32(bias + at)))
    else:
        for at in range(0, whole, LINE):
            store_f32(out + at, times(scaled(shifted(load_f32(x + at), -mean), factor), load_f32(weight + at)))
    if n:
        result = times(scaled(shifted(load_first(x + whole, n), -mean), factor), load_first(weight + whole, n))
        if bias != 0:
            result = sum_f32(result, load_first(bias + whole, n))
        store_first(out + whole, result, n)


@inlined
def sums(a, b, c, d, dim):
    e, f, g, h = zero_f32(), zero_f32(), zero_f32(), zero_f32()
    for at in range(0, 4 * (dim // LANES * LANES), LINE):
        e, f = sum_f32(e, load_f32(a + at)), sum_f32(f, load_f32(b + at))
        g, h = sum_f32(g, load_f32(c + at)), sum_f32(h, load_f32(d + at))
    at, n = 4 * (dim // LANES * LANES), dim % LANES
    e, f = sum_f32(e, load_first(a + at, n)), sum_f32(f, load_first(b + at, n))
    g, h = sum_f32(g, load_first(c + at, n)), sum_f32(h, load_first(d + at, n))
    return sum_of_lanes_f32(e), sum_of_lanes_f32(f), sum_of_lanes_f32(g), sum_of_lanes_f32(h)


@inlined
def square_sums(a, b, c, d, dim, means):
    e, f, g, h = zero_f32(), zero_f32(), zero_f32(), zero_f32()
    for at in range(0, 4 * (dim // LANES * LANES), LINE):
        e, f = add_square(e, load_f32(a + at), means[0]), add_square(f, load_f32(b + at), means[1])
        g, h = add_square(g, load_f32(c + at), means[2]), add_square(h, load_f32(d + at), means[3])
    at, n = 4 * (dim // LANES * LANES), dim % LANES
    e, f = add_last_square(e, a + at, means[0], n), add_last_square(f, b + at, means[1], n)
    g, h = add_last_square(g, c + at, means[2], n), add_last_square(h, d + at, means[3], n)
    return sum_of_lanes_f32(e), sum_of_lanes_f32(f), sum_of_lanes_f32(g), sum_of_lanes_f32(h)


@inlined
def add_square(total, numbers, mean):
    numbers = shifted(numbers, -mean)
    return sum_f32(total, times(numbers, numbers))


@inlined
def add_last_square(total, address, mean, n):
    numbers = first_lanes(shifted(load_first(address, n), -mean), n)
    return sum_f32(total, times(numbers, numbers))


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
