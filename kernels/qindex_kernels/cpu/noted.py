"""Fast scores of rows that are noted by number, wherever they lie: those that a walk has found, or a filter allows.

A fast score is of the int8 query where rows are integers under scales of the whole row, each step in float32:

    score = ((sum * factor * block scale) + zero * (sum of the query * factor)) * scale + bias

without those that rows have not, and else the exact score without the query's offset.

What is called `walk` here is a record that has the numbers, and the room, of `walk.Walk`.
"""

import numpy as np

from qindex_kernels.cpu.addresses import read_rows, row_address
from qindex_kernels.cpu.exact import exact_score
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.queries import shift_of
from qindex_kernels.cpu.simd import (
    add_i32,
    as_f32,
    gather,
    load_f32,
    load_i32,
    peek_f32,
    peek_i32,
    peek_i64,
    poke_f32,
    poke_i32,
    poke_i64,
    prefetch,
    scaled,
    splat_i32,
    store_f32,
    store_i32,
    store_low_i8,
    store_low_i16,
    sum_f32,
    times,
)
from qindex_kernels.cpu.sources import helper, inlined
from qindex_kernels.cpu.unpack import scales16


@helper
def ask_for_codes(rows, walk, n):
    """Prefetch the codes of the rows noted, and note where they lie, in whole fours."""
    data, data_tail, tail_start, row_bytes = rows.data, rows.data_tail, rows.tail_start, rows.row_bytes
    found, places = walk.found, walk.places
    for j in range(n):
        row = np.int64(peek_i32(found + 4 * j))
        place = (data if row < tail_start else data_tail) + row * row_bytes
        poke_i64(places + 8 * j, place)
        prefetch_row(place, row_bytes)
    for j in range(n, (n + 3) // 4 * 4):
        poke_i64(places + 8 * j, peek_i64(places))


@inlined
def prefetch_row(place, n_bytes):
    """Ask for a row that begins at a cache line, or is no whole number of them."""
    for line in range(0, n_bytes, 64):
        prefetch(place + line)
    if n_bytes % 64 != 0:
        prefetch(place + n_bytes - 1)


@helper
def score_found(inner, rows, queries, walk, n):
    """The fast scores of the rows noted; -inf behind the last, up to a whole register."""
    ask_for_codes(rows, walk, n)
    if walk.integers == 0:
        for j in range(n):
            row = np.int64(peek_i32(walk.found + 4 * j))
            poke_f32(walk.scores + 4 * j, exact_score(inner, queries.values, 0.0, rows, row, walk.scratch))
    elif n > 0:
        call(inner.dots_at, (queries.codes, walk.places, rows.dim, n, rows.table, walk.scores))
        if rows.next != 0:
            add_parts(rows, queries.codes, walk, n)
        finish_scores(inner, rows, queries, walk, n)
    for j in range(n, (n + 15) // 16 * 16):
        poke_f32(walk.scores + 4 * j, np.float32(-np.inf))


@helper
def add_parts(rows, query, walk, n):
    """Add the integer sums of the parts behind the first."""
    following = rows.next
    while following != 0:
        part = read_rows(following)
        for j in range((n + 3) // 4 * 4):
            poke_i64(walk.places + 8 * j, row_address(part, np.int64(peek_i32(walk.found + 4 * min(j, n - 1)))))
        call(
            read_inner(part.scanning).dots_at,
            (query + part.start, walk.places, part.dim, n, part.table, walk.part),
        )
        for j in range(0, 4 * n, 4):
            poke_i32(walk.scores + j, peek_i32(walk.scores + j) + peek_i32(walk.part + j))
        following = part.next


@helper
def finish_scores(inner, rows, queries, walk, n):
    """From sums to scores, in their place."""
    factor = np.float32(rows.integer_unit) * peek_f32(queries.steps)
    shift = shift_of(inner, rows, queries, 0, 0, True)
    total = np.float32(peek_i32(queries.totals)) * factor
    if rows.common != 0:
        factor *= np.float32(rows.common)
    if rows.fine != 0:
        collect(walk, n, rows.fine, rows.fine_row, rows.fine_bytes, walk.scales)
    if rows.zero != 0:
        collect(walk, n, rows.zero, rows.zero_row, rows.zero_bytes, walk.zeros)
    for j in range(0, n, 16):
        at = walk.scores + 4 * j
        score = scaled(as_f32(add_i32(load_i32(at), splat_i32(shift))), factor)
        if rows.fine != 0:
            score = times(score, scales16(rows.fine_kind, walk.scales + j * rows.fine_bytes))
        if rows.zero != 0:
            score = sum_f32(score, scaled(scales16(rows.zero_kind, walk.zeros + j * rows.zero_bytes), total))
        store_f32(at, score)
    if rows.scale != 0:
        collect(walk, n, rows.scale, 4, 4, walk.scales)
        for at in range(0, 4 * n, 64):
            store_f32(walk.scores + at, times(load_f32(walk.scores + at), load_f32(walk.scales + at)))
    if rows.bias != 0:
        collect(walk, n, rows.bias, 4, 4, walk.scales)
        for at in range(0, 4 * n, 64):
            store_f32(walk.scores + at, sum_f32(load_f32(walk.scores + at), load_f32(walk.scales + at)))


@helper
def collect(walk, n, numbers, row_stride, size, out):
    """Copy the numbers of `size` bytes that the rows noted have at an address, side by side, in whole registers."""
    for j in range(0, n, 16):
        found = gather(numbers, walk.found + 4 * j if row_stride != 0 else walk.firsts, size)
        if size == 2:
            store_low_i16(out + 2 * j, found)
        elif size == 4:
            store_i32(out + 4 * j, found)
        else:
            store_low_i8(out + j, found)
