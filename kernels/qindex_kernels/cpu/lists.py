"""The k best rows of chosen lists of rows, exact, as `topk` finds them among all rows.

    score[i, j] = ((offset[i] + base[i, list of j]) + bias[j]) + scale[j] * <values[i], numbers[j]>

A list is some runs of rows that lie side by side. Few queries look at their lists one by one, with the loops of `topk`.
Where lists have several queries each, it goes list by list: the queries of one are gathered as the lanes of a tile, so
that its rows are read and unpacked once for all of them. Candidates are those of `topk`, and so are the results.
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import RowAddresses, address, addressed, read_rows
from qindex_kernels.cpu.candidates import expect, finish, read_search
from qindex_kernels.cpu.inner import read_inner
from qindex_kernels.cpu.product import read_group
from qindex_kernels.cpu.queries import contiguous, copy_codes, order, read_panels, read_queries, shift_of
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    at_least,
    bits_set,
    lowest_bit,
    peek_f32,
    peek_i32,
    peek_i64,
    poke_f32,
    poke_i32,
    transpose,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.topk import Scan, meet, place_blocks, place_of_sums, ready, scan_block
from qindex_kernels.layout import Rows, Runs

MEMBERS = 4  # queries of a list, in the mean: from so many on, unpacking its rows for a tile pays
KEPT_SCANS, KEPT_K = 16, 1000
AT_ONCE = 2048  # queries: what is known of so many stays in the cache


class Lists(Record):
    """Lists of rows, and which of them queries look at."""

    _fields_ = (
        ("n", INTEGER),
        ("starts", INTEGER),  # int64 (n + 1,): where the runs of each list begin
        ("firsts", INTEGER),  # int64 (runs,): the first row of each run
        ("counts", INTEGER),  # int64 (runs,): its rows
        ("width", INTEGER),  # probes of a query
        ("probes", INTEGER),  # int32 (m, width): lists, -1 for none
        ("bases", INTEGER),  # float32 (m, width), or 0
        ("ends", INTEGER),  # int32 (n + 1,): room for the places where the members of each list end
        ("members", INTEGER),  # int32 (m * width,): room for the probes, list by list
        ("gathered", INTEGER),  # room for the codes of 16 queries
    )


read_lists = reader(Lists)


@kernel
def scan_lists(inner_at, rows_at, queries_at, search_at, blocks_at, room, block, lists_at):
    """Query by query; `room` as in `topk.scan`."""
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    queries, search, lists = read_queries(queries_at), read_search(search_at), read_lists(lists_at)
    by_bits = ready(inner, rows, queries, room, block)
    for i in range(queries.m):
        probes = lists.probes + 4 * lists.width * i
        bases = lists.bases + 4 * lists.width * i if lists.bases != 0 else 0
        scan_probes(inner, rows, queries, search, i, blocks_at, room, block, by_bits, lists, probes, bases)


@helper
def scan_probes(inner, rows, queries, search, i, blocks_at, room, block, by_bits, lists, probes, bases):
    """Offer query i the rows of its lists."""
    by_blocks = rows.has_blocks != 0 and rows.one_block == 0
    scales = place_of_sums(queries, room, block) + 4 * queries.m * queries.lanes
    for probe in range(lists.width):
        one = np.intp(peek_i32(probes + 4 * probe))
        if one < 0:
            continue
        search.base = peek_f32(bases + 4 * probe) if bases != 0 else np.float32(0)
        for run in range(peek_i64(lists.starts + 8 * one), peek_i64(lists.starts + 8 * one + 8)):
            start = peek_i64(lists.firsts + 8 * run)
            stop = start + peek_i64(lists.counts + 8 * run)
            while start < stop:  # rows from the tail on lie elsewhere
                end = min(stop, rows.tail_start) if start < rows.tail_start else stop
                n = min(block, end - start)
                if by_blocks:
                    place_blocks(rows, start, n, blocks_at, scales)
                scan_block(inner, rows, queries, search, i, start, n, blocks_at, room, block, by_bits)
                start += n


@kernel
def scan_lists_batch(inner_at, rows_at, queries_at, search_at, panels_at, group_at, lists_at):
    """List by list, for rows of integers with one scale each."""
    inner, rows = read_inner(inner_at), read_rows(rows_at)
    queries, search, lists = read_queries(queries_at), read_search(search_at), read_lists(lists_at)
    panels, group = read_panels(panels_at), read_group(group_at)
    order(queries)
    sort_probes(queries, lists)
    most = group.n
    for one in range(lists.n):
        begin_at, end = peek_i32(lists.ends + 4 * one), peek_i32(lists.ends + 4 * one + 4)
        if begin_at == end:
            continue
        fill_members(inner, rows, queries, search, panels, lists, begin_at, end)
        grain = 6 if panels.n == 4 else 8 if panels.n == 2 else 12 if panels.n == 1 else 24
        for run in range(peek_i64(lists.starts + 8 * one), peek_i64(lists.starts + 8 * one + 8)):
            start = peek_i64(lists.firsts + 8 * run)
            stop = start + peek_i64(lists.counts + 8 * run)
            while start < stop:
                group.n = min(most, (stop - start + grain - 1) // grain * grain)
                meet(inner, rows, queries, search, panels, group, start, stop)
                start += group.n
    group.n = most


@helper
def sort_probes(queries, lists):
    """Put the probes of all queries in the order of lists: members[ends[l]:ends[l + 1]] are those of list l."""
    n_probes = queries.m * lists.width
    for one in range(lists.n + 2):
        poke_i32(lists.ends + 4 * one, np.int32(0))
    for probe in range(n_probes):
        one = np.intp(peek_i32(lists.probes + 4 * probe))
        if one >= 0:
            at = lists.ends + 4 * (one + 2)
            poke_i32(at, peek_i32(at) + np.int32(1))
    for one in range(lists.n):
        at = lists.ends + 4 * (one + 2)
        poke_i32(at, peek_i32(at) + peek_i32(at - 4))
    for probe in range(n_probes):
        one = np.intp(peek_i32(lists.probes + 4 * probe))
        if one >= 0:
            at = lists.ends + 4 * (one + 1)
            place = np.intp(peek_i32(at))
            poke_i32(lists.members + 4 * place, np.int32(probe))
            poke_i32(at, np.int32(place + 1))


@helper
def fill_members(inner, rows, queries, search, panels, lists, first, last):
    """Lay out the queries behind the members from `first` to `last` as panels."""
    n = last - first
    panels.n = (n + 15) // 16
    if panels.n % 4 == 3:
        panels.n += 1
    width = queries.width
    for lane in range(16 * panels.n):
        member = np.intp(peek_i32(lists.members + 4 * (first + min(lane, n - 1))))
        i = member // lists.width
        base = peek_f32(lists.bases + 4 * member) if lists.bases != 0 else np.float32(0)
        needed = peek_f32(search.needed + 4 * i) - base if lane < n else np.float32(np.inf)
        poke_i32(panels.members + 4 * lane, np.int32(i))
        poke_f32(panels.bases + 4 * lane, base)
        poke_f32(panels.needed + 4 * lane, needed)
        poke_i32(panels.starts + 4 * lane, shift_of(inner, rows, queries, i, 0, False))
        poke_f32(panels.totals + 4 * lane, np.float32(peek_i32(queries.totals + 4 * queries.lanes * i)))
        poke_f32(panels.steps + 4 * lane, peek_f32(queries.steps + 4 * queries.lanes * i))
        copy_codes(queries.codes + width * i, lists.gathered + width * (lane % 16), width)
        if lane % 16 == 15:
            target = panels.codes + lane // 16 * panels.stride
            for d in range(0, width, 64):
                transpose(lists.gathered + d, width, target + 16 * d, LINE)


def suits_tiles(rows: RowAddresses) -> bool:
    """Whether going list by list pays where lists have MEMBERS queries each."""
    return rows.blocks == 1 and not rows.one_hot


def topk_lists(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    runs: Runs,
    probes: NDArray[np.int32],
    bases: NDArray[np.float32] | None,
    ids: NDArray[np.int64] | None,
    allow: NDArray[np.bool_] | None,
    k: int,
    max_norm: float,
    least: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `reference.topk_lists`, to the bit."""
    m, found = len(values), addressed(rows)
    if m > AT_ONCE:
        parts = [slice(start, start + AT_ONCE) for start in range(0, m, AT_ONCE)]
        shared = ids, allow, k, max_norm
        answers = [
            topk_lists(
                rows,
                values[part],
                offset[part],
                runs,
                probes[part],
                None if bases is None else bases[part],
                *shared,
                None if least is None else least[part],
            )
            for part in parts
        ]
        return np.concatenate([rows for rows, _ in answers]), np.concatenate([scores for _, scores in answers])
    values, offset, probes = contiguous(values), contiguous(offset), contiguous(probes)
    bases = None if bases is None else contiguous(bases)
    scores, kept = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
    n_lists = len(runs.starts) - 1
    lists = Lists(
        n=n_lists, starts=address(runs.starts), firsts=address(runs.firsts), counts=address(runs.counts),
        width=probes.shape[1], probes=address(probes), bases=address(bases),
    )  # fmt: skip
    spare: list[Scan] = []
    many = probes.size >= MEMBERS * n_lists and suits_tiles(found)
    if m == 1 and k <= KEPT_K:
        if len(found.spare) > KEPT_SCANS:
            found.spare.clear()
        spare = found.spare.setdefault((m, k), [])
    room = spare.pop() if spare else Scan(rows, m, k, many)
    if many and not room.integers:
        many, room = False, Scan(rows, m, k, False)
    largest_base = 0.0 if bases is None or not bases.size else float(np.abs(bases).max())
    room.begin(values, offset, (address(ids), address(allow)), max_norm, scores, kept, largest_base)
    if least is not None:
        expect(room.search.address, contiguous(least))
    if many:
        extra = Room(4 * (n_lists + 2), 4 * probes.size, 16 * room.queries.width, *[4 * 16 * room.panels.n] * 3)
        lists.ends, lists.members, lists.gathered, room.panels.members, room.panels.needed, room.panels.bases = (
            extra.pieces
        )
        scan_lists_batch(*room.known, room.panels.address, room.group.address, lists.address)
    else:
        scan_lists(*room.known, room.blocks.address, room.room.pieces[0], room.block, lists.address)
    finish(*room.known)
    spare.append(room)
    if least is not None:
        below = scores < least[:, None]
        kept[below], scores[below] = -1, -np.inf
    return kept, scores


@inlined
def sortable(number):
    """int32 bits of a float32 number and back, in the order of the numbers."""
    return number ^ (number >> 31 & np.int32(0x7FFFFFFF))


@helper
def count_at_least(numbers, n, threshold):
    count = np.int64(0)
    for at in range(0, n // 16 * 16, 16):
        count += bits_set(at_least(numbers + 4 * at, threshold))
    for at in range(n // 16 * 16, n):
        count += peek_f32(numbers + 4 * at) >= threshold
    return count


@kernel
def choose(numbers, bits, chosen):
    """`bits` is room for one float32 number."""
    for i in range(len(numbers)):
        choose_one(
            np.intp(numbers[i].ctypes.data), numbers.shape[1], chosen.shape[1], bits, np.intp(chosen[i].ctypes.data)
        )


@helper
def choose_one(row, n, p, bits, out):
    """Write the places of the p largest of n numbers."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for at in range(n):
        low, high = min(low, peek_f32(row + 4 * at)), max(high, peek_f32(row + 4 * at))
    # low is reached by at least p numbers; what is above high, by none.
    poke_f32(bits, low)
    below = np.int64(sortable(peek_i32(bits)))
    poke_f32(bits, high)
    above = np.int64(sortable(peek_i32(bits))) + 1
    count = np.int64(n)
    while above - below > 1 and count != p:
        middle = (below + above) >> 1
        poke_i32(bits, sortable(np.int32(middle)))
        reached = count_at_least(row, n, peek_f32(bits))
        if reached >= p:
            below, count = middle, reached
        else:
            above = middle
    poke_i32(bits, sortable(np.int32(below)))
    threshold = peek_f32(bits)
    # All above the threshold are taken, and the first of those that equal it.
    equal_left, taken = np.int64(0), 0
    for at in range(n):
        equal_left += peek_f32(row + 4 * at) == threshold
    equal_left -= count - p
    for group in range(0, n, 16):
        found = np.int64(0)
        if group + 16 <= n:
            found = at_least(row + 4 * group, threshold)
        else:
            for at in range(group, n):
                found |= np.int64(peek_f32(row + 4 * at) >= threshold) << (at - group)
        while found != 0:
            at = group + lowest_bit(found)
            found &= found - 1
            if peek_f32(row + 4 * at) == threshold:
                if equal_left == 0:
                    continue
                equal_left -= 1
            poke_i32(out + 4 * taken, np.int32(at))
            taken += 1


def largest(numbers: NDArray[np.float32], p: int) -> NDArray[np.int32]:
    """As `reference.largest`, to the bit."""
    chosen, room = np.empty((len(numbers), p), np.int32), Room(4)  # which lives until the kernel has run
    choose(contiguous(numbers), room.pieces[0], chosen)
    return chosen
