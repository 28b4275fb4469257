"""The best rows that a walk over a graph of neighbours meets: approximate, and fast.

A walk keeps a beam of the `ef` best rows it has seen, by fast scores. It starts with the entries, and while a row of
the beam is not expanded, it expands the best such: it scores those of its neighbours that it has not seen, and lets the
better ones into the beam. (Two rows at once would have more lines come from memory together, but score more rows.) What
is left in the end is ranked by exact scores, of finer rows if there are some.

Fast scores (`noted.py`) are those of the reference to the bit. So a walk is the same on every target and for any number
of threads or queries in a call.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import (
    RowAddresses,
    address,
    addressed,
    functions_for,
    kind_of,
    read_rows,
)
from qindex_kernels.cpu.beam import KEYS, clear, insert, key_of, next_open, row_of, score_of
from qindex_kernels.cpu.exact import decoded_stride, decoding, exact_score, scratch_bytes
from qindex_kernels.cpu.heap import is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import INTEGER_KINDS, read_inner
from qindex_kernels.cpu.noted import prefetch_row, score_found
from qindex_kernels.cpu.queries import (
    contiguous,
    copy_query,
    order,
    order_masked,
    queries_for,
    query_dim,
    read_queries,
    take,
)
from qindex_kernels.cpu.record import INTEGER, Record, Room, reader
from qindex_kernels.cpu.score_rows import ask_for
from qindex_kernels.cpu.simd import (
    at_least,
    lowest_bit,
    nonzero_bytes,
    peek_f32,
    peek_f64,
    peek_i32,
    peek_i64,
    peek_u8,
    peek_u32,
    poke_f32,
    poke_i8,
    poke_i32,
    poke_i64,
    poke_u8,
    poke_u32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.unpack import SPAN
from qindex_kernels.layout import Only, Rows, Through

AHEAD = 4  # rows that are asked for before they are ranked
ENTRIES = 64  # that are looked at together


class Walk(Record):
    """What a walk goes over, and the room that it needs."""

    _fields_ = (
        ("n", INTEGER),
        ("degree", INTEGER),
        ("neighbours", INTEGER),  # int32 (n, degree)
        ("entries", INTEGER),  # int32 (n_entries,)
        ("n_entries", INTEGER),
        ("ef", INTEGER),
        ("width", INTEGER),  # keys of the beam: ef or more
        ("size", INTEGER),  # of the beam: width in whole registers of keys
        ("filled", INTEGER),  # keys that it has
        ("enough", INTEGER),  # allowed rows, if not all are, that are to be better than the next row of the beam
        ("most", INTEGER),  # keys of the beam of these
        ("most_size", INTEGER),
        ("only", INTEGER),  # bool (n,): instead of a walk, all rows of these are looked at; or 0
        ("integers", INTEGER),  # whether fast scores are of the int8 query
        ("seen", INTEGER),  # (n,) the epoch of the walk that last saw a row, one byte
        ("epoch", INTEGER),
        ("beam", INTEGER),
        ("kept", INTEGER),  # another beam, of allowed rows, where not all are; else the same
        ("allow", INTEGER),  # bool (n,), or 0
        ("found", INTEGER),  # int32: rows that are to be scored, up to n and some more
        ("places", INTEGER),  # int64: their addresses
        ("scores", INTEGER),  # float32, or int32 sums: theirs
        ("part", INTEGER),  # int32: the sums of another part
        ("scales", INTEGER),  # what goes with the rows that are scored
        ("zeros", INTEGER),
        ("firsts", INTEGER),  # int32: sixteen times row 0, where all rows share a number
        ("scratch", INTEGER),  # for exact scores of the coarse rows
        ("fine_scratch", INTEGER),
        ("fine_query", INTEGER),  # float32, in whole registers
        ("heap", INTEGER),  # int64 (k,)
        ("m", INTEGER),
        ("k", INTEGER),
        ("ranked", INTEGER),  # of the best rows, so many are ranked; or, where k is 0, told
        ("values", INTEGER),  # float32 (m, dim)
        ("fine_values", INTEGER),
        ("fine_offset", INTEGER),  # float64 (m,)
        ("ids", INTEGER),  # int64 (n,)
        ("best", INTEGER),  # int64 (m, k) ids; or, where k is 0, (m, ranked) rows: the result
        ("best_scores", INTEGER),  # float32, likewise
        ("work", INTEGER),  # int64 (3, m): rows expanded, scored, ranked
        ("short", INTEGER),  # how many queries have met fewer than k rows, or than are enough
    )


read_walk = reader(Walk)


@kernel
def walk_all(inner_at, rows_at, queries_at, fine_inner_at, fine_at, walk_at):
    """Walk for each query, and rank what is found."""
    inner, rows, queries = read_inner(inner_at), read_rows(rows_at), read_queries(queries_at)
    fine_inner, fine, walk = read_inner(fine_inner_at), read_rows(fine_at), read_walk(walk_at)
    dim, fine_dim = query_dim(rows), query_dim(fine)
    walk.short = 0
    for i in range(walk.m):
        take(queries, rows, walk.values + 4 * dim * i, walk.integers != 0)
        if walk.integers != 0:
            order(queries)
            order_masked(queries, inner)
        walk_one(inner, rows, queries, walk, i)
        if walk.k != 0:
            copy_query(fine, walk.fine_values + 4 * fine_dim * i, walk.fine_query)
            rank(fine_inner, fine, walk, i)
        else:
            tell(walk, i)


@helper
def walk_one(inner, rows, queries, walk, i):
    size, beam = walk.size, walk.beam
    if walk.epoch == 255:
        walk.epoch = 0
        for row in range(walk.n):
            poke_i8(walk.seen + row, np.int8(0))
    walk.epoch += 1
    clear(beam, size)
    walk.filled = 0
    if walk.allow != 0:
        clear(walk.kept, walk.most_size)
    hops = 0
    scored = look_at_all(inner, rows, queries, walk) if walk.only != 0 else enter(inner, rows, queries, walk)
    at = next_open(beam, size, 0) if walk.only == 0 else size
    while at < size:
        key = peek_i64(beam + 8 * at)
        if at >= walk.ef and peek_i64(walk.kept + 8 * (walk.enough - 1)) < key:
            break
        poke_i64(beam + 8 * at, key | 1)
        n = look_around(walk, walk.neighbours + 4 * walk.degree * row_of(key), walk.degree)
        score_found(inner, rows, queries, walk, n)
        hops += 1
        scored += n
        if offer_found(walk, n) < key:
            at = 0
        at = next_open(beam, size, at)
    poke_i64(walk.work + 8 * i, np.int64(hops))
    poke_i64(walk.work + 8 * (walk.m + i), np.int64(scored))


@helper
def enter(inner, rows, queries, walk):
    """Look at the entries: how many there are."""
    scored = 0
    for start in range(0, walk.n_entries, ENTRIES):
        n = look_around(walk, walk.entries + 4 * start, min(ENTRIES, walk.n_entries - start))
        score_found(inner, rows, queries, walk, n)
        offer_found(walk, n)
        scored += n
    return scored


@helper
def look_at_all(inner, rows, queries, walk):
    """Look at all rows allowed: how many there are."""
    all_rows, n_all = walk.found, list_allowed(walk)
    for start in range(0, n_all, ENTRIES):
        n = min(ENTRIES, n_all - start)
        walk.found = all_rows + 4 * start
        score_found(inner, rows, queries, walk, n)
        offer_found(walk, n)
    walk.found = all_rows
    return n_all


@helper
def list_allowed(walk):
    """Note all rows allowed: how many there are."""
    n, found, only = 0, walk.found, walk.only
    whole_blocks = walk.n // 64 * 64
    for start in range(0, whole_blocks, 64):
        allowed = nonzero_bytes(only + start)
        while allowed != 0:
            poke_i32(found + 4 * n, np.int32(start + lowest_bit(allowed)))
            allowed &= allowed - 1
            n += 1
    for row in range(whole_blocks, walk.n):
        poke_i32(found + 4 * n, np.int32(row))
        n += peek_u8(only + row) != 0
    return n


@helper
def look_around(walk, at, count):
    """Note those of `count` rows at an address that were not seen: how many there are."""
    n, epoch, seen, found, last = 0, np.uint8(walk.epoch), walk.seen, walk.found, np.uint32(walk.n - 1)
    for here in range(at, at + 4 * count, 4):
        # Nothing says that numbers are in range: a file has them, or another thread is adding rows.
        row = min(peek_u32(here), last)
        place = seen + np.int64(row)
        poke_u32(found + 4 * n, row)
        n += peek_u8(place) != epoch  # no branch: which rows are new, no processor foresees
        poke_u8(place, epoch)
    return n


@helper
def offer_found(walk, n):
    """Let those of the rows noted into the beams that are good enough; the smallest key that came into the first."""
    if walk.allow != 0:
        keep_allowed(walk, n)
    beam = walk.beam
    last, filled = last_key(walk), walk.filled
    smallest, needed = last, score_of(last)
    for group in range(0, n, 16):
        good = at_least(walk.scores + 4 * group, needed)
        while good != 0:
            j = group + lowest_bit(good)
            good &= good - 1
            row = np.int64(peek_i32(walk.found + 4 * j))
            key = key_of(peek_f32(walk.scores + 4 * j), row)
            if j >= n or key >= last:
                continue
            insert(beam, min(walk.size, (filled // KEYS + 1) * KEYS), walk.width, key)
            filled = min(filled + 1, walk.width)
            last, smallest = last_key(walk), min(smallest, key)
            prefetch_row(walk.neighbours + 4 * walk.degree * row, 4 * walk.degree)
        needed = score_of(last)
    walk.filled = filled
    return smallest


@inlined
def last_key(walk):
    """A row whose key is not smaller is never expanded."""
    last = peek_i64(walk.beam + 8 * (walk.width - 1))
    if walk.allow != 0:
        behind = max(peek_i64(walk.beam + 8 * (walk.ef - 1)), peek_i64(walk.kept + 8 * (walk.enough - 1)) + 1)
        last = min(last, behind)
    return last


@helper
def keep_allowed(walk, n):
    """Keep those of the rows noted that are allowed and good enough."""
    last_at = walk.kept + 8 * (walk.most - 1)
    needed = score_of(peek_i64(last_at))
    for group in range(0, n, 16):
        good = at_least(walk.scores + 4 * group, needed)
        while good != 0:
            j = group + lowest_bit(good)
            good &= good - 1
            row = np.int64(peek_i32(walk.found + 4 * j))
            if j < n and peek_u8(walk.allow + row) != 0:
                key = key_of(peek_f32(walk.scores + 4 * j), row)
                if key < peek_i64(last_at):
                    insert(walk.kept, walk.most_size, walk.most, key)
        needed = score_of(peek_i64(last_at))


@helper
def rank(inner, rows, walk, i):
    """The k best of the best rows, by exact scores, with their ids."""
    k, ids = walk.k, walk.ids
    scores, kept, offset = walk.best_scores + 4 * k * i, walk.heap, peek_f64(walk.fine_offset + 8 * i)
    for j in range(k):
        poke_f32(scores + 4 * j, np.float32(-np.inf))
        poke_i64(kept + 8 * j, np.int64(-1))
    n = found_rows(walk, i)
    for j in range(min(AHEAD, n)):
        ask_for(rows, row_of(peek_i64(walk.kept + 8 * j)))
    for j in range(n):
        if j + AHEAD < n:
            ask_for(rows, row_of(peek_i64(walk.kept + 8 * (j + AHEAD))))
        row = row_of(peek_i64(walk.kept + 8 * j))
        score = exact_score(inner, walk.fine_query, offset, rows, row, walk.fine_scratch)
        if is_worse(peek_f32(scores), peek_i64(kept), score, row, ids):
            replace_worst(scores, kept, k, score, row, ids)
    sort_best_first(scores, kept, k, ids)
    for j in range(k):
        row = peek_i64(kept + 8 * j)
        poke_i64(walk.best + 8 * (k * i + j), peek_i64(ids + 8 * row) if row >= 0 else np.int64(-1))


@helper
def found_rows(walk, i):
    """How many rows there are to rank."""
    n = 0
    while n < walk.ranked and score_of(peek_i64(walk.kept + 8 * n)) > np.float32(-np.inf):
        n += 1
    poke_i64(walk.work + 8 * (2 * walk.m + i), np.int64(n))
    walk.short += n < max(walk.k, walk.enough)
    return n


@helper
def tell(walk, i):
    """The best rows and their fast scores as they are."""
    n = found_rows(walk, i)
    for j in range(walk.ranked):
        at, key = walk.ranked * i + j, peek_i64(walk.kept + 8 * j)
        poke_i64(walk.best + 8 * at, row_of(key) if j < n else np.int64(-1))
        poke_f32(walk.best_scores + 4 * at, score_of(key))


class Walks:
    """Walks over one graph. What they need is kept from call to call: room for as many as go on at the same time."""

    def __init__(
        self,
        rows: Rows,
        fine: Rows,
        neighbours: NDArray[np.int32],
        entries: NDArray[np.int32],
        ids: NDArray[np.int64],
    ) -> None:
        found = addressed(rows)
        self.rows, self.fine, self.integers = found, addressed(fine), takes_integers(rows, found)
        names = ("dots_at",) if self.integers else ()
        self.functions = functions_for(rows, *names, *decoding(found), scanning=True)
        self.fine_functions = functions_for(fine, *decoding(self.fine))
        self.noted = max(neighbours.shape[1], 2 * ENTRIES) + 64
        self.graph = {
            "n": found.n, "degree": neighbours.shape[1], "neighbours": address(neighbours),
            "entries": address(entries), "n_entries": len(entries), "ids": address(ids),
        }  # fmt: skip
        self._keep = rows, fine, neighbours, entries, ids
        self._rooms: list[_Room] = []

    def __call__(
        self,
        values: NDArray[np.float32],
        fine_values: NDArray[np.float32],
        fine_offset: NDArray[np.float64] | None,
        k: int,
        ef: int,
        ranked: int,
        among: Through | Only | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], bool]:
        """As `reference_graph.Walks`, to the bit."""
        try:
            room = self._rooms.pop()  # a list is safe between threads
        except IndexError:
            room = None
        width, ranked = (among.width, max(ranked, among.enough)) if isinstance(among, Through) else (ef, ranked)
        if room is None or room.size < width or room.k < k:
            room = _Room(self, max(width, 256), max(k, 100))
        room.set(k, ef, ranked)
        room.go_by(among, ef, ranked)
        go = room.one if len(values) == 1 else room.many
        result = go(values, fine_values, fine_offset)
        self._rooms.append(room)
        return result


class _Room:
    """What one call at a time needs."""

    def __init__(self, walks: Walks, width: int, k: int) -> None:
        rows, fine, noted = walks.rows, walks.fine, walks.noted
        self.size, self.k, self.settings = whole(width), k, (0, 0, 0)
        self.queries = queries_for(rows, 1, walks.functions.step)
        self.room = Room(
            rows.n, 64 + 8 * self.size, 64 + 8 * self.size, 4 * (rows.n + noted), 8 * noted, *[4 * noted] * 4, 64,
            scratch_bytes(rows), scratch_bytes(fine), decoded_stride(fine.extent), 8 * k,
        )  # fmt: skip
        seen, beam, kept, noted_rows, places, scores, part, *others = self.room.pieces
        scales, zeros, firsts, scratch, fine_scratch, fine_query, heap = others
        self.beams = beam + 64, kept + 64
        self.walk = Walk(
            **walks.graph, integers=walks.integers, seen=seen, beam=beam + 64, found=noted_rows, places=places,
            scores=scores, part=part, scales=scales, zeros=zeros, firsts=firsts, scratch=scratch,
            fine_scratch=fine_scratch, fine_query=fine_query, heap=heap,
        )  # fmt: skip
        self.addresses = (
            walks.functions.address, rows.address, self.queries.address, walks.fine_functions.address, fine.address,
            self.walk.address,
        )  # fmt: skip
        # Of a single query: to take the address of an array costs more than to copy one that is small.
        self.x, self.fine_x = np.zeros((1, numbers_in(rows)), np.float32), np.zeros((1, numbers_in(fine)), np.float32)
        self.offset, self.work = np.zeros(1), np.zeros((3, 1), np.int64)

    def set(self, k: int, ef: int, ranked: int) -> None:
        walk = self.walk
        if (k, ef, ranked) != self.settings:
            self.settings, self.width = (k, ef, ranked), k or ranked
            walk.k, walk.ef, walk.ranked = k, ef, ranked
            self.best, self.scores = np.zeros((1, self.width), np.int64), np.zeros((1, self.width), np.float32)
            arrays = self.x, self.fine_x, self.offset, self.best, self.scores, self.work
            self.of_one = tuple(map(address, arrays))
            walk.values = 0  # to be set anew

    def go_by(self, among: Through | Only | None, ef: int, ranked: int) -> None:
        """Find any rows, or those of a filter."""
        walk = self.walk
        walk.width, walk.size, walk.enough, walk.most, walk.kept = ef, whole(ef), 0, ef, self.beams[0]
        walk.allow, walk.only = 0, 0
        if isinstance(among, Through):
            walk.allow, walk.width, walk.size = address(among.allow), among.width, whole(among.width)
            walk.enough, walk.most, walk.most_size, walk.kept = among.enough, ranked, whole(ranked), self.beams[1]
        elif among is not None:
            walk.only = address(among.allow)

    def one(self, values: Any, fine_values: Any, fine_offset: Any) -> Any:
        self.x[:], self.fine_x[:] = values, fine_values
        if fine_offset is not None or self.offset[0]:
            self.offset[:] = 0 if fine_offset is None else fine_offset
        walk = self.walk
        if walk.values != self.of_one[0]:
            self._point_at(1, *self.of_one)
        walk_all(*self.addresses)
        return self.best.copy(), self.scores.copy(), self.work.copy(), walk.short != 0

    def many(self, values: Any, fine_values: Any, fine_offset: Any) -> Any:
        m, width = len(values), self.width
        offset = np.zeros(m) if fine_offset is None else fine_offset
        given = contiguous(values), contiguous(fine_values), contiguous(offset)
        best, scores = np.empty((m, width), np.int64), np.empty((m, width), np.float32)
        work = np.empty((3, m), np.int64)
        self._point_at(m, *map(address, (*given, best, scores, work)))
        walk_all(*self.addresses)
        return best, scores, work, self.walk.short != 0

    def _point_at(self, m: int, values: int, fine_values: int, offset: int, best: int, scores: int, work: int) -> None:
        walk = self.walk
        walk.m, walk.values, walk.fine_values, walk.fine_offset = m, values, fine_values, offset
        walk.best, walk.best_scores, walk.work = best, scores, work


def whole(keys: int) -> int:
    """In whole registers."""
    return -(-keys // KEYS) * KEYS


def numbers_in(rows: RowAddresses) -> int:
    """The dimensions of all parts."""
    return int(rows.dim + sum(part.dim for part in rows.more))


def takes_integers(rows: Rows, found: RowAddresses) -> bool:
    """Whether fast scores are of the int8 query."""
    own_tables = found.table_row or found.table_block
    by_row = not rows.block or (found.blocks == 1 and (not found.coarse or found.common))
    kinds = {kind_of(rows), *(part.inner.kind for part in found.more)}
    return bool(kinds <= INTEGER_KINDS and not kinds & SPAN.keys() and by_row and not own_tables)
