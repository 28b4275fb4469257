"""Matrix products with coded rows: a language model's linear layer, or many queries against all rows.

    matmul       x (m, dim) float32 times the decoded rows: sums in float32, 16 lanes, fused multiply-adds
    matmul_int8  x rounded to int8: exact integer sums within a block, blocks added in order in float32, as
                 `reference.matmul_int8` says; equal to it to the bit on every target

No result depends on the number of rows or queries in a call. Rows are unpacked into a scratch that stays in the cache,
a few at a time, while all queries pass over them; nothing is ever unpacked through memory.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import addressed, functions_for_few, kind_of, read_rows
from qindex_kernels.cpu.exact import decode_row, decoded_stride
from qindex_kernels.cpu.gemv import finish, integer_gemv, terms_for
from qindex_kernels.cpu.inner import inner, read_inner
from qindex_kernels.cpu.linear import TOKENS, channels_for, integer_product
from qindex_kernels.cpu.queries import contiguous, copy_row, queries_for
from qindex_kernels.cpu.record import LINE, Room
from qindex_kernels.cpu.simd import peek_f32
from qindex_kernels.cpu.sources import kernel
from qindex_kernels.cpu.tile import float_tile
from qindex_kernels.layout import Rows


@kernel
def float_product(inner_at, rows_at, queries, stride, decoded, scales, sums, x, out):
    """`queries` and `decoded` have room for m and four rows of `stride` bytes, `sums` for four rows of m."""
    inner, rows, m = read_inner(inner_at), read_rows(rows_at), len(x)
    for i in range(m):
        copy_row(np.intp(x[i].ctypes.data), queries + i * stride, rows.dim)
    for first in range(0, rows.n, 4):
        for j in range(4):
            decode_row(inner, rows, min(first + j, rows.n - 1), decoded + j * stride, scales)
        for i in range(0, m - 3, 4):
            float_tile(4, 4, decoded, stride, queries + i * stride, stride, rows.dim, sums + 4 * i, 4 * m)
        for i in range(m // 4 * 4, m):
            float_tile(4, 1, decoded, stride, queries + i * stride, stride, rows.dim, sums + 4 * i, 4 * m)
        n = min(4, rows.n - first)
        for i in range(m):
            for j in range(n):
                out[i, first + j] = peek_f32(sums + 4 * (m * j + i))
            finish(rows, first, n, out, i)


def matmul(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (m, dim) times the decoded rows, plus their bias: (m, n).

    A sum of products is off by at most (dim / 16 + 6) * 2 ** -24 times the sum of their magnitudes; row scale and bias
    round once each. `reference.matmul` gives it without that error.
    """
    found, m = addressed(rows), len(x)
    stride = decoded_stride(rows.dim) + LINE  # no power of two
    room = Room(m * stride, 4 * stride, 2 * stride, 4 * 4 * m)
    queries, decoded, scales, sums = room.pieces
    out = np.empty((m, found.n), np.float32)
    functions = inner(kind_of(rows), "decode")
    float_product(
        functions.address, found.address, queries, stride, decoded, scales, sums, contiguous(x), out
    )  # fmt: skip
    return out


def matmul_int8(rows: Rows, x: NDArray[np.float32], x_block: int) -> NDArray[np.float32]:
    """As `reference.matmul_int8`, to the bit."""
    found, m = addressed(rows), len(x)
    out, x, spare = np.empty((m, found.n), np.float32), contiguous(x), []
    if m < TOKENS:
        spare = found.spare_few.setdefault((m, x_block > 0), [])
        few = spare.pop() if spare else Few(rows, m, x_block > 0)
        integer_gemv(*few.addresses, x, out)
        spare.append(few)  # a list is safe between threads
    else:
        functions = inner(kind_of(rows), "unpack")
        queries = queries_for(found, m, functions.step, x_block > 0)
        channels = channels_for(found, queries)
        integer_product(functions.address, found.address, queries.address, channels.address, x, out)
    return out


class Few:
    """What products with few queries need beside them: making it takes as long as multiplying a small matrix."""

    def __init__(self, rows: Rows, m: int, per_block: bool) -> None:
        found = addressed(rows)
        self.functions = functions_for_few(rows)
        self.queries = queries_for(found, m, self.functions.step, per_block)
        self.terms = terms_for(found, self.queries)
        self.addresses = tuple(one.address for one in (self.functions, found, self.queries, self.terms))
