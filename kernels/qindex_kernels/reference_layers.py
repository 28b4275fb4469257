"""The layers of a transformer that multiply no weights, in NumPy: attention, normalisation, activation functions.

All of it is in float32. Where a line says `_fma`, the compiled kernels multiply and add in one step, and round once.
Here the step is taken in float64, where the product is exact: the sum rounds twice, which differs in about one of
2 ** 29 cases. So kernels equal this to the bit but for such cases, and each other on every instruction set; norms have
no such step and equal this always.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LANES = 16

# exp(x) = 2 ** whole * exp(rest), with ln 2 in two parts so that `rest` is exact. Adding ROUNDER, 1.5 * 2 ** 23, leaves
# no bits for a fraction. The polynomial, fitted to the least largest relative error, is off by 3.1e-9 for
# abs(rest) <= ln(2) / 2. Below EXP_LOWEST, where exp would be subnormal, it is zero.
LOG2_E, LN2_HIGH, LN2_LOW, ROUNDER = 1.44269504, 0.693359375, -2.12194440e-4, 12582912.0
EXP = (0.00138145988, 0.00836871658, 0.0416683890, 0.166665211, 0.499999940, 1.0, 1.0)
EXP_LOWEST = -87.3

# erf(x) / x in x ** 2, for abs(x) <= ERF_LIMIT, beyond which erf is 1 but for 1.6e-8: the rational function of Eigen
# (generic_fast_erf_float), off by 6.5e-8.
ERF_LIMIT = 4.0
ERF_NUMERATOR = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
ERF_DENOMINATOR = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip
SQRT_HALF = 0.707106781

# GELU by a tanh is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x ** 3)).
TWO_SQRT_2_BY_PI = 1.59576912

# tanh(x) = x + x ** 3 * (a polynomial in x ** 2) below TANH_SMALL, off by 4.5e-9 of it.
TANH_SMALL = 0.625
TANH = (-0.00569733, 0.0206325, -0.05373778, 0.1333142, -0.33333281)


def _fma(a: Floats, b: Floats | float, c: Floats | float) -> Floats:
    """a * b + c"""
    product = np.multiply(a, np.asarray(b, np.float32), dtype=np.float64)
    return (product + np.asarray(c, np.float32)).astype(np.float32)


def _polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """The first of which belongs to the highest power."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = _fma(result, x, coefficient)
    return result


def exp_of_negative(x: Floats) -> Floats:
    """exp(x) for x up to 0, off by at most 1.1 units in the last place."""
    kept = np.maximum(x, np.float32(EXP_LOWEST))
    rounded = _fma(kept, LOG2_E, ROUNDER)
    whole = rounded - np.float32(ROUNDER)
    rest = _fma(whole, -LN2_LOW, _fma(whole, -LN2_HIGH, kept))
    power = _polynomial(rest, EXP).view(np.int32) + (whole.astype(np.int32) << 23)
    return np.where(x < np.float32(EXP_LOWEST), np.float32(0), power.view(np.float32))


def _sigmoid(x: Floats) -> Floats:
    e = exp_of_negative(-np.abs(x))
    above: Floats = np.where(x >= 0, np.float32(1), e)
    return above / (e + np.float32(1))


def _erf(x: Floats) -> Floats:
    x = np.clip(x, np.float32(-ERF_LIMIT), np.float32(ERF_LIMIT))
    square = x * x
    above: Floats = x * _polynomial(square, ERF_NUMERATOR)
    return above / _polynomial(square, ERF_DENOMINATOR)


def gelu(x: Floats, out: Floats) -> None:
    """x * (1 + erf(x / sqrt(2))) / 2 of any shape, into `out`."""
    half = x * np.float32(0.5)
    out[...] = _fma(half, _erf(x * np.float32(SQRT_HALF)), half)


def gelu_tanh(x: Floats, out: Floats) -> None:
    """GELU with a tanh, x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) / 2, of any shape, into `out`."""
    out[...] = x * _sigmoid(x * _polynomial(x * x, (TWO_SQRT_2_BY_PI * 0.044715, TWO_SQRT_2_BY_PI)))


def silu(x: Floats, out: Floats) -> None:
    """x * sigmoid(x) of any shape, into `out`."""
    out[...] = x * _sigmoid(x)


def tanh(x: Floats, out: Floats) -> None:
    """tanh(x) of any shape, into `out`."""
    size, square = np.abs(x), x * x
    e = exp_of_negative(size * np.float32(-2))
    large = (np.float32(1) - e) / (e + np.float32(1))
    small = _fma(size * square, _polynomial(square, TANH), size)
    out[...] = np.copysign(np.where(size < np.float32(TANH_SMALL), small, large), x)


def _sum_of_lanes(x: Floats) -> Floats:
    """The sums of the last axis: lane `l` adds the numbers l, l + 16, ... in order; halves are added to halves."""
    *shape, n = x.shape
    padded = np.zeros((*shape, -(-n // LANES) * LANES), np.float32)
    padded[..., :n] = x
    lanes = np.zeros((*shape, LANES), np.float32)
    for start in range(0, n, LANES):
        lanes += padded[..., start : start + LANES]
    while (half := lanes.shape[-1] // 2) > 0:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float, out: Floats) -> None:
    """(x - mean) / sqrt(variance + eps) * weight + bias for each row of (m, dim), into `out`."""
    dim = np.float32(x.shape[1])
    centred = x - (_sum_of_lanes(x) / dim)[:, None]
    variance = _sum_of_lanes(centred * centred) / dim
    factor = np.float32(1) / np.sqrt(variance + np.float32(eps))
    result = centred * factor[:, None] * weight
    out[...] = result if bias is None else result + bias


def rms_norm(x: Floats, weight: Floats, eps: float, out: Floats) -> None:
    """x / sqrt(mean of x ** 2 + eps) * weight for each row of (m, dim), into `out`."""
    factor = np.float32(1) / np.sqrt(_sum_of_lanes(x * x) / np.float32(x.shape[1]) + np.float32(eps))
    out[...] = x * factor[:, None] * weight


def attend(
    queries: Floats,
    keys: Floats,
    values: Floats,
    segments: NDArray[np.int64],
    scaling: float,
    left: int,
    right: int,
    out: Floats,
) -> None:
    """Attention of queries (T, heads, dim) to keys and values (S, kv_heads, dim), into `out` (T, heads, dim).

    A segment is query_start, query_count, key_start, key_count: a sequence. Its query i stands at
    `key_count - query_count + i` among its keys, and sees those from `left` before to `right` after there (-1: all).
    Head h has the keys of head h // (heads // kv_heads).

    A query is multiplied by `scaling`. Its score for a key adds products in the order of dimensions, each by `_fma`.
    Weights are exp(score - the largest score); they are summed in 16 lanes, lane `j % 16` for key j, and halves are
    added to halves. The result adds weight * value in the order of keys, by `_fma`, and is
    multiplied by 1 / that sum.
    It is zero where a query sees no key. Tokens in no segment are left alone. Keys and values are finite.
    """
    group = queries.shape[1] // keys.shape[1]
    for query_start, query_count, key_start, key_count in segments.tolist():
        if not query_count or not key_count:
            out[query_start : query_start + query_count] = 0
            continue
        q = queries[query_start : query_start + query_count].swapaxes(0, 1) * np.float32(scaling)
        k, v = (x[key_start : key_start + key_count].swapaxes(0, 1).repeat(group, axis=0) for x in (keys, values))
        place = np.arange(query_count)[:, None] + key_count - query_count
        distance = np.arange(key_count) - place
        seen = (distance >= (-left if left >= 0 else -np.inf)) & (distance <= (right if right >= 0 else np.inf))
        scores = np.zeros((len(q), query_count, key_count), np.float32)
        for d in range(q.shape[2]):
            scores = _fma(q[:, :, d, None], k[:, None, :, d], scores)
        scores = np.where(seen, scores, np.float32(-np.inf))
        largest = scores.max(axis=2, keepdims=True)
        weights = np.where(seen, exp_of_negative(scores - np.where(np.isfinite(largest), largest, 0)), np.float32(0))
        result = np.zeros(q.shape, np.float32)
        for j in range(key_count):
            result = _fma(weights[:, :, j, None], v[:, None, j], result)
        total = np.where(seen.any(axis=1), _sum_of_lanes(weights), np.float32(1))
        out[query_start : query_start + query_count] = (
            result * (np.float32(1) / total)[..., None] + np.float32(0)
        ).swapaxes(0, 1)
