"""Dot products of one query with a block of rows: a fast, rounded form and an exact one.

    fast:   raw[j] = <q, level[code_j]>   in int32 (int8 query; int8 and sign rows) or float32 (float query and rows)
    exact:  <q, level[code_j]>            float32 products, which are exact in float64, summed in float64

The order of the exact sum is part of its definition, so that every target and the NumPy reference agree to the bit:
32 lanes, lane `l` adding the products of the dimensions `l`, `l + 32`, ... in order, then halves added to halves.
Queries are padded with zeros to whole registers; what a row's last register reads beyond the row counts nothing.

int32 holds 255 * 127 * dim for any dim up to 65,536.
"""

from numba import njit

from qindex_kernels.cpu.simd import (
    BYTES_OF_16,
    INT8,
    add_products_f64,
    decode16,
    dot_u8i8,
    flip_sign_bits,
    fma_f32,
    keep_where_set,
    load_bytes,
    load_f32,
    ones_u8,
    prefetch,
    store_sums_f32,
    store_sums_i32,
    sum_f64,
    zero_f32,
    zero_f64,
    zero_i32,
)

# Decoding fills the reorder window with few rows, so the hardware alone does not look far enough ahead: bytes.
AHEAD = 4096


@njit
def int8_dots(query, dim, rows, row_bytes, n, raw):
    """raw[j] = <query, code_j + 128> for int8 rows, four rows at a time: one load of the query serves four."""
    for j in range(0, n, 4):
        # Past the end the last row is taken again; `raw` has room for it.
        a = rows + j * row_bytes
        b = rows + min(j + 1, n - 1) * row_bytes
        c = rows + min(j + 2, n - 1) * row_bytes
        d = rows + min(j + 3, n - 1) * row_bytes
        sum_a, sum_b, sum_c, sum_d = zero_i32(), zero_i32(), zero_i32(), zero_i32()
        for at in range(0, dim, 64):
            q = load_bytes(query + at)
            sum_a = dot_u8i8(sum_a, flip_sign_bits(load_bytes(a + at)), q)
            sum_b = dot_u8i8(sum_b, flip_sign_bits(load_bytes(b + at)), q)
            sum_c = dot_u8i8(sum_c, flip_sign_bits(load_bytes(c + at)), q)
            sum_d = dot_u8i8(sum_d, flip_sign_bits(load_bytes(d + at)), q)
        store_sums_i32(raw + 4 * j, sum_a, sum_b, sum_c, sum_d)


@njit
def sign_dots(query, dim, rows, row_bytes, n, raw):
    """raw[j] = the sum of the int8 query over the set bits of row j: the bits select bytes through mask registers."""
    one = ones_u8()
    for j in range(0, n, 4):
        a = rows + j * row_bytes
        b = rows + min(j + 1, n - 1) * row_bytes
        c = rows + min(j + 2, n - 1) * row_bytes
        d = rows + min(j + 3, n - 1) * row_bytes
        sum_a, sum_b, sum_c, sum_d = zero_i32(), zero_i32(), zero_i32(), zero_i32()
        for at in range(0, dim, 64):
            prefetch(a + AHEAD + at // 2)
            q = load_bytes(query + at)
            sum_a = dot_u8i8(sum_a, one, keep_where_set(a + at // 8, q))
            sum_b = dot_u8i8(sum_b, one, keep_where_set(b + at // 8, q))
            sum_c = dot_u8i8(sum_c, one, keep_where_set(c + at // 8, q))
            sum_d = dot_u8i8(sum_d, one, keep_where_set(d + at // 8, q))
        store_sums_i32(raw + 4 * j, sum_a, sum_b, sum_c, sum_d)


@njit(inline="always")
def integer_dots(kind, query, dim, rows, row_bytes, n, raw):
    if kind == INT8:
        int8_dots(query, dim, rows, row_bytes, n, raw)
    else:
        sign_dots(query, dim, rows, row_bytes, n, raw)


@njit(inline="always")
def float_dots(kind, query, dim, rows, row_bytes, n, raw):
    """raw[j] = <query, number_j> in float32 for rows of floats, decoded in registers."""
    for j in range(0, n, 4):
        a = rows + j * row_bytes
        b = rows + min(j + 1, n - 1) * row_bytes
        c = rows + min(j + 2, n - 1) * row_bytes
        d = rows + min(j + 3, n - 1) * row_bytes
        sum_a, sum_b, sum_c, sum_d = zero_f32(), zero_f32(), zero_f32(), zero_f32()
        for group in range((dim + 15) // 16):
            for line in range(0, 4 * BYTES_OF_16[kind], 64):
                prefetch(a + AHEAD + 4 * BYTES_OF_16[kind] * group + line)
            q = load_f32(query + 64 * group)
            sum_a = fma_f32(sum_a, decode16(kind, a, group), q)
            sum_b = fma_f32(sum_b, decode16(kind, b, group), q)
            sum_c = fma_f32(sum_c, decode16(kind, c, group), q)
            sum_d = fma_f32(sum_d, decode16(kind, d, group), q)
        store_sums_f32(raw + 4 * j, sum_a, sum_b, sum_c, sum_d)


@njit(inline="always")
def exact_dot(kind, query, dim, row):
    """<query, number> of one row in float64, in the fixed order of this module."""
    low, high = zero_f64(), zero_f64()
    for pair in range((dim + 31) // 32):
        low = add_products_f64(low, decode16(kind, row, 2 * pair), load_f32(query + 128 * pair))
        high = add_products_f64(high, decode16(kind, row, 2 * pair + 1), load_f32(query + 128 * pair + 64))
    return sum_f64(low, high)
