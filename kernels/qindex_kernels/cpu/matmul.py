"""Matrix products with coded rows: a language model's linear layer, or many queries against all rows.

    matmul       x (m, dim) float32 times the decoded rows: sums in float32, 16 lanes, fused multiply-adds
    matmul_int8  x rounded to int8: exact integer sums within a block, blocks added in order in float32, as
                 `reference.matmul_int8` says; equal to it to the bit on every target

No result depends on the number of rows or queries in a call. Rows are unpacked into a scratch that stays in the cache,
a few at a time, while all queries pass over them; nothing is ever unpacked through memory.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.activations import LINE, activations, aligned, fill_panels, panels, quantize
from qindex_kernels.cpu.addresses import addressed, kind_of
from qindex_kernels.cpu.exact import decode_row, decode_scratch
from qindex_kernels.cpu.gemv import finish, gemv_scratch, integer_gemv
from qindex_kernels.cpu.inner import inner
from qindex_kernels.cpu.product import add_products, group_of_rows
from qindex_kernels.cpu.sources import kernel
from qindex_kernels.cpu.tile import float_tile
from qindex_kernels.layout import Rows

GEMV_QUERIES = 4  # up to so many, unpacking rows for a tile does not pay


@kernel
def integer_product(inner, rows, x, panels, group, out):
    quantize(x, rows, inner.step)
    fill_panels(x, panels, inner.bias)
    for first in range(0, rows.n, len(group.sums)):
        add_products(inner, rows, first, x, panels, group)
        n = min(len(group.sums), rows.n - first)
        for i in range(len(x.codes)):
            step = np.float32(1) if x.per_block != 0 else x.steps[i, 0]
            for j in range(n):
                out[i, first + j] = group.sums[j, i] * step
            finish(rows, first, n, out[i])


@kernel
def float_product(inner, rows, queries, decoded, scratch, sums, out):
    """`queries` are padded, `decoded` has room for four rows of the same stride, `sums` for four rows of sums."""
    m, stride = len(queries), 4 * queries.shape[1]
    left, right = np.intp(queries.ctypes.data), np.intp(decoded.ctypes.data)
    total = np.intp(sums.ctypes.data)
    for first in range(0, rows.n, 4):
        for j in range(4):
            decode_row(inner, rows, min(first + j, rows.n - 1), right + j * stride, scratch)
        for i in range(0, m - 3, 4):
            float_tile(4, 4, right, stride, left + i * stride, stride, rows.dim, total + 4 * i, 4 * m)
        for i in range(m // 4 * 4, m):
            float_tile(4, 1, right, stride, left + i * stride, stride, rows.dim, total + 4 * i, 4 * m)
        n = min(4, rows.n - first)
        for i in range(m):
            for j in range(n):
                out[i, first + j] = sums[j, i]
            finish(rows, first, n, out[i])


def matmul(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (m, dim) times the decoded rows, plus their bias: (m, n).

    A sum of products is off by at most (dim / 16 + 6) * 2 ** -24 times the sum of their magnitudes; row scale and bias
    round once each. `reference.matmul` gives it without that error.
    """
    addresses, _tail = addressed(rows)
    m, dim = x.shape
    queries = np.zeros((m, -(-dim // 64) * 64 + LINE // 4), np.float32)  # rows are no power of two of bytes
    queries[:, :dim] = x
    out = np.empty((m, len(rows.data)), np.float32)
    decoded, sums = aligned(4 * 4 * queries.shape[1]), np.empty((4, m), np.float32)
    float_product(inner(kind_of(rows), "decode"), addresses, queries, decoded, decode_scratch(dim), sums, out)
    return out


def matmul_int8(rows: Rows, x: NDArray[np.float32], x_block: int) -> NDArray[np.float32]:
    """As `reference.matmul_int8`, to the bit."""
    addresses, _tail = addressed(rows)
    kind, few = kind_of(rows), len(x) <= GEMV_QUERIES
    functions = inner(kind, "unpack" if not few else "block_sums" if rows.block else "dots")
    left = activations(x, addresses, functions.step, x_block > 0)
    out = np.empty((len(x), len(rows.data)), np.float32)
    if few:
        integer_gemv(functions, addresses, left, gemv_scratch(addresses), out)
    else:
        packed = panels(left)
        group = group_of_rows(addresses, left.codes.shape[1], packed.n)
        integer_product(functions, addresses, left, packed, group, out)
    return out
