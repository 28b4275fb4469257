"""Inner products of a tile of rows with a tile of queries; queries are zero beyond `dim`.

Float sums may be added in any order; their error is at most `dim` roundings of the sum of magnitudes.
"""

import triton
import triton.language as tl

from qindex_kernels.gpu.decode import integers, numbers

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
def dots(rows, FORM: tl.constexpr, row, row_present, queries, query, query_present, WIDTH: tl.constexpr):
    """In float32 (no tensor cores, which round to fewer bits): (N, M) float32."""
    total = tl.zeros((row.shape[0], query.shape[0]), tl.float32)
    for start in range(0, rows.dim, WIDTH):
        number = numbers(rows, FORM, row, row_present, start, WIDTH)
        value = load_queries(queries, query, query_present, start, rows.dim, rows.dim, WIDTH)
        total = tl.dot(number, tl.trans(value), total, input_precision="ieee")
    return total


@triton.jit
def integer_dots(
    rows, FORM: tl.constexpr, row, row_present, queries, query, query_present, first, SPAN, WIDTH: tl.constexpr
):
    """Dimensions `first` to `first + SPAN` on int8 tensor cores, with int8 queries: (N, M) int32, exact.

    Rows are the left operand, which tensor cores take from registers: there they are decoded.
    """
    stop = tl.minimum(first + SPAN, rows.dim)
    total = tl.zeros((row.shape[0], query.shape[0]), tl.int32)
    for offset in range(0, SPAN, WIDTH):
        number = integers(rows, FORM, row, row_present, first + offset, WIDTH)
        value = load_queries(queries, query, query_present, first + offset, stop, rows.dim, WIDTH)
        total = tl.dot(number, tl.trans(value), total, out_dtype=tl.int32)
    return total
