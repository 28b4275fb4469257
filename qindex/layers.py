"""The layers of a transformer that multiply no weights: attention, normalisation, activation functions, in float32.

A door like `qindex/kernels.py`: kernels that numba compiles, or NumPy's, over threads where that is worth it. Every row
has the same bits alone, in any batch, and for any number of threads.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qindex.backend import LAYERS, loader
from qindex.threads import split, threads

__all__ = ["attend", "gelu", "layer_norm", "rms_norm", "silu", "tanh"]

Floats = NDArray[np.float32]

# Bytes below which a second thread costs more than it saves: some 0.2 ms of work.
_SPLIT_BYTES = 2 << 20

# Attention takes about as long for so many multiplications as other kernels do for one byte.
_PRODUCTS_PER_BYTE = 5

_MOST_DIMS = 256


def attend(
    queries: Floats,
    keys: Floats,
    values: Floats,
    segments: NDArray[np.int64],
    *,
    scaling: float,
    left: int = -1,
    right: int = -1,
) -> Floats:
    """softmax(scaling * queries . keys) . values of each sequence: (T, heads, dim), zeros for tokens in no sequence.

    `queries` (T, heads, dim), `keys` and `values` (S, kv_heads, dim) are float32 of any strides, but the numbers of a
    head lie side by side; query head h has the keys of head h // (heads // kv_heads).

    Each of `segments`, int64 (n, 4), is a sequence: query_start, query_count, key_start, key_count. Its query i stands
    at `key_count - query_count + i` among its keys, and sees those from `left` before to `right` after there; -1 is no
    bound. So `right=0` is causal. A query that sees no key gives zeros. Numbers must be finite.
    """
    _check_attention(queries, keys, values)
    for name, bound in (("left", left), ("right", right)):
        if not isinstance(bound, int | np.integer) or bound < -1:
            raise ValueError(f"{name} must be an integer from 0 on, or -1 for no bound, got {bound!r}")
    if not math.isfinite(scaling):
        raise ValueError(f"scaling must be finite, got {scaling}")
    rows = _checked_segments(segments, len(queries), len(keys))
    covered = sum(row[1] for row in rows) == len(queries)
    out: Floats = np.empty(queries.shape, np.float32) if covered else np.zeros(queries.shape, np.float32)
    if not rows:
        return out
    kv_heads, group = keys.shape[1], queries.shape[1] // keys.shape[1]
    costs = [n_queries * n_keys for _, n_queries, _, n_keys in rows]
    work_bytes = sum(costs) * queries.shape[1] * 2 * queries.shape[2] // _PRODUCTS_PER_BYTE
    function = loader.function(LAYERS["attend"], "attend", "float32", work_bytes)
    n_parts = max(1, min(threads.count, work_bytes // _SPLIT_BYTES))
    if n_parts == 1:
        function(queries, keys, values, segments, scaling, left, right, out)
        return out

    def run(some: slice, heads: slice) -> None:
        own = slice(heads.start * group, heads.stop * group)
        arrays = queries[:, own], keys[:, heads], values[:, heads], segments[some]
        function(*arrays, scaling, left, right, out[:, own])

    if len(rows) >= 4 * n_parts:  # each thread takes some sequences, about as much work as the others
        done = np.cumsum(costs)
        ends = [0, *np.searchsorted(done, done[-1] * np.arange(1, n_parts) / n_parts).tolist(), len(rows)]
        parts = [(slice(*ends[i : i + 2]), slice(0, kv_heads)) for i in range(n_parts) if ends[i] < ends[i + 1]]
    else:
        parts = [(slice(0, len(rows)), heads) for heads in split(kv_heads, n_parts)]
    threads.map(run, parts)
    return out


def _check_attention(queries: Floats, keys: Floats, values: Floats) -> None:
    for name, array in (("queries", queries), ("keys", keys), ("values", values)):
        if array.dtype != np.float32 or array.ndim != 3 or (array.shape[2] > 1 and array.strides[2] != 4):
            raise ValueError(
                f"{name} must be float32 (tokens, heads, dim) whose numbers of a head lie side by side, "
                f"got {array.dtype} {array.shape} with strides {array.strides}"
            )
    heads, dim = queries.shape[1:]
    if keys.shape != values.shape or keys.shape[2] != dim:
        raise ValueError(f"keys and values must be (S, kv_heads, {dim}), got {keys.shape} and {values.shape}")
    if not keys.shape[1] or not heads or heads % keys.shape[1]:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads} and {keys.shape[1]}")
    if not 1 <= dim <= _MOST_DIMS:
        raise ValueError(f"dim of a head must be from 1 to {_MOST_DIMS}, got {dim}")


def _checked_segments(segments: NDArray[np.int64], n_queries: int, n_keys: int) -> list[list[int]]:
    """Segments as a list: there are few, and NumPy would take longer to look at them."""
    if segments.dtype != np.int64 or segments.shape[1:] != (4,) or not segments.flags.c_contiguous:
        raise ValueError(f"segments must be C-contiguous int64 (n, 4), got {segments.dtype} {segments.shape}")
    rows: list[list[int]] = segments.tolist()
    free = 0
    for row in sorted(rows):
        query, queries, key, keys = row
        if min(row) < 0 or query + queries > n_queries or key + keys > n_keys:
            raise ValueError(f"segments must lie within {n_queries} queries and {n_keys} keys, got {row}")
        if queries and query < free:
            raise ValueError(f"segments must not share queries, got {row} beside one that goes to query {free}")
        free = max(free, query + queries if queries else 0)
    return rows


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> Floats:
    """(x - mean) / sqrt(variance + eps) * weight + bias for each row of x, (m, dim): a new array."""
    _check_rows(x, weight, bias, eps)
    return _row_by_row("layer_norm", x, weight, bias, eps)


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / sqrt(mean of x ** 2 + eps) * weight for each row of x, (m, dim): a new array."""
    _check_rows(x, weight, None, eps)
    return _row_by_row("rms_norm", x, weight, eps)


def _check_rows(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> None:
    if x.dtype != np.float32 or x.ndim != 2 or not x.shape[1] or not x.flags.c_contiguous:
        raise ValueError(f"x must be C-contiguous float32 (m, dim), got {x.dtype} {x.shape}")
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None and (array.dtype != np.float32 or array.shape != x.shape[1:] or array.strides != (4,)):
            raise ValueError(f"{name} must be contiguous float32 {x.shape[1:]}, got {array.dtype} {array.shape}")
    if not eps > 0:
        raise ValueError(f"eps must be larger than 0, got {eps}")


def gelu(x: Floats, approximate: Literal["none", "tanh"] = "none") -> Floats:
    """x * P(a normal number < x), of any shape, or what is usual in place of it with a tanh: a new array.

    Off by at most 2e-7 * abs(x), either of what it is defined as.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return _each("gelu" if approximate == "none" else "gelu_tanh", x)


def silu(x: Floats) -> Floats:
    """x / (1 + exp(-x)) of any shape, off by at most 2e-7 * abs(x): a new array."""
    return _each("silu", x)


def tanh(x: Floats) -> Floats:
    """tanh(x) of any shape, off by at most 2e-7 * abs(x): a new array."""
    return _each("tanh", x)


def _each(name: str, x: Floats) -> Floats:
    if x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ValueError(f"x must be C-contiguous float32, got {x.dtype} {x.shape} with strides {x.strides}")
    return _row_by_row(name, x.reshape(-1)).reshape(x.shape)


def _row_by_row(name: str, x: Floats, *others: Any) -> Floats:
    function: Callable[..., None] = loader.function(LAYERS[name], name, "float32", x.nbytes)
    out = np.empty_like(x)
    n_parts = max(1, min(threads.count, x.nbytes // _SPLIT_BYTES, len(x)))
    threads.map(lambda part: function(x[part], *others, out[part]), [(part,) for part in split(len(x), n_parts)])
    return out
