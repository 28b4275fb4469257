"""A search of lists in one call: centroids are scored, lists chosen, their rows scanned, and the best rescored.

What comes out is what `matmul_int8`, `largest`, `topk_lists` and `rescore` give one after the other, to the bit. Where
lists have several queries each, that is what is called; else all is done query by query, in rooms that rows keep.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import address, addressed, functions_for, read_rows, row_address
from qindex_kernels.cpu.candidates import begin_none, begin_one, finish_one, need, read_search, settle
from qindex_kernels.cpu.exact import decoded_stride, decoding, exact_score, scratch_bytes
from qindex_kernels.cpu.heap import holds, is_worse, replace_worst, sort_best_first
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.lists import (
    MEMBERS,
    Lists,
    choose_one,
    largest,
    read_lists,
    scan_probes,
    suits_tiles,
    topk_lists,
)
from qindex_kernels.cpu.matmul import matmul_int8
from qindex_kernels.cpu.queries import (
    contiguous,
    copy_query,
    order,
    queries_for,
    query_dim,
    read_queries,
    shift_of,
    take,
)
from qindex_kernels.cpu.record import INTEGER, REAL, Record, Room, reader
from qindex_kernels.cpu.score_rows import AHEAD, ask_for, rescore, score_rows
from qindex_kernels.cpu.simd import (
    add_i32,
    as_f32,
    load_first,
    load_i32,
    peek_f32,
    peek_f64,
    peek_i32,
    peek_i64,
    poke_f32,
    poke_i32,
    poke_i64,
    scaled,
    splat_i32,
    store_f32,
    sum_f32,
    times,
)
from qindex_kernels.cpu.sources import helper, kernel
from qindex_kernels.cpu.topk import Scan, ready
from qindex_kernels.layout import Listed, Runs

BLOCK = 64  # centroids whose sums stay in the L1 cache
FIRST = 8  # lists that are scanned in the order of their scores: a row must soon be good to be looked at again


class Probe(Record):
    """What a search of lists takes and gives, and room for one query."""

    _fields_ = (
        # The records of what it goes by.
        *((name, INTEGER) for name in ("centre_inner", "centres", "centre_queries")),
        *((name, INTEGER) for name in ("inner", "rows", "row_queries", "search", "fine_inner", "fine", "lists")),
        ("blocks", INTEGER),  # as `topk.scan` has them
        ("room", INTEGER),
        ("block", INTEGER),
        ("m", INTEGER),
        ("k", INTEGER),
        ("queries", INTEGER),  # float32 (m, dim), for centroids
        ("values", INTEGER),  # float32 (m, dim), for rows
        ("offsets", INTEGER),  # float64 (m,)
        ("shifts", INTEGER),  # float32 (lists,), added to the scores of centroids that lists are chosen by; or 0
        ("relative", REAL),  # how many products with its centroid a row of a list has added to its score
        ("scores", INTEGER),  # float32 (lists,), in whole blocks: room
        ("bits", INTEGER),  # room for one number
        ("probes", INTEGER),  # int32 (m, p)
        ("bases", INTEGER),  # float32 (p,): room
        ("scratch", INTEGER),  # room for exact_score, of centroids and of finer rows
        ("coarse_scores", INTEGER),  # float32 and int64: room for what is rescored
        ("coarse", INTEGER),
        ("allow", INTEGER),  # bool (n,), or 0
        ("largest_bias", REAL),  # of the rows
        # Of their copies, if there are any: their rows, lists and blocks, as those of the rows, and room.
        *((name, INTEGER) for name in ("copies", "copy_lists", "copy_blocks", "copy_scores", "copy_kept")),
        ("copy_of", INTEGER),  # int32 (n,): the row that each is a copy of
        ("copy_allow", INTEGER),
        ("fine_values", INTEGER),  # as values, for the finer rows, or 0
        ("fine_offsets", INTEGER),
        ("fine_query", INTEGER),  # room for one in whole registers
        ("ids", INTEGER),  # int64 (n,)
        ("best", INTEGER),  # int64 (m, k): ids
        ("best_scores", INTEGER),  # float32 (m, k)
    )


read_probe = reader(Probe)


@kernel
def probe_all(probe_at):
    probe = read_probe(probe_at)
    centre_inner, centres = read_inner(probe.centre_inner), read_rows(probe.centres)
    centre_queries, queries = read_queries(probe.centre_queries), read_queries(probe.row_queries)
    inner, rows, search, lists = (
        read_inner(probe.inner), read_rows(probe.rows), read_search(probe.search), read_lists(probe.lists)
    )  # fmt: skip
    fine_inner, fine, room, block = read_inner(probe.fine_inner), read_rows(probe.fine), probe.room, probe.block
    copies, copy_lists = read_rows(probe.copies), read_lists(probe.copy_lists)
    integers, k, p = search.integers != 0, probe.k, lists.width
    for i in range(probe.m):
        probes, at = probe.probes + 4 * p * i, k * i
        take(centre_queries, centres, probe.queries + 4 * centres.dim * i, True)
        score_centres(centre_inner, centres, centre_queries, probe)
        choose_one(probe.scores, lists.n, p, probe.bits, probes)
        best_first(probes, p, probe.scores)
        largest_base, bases = np.float32(0), np.intp(0)
        if probe.relative != 0:
            bases = probe.bases
            largest_base = fill_bases(centre_inner, centres, centre_queries.values, probe, probes, p)
        take(queries, rows, probe.values + 4 * query_dim(rows) * i, integers)
        search.bias = probe.largest_bias + largest_base
        search.ids, search.allow = probe.ids, probe.allow
        search.scores, search.kept = probe.coarse_scores, probe.coarse
        if probe.fine_values == 0:
            search.scores, search.kept = probe.best_scores + 4 * at, probe.best + 8 * at
        begin_none(search)
        begin_one(search, queries, 0, peek_f64(probe.offsets + 8 * i))
        by_bits = ready(inner, rows, queries, room, block)
        scan_probes(inner, rows, queries, search, 0, probe.blocks, room, block, by_bits, lists, probes, bases)
        finish_one(inner, rows, queries, search, 0)
        if probe.fine_values != 0:
            n = search.k
            if probe.copies != 0:
                seek_copies(search, probe)
                blocks = probe.copy_blocks
                scan_probes(inner, copies, queries, search, 0, blocks, room, block, by_bits, copy_lists, probes, bases)
                settle(inner, copies, queries, search, 0, 0)
                n += add_copies(search, probe)
            copy_query(fine, probe.fine_values + 4 * query_dim(fine) * i, probe.fine_query)
            rank(fine_inner, fine, probe, n, peek_f64(probe.fine_offsets + 8 * i), at)
        for j in range(at, at + k):
            row = peek_i64(probe.best + 8 * j)
            if row >= 0:
                poke_i64(probe.best + 8 * j, peek_i64(probe.ids + 8 * row))


@helper
def score_centres(inner, rows, queries, probe):
    """As `reference.matmul_int8`, to the bit, for int8 rows."""
    order(queries)
    for start, stop in ((0, rows.tail_start), (rows.tail_start, rows.n)):
        for first in range(start, stop, BLOCK):
            n, at = min(BLOCK, stop - first), row_address(rows, first)
            call(inner.dots, (queries.codes, at, rows.row_bytes, rows.dim, n, rows.table, 0, probe.scores + 4 * first))
    shift, step = splat_i32(shift_of(inner, rows, queries, 0, 0, False)), peek_f32(queries.steps)
    unit = np.float32(rows.integer_unit)
    for j in range(0, rows.n, 16):
        at, left = probe.scores + 4 * j, rows.n - j
        found = scaled(scaled(as_f32(add_i32(load_i32(at), shift)), unit), step)
        if rows.scale != 0:
            found = times(found, load_first(rows.scale + 4 * j, left))
        if probe.shifts != 0:
            found = sum_f32(found, load_first(probe.shifts + 4 * j, left))
        store_f32(at, found)


@helper
def best_first(probes, p, scores):
    """Put the best of the lists chosen in front."""
    for place in range(min(FIRST, p - 1)):
        best, largest = place, np.float32(-np.inf)
        for other in range(place, p):
            score = peek_f32(scores + 4 * np.intp(peek_i32(probes + 4 * other)))
            if score > largest:
                best, largest = other, score
        one = peek_i32(probes + 4 * best)
        poke_i32(probes + 4 * best, peek_i32(probes + 4 * place))
        poke_i32(probes + 4 * place, one)


@helper
def fill_bases(inner, rows, query, probe, probes, p):
    """What the centroids of the lists chosen add to the scores of their rows, and the largest of that."""
    largest = np.float32(0)
    for j in range(p):
        found = exact_score(inner, query, 0.0, rows, np.intp(peek_i32(probes + 4 * j)), probe.scratch)
        found = np.float32(probe.relative) * found
        poke_f32(probe.bases + 4 * j, found)
        largest = max(largest, abs(found))
    return largest


@helper
def seek_copies(search, probe):
    """Begin anew with copies: those are wanted that are no worse than the last of the rows found."""
    least = peek_f32(probe.coarse_scores + 4 * (search.k - 1))
    search.ids, search.allow = 0, probe.copy_allow
    search.scores, search.kept = probe.copy_scores, probe.copy_kept
    begin_none(search)
    need(search, 0, np.float64(least) - peek_f64(search.offsets) - peek_f64(search.margins))


@helper
def add_copies(search, probe):
    """Put the rows that the copies found are of behind the other candidates, and say how many."""
    least, n = peek_f32(probe.coarse_scores + 4 * (search.k - 1)), 0
    for j in range(search.k):
        copy = peek_i64(probe.copy_kept + 8 * j)
        if copy >= 0 and peek_f32(probe.copy_scores + 4 * j) >= least:
            poke_i64(probe.coarse + 8 * (search.k + n), np.int64(peek_i32(probe.copy_of + 4 * copy)))
            n += 1
    return n


@helper
def rank(inner, rows, probe, n, offset, at):
    """The k best of the n coarse candidates."""
    scores, kept, k = probe.best_scores + 4 * at, probe.best + 8 * at, probe.k
    for j in range(k):
        poke_f32(scores + 4 * j, np.float32(-np.inf))
        poke_i64(kept + 8 * j, np.int64(-1))
    for j in range(-AHEAD, n):
        ahead = np.int64(-1)
        if j + AHEAD < n:
            ahead = peek_i64(probe.coarse + 8 * (j + AHEAD))
        if ahead >= 0:
            ask_for(rows, ahead)
        row = peek_i64(probe.coarse + 8 * j) if j >= 0 else np.int64(-1)
        if row < 0:
            continue
        score = exact_score(inner, probe.fine_query, offset, rows, row, probe.scratch)
        if is_worse(peek_f32(scores), peek_i64(kept), score, row, probe.ids) and not holds(kept, k, row):
            replace_worst(scores, kept, k, score, row, probe.ids)
    sort_best_first(scores, kept, k, probe.ids)


class _Room:
    """What one search at a time needs; it does not keep alive what keeps it."""

    def __init__(self, listed: Listed, wanted: int, p: int) -> None:
        rows, fine = listed.rows, listed.fine or listed.rows
        found, centres, finer = addressed(rows), addressed(listed.centres), addressed(fine)
        self.wanted, self.p = wanted, p
        self.scan = scan = Scan(rows, 1, wanted, False)
        centre_functions = functions_for(listed.centres, "dots", *decoding(centres))
        fine_functions = functions_for(fine, *decoding(finer))
        queries = queries_for(centres, 1, centre_functions.step)
        room = Room(
            4 * (centres.n + BLOCK), 4, 4 * p, max(scratch_bytes(centres), scratch_bytes(finer)), 4 * wanted,
            2 * 8 * wanted, decoded_stride(finer.extent), 4 * wanted, 8 * wanted,
        )  # fmt: skip
        scores, bits, bases, scratch, coarse_scores, coarse, fine_query, copy_scores, copy_kept = room.pieces
        self.lists = [_addresses(centres.n, listed.runs)]
        functions, own, own_queries, search = scan.known
        self.probe = Probe(
            centre_inner=centre_functions.address, centres=centres.address, centre_queries=queries.address,
            inner=functions, rows=own, row_queries=own_queries, search=search,
            fine_inner=fine_functions.address, fine=finer.address, lists=self.lists[0].address,
            blocks=scan.blocks.address, room=scan.room.pieces[0], block=scan.block,
            relative=listed.relative, ids=address(listed.ids),
            scores=scores, bits=bits, bases=bases, scratch=scratch, coarse_scores=coarse_scores, coarse=coarse,
            fine_query=fine_query, largest_bias=found.largest_bias,
        )  # fmt: skip
        norm, scale = listed.max_norm, scan.largest_scale
        self.keep: tuple[Any, ...] = centre_functions, fine_functions, queries, room
        if listed.copies is not None:  # they are met by the same query, with one margin for both
            copies, probe = listed.copies, self.probe
            other = Scan(copies.rows, 1, wanted, False)
            self.lists.append(_addresses(centres.n, copies.runs))
            probe.copies, probe.copy_lists, probe.copy_blocks = (
                other.known[1],
                self.lists[1].address,
                other.blocks.address,
            )
            probe.copy_scores, probe.copy_kept, probe.copy_of = copy_scores, copy_kept, address(copies.of)
            probe.largest_bias = max(found.largest_bias, other.largest_bias)
            norm, scale = max(norm, copies.max_norm), max(scale, other.largest_scale)
            self.keep = *self.keep, other
        scan.search.norm, scan.search.scale = norm, norm * scan.scale_of_norm or scale
        self.address = self.probe.address


def _addresses(n: int, runs: Runs) -> Lists:
    return Lists(n=n, starts=address(runs.starts), firsts=address(runs.firsts), counts=address(runs.counts))


def search_lists(
    listed: Listed,
    queries: NDArray[np.float32],
    coarse: tuple[NDArray[np.float32], NDArray[np.float64]],
    fine: tuple[NDArray[np.float32], NDArray[np.float64]] | None,
    k: int,
    wanted: int,
    p: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """As `reference.search_lists`, to the bit but for the order of the lists probed."""
    m = len(queries)
    if m * p >= MEMBERS * (len(listed.runs.starts) - 1) and suits_tiles(addressed(listed.rows)):
        return _in_steps(listed, queries, coarse, fine, k, wanted, p)
    try:
        room = listed.rooms.pop()  # a list is safe between threads
    except IndexError:
        room = None
    if room is None or room.wanted != wanted or room.p < p:
        room = _Room(listed, wanted, max(p, 64))
    probe = room.probe
    probe.allow, probe.shifts = address(listed.allow), address(listed.shifts)
    if listed.copies is not None:
        probe.copy_allow = address(listed.copies.allow)
    values, offsets = contiguous(coarse[0]), contiguous(coarse[1])
    queries = values if queries is coarse[0] else contiguous(queries)
    probe.values, probe.offsets = address(values), address(offsets)
    probe.queries = probe.values if queries is values else address(queries)
    if fine is not None:
        fine_values, fine_offsets = contiguous(fine[0]), contiguous(fine[1])
        probe.fine_values, probe.fine_offsets = address(fine_values), address(fine_offsets)
    best, scores, probes = np.empty((m, k), np.int64), np.empty((m, k), np.float32), np.empty((m, p), np.int32)
    probe.best, probe.best_scores, probe.probes = address(best), address(scores), address(probes)
    probe.m, probe.k = m, k
    for lists in room.lists:
        lists.width = p
    probe_all(room.address)
    listed.rooms.append(room)
    return best, scores, probes


def _in_steps(
    listed: Listed,
    queries: NDArray[np.float32],
    coarse: tuple[NDArray[np.float32], NDArray[np.float64]],
    fine: tuple[NDArray[np.float32], NDArray[np.float64]] | None,
    k: int,
    wanted: int,
    p: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    near = matmul_int8(listed.centres, queries, 0)
    if listed.shifts is not None:
        near += listed.shifts
    probes, bases, ids = largest(near, p), None, listed.ids
    if listed.relative:
        products = score_rows(listed.centres, queries, np.zeros(len(queries)), probes.astype(np.int64))
        bases = np.float32(listed.relative) * products
    found, scores = topk_lists(
        listed.rows, *coarse, listed.runs, probes, bases, ids, listed.allow, wanted, listed.max_norm
    )
    if listed.fine is not None and fine is not None:
        if listed.copies is not None:
            rows, norm, runs, of, allow = listed.copies
            copies, _scores = topk_lists(rows, *coarse, runs, probes, bases, None, allow, wanted, norm, scores[:, -1])
            found = np.hstack([found, np.where(copies >= 0, of[copies], -1)])
        none, slack = np.zeros(found.shape, np.float32), np.full(len(found), np.inf)
        found, scores, _counts = rescore(listed.fine, *fine, found, none, slack, ids, k)
    return np.where(found >= 0, ids[found], -1), scores, probes
