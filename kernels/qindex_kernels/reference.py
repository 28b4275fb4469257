"""Every kernel in plain NumPy: the definition that the compiled kernels equal to the bit, and the way without numba.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], level[code_j]>      in float64, rounded to float32 once

The inner product sums float64 products in 32 lanes: lane `l` adds the dimensions `l`, `l + 32`, ... in order, then
halves are added to halves. Layouts of codes: kernels/README.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 32
ROWS_AT_ONCE = 4096


def _small_float(exponent_bits: int, mantissa_bits: int) -> NDArray[np.float32]:
    """Levels of an 8-bit float, by its bits alone (codes of NaN or infinity get the rule's finite value)."""
    bias = 2 ** (exponent_bits - 1) - 1
    code = np.arange(128)
    exponent, mantissa = code >> mantissa_bits, code & (2**mantissa_bits - 1)
    fraction = (mantissa + np.where(exponent > 0, 2**mantissa_bits, 0)).astype(np.float64)
    magnitude = np.ldexp(fraction, np.maximum(exponent, 1) - bias - mantissa_bits)
    return np.concatenate([magnitude, -magnitude]).astype(np.float32)


_LEVELS = {"e4m3": _small_float(4, 3), "e5m2": _small_float(5, 2), "e3m4": _small_float(3, 4)}


def _table(name: str) -> Callable[[NDArray[np.uint8], int], NDArray[np.float32]]:
    return lambda data, dim: _LEVELS[name][data]


_DECODE: dict[str, Callable[[NDArray[np.uint8], int], NDArray[Any]]] = {
    "float32": lambda data, dim: data.view("<f4"),
    "float16": lambda data, dim: data.view("<f2"),
    "e4m3": _table("e4m3"),
    "e5m2": _table("e5m2"),
    "e3m4": _table("e3m4"),
    "int8": lambda data, dim: data.view(np.int8),
    "sign": lambda data, dim: np.unpackbits(data, axis=1, count=dim, bitorder="little") * 2.0 - 1.0,
}


def decode(kind: str, data: NDArray[np.uint8], dim: int) -> NDArray[np.float64]:
    """The numbers behind packed rows: (n, row_bytes) -> (n, dim) float64."""
    return _DECODE[kind](np.ascontiguousarray(data), dim).astype(np.float64)


def _lane_sums(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the last axis in the fixed order of this module."""
    dim = products.shape[-1]
    padded = np.zeros((*products.shape[:-1], -(-dim // LANES) * LANES))
    padded[..., :dim] = products
    steps = padded.reshape(*products.shape[:-1], -1, LANES)
    lanes = np.zeros((*products.shape[:-1], LANES))
    for step in range(steps.shape[-2]):
        lanes = lanes + steps[..., step, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def score_rows(
    kind: str,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    data: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Exact scores of chosen rows: values (m, dim), offset (m,), data (n, row_bytes), rows (m, r) -> (m, r).

    Every row number must lie in [0, n).
    """
    m, dim = values.shape
    result = np.empty(rows.shape, np.float32)
    for i in range(m):
        for start in range(0, rows.shape[1], ROWS_AT_ONCE):
            chosen = rows[i, start : start + ROWS_AT_ONCE]
            dots = _lane_sums(decode(kind, data[chosen], dim) * values[i].astype(np.float64))
            if scale is not None:
                dots = dots * scale[chosen]
            base = offset[i] if bias is None else offset[i] + bias[chosen]
            result[i, start : start + ROWS_AT_ONCE] = base + dots
    return result


def topk(
    kind: str,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    data: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None,
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best rows of each query, best first: row numbers (m, k), -1 where there are no more, and scores (m, k).

    Larger is better; ties go to the smaller id. `allow` (n,) excludes rows. `max_norm` bounds the length of every
    decoded and scaled row (fast passes need it; this one does not).
    """
    candidates = np.arange(len(data)) if allow is None else np.flatnonzero(allow)
    m = len(values)
    kept = min(k, len(candidates))
    rows = np.full((m, k), -1, np.int64)
    scores = np.full((m, k), -np.inf, np.float32)
    for i in range(m):
        found = score_rows(kind, values[i : i + 1], offset[i : i + 1], data, scale, bias, candidates[None])[0]
        best = np.lexsort((ids[candidates], -found))[:kept]
        rows[i, :kept], scores[i, :kept] = candidates[best], found[best]
    return rows, scores
