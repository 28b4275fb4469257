"""The k best rows for queries that are codes of the same format as the rows: bits are compared, and counted.

    score[i, j] = offset[i] + scale[i] * <level[query code], level[row code]>      in float64, rounded to float32 once

That is the symmetric distance computation of Jegou, Douze and Schmid (PAMI 2011, section III-A), for one or two bits a
dimension. With numbers s of +1 and -1 for bits, a sign is s and a level of two bits is (2 * s_high + s_low) / 2, so

    <signs, signs>   = dim - 2 * differences
    <levels, levels> = (9 * dim - 2 * distance) / 4,   distance = 4 * high-high + 2 * (high-low + low-high) + low-low

where each term counts the bits that differ, of a query and a row, at all dimensions. The distance is an integer, at
most 9 * 65,536, and its product with a float32 scale is exact in float64: so a score is that of `topk`, to the bit, and
no row is scored twice. Scores fall as distances grow, so that rows too far away are passed over by comparing integers;
distances that round to one score are equally far.

To compare and count 256 dimensions of two bits takes 11 operations on a register of 64 bytes, where all three steps are
one instruction each; `topk` meets them with 8, if bytes are multiplied and summed in one instruction, too.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu import topk as floats
from qindex_kernels.cpu.addresses import address, addressed, read_rows, row_address
from qindex_kernels.cpu.heap import is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import AHEAD
from qindex_kernels.cpu.queries import contiguous
from qindex_kernels.cpu.record import INTEGER, LINE, REAL, Record, Room, reader
from qindex_kernels.cpu.simd import (
    add_half_distances,
    add_sign_distances,
    at_most,
    load_bytes,
    load_half,
    lowest_bit,
    peek_f32,
    peek_f64,
    peek_i32,
    peek_i64,
    peek_u8,
    poke_f32,
    poke_f64,
    poke_i32,
    poke_i64,
    poke_u8,
    prefetch,
    store_sums_i32,
    zero_i32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.target import PATH
from qindex_kernels.layout import Rows

BLOCK_BYTES = 1 << 15  # of rows: L1 keeps them from query to query

BITS = {"sign": 1, "half2": 2}

# Formats that are scanned faster by counting bits than by `topk`, as measured at 384 dimensions: with AVX2, 1.6 to 3.7
# times as fast; with AVX-512, signs in batches 1.4 times, but two bits 0.6 to 1 times.
COUNTED = {"avx512": ("sign",), "avx2": ("sign", "half2"), "portable": ("sign",)}[PATH]

FAR = 1 << 30  # no row is so far away


class Nearest(Record):
    """Queries, and what is known of the best rows for each of them."""

    _fields_ = (
        ("m", INTEGER),
        ("k", INTEGER),
        ("bits", INTEGER),  # of a number
        ("width", INTEGER),  # bytes of a query, in whole registers
        ("block", INTEGER),  # rows that are looked at together, whole registers of distances
        ("codes", INTEGER),  # uint8 (m, row_bytes)
        ("planes", INTEGER),  # room: of each query the codes (width,) and, of two bits, the codes crossed
        ("mask", INTEGER),  # room for ones where there are dimensions, (width,)
        ("distances", INTEGER),  # room for int32 (block,)
        ("farthest", INTEGER),  # room for int32 (m,): distances that rows among the k best may have
        ("values", INTEGER),  # float32 (m, dim): the levels times a scale
        ("scales", INTEGER),  # room for float64 (m,)
        ("offset", INTEGER),  # float64 (m,)
        ("whole", INTEGER),  # a product is (whole - 2 * distance) * unit
        ("unit", REAL),
        ("scores", INTEGER),  # float32 (m, k), and int64: heaps
        ("kept", INTEGER),
        ("ids", INTEGER),  # int64 (n,)
        ("allow", INTEGER),  # bool (n,), or 0
    )


read_nearest = reader(Nearest)


@kernel
def scan_symmetric(rows_at, nearest_at):
    """Fill `scores` and `kept`."""
    rows, nearest = read_rows(rows_at), read_nearest(nearest_at)
    take(rows, nearest)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, nearest.block):
            n = min(nearest.block, stop - first)
            for i in range(nearest.m):
                query = nearest.planes + i * nearest.bits * nearest.width
                if nearest.bits == 1:
                    sign_distances(query, nearest.mask, nearest.width, rows, first, n, nearest.distances)
                else:
                    half_distances(query, nearest.mask, nearest.width, rows, first, n, nearest.distances)
                look(nearest, i, first, n)
    for i in range(nearest.m):
        own = nearest.k * i
        sort_best_first(nearest.scores + 4 * own, nearest.kept + 8 * own, nearest.k, nearest.ids)


@helper
def take(rows, nearest):
    """Copy queries to where there is room for whole registers, crossed too, and make the mask. No row is known."""
    for at in range(nearest.m * nearest.k):
        poke_f32(nearest.scores + 4 * at, np.float32(-np.inf))
        poke_i64(nearest.kept + 8 * at, np.int64(-1))
    for i in range(nearest.m):
        poke_i32(nearest.farthest + 4 * i, np.int32(FAR))
        value, code = abs(peek_f32(nearest.values + 4 * rows.dim * i)), peek_u8(nearest.codes + rows.row_bytes * i) & 3
        level = 1.0 if nearest.bits == 1 else 0.5 if code == 1 or code == 2 else 1.5
        poke_f64(nearest.scales + 8 * i, np.float64(value) / level)
        planes = nearest.planes + i * nearest.bits * nearest.width
        for at in range(rows.row_bytes):
            codes = np.intp(peek_u8(nearest.codes + i * rows.row_bytes + at))
            poke_u8(planes + at, np.uint8(codes))
            if nearest.bits == 2:
                poke_u8(planes + nearest.width + at, np.uint8((codes & 0x55) << 1 | codes >> 1 & 0x55))
    n_bits = rows.dim * nearest.bits
    for at in range(rows.row_bytes):
        poke_u8(nearest.mask + at, np.uint8((1 << min(8, n_bits - 8 * at)) - 1))


@helper
def sign_distances(query, mask, width, rows, first, n, out):
    """The distances of n rows from `first` on, int32, four rows at a time: one load of the query serves four."""
    row_bytes, at_row = rows.row_bytes, row_address(rows, first)
    last = at_row + (n - 1) * row_bytes
    for _j in range(0, n, 4):
        a, b, c, d = at_row, at_row + row_bytes, at_row + 2 * row_bytes, at_row + 3 * row_bytes
        b, c, d = min(b, last), min(c, last), min(d, last)  # past the end the last row is taken again
        a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
        for at in range(0, width, 64):
            ask_ahead(at_row + 4 * at)
            q, there = load_bytes(query + at), load_bytes(mask + at)
            a_sum = add_sign_distances(a_sum, load_bytes(a + at), q, there)
            b_sum = add_sign_distances(b_sum, load_bytes(b + at), q, there)
            c_sum = add_sign_distances(c_sum, load_bytes(c + at), q, there)
            d_sum = add_sign_distances(d_sum, load_bytes(d + at), q, there)
        store_sums_i32(out, a_sum, b_sum, c_sum, d_sum)
        at_row += 4 * row_bytes
        out += 16


@helper
def half_distances(query, mask, width, rows, first, n, out):
    """The same of two bits a dimension."""
    row_bytes, at_row = rows.row_bytes, row_address(rows, first)
    whole = row_bytes + 31 & -64  # half a register at the end is read alone: a third less for 384 dimensions with AVX2
    last = at_row + (n - 1) * row_bytes
    for _j in range(0, n, 4):
        a, b, c, d = at_row, at_row + row_bytes, at_row + 2 * row_bytes, at_row + 3 * row_bytes
        b, c, d = min(b, last), min(c, last), min(d, last)
        a_sum, b_sum, c_sum, d_sum = zero_i32(), zero_i32(), zero_i32(), zero_i32()
        for at in range(0, whole, 64):
            ask_ahead(at_row + 4 * at)
            q, crossed, there = load_bytes(query + at), load_bytes(query + width + at), load_bytes(mask + at)
            a_sum = add_half_distances(a_sum, load_bytes(a + at), q, crossed, there)
            b_sum = add_half_distances(b_sum, load_bytes(b + at), q, crossed, there)
            c_sum = add_half_distances(c_sum, load_bytes(c + at), q, crossed, there)
            d_sum = add_half_distances(d_sum, load_bytes(d + at), q, crossed, there)
        if whole < width:
            ask_ahead(at_row + 4 * whole)
            q, crossed, there = load_half(query + whole), load_half(query + width + whole), load_half(mask + whole)
            a_sum = add_half_distances(a_sum, load_half(a + whole), q, crossed, there)
            b_sum = add_half_distances(b_sum, load_half(b + whole), q, crossed, there)
            c_sum = add_half_distances(c_sum, load_half(c + whole), q, crossed, there)
            d_sum = add_half_distances(d_sum, load_half(d + whole), q, crossed, there)
        store_sums_i32(out, a_sum, b_sum, c_sum, d_sum)
        at_row += 4 * row_bytes
        out += 16


@inlined
def ask_ahead(at):
    """Rows are read faster than the hardware alone looks ahead."""
    for line in range(0, 256, 64):
        prefetch(at + AHEAD + line)


@helper
def look(nearest, i, first, n):
    """Rank the rows of a block that are not too far away from query i."""
    k, farthest = nearest.k, nearest.farthest + 4 * i
    scores, kept = nearest.scores + 4 * k * i, nearest.kept + 8 * k * i
    for group in range(0, n, 16):
        found = at_most(nearest.distances + 4 * group, peek_i32(farthest))
        while found != 0:
            j = group + lowest_bit(found)
            found &= found - 1
            distance, row = np.intp(peek_i32(nearest.distances + 4 * j)), first + j
            if j >= n or distance > peek_i32(farthest):
                continue
            if nearest.allow != 0 and peek_u8(nearest.allow + row) == 0:
                continue
            score = score_at(nearest, i, distance)
            if is_worse(peek_f32(scores), peek_i64(kept), score, row, nearest.ids):
                replace_worst(scores, kept, k, score, row, nearest.ids)
                if peek_i64(kept) >= 0:
                    poke_i32(
                        farthest, np.int32(farthest_of(nearest, i, peek_f32(scores), distance, peek_i32(farthest)))
                    )


@inlined
def score_at(nearest, i, distance):
    """The score of a row at a distance from query i."""
    product = np.float64(nearest.whole - 2 * distance) * nearest.unit
    return np.float32(peek_f64(nearest.offset + 8 * i) + peek_f64(nearest.scales + 8 * i) * product)


@helper
def farthest_of(nearest, i, score, low, high):
    """The largest distance from `low`, which reaches a score, to `high` that does.

    It is nearly always where the score would be without rounding; else halving the distances between finds it.
    """
    high = min(high, nearest.whole)
    step = peek_f64(nearest.scales + 8 * i) * nearest.unit
    place = 0.5 * (nearest.whole - (np.float64(score) - peek_f64(nearest.offset + 8 * i)) / step)
    if low <= place <= high:
        near = np.intp(place + 0.5)
        if near < high and score_at(nearest, i, near + 1) < score:
            high = near
        if score_at(nearest, i, near) >= score:
            low = near
    while low < high:
        middle = (low + high + 1) // 2
        if score_at(nearest, i, middle) >= score:
            low = middle
        else:
            high = middle - 1
    return low


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
    """As `reference.topk_symmetric`, to the bit: in the faster of two ways."""
    if rows.kind in COUNTED:
        return topk_counted(rows, values, offset, ids, allow, k, codes)
    return floats.topk(rows, values, offset, ids, allow, k, max_norm)


def topk_counted(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    k: int,
    codes: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same by counting bits, for signs and `half2`."""
    m, found = len(codes), addressed(rows)
    codes, values, offset = contiguous(codes), contiguous(values), contiguous(offset)
    kept, scores = np.empty((m, k), np.int64), np.empty((m, k), np.float32)
    if len(found.spare_coded) > KEPT_ROOMS:
        found.spare_coded.clear()
    spare = found.spare_coded.setdefault((m, k), []) if m < KEPT_M else []
    # A list is safe between threads; two that search at once find two rooms in it, or make them.
    nearest = spare.pop() if spare else nearest_for(rows, m, k)
    nearest.codes, nearest.values, nearest.offset = address(codes), address(values), address(offset)
    nearest.scores, nearest.kept = address(scores), address(kept)
    nearest.ids, nearest.allow = address(ids), address(allow)
    scan_symmetric(found.address, nearest.address)
    spare.append(nearest)
    return kept, scores


# Rooms that rows keep from call to call, for few queries: making one takes as long as scanning thousands of rows.
KEPT_ROOMS, KEPT_M = 16, 64


def nearest_for(rows: Rows, m: int, k: int) -> Nearest:
    """Room for m queries for k rows. It does not keep the rows alive."""
    bits, row_bytes = BITS[rows.kind], rows.data.shape[1]
    block, width = max(16, BLOCK_BYTES // row_bytes // 16 * 16), -(-row_bytes // LINE) * LINE
    room = Room(m * bits * width, width, 4 * block, 4 * m, 8 * m)
    planes, mask, distances, farthest, scales = room.pieces
    nearest = Nearest(
        m=m, k=k, bits=bits, width=width, block=block, planes=planes, mask=mask, distances=distances,
        farthest=farthest, scales=scales, whole=rows.dim if bits == 1 else 9 * rows.dim,
        unit=1.0 if bits == 1 else 0.25,
    )  # fmt: skip
    nearest.room = room
    return nearest
