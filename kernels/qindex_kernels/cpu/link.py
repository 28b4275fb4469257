"""The neighbours of rows in a graph, out of candidates: near ones, each in another direction.

Candidates are taken in the order of their distance from the row. One is left out if a neighbour taken before is nearer
to it, `alpha` times the squared distance, than the row itself is (Vamana's robust pruning, NeurIPS 2019). Of candidates
that equal the row, `equals` at most are taken, so that copies do not fill the list.

Distances are squared, between rows of int8 under a scale each, in float32: (norm + norm) - 2 * ((scale * scale) * dot).
"""

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import address, addressed, functions_for, read_rows, row_address
from qindex_kernels.cpu.beam import EMPTY, KEYS, clear, insert, key_of, row_of, score_of
from qindex_kernels.cpu.inner import call, read_inner
from qindex_kernels.cpu.record import INTEGER, REAL, Record, Room, reader
from qindex_kernels.cpu.score_rows import prefetch_lines
from qindex_kernels.cpu.simd import (
    dot_u8i8,
    load_bytes,
    ones_u8,
    peek_f32,
    peek_i32,
    peek_i64,
    poke_f32,
    poke_i8,
    poke_i32,
    poke_i64,
    store_bytes,
    sum_of_lanes,
    zero_i32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.layout import Rows


class Link(Record):
    """Rows that get neighbours, and the room that it needs."""

    _fields_ = (
        ("neighbours", INTEGER),  # int32 (n, width): a row's own number stands for none
        ("width", INTEGER),
        ("degree", INTEGER),  # neighbours that are taken
        ("room", INTEGER),  # a list of up to so many stays as it is
        ("equals", INTEGER),
        ("alpha", REAL),
        ("norms", INTEGER),  # float32 (n,): squared
        ("targets", INTEGER),  # int32: rows whose neighbours are chosen
        ("starts", INTEGER),  # int64: of their candidates, and the end of the last
        ("candidates", INTEGER),  # int32
        ("most", INTEGER),  # of candidates, the nearest so many are looked at
        ("keys", INTEGER),  # a beam of so many
        ("found", INTEGER),  # int64: candidates
        ("places", INTEGER),  # int64: their addresses
        ("sums", INTEGER),  # int32
        ("query", INTEGER),  # int8 (dim,), in whole registers
        ("far", INTEGER),  # float32: distances of the candidates that are left
    )


read_link = reader(Link)


@kernel
def link_all(inner_at, rows_at, link_at, first, last):
    """Choose the neighbours of targets `first` to `last`, and write them."""
    inner, rows, link = read_inner(inner_at), read_rows(rows_at), read_link(link_at)
    for i in range(first, last):
        start, stop = peek_i64(link.starts + 8 * i), peek_i64(link.starts + 8 * i + 8)
        row = np.int64(peek_i32(link.targets + 4 * i))
        if not lengthen(rows, link, row, start, stop):
            n = gather(inner, rows, link, row, start, stop)
            choose(inner, rows, link, row, n)


@helper
def lengthen(rows, link, row, start, stop):
    """Add all candidates to the row's list, if there is room for them."""
    own = link.neighbours + 4 * link.width * row
    n = 0
    while n < link.width and peek_i32(own + 4 * n) != row:
        n += 1
    if n + stop - start > link.room:
        return False
    for c in range(start, stop):
        candidate = peek_i32(link.candidates + 4 * c)
        known = candidate == row or candidate < 0 or candidate >= rows.n
        for j in range(n):
            known |= peek_i32(own + 4 * j) == candidate
        if not known:
            poke_i32(own + 4 * n, candidate)
            n += 1
    return True


@helper
def gather(inner, rows, link, row, start, stop):
    """The candidates, and those that are neighbours already, as keys in the order of their distance: how many."""
    n, own = 0, link.neighbours + 4 * link.width * row
    for j in range(link.width):
        n = note(rows, link, row, peek_i32(own + 4 * j), n)
    for c in range(start, stop):
        n = note(rows, link, row, peek_i32(link.candidates + 4 * c), n)
    clear(link.keys, link.most)
    copy_codes(rows, link, row)
    dots(inner, rows, link, n)
    shift, scale = shift_of_query(rows, link), peek_f32(rows.scale + 4 * row)
    norm, last_at = peek_f32(link.norms + 4 * row), link.keys + 8 * (link.most - 1)
    for j in range(n):
        other = peek_i64(link.found + 8 * j)
        far = distance(rows, link, norm, scale, other, peek_i32(link.sums + 4 * j) + shift)
        key = key_of(-far, other)
        if key < peek_i64(last_at):
            insert(link.keys, link.most, link.most, key)
    kept, before = 0, np.int64(-1)
    for j in range(min(n, link.most)):
        key = peek_i64(link.keys + 8 * j)
        if key != before and key != EMPTY:
            poke_i64(link.keys + 8 * kept, key)
            kept += 1
        before = key
    return kept


@inlined
def note(rows, link, row, candidate, n):
    if candidate == row or candidate < 0 or candidate >= rows.n:
        return n
    place = row_address(rows, np.int64(candidate))
    poke_i64(link.found + 8 * n, np.int64(candidate))
    poke_i64(link.places + 8 * n, place)
    prefetch_lines(place, rows.row_bytes)
    return n + 1


@inlined
def copy_codes(rows, link, row):
    """Make a row the query, with zeros behind it."""
    place = row_address(rows, row)
    for at in range(0, rows.dim, 64):
        store_bytes(link.query + at, load_bytes(place + at))
    for at in range(rows.dim, (rows.dim + 63) // 64 * 64):
        poke_i8(link.query + at, np.int8(0))


@inlined
def shift_of_query(rows, link):
    """What takes back that rows are read with 128 added to their codes."""
    total = zero_i32()
    for at in range(0, rows.dim, 64):
        total = dot_u8i8(total, ones_u8(), load_bytes(link.query + at))
    return np.int32(-128) * sum_of_lanes(total)


@inlined
def dots(inner, rows, link, n):
    if n > 0:
        for j in range(n, (n + 3) // 4 * 4):
            poke_i64(link.places + 8 * j, peek_i64(link.places))
        call(inner.dots_at, (link.query, link.places, rows.dim, n, rows.table, link.sums))


@inlined
def distance(rows, link, norm, scale, other, dot):
    product = (scale * peek_f32(rows.scale + 4 * other)) * np.float32(dot)
    return (norm + peek_f32(link.norms + 4 * other)) - np.float32(2) * product


@helper
def choose(inner, rows, link, row, n):
    """Take neighbours among the first `n` keys, and write them in the order of their distance."""
    own, alpha = link.neighbours + 4 * link.width * row, np.float32(link.alpha)
    for j in range(n):  # what is left, in order
        key = peek_i64(link.keys + 8 * j)
        poke_i64(link.found + 8 * j, row_of(key))
        poke_f32(link.far + 4 * j, -score_of(key))
    taken, equals = 0, 0
    while n > 0 and taken < link.degree:
        chosen, far = peek_i64(link.found), peek_f32(link.far)
        if far <= 0:
            equals += 1
        if far > 0 or equals <= link.equals:
            poke_i32(own + 4 * taken, np.int32(chosen))
            taken += 1
        n = drop_near(inner, rows, link, chosen, alpha, n)
    for j in range(taken, link.width):
        poke_i32(own + 4 * j, np.int32(row))


@helper
def drop_near(inner, rows, link, chosen, alpha, n):
    """Drop the first of what is left, and what is too near to it: how many are left."""
    for j in range(1, n):
        poke_i64(link.places + 8 * (j - 1), row_address(rows, peek_i64(link.found + 8 * j)))
    copy_codes(rows, link, chosen)
    dots(inner, rows, link, n - 1)
    shift, scale = shift_of_query(rows, link), peek_f32(rows.scale + 4 * chosen)
    norm, left = peek_f32(link.norms + 4 * chosen), 0
    for j in range(1, n):
        other, far = peek_i64(link.found + 8 * j), peek_f32(link.far + 4 * j)
        near = distance(rows, link, norm, scale, other, peek_i32(link.sums + 4 * (j - 1)) + shift)
        if not alpha * near < far:
            poke_i64(link.found + 8 * left, other)
            poke_f32(link.far + 4 * left, far)
            left += 1
    return left


def link(
    rows: Rows,
    norms: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    targets: NDArray[np.int32],
    starts: NDArray[np.int64],
    candidates: NDArray[np.int32],
    degree: int,
    room: int,
    alpha: float,
    equals: int,
    most: int,
    part: slice,
) -> None:
    """As `reference.link`, to the bit."""
    found, width = addressed(rows), neighbours.shape[1]
    functions = functions_for(rows, "dots_at")
    most = -(-most // KEYS) * KEYS
    longest = int(np.diff(starts[part.start : part.stop + 1]).max(initial=0)) + width + 8
    space = Room(64 + 8 * most, 8 * longest, 8 * longest, 4 * longest, -(-rows.dim // 64) * 64, 4 * longest)
    keys, found_at, places, sums, query, far = space.pieces
    record = Link(
        neighbours=address(neighbours), width=width, degree=degree, room=room, equals=equals, alpha=alpha,
        norms=address(norms), targets=address(targets), starts=address(starts), candidates=address(candidates),
        most=most, keys=keys + 64, found=found_at, places=places, sums=sums, query=query, far=far,
    )  # fmt: skip
    link_all(functions.address, found.address, record.address, part.start, part.stop)
