"""Inner products of a tile of rows with a tile of queries; queries are zero beyond `dim`.

Rows are the left operand, which tensor cores take from registers: there they are decoded.

Float sums may be added in any order. Tensor cores multiply bfloat16 numbers exactly and add 16 products to a sum at a
time, each cut off at 2 ** -24 of the largest of them or finer, and the sum at 2 ** -23: that is less than 20 / 16 of
what 16 roundings to float32 may lose. So an error is at most 2 * dim roundings of the sum of magnitudes.
"""

import triton
import triton.language as tl

from qindex_kernels.gpu.activations import bfloat16_parts
from qindex_kernels.gpu.decode import integers, levels, numbers

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
STAGES = tl.constexpr(3)  # loads of so many steps are under way at once


@triton.jit
def load_queries(queries, query, present, start, stop, dim, WIDTH: tl.constexpr):
    """Dimensions from start to stop of some queries, zero elsewhere: (M, WIDTH)."""
    d = start + tl.arange(0, WIDTH)
    at = query.to(tl.int64)[:, None] * dim + d[None, :]
    return tl.load(queries + at, mask=present[:, None] & (d < stop)[None, :], other=0)


@triton.jit
def dots_of_few(
    rows, FORM: tl.constexpr, row, row_present, queries, first_query, m, M: tl.constexpr, WIDTH: tl.constexpr
):
    """For a few queries, from `first_query` up to m, which go by one after the other: (M, N) float32."""
    total = tl.zeros((M, row.shape[0]), tl.float32)
    for start in tl.range(0, rows.dim, WIDTH, num_stages=STAGES):
        number = numbers(rows, FORM, row, row_present, start, WIDTH)
        d = start + tl.arange(0, WIDTH)
        for i in tl.static_range(M):
            query = first_query + i
            value = tl.load(queries + query * rows.dim + d, mask=d < tl.where(query < m, rows.dim, 0), other=0)
            dot = tl.sum(number * value[None, :], 1)[None, :]
            total += tl.where(tl.arange(0, M)[:, None] == i, dot, 0.0)
    return total


@triton.jit
def product(a, b, total):
    """total + a b, of bfloat16 numbers."""
    if INTERPRETED:  # it would multiply their bits
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def rounded_dots(rows, FORM: tl.constexpr, row, row_present, queries, query, query_present, WIDTH: tl.constexpr):
    """Of numbers rounded to bfloat16, which all without blocks are but nf4's, and bfloat16 queries: (N, M) float32."""
    total = tl.zeros((row.shape[0], query.shape[0]), tl.float32)
    for start in range(0, rows.dim, WIDTH):
        number = numbers(rows, FORM, row, row_present, start, WIDTH).to(tl.bfloat16)
        value = load_queries(queries, query, query_present, start, rows.dim, rows.dim, WIDTH)
        total = product(number, tl.trans(value), total)
    return total


@triton.jit
def level_dots(
    rows, FORM: tl.constexpr, row, row_present, parts, m, query, query_present, start, stop, WIDTH: tl.constexpr
):
    """Levels times float32 queries, which lie in three bfloat16 parts, from `start` to `stop`: (N, M) float32.

    Small products come first, so that what they lose is small, too.
    """
    level = levels(rows, FORM, row, row_present, start, WIDTH)
    high = tl.trans(load_queries(parts, query, query_present, start, stop, rows.dim, WIDTH))
    middle = tl.trans(load_queries(parts, query + m, query_present, start, stop, rows.dim, WIDTH))
    low = tl.trans(load_queries(parts, query + 2 * m, query_present, start, stop, rows.dim, WIDTH))
    total = tl.zeros((row.shape[0], query.shape[0]), tl.float32)
    if FORM.exact:
        level = level.to(tl.bfloat16)
        total = product(level, low, total)
        total = product(level, middle, total)
        total = product(level, high, total)
    else:
        level_high, level_middle, level_low = bfloat16_parts(level)
        total = product(level_low, high, total)
        total = product(level_middle, middle, total)
        total = product(level_high, low, total)
        total = product(level_middle, high, total)
        total = product(level_high, middle, total)
        total = product(level_high, high, total)
    return total


@triton.jit
def integer_dots(
    rows, FORM: tl.constexpr, row, row_present, queries, query, query_present, first, SPAN, WIDTH: tl.constexpr
):
    """Dimensions `first` to `first + SPAN` on int8 tensor cores, with int8 queries: (N, M) int32, exact."""
    stop = tl.minimum(first + SPAN, rows.dim)
    total = tl.zeros((row.shape[0], query.shape[0]), tl.int32)
    for offset in range(0, SPAN, WIDTH):
        number = integers(rows, FORM, row, row_present, first + offset, WIDTH)
        value = load_queries(queries, query, query_present, first + offset, stop, rows.dim, WIDTH)
        total = tl.dot(number, tl.trans(value), total, out_dtype=tl.int32)
    return total
