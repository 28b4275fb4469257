"""Every kernel in plain NumPy: the definition that the compiled kernels equal to the bit, and the way without numba.

    score[i, j] = (offset[i] + bias[j]) + scale[j] * <values[i], number[j]>      in float64, rounded to float32 once

The inner product sums float64 products in 32 lanes: lane `l` adds the dimensions `l`, `l + 32`, ... in order, then
halves are added to halves. In rows of several parts, each part begins at lane 0. Layouts of codes: kernels/README.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.layout import Level, Listed, Rows, Runs
from qindex_kernels.rotor import SHUFFLED, Rotor, Steps

LANES = 32
ROWS_AT_ONCE, QUERIES_AT_ONCE = 4096, 16

# Rows that are rotated together: dim * 256 float32, twice, stay in the cache for dims of a thousand.
ROTATED_AT_ONCE = 256


def _small_float(bits: int, exponent_bits: int, mantissa_bits: int) -> NDArray[np.float64]:
    """Levels of a small float, by its bits alone (codes of NaN or infinity get the rule's finite value)."""
    bias = 2 ** (exponent_bits - 1) - 1
    code = np.arange(2 ** (bits - 1))
    exponent, mantissa = code >> mantissa_bits, code & (2**mantissa_bits - 1)
    fraction = (mantissa + np.where(exponent > 0, 2**mantissa_bits, 0)).astype(np.float64)
    magnitude = np.ldexp(fraction, np.maximum(exponent, 1) - bias - mantissa_bits)
    return np.concatenate([magnitude, -magnitude])


def _integers(bits: int, lowest: float) -> NDArray[np.float64]:
    return lowest + np.arange(2**bits)


# The level of every code, by format. Ternary code 3 is never written.
LEVELS = {
    "sign": np.array([-1.0, 1.0]),
    "ternary": np.array([-1.0, 0.0, 1.0, 0.0]),
    **{f"int{bits}": _integers(bits, -(2.0 ** (bits - 1))) for bits in range(2, 8)},
    **{f"half{bits}": _integers(bits, 0.5 - 2.0 ** (bits - 1)) for bits in (2, 3, 4)},
    "int8": np.concatenate([np.arange(128.0), np.arange(-128.0, 0.0)]),
    "e2m1": _small_float(4, 2, 1),
    "e2m3": _small_float(6, 2, 3),
    "e3m2": _small_float(6, 3, 2),
    "e4m3": _small_float(8, 4, 3),
    "e5m2": _small_float(8, 5, 2),
    "e3m4": _small_float(8, 3, 4),
    # arXiv 2305.14314, appendix E
    "nf4": np.array(
        [
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
            -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
            0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ],
        np.float32,
    ).astype(np.float64),
    "e8m0": np.ldexp(1.0, np.arange(256) - 127),
}  # fmt: skip

# The width of each plane that the codes of a format lie in.
PLANES = {
    "sign": (1,), "ternary": (2,), "int2": (2,), "half2": (2,), "table2": (2,), "int3": (2, 1), "half3": (2, 1),
    "table3": (2, 1), "int4": (4,), "half4": (4,), "e2m1": (4,), "nf4": (4,), "table4": (4,), "int5": (4, 1),
    "int6": (4, 2), "e2m3": (4, 2), "e3m2": (4, 2), "int7": (4, 2, 1), "int8": (8,), "e4m3": (8,), "e5m2": (8,),
    "e3m4": (8,), "e8m0": (8,), "float16": (16,), "float32": (32,), "onehot4": (4,), "onehot8": (8,),
}  # fmt: skip

# One-hot formats: the numbers that a code stands for, one of them 1 and the others 0.
SPANS = {"onehot4": 16, "onehot8": 256}


def unpack(kind: str, data: NDArray[np.uint8], dim: int) -> NDArray[np.intp]:
    """The codes of packed rows of formats of up to 8 bits: (n, row_bytes) -> (n, dim), one-hot (n, dim // span)."""
    dim //= SPANS.get(kind, 1)
    codes = np.zeros((len(data), dim), np.intp)
    start = shift = 0
    for width in PLANES[kind]:
        stop = start + (dim * width + 7) // 8
        bits = np.unpackbits(data[:, start:stop], axis=1, count=dim * width, bitorder="little")
        for bit in range(width):
            codes += bits[:, bit::width].astype(np.intp) << (shift + bit)
        start, shift = stop, shift + width
    return codes


_WIDE: dict[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
    "float32": lambda data: data.view("<f4"),
    "float16": lambda data: data.view("<f2"),
}


def decode(kind: str, data: NDArray[np.uint8], dim: int) -> NDArray[np.float64]:
    """The levels behind packed rows: (n, row_bytes) -> (n, dim) float64."""
    if kind in _WIDE:
        return _WIDE[kind](np.ascontiguousarray(data)).astype(np.float64)
    if kind in SPANS:
        return np.eye(SPANS[kind])[unpack(kind, data, dim)].reshape(len(data), dim)
    return LEVELS[kind][unpack(kind, data, dim)]


def _stored(level: Level, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
    """The numbers of one level of a scale tree, (n, blocks), or (1, blocks) where rows share them."""
    stored = level.of(rows)
    return (LEVELS[level.kind][stored] if stored.dtype == np.uint8 else stored).astype(np.float32)


def block_scale(rows: Rows, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32]:
    """The product of the levels of the scale tree, for each finest block: (n or 1, blocks)."""
    blocks = -(-rows.dim // rows.block) if rows.block else 1
    result = np.ones((1, blocks), np.float32)
    for i, level in enumerate(rows.levels):
        numbers = _stored(level, chosen)[:, np.arange(blocks) * rows.block // level.size]
        result = result * numbers if i else numbers
    return result


def levels(rows: Rows, chosen: slice | NDArray[np.int64]) -> NDArray[np.float64]:
    """The levels of chosen rows, before any scale: (n, dim)."""
    if rows.tables is None:
        return np.hstack([decode(part.kind, part.data[chosen], part.dim) for part in rows.parts])
    data = rows.data[chosen]
    own = rows.tables.ndim == 3
    tables = rows.tables[chosen] if own else np.broadcast_to(rows.tables, (len(data), *rows.tables.shape))
    table = np.arange(rows.dim) // rows.block if tables.shape[1] > 1 else np.zeros(rows.dim, np.intp)
    codes = unpack(rows.kind, data, rows.dim)
    return tables[np.arange(len(data))[:, None], table, codes].astype(np.float64)


def numbers(rows: Rows, chosen: slice | NDArray[np.int64]) -> NDArray[np.float64]:
    """The decoded numbers of chosen rows, without the row scale: (n, dim) float64 of what float32 holds."""
    if not rows.block:
        return levels(rows, chosen)
    block = np.arange(rows.dim) // rows.block
    result = levels(rows, chosen).astype(np.float32)
    if rows.levels:
        result = result * block_scale(rows, chosen)[:, block]
    if rows.zero is not None:
        result = result + _stored(rows.zero, chosen)[:, block]
    return result.astype(np.float64)


def _lane_sums(products: NDArray[np.float64], dims: list[int]) -> NDArray[np.float64]:
    """Sum the last axis, in parts of so many dimensions, in the fixed order of this module."""
    starts = np.cumsum([0, *(-(-dim // LANES) * LANES for dim in dims)])
    padded = np.zeros((*products.shape[:-1], starts[-1]))
    first = 0
    for start, dim in zip(starts, dims, strict=False):
        padded[..., start : start + dim] = products[..., first : first + dim]
        first += dim
    steps = padded.reshape(*products.shape[:-1], -1, LANES)
    lanes = np.zeros((*products.shape[:-1], LANES))
    for step in range(steps.shape[-2]):
        lanes = lanes + steps[..., step, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _one_hot_sums(rows: Rows, chosen: NDArray[np.int64], query: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `_lane_sums` gives for rows of ones and zeros, without the zeros, whose products change no lane."""
    codes = unpack(rows.kind, rows.data[chosen], rows.dim)
    lanes, row = np.zeros((len(codes), LANES)), np.arange(len(codes))
    for part in range(codes.shape[1]):
        place = part * SPANS[rows.kind] + codes[:, part]
        lanes[row, place % LANES] += query[place]
    return _lane_sums(lanes, [LANES])


def score_rows(
    rows: Rows, values: NDArray[np.float32], offset: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Exact scores of chosen rows: values (m, dim), offset (m,), chosen (m, r) row numbers -> (m, r).

    Every row number must lie in [0, n).
    """
    result = np.empty(chosen.shape, np.float32)
    for i in range(len(values)):
        result[i] = _score_same(rows, values[i : i + 1], offset[i : i + 1, None], chosen[i])[0]
    return result


def _score_same(
    rows: Rows, values: NDArray[np.float32], offset: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The same of rows (r,) that all queries meet, decoded once: (m, r). `offset` is anything that suits (m, r)."""
    result = np.empty((len(values), len(chosen)), np.float32)
    offset, queries = np.broadcast_to(offset, result.shape), values.astype(np.float64)
    dims = [one.dim for one in rows.parts]
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        part = chosen[start : start + ROWS_AT_ONCE]
        at_once = slice(start, start + len(part))
        decoded = None if rows.kind in SPANS else numbers(rows, part)
        for i, query in enumerate(queries):
            dots = _one_hot_sums(rows, part, query) if decoded is None else _lane_sums(decoded * query, dims)
            if rows.scale is not None:
                dots = dots * rows.scale[part]
            base = offset[i, at_once]
            result[i, at_once] = (base if rows.bias is None else base + rows.bias[part]) + dots
    return result


def topk(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best rows of each query, best first: row numbers (m, k), -1 where there are no more, and scores (m, k).

    Larger is better; ties go to the smaller id. `allow` (n,) excludes rows. `max_norm` bounds the length of every
    decoded and scaled row (fast passes need it; this one does not).
    """
    candidates = np.arange(len(rows.data)) if allow is None else np.flatnonzero(allow)
    m = len(values)
    kept = min(k, len(candidates))
    best_rows = np.full((m, k), -1, np.int64)
    scores = np.full((m, k), -np.inf, np.float32)
    for start in range(0, m, QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        for i, found in enumerate(_score_same(rows, values[part], offset[part, None], candidates), start):
            best = np.lexsort((ids[candidates], -found))[:kept]
            best_rows[i, :kept], scores[i, :kept] = candidates[best], found[best]
    return best_rows, scores


def topk_symmetric(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
    codes: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `topk`, of queries whose `values` are the levels of packed `codes` (m, row_bytes) times a scale each.

    Rows are of the format of the codes, `sign` or `half2`, in one part, with no scales, biases or zeros. A scale is a
    positive float32 number whose products with the levels float32 holds, so all sums are exact, in any order.
    """
    return topk(rows, values, offset, ids, allow, k, max_norm)


def topk_lists(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    runs: Runs,
    probes: NDArray[np.int32],
    bases: NDArray[np.float32] | None,
    ids: NDArray[np.int64] | None,
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
    least: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `topk`, for each query among the rows of its lists, `probes` (m, p): distinct, -1 for none.

    `bases` (m, p) are added to the scores of the rows of the lists: `((offset + base) + bias) + scale * <query, row>`.
    Without `ids`, ties go to the smaller row number. Rows whose scores are below `least` (m,) are left out.
    """
    m = len(values)
    best_rows, scores = np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)
    for i in range(m):
        rows_of, bases_of = [np.empty(0, np.int64)], [np.empty(0)]
        for p, one in enumerate(probes[i]):
            for run in range(runs.starts[one], runs.starts[one + 1]) if one >= 0 else ():
                some = runs.firsts[run] + np.arange(runs.counts[run])
                some = some if allow is None else some[allow[some]]
                rows_of.append(some)
                bases_of.append(np.full(len(some), 0.0 if bases is None else bases[i, p]))
        candidates = np.concatenate(rows_of)
        found = _score_same(rows, values[i : i + 1], offset[i] + np.concatenate(bases_of), candidates)[0]
        if least is not None:
            candidates, found = candidates[found >= least[i]], found[found >= least[i]]
        best = np.lexsort((candidates if ids is None else ids[candidates], -found))[:k]
        best_rows[i, : len(best)], scores[i, : len(best)] = candidates[best], found[best]
    return best_rows, scores


def search_lists(
    listed: Listed,
    queries: NDArray[np.float32],
    coarse: tuple[NDArray[np.float32], NDArray[np.float64]],
    fine: tuple[NDArray[np.float32], NDArray[np.float64]] | None,
    k: int,
    wanted: int,
    p: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """The k best rows of the p lists whose centres score best: their **ids** and scores (m, k), and the lists (m, p).

    Lists are chosen by int8 products of `queries` with centres. The `wanted` best rows by the `coarse` values and
    offsets are ranked by the `fine` ones, if there are any; else `wanted` is k. Where rows have copies, so are the
    `wanted` best copies of the same lists that are no worse than the last of the `wanted` best rows, if there is one.
    """
    runs, ids = listed.runs, listed.ids
    near = matmul_int8(listed.centres, queries, 0)
    probes = largest(near if listed.shifts is None else near + listed.shifts, p)
    bases = None
    if listed.relative:
        products = score_rows(listed.centres, queries, np.zeros(len(queries)), probes.astype(np.int64))
        bases = np.float32(listed.relative) * products
    found, scores = topk_lists(listed.rows, *coarse, runs, probes, bases, ids, listed.allow, wanted, listed.max_norm)
    if listed.fine is not None and fine is not None:
        if listed.copies is not None:
            rows, norm, runs, of, allow = listed.copies
            copies, _scores = topk_lists(rows, *coarse, runs, probes, bases, None, allow, wanted, norm, scores[:, -1])
            found = np.hstack([found, np.where(copies >= 0, of[copies], -1)])
        none, slack = np.zeros(found.shape, np.float32), np.full(len(found), np.inf)
        found, scores, _counts = rescore(listed.fine, *fine, found, none, slack, ids, k)
    return np.where(found >= 0, ids[found], -1), scores, probes


def largest(numbers: NDArray[np.float32], p: int) -> NDArray[np.int32]:
    """The places of the p largest of each row of (m, n) numbers, in ascending order; of equal ones, the first."""
    order = np.argsort(-numbers, axis=1, kind="stable")[:, :p]
    return np.sort(order, axis=1).astype(np.int32)


def rescore(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    chosen: NDArray[np.int64],
    estimates: NDArray[np.float32],
    slack: NDArray[np.float64],
    ids: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The k best of chosen rows (m, r) for each query, as `topk` gives them, and how many of them were scored: (m,).

    Rows are looked at in order, -1 is passed over, and one that comes twice is returned once. At the first row whose
    estimate (m, r) plus the slack (m,) of the query is below the k-th best score so far, a query is done: with
    estimates in falling order, and none below its score by more than the slack, all others are below, too.
    """
    m = len(values)
    best, scores = np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)
    counts = np.zeros(m, np.int64)
    for i in range(m):
        looked_at = chosen[i] >= 0
        some, bounds = chosen[i, looked_at], estimates[i, looked_at] + slack[i]
        found = score_rows(rows, values[i : i + 1], offset[i : i + 1], some[None])[0]
        n = min(k, len(some))
        while n < len(some) and k and not bounds[n] < _kth(some[:n], found[:n], k):
            n += 1
        once = np.unique(some[:n], return_index=True)[1]
        order = once[np.lexsort((ids[some[once]], -found[once]))[:k]]
        best[i, : len(order)], scores[i, : len(order)], counts[i] = some[order], found[order], n
    return best, scores, counts


def _kth(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> float:
    """The k-th best score of distinct rows; -inf if there are fewer."""
    once = np.unique(rows, return_index=True)[1]
    return float(np.partition(scores[once], len(once) - k)[len(once) - k]) if len(once) >= k else -np.inf


def matmul(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (m, dim) times the decoded rows, plus their bias: (m, n), each sum in float64 and rounded to float32."""
    decoded = numbers(rows, slice(None))
    result = x.astype(np.float64) @ decoded.T
    if rows.scale is not None:
        result = result * rows.scale
    return (result if rows.bias is None else result + rows.bias).astype(np.float32)


SMALLEST_NORMAL = np.finfo(np.float32).tiny


def quantize(x: NDArray[np.float32], block: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """x (m, dim) as `step * codes`: int8 codes (m, dim) in [-127, 127] and one step a row, or a block of a row.

    Returns codes and steps (m, blocks or 1). `block` 0 stands for whole rows. step = max(abs(x)) / 127 in float32, or
    1 where that is not a normal number; codes round half to even.
    """
    m, dim = x.shape
    size = block or dim
    padded = np.pad(x, ((0, 0), (0, -dim % size))).reshape(m, -1, size)
    step = np.abs(padded).max(axis=2) / np.float32(127)
    step[step < SMALLEST_NORMAL] = 1
    codes = np.rint(padded / step[:, :, None]).astype(np.int8)
    return codes.reshape(m, -1)[:, :dim], step


# int8_levels * UNIT are the levels of a format, for formats whose levels are small integers times a unit, and for nf4,
# whose levels are rounded (an error of at most 1 / 254 of the block's scale).
UNITS = {"half2": 0.5, "half3": 0.5, "half4": 0.5, "e2m1": 0.5, "e2m3": 0.125, "nf4": 1 / 127}


def matmul_int8(rows: Rows, x: NDArray[np.float32], x_block: int) -> NDArray[np.float32]:
    """x (m, dim), rounded to int8, times the decoded rows, plus their bias: (m, n).

    `x_block` 0 gives each row of x one step, else each of its blocks, which must be those of the rows. Integer sums
    within a block are exact; blocks are added in order, every operation in float32:

        sum = 0
        for each block:  sum += float(<x, integers>) * (scale * unit)  [* step of the block]
                         sum += float(sum of x) * zero                 [* step of the block]
        result = sum [* step of the row] * row scale + bias
    """
    codes, step = quantize(x, x_block)
    unit = np.float32(UNITS.get(rows.kind, 1.0))
    integers = np.rint(levels(rows, slice(None)) / UNITS.get(rows.kind, 1.0)).astype(np.int64)
    m, n = len(x), len(rows.data)
    size = rows.block or rows.dim
    scales = np.broadcast_to(block_scale(rows, slice(None)) * unit, (n, -(-rows.dim // size)))
    zeros = None if rows.zero is None else np.broadcast_to(_stored(rows.zero, slice(None)), scales.shape)
    result = np.zeros((m, n), np.float32)
    for g, start in enumerate(range(0, rows.dim, size)):
        part = codes[:, start : start + size].astype(np.int64)
        terms = [(part @ integers[:, start : start + size].T).astype(np.float32) * scales[:, g]]
        if zeros is not None:
            terms.append(part.sum(axis=1, keepdims=True).astype(np.float32) * zeros[:, g])
        for term in terms:
            result = result + (term * step[:, g : g + 1] if x_block else term)
    if not x_block:
        result = result * step
    if rows.scale is not None:
        result = result * rows.scale
    return result if rows.bias is None else result + rows.bias


def rotate(rotor: Rotor, rows: NDArray[np.float32], backwards: bool) -> None:
    """Rotate each row of (n, dim), or rotate it back, in place.

    In float32, and each operation rounds by itself: a product with each factor; then, for each level of a Hadamard
    matrix, from neighbours to halves, the sums and the differences of all pairs. Back, the steps are the same in
    reverse order: all but the shuffle are symmetric.
    """
    for start in range(0, len(rows), ROTATED_AT_ONCE):
        part = rows[start : start + ROTATED_AT_ONCE]
        # Numbers of one dimension lie side by side, so that each step runs over whole cache lines.
        columns = part.T.copy(order="C")
        spare = np.empty_like(columns)
        begin = 0
        for steps in rotor.blocks:
            block = slice(begin, begin + len(steps.order))
            (_turn_back if backwards else _turn)(columns[block], spare[block], steps)
            begin = block.stop
        part[...] = columns.T


def _turn(columns: NDArray[np.float32], spare: NDArray[np.float32], steps: Steps) -> None:
    """Rotate `columns` (size, n) in place."""
    for number, factors in enumerate(steps.factors):
        if number == SHUFFLED:
            columns[...] = columns[steps.order]
        columns *= factors[:, None]
        window = steps.window(number)
        _hadamard(columns[window], spare[window])


def _turn_back(columns: NDArray[np.float32], spare: NDArray[np.float32], steps: Steps) -> None:
    for number in reversed(range(len(steps.factors))):
        window = steps.window(number)
        _hadamard(columns[window], spare[window])
        columns *= steps.factors[number][:, None]
        if number == SHUFFLED:
            columns[steps.order] = columns.copy()


def _hadamard(columns: NDArray[np.float32], spare: NDArray[np.float32]) -> None:
    """Multiply (width, n) by the Hadamard matrix of entries +1 and -1, in place."""
    width, n = columns.shape
    source, target = columns, spare
    half = 1
    while half < width:
        pairs, sums = source.reshape(-1, 2, half, n), target.reshape(-1, 2, half, n)
        np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
        source, target, half = target, source, 2 * half
    if source is not columns:
        columns[...] = source
