"""The best quantizers of a standard normal number, which is what a coordinate of a rotated unit vector times
sqrt(dim) nearly is. Both are found in float64 by their fixed points."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


@functools.cache
def lloyd_max(bits: int) -> NDArray[np.float64]:
    """The 2 ** bits levels of the least squared error, ascending: each is the mean of the numbers nearest to it."""
    levels = (np.arange(1 << bits) + 0.5) / (1 << bits) * 4 - 2
    while True:
        shares, moments = _cells((levels[1:] + levels[:-1]) / 2)
        means = moments / shares
        means = (means - means[::-1]) / 2  # rounding must not tilt them
        if np.abs(means - levels).max() < 1e-13:
            means.flags.writeable = False
            return means
        levels = means


@functools.cache
def uniform_step(bits: int) -> float:
    """The step between 2 ** bits levels (..., -1/2, 1/2, ...) * step of the least squared error."""
    half = 1 << bits - 1
    codes = np.arange(-half, half) + 0.5
    step = 1.0
    while True:
        shares, moments = _cells(np.arange(1 - half, half) * step)
        new = float((codes * moments).sum() / (codes**2 * shares).sum())
        if abs(new - step) < 1e-13:
            return new
        step = new


@functools.cache
def uniform_error(bits: int) -> float:
    """The mean squared error that the levels at `uniform_step` leave of a standard normal number."""
    half = 1 << bits - 1
    step = uniform_step(bits)
    _, moments = _cells(np.arange(1 - half, half) * step)
    return float(1 - step * ((np.arange(-half, half) + 0.5) * moments).sum())


def _cells(edges: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of numbers between neighbouring edges (beyond the last ones, too), and their mean times that share."""
    below = np.array([0.0, *(0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges), 1.0])
    density = np.array([0.0, *np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi), 0.0])
    return np.diff(below), -np.diff(density)
