"""Rows that may be among the k best, until their exact scores say so.

A fast score is `scale * <query, numbers> + bias`, wrong by at most a query's margin. Of a query, the k best fast scores
so far are kept: a row below the worst of them by more than two margins has k better ones. Other rows are candidates.
When their room is full, those that have fallen behind since are dropped, or, if they are few, all are scored exactly.
So the result is that of exact scoring, whatever the fast pass does, and few rows are ever scored twice.
"""

import numpy as np

from qindex_kernels.cpu.addresses import read_rows
from qindex_kernels.cpu.exact import exact_score
from qindex_kernels.cpu.heap import is_worse, replace_smallest, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import read_inner
from qindex_kernels.cpu.queries import SMALLEST_NORMAL, read_queries
from qindex_kernels.cpu.record import INTEGER, REAL, Record, Room, reader
from qindex_kernels.cpu.simd import peek_f32, peek_f64, peek_i8, peek_i64, poke_f32, poke_f64, poke_i64
from qindex_kernels.cpu.sources import helper, kernel


class Search(Record):
    """What is known of the best rows for each of `m` queries."""

    _fields_ = (
        ("m", INTEGER),
        ("k", INTEGER),
        ("capacity", INTEGER),  # candidates of one query
        ("margins", INTEGER),  # float64 (m,)
        ("offsets", INTEGER),  # float64 (m,)
        ("needed", INTEGER),  # float32 (m,), in whole registers: the fast score of a candidate
        ("best", INTEGER),  # float32 (m, k): heaps of fast scores
        ("counts", INTEGER),  # int64 (m,)
        ("rows", INTEGER),  # int64 (m, capacity)
        ("fast", INTEGER),  # float32 (m, capacity)
        ("bases", INTEGER),  # float32 (m, capacity)
        ("scores", INTEGER),  # float32 (m, k), and int64: heaps of exactly scored rows
        ("kept", INTEGER),
        ("ids", INTEGER),  # int64 (n,)
        ("allow", INTEGER),  # bool (n,), or 0
        ("decoded", INTEGER),  # room for exact.exact_score
        ("base", REAL),  # of the rows that are looked at: added to their scores, the fast and the exact ones
        # What the error of a fast score depends on, beside the query.
        ("norm", REAL),  # no decoded and scaled row is longer, nor its levels or its zeros alone
        ("bias", REAL),  # no row bias is larger
        ("scale", REAL),  # no row scale is larger
        ("signs", INTEGER),  # rows of signs under a row scale
        ("one_hot", INTEGER),  # as in RowAddresses
        ("integers", INTEGER),  # the fast pass takes the int8 form of the query
    )


read_search = reader(Search)


def search_for(m: int, k: int, n: int, scratch: int, **known: float) -> Search:
    """Room for the candidates of m queries among n rows, for whose exact scores `scratch` bytes are needed."""
    capacity, lanes = min(n, 4 * k + 64), -(-m // 64) * 64
    own = 4 * m * capacity
    room = Room(8 * m, 8 * m, 4 * lanes, 4 * m * k, 8 * m, 2 * own, own, own, scratch)
    margins, offsets, needed, best, counts, rows, fast, bases, decoded = room.pieces
    search = Search(
        m=m, k=k, capacity=capacity, margins=margins, offsets=offsets, needed=needed, best=best, counts=counts,
        rows=rows, fast=fast, bases=bases, decoded=decoded, **known,
    )  # fmt: skip
    search.room = room
    return search


@kernel
def begin(search_at, queries_at, offset, scores, kept):
    """Bound the errors of the fast scores, once queries are quantized; nothing is known of rows.

    `scores` (m, k) and `kept` (m, k) are filled with what stands for no row; the result will be there.
    """
    search, queries = read_search(search_at), read_queries(queries_at)
    search.scores, search.kept = np.intp(scores.ctypes.data), np.intp(kept.ctypes.data)
    begin_none(search)
    for i in range(search.m):
        begin_one(search, queries, i, offset[i])


@helper
def begin_none(search):
    """Fill in what stands for no row."""
    for i in range((search.m + 63) // 64 * 64):
        poke_f32(search.needed + 4 * i, np.float32(-np.inf if i < search.m else np.inf))
    for i in range(search.m * search.k):
        poke_f32(search.best + 4 * i, np.float32(-np.inf))
        poke_f32(search.scores + 4 * i, np.float32(-np.inf))
        poke_i64(search.kept + 8 * i, np.int64(-1))


@helper
def begin_one(search, queries, i, offset):
    """Take query i, with the margin of its fast scores."""
    poke_i64(search.counts + 8 * i, np.int64(0))
    poke_f64(search.offsets + 8 * i, offset)
    values, codes = queries.values + 4 * queries.width * i, queries.codes + queries.width * i
    step = np.float64(peek_f32(queries.steps + 4 * queries.lanes * i)) if search.integers != 0 else 0.0
    if search.one_hot != 0:
        poke_f64(search.margins + 8 * i, one_hot_margin(search, queries.dim >> search.one_hot, step, offset))
        return
    largest, squares, missed, missed_squares = 0.0, 0.0, 0.0, 0.0
    part_at = queries.rows
    while part_at != 0:
        part = read_rows(part_at)
        part_step = step / part.query_unit
        for d in range(part.start, part.start + part.dim):
            value = np.float64(peek_f32(values + 4 * d))
            miss = abs(value - part_step * peek_i8(codes + d))
            largest = max(largest, abs(value))
            squares += value * value
            missed += miss
            missed_squares += miss * miss
        part_at = part.next
    # What the int8 form misses: Cauchy-Schwarz; for rows of signs the sum of the misses, under a row scale that is
    # at most norm / sqrt(dim).
    margin = 0.0
    if search.signs != 0:
        margin = missed * search.norm / np.sqrt(queries.dim)
    elif search.integers != 0:
        margin = np.sqrt(missed_squares) * search.norm
    # Rounding in float32: at most dim / 16 additions in a lane, a few to join the lanes, a few to decode and to
    # finish, each wrong by half a unit of 2 ** -23 of what the sums can reach; twice that. Levels and zeros are
    # summed apart. Last, the underflow of products, under the unit and the row scale.
    reach = 2 * np.sqrt(squares) * search.norm + abs(offset) + search.bias
    margin += (queries.width / 16 + 24) * 2.0**-23 * reach
    margin += queries.width * SMALLEST_NORMAL * (1 + largest) * (1 + search.scale * 2.0**14)
    poke_f64(search.margins + 8 * i, margin)


@helper
def one_hot_margin(search, terms, step, offset):
    """The margin for rows that take one of the query's numbers for each of their codes, `terms` in all.

    Each number misses half a step at most, under a row scale that is at most norm / sqrt(terms). Integer sums are
    exact, and the rest is rounded a few times.
    """
    units = step * terms * search.norm / np.sqrt(terms)
    margin = 0.5001 * units + 16 * 2.0**-23 * (128 * units + abs(offset) + search.bias)
    return margin + terms * SMALLEST_NORMAL * (1 + 128 * step) * (1 + search.scale * 2.0**14)


@kernel
def expect(search_at, least):
    """Pass over rows whose exact scores are below these, (m,), where fast scores show it."""
    search = read_search(search_at)
    for i in range(search.m):
        need(search, i, np.float64(least[i]) - peek_f64(search.offsets + 8 * i) - peek_f64(search.margins + 8 * i))


@helper
def offer(inner, rows, queries, search, i, row, fast):
    """A row whose fast score for query i is not below what is needed."""
    count = peek_i64(search.counts + 8 * i)
    at = search.capacity * i + count
    poke_i64(search.rows + 8 * at, row)
    poke_f32(search.fast + 4 * at, fast)
    poke_f32(search.bases + 4 * at, np.float32(search.base))
    poke_i64(search.counts + 8 * i, count + 1)
    best = search.best + 4 * search.k * i
    if fast > peek_f32(best):
        replace_smallest(best, search.k, fast)
        need(search, i, np.float64(peek_f32(best)) - 2 * peek_f64(search.margins + 8 * i))
    if count + 1 == search.capacity:
        settle(inner, rows, queries, search, i, search.capacity // 2)


@helper
def need(search, i, fast):
    """Raise what is needed of query i."""
    if fast > peek_f32(search.needed + 4 * i):
        poke_f32(search.needed + 4 * i, np.float32(fast))


@helper
def settle(inner, rows, queries, search, i, room):
    """Drop candidates that have fallen behind; if more than `room` are left, score them all."""
    own, kept = search.capacity * i, 0
    needed = peek_f32(search.needed + 4 * i)
    for c in range(own, own + peek_i64(search.counts + 8 * i)):
        fast = peek_f32(search.fast + 4 * c)
        if fast >= needed:
            poke_f32(search.fast + 4 * (own + kept), fast)
            poke_f32(search.bases + 4 * (own + kept), peek_f32(search.bases + 4 * c))
            poke_i64(search.rows + 8 * (own + kept), peek_i64(search.rows + 8 * c))
            kept += 1
    if kept > room:
        query, offset = queries.values + 4 * queries.width * i, peek_f64(search.offsets + 8 * i)
        scores, best = search.scores + 4 * search.k * i, search.kept + 8 * search.k * i
        for c in range(own, own + kept):
            row = peek_i64(search.rows + 8 * c)
            base = np.float64(peek_f32(search.bases + 4 * c))
            score = exact_score(inner, query, offset + base, rows, row, search.decoded)
            if is_worse(peek_f32(scores), peek_i64(best), score, row, search.ids):
                replace_worst(scores, best, search.k, score, row, search.ids)
        need(search, i, np.float64(peek_f32(scores)) - offset - peek_f64(search.margins + 8 * i))
        kept = 0
    poke_i64(search.counts + 8 * i, kept)


@kernel
def finish(inner_at, rows_at, queries_at, search_at):
    """Score what is left, and turn heaps into rankings."""
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    queries, search = read_queries(queries_at), read_search(search_at)
    for i in range(search.m):
        finish_one(inner, rows, queries, search, i)


@helper
def finish_one(inner, rows, queries, search, i):
    settle(inner, rows, queries, search, i, 0)
    sort_best_first(search.scores + 4 * search.k * i, search.kept + 8 * search.k * i, search.k, search.ids)
