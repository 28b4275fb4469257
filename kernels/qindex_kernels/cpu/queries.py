"""The left side of every kernel: queries or tokens, padded, rounded to int8, and packed for the tiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import RowAddresses, read_rows
from qindex_kernels.cpu.inner import read_inner
from qindex_kernels.cpu.record import INTEGER, LINE, Record, Room, reader
from qindex_kernels.cpu.simd import (
    add_i32,
    deal,
    dot_u8i8,
    inverses_of,
    larger_size,
    largest_lane,
    load_bytes,
    load_f32,
    load_first,
    ones_u8,
    peek_f32,
    peek_i8,
    peek_i32,
    poke_f32,
    poke_i8,
    poke_i32,
    quotients,
    round_bytes,
    scaled,
    steps_of,
    store_bytes,
    store_f32,
    store_low_i8,
    sum_of_lanes,
    transpose,
    zero_f32,
    zero_i32,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.cpu.unpack import MASKED1, MASKED2, MASKED4, deal_masked

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


class Queries(Record):
    """`m` queries against rows in blocks. A query that is `step * code` has one step, or one for each block."""

    _fields_ = (
        ("m", INTEGER),
        ("rows", INTEGER),  # the RowAddresses
        ("dim", INTEGER),
        ("width", INTEGER),  # dim in whole steps of the kind, part by part: numbers in a row of values and of codes
        ("step_length", INTEGER),  # of the kind: dimensions
        ("block", INTEGER),
        ("blocks", INTEGER),
        ("lanes", INTEGER),  # blocks in whole registers: numbers in a row of `steps` and of `totals`
        ("per_block", INTEGER),  # whether each block has a step of its own
        ("padded", INTEGER),  # whether width is more than dim; else values are those of the array itself
        ("values", INTEGER),  # float32 (m, width), zeros behind dim
        ("codes", INTEGER),  # int8 (m, width), in the order of the kind; m in whole panels
        ("steps", INTEGER),  # float32 (m, lanes)
        ("inverses", INTEGER),  # float32 (lanes,): those of the steps of the query that is rounded
        # int32 (m, lanes): the sum of the codes of each block, of which the last takes what is left; or of each part
        ("totals", INTEGER),
    )


read_queries = reader(Queries)


def queries_for(rows: RowAddresses, m: int, step: int, per_block: bool = False) -> Queries:
    """Room for the queries of a kind that is read `step` dimensions at a time."""
    width, lanes = rows.width, -(-rows.blocks // 16) * 16
    padded = width != rows.dim
    of_codes = Room(-(-m // 16) * 16 * width, blank=True)
    room = Room(4 * m * lanes, 4 * m * lanes, 4 * m * width * padded, 4 * lanes)
    (codes,), (steps, totals, values, inverses) = of_codes.pieces, room.pieces
    queries = Queries(
        m=m, rows=rows.address, dim=rows.dim, width=width, step_length=step, block=rows.block, blocks=rows.blocks,
        lanes=lanes, per_block=per_block, padded=padded, values=values, codes=codes, steps=steps, inverses=inverses,
        totals=totals,
    )  # fmt: skip
    queries.rooms = of_codes, room
    return queries


@inlined
def copy_row(source, target, dim):
    """Copy float32 numbers to where there is room for whole registers, and fill the last with zeros."""
    for at in range(0, 4 * dim, 64):
        store_f32(target + at, load_first(source + at, dim - at // 4))


@inlined
def copy_codes(source, target, width):
    """Copy the codes of a query, in whole registers."""
    for at in range(0, width, 64):
        store_bytes(target + at, load_bytes(source + at))


@kernel
def prepare(queries_at, integers, x):
    """Take queries from an array (m, dim), which outlives them, and round them if kernels want integers."""
    queries = read_queries(queries_at)
    take_all(queries, read_rows(queries.rows), integers, x)


@helper
def take_all(queries, rows, integers, x):
    """As `prepare`."""
    if queries.padded == 0:
        queries.values = np.intp(x.ctypes.data)
    else:
        for i in range(queries.m):
            copy_query(rows, np.intp(x[i].ctypes.data), queries.values + 4 * queries.width * i)
    if rows.next != 0:
        quantize_parts(queries)
    elif integers:
        quantize(queries)


@helper
def copy_query(rows, source, target):
    """Copy a query part by part."""
    copy_row(source, target, rows.dim)
    done, following = rows.dim, rows.next
    while following != 0:
        part = read_rows(following)
        copy_row(source + 4 * done, target + 4 * part.start, part.dim)
        done += part.dim
        following = part.next


@helper
def query_dim(rows):
    """Numbers of a query, for rows in any number of parts."""
    dim, following = rows.dim, rows.next
    while following != 0:
        part = read_rows(following)
        dim += part.dim
        following = part.next
    return dim


@helper
def take(queries, rows, source, integers):
    """As `prepare`, for one query at an address."""
    if queries.padded == 0:
        queries.values = source
    else:
        copy_query(rows, source, queries.values)
    if rows.next != 0:
        quantize_parts(queries)
    elif integers:
        quantize(queries)


@helper
def quantize_parts(queries):
    """Round queries for rows in parts: numbers times the unit of their part, with one step for all."""
    for i in range(queries.m):
        values, codes = queries.values + 4 * queries.width * i, queries.codes + queries.width * i
        largest, following = zero_f32(), queries.rows
        while following != 0:
            part = read_rows(following)
            for d in range(part.start, part.start + part.dim, 16):
                largest = larger_size(largest, scaled(load_f32(values + 4 * d), np.float32(part.query_unit)))
            following = part.next
        step = largest_lane(largest) / np.float32(127)
        if step < SMALLEST_NORMAL:
            step = np.float32(1)
        poke_f32(queries.steps + 4 * queries.lanes * i, step)
        total, following = queries.totals + 4 * queries.lanes * i, queries.rows
        while following != 0:
            part = read_rows(following)
            sums = zero_i32()
            for d in range(part.start, part.start + (part.dim + 63) // 64 * 64, 16):  # zeros behind the last, too
                numbers = scaled(load_f32(values + 4 * d), np.float32(part.query_unit))
                store_low_i8(codes + d, quotients(numbers, step, np.float32(1) / step))
            for d in range(part.start, part.start + part.dim, 64):
                sums = dot_u8i8(sums, ones_u8(), load_bytes(codes + d))
            poke_i32(total, sum_of_lanes(sums))
            total += 4
            following = part.next


@helper
def shift_of(inner, rows, queries, i, b, scanning):
    """What BIAS adds too much to the integer sums of query i over block b, or over all parts; negative."""
    totals = queries.totals + 4 * queries.lanes * i
    shift, following = np.int32(-inner.bias) * peek_i32(totals + 4 * b), rows.next
    while following != 0:
        part = read_rows(following)
        totals += 4
        bias = read_inner(part.scanning if scanning else part.functions).bias
        shift -= np.int32(bias) * peek_i32(totals)
        following = part.next
    return shift


@helper
def quantize(queries):
    """As `reference.quantize`, with the sums of codes, dimensions in their own order."""
    for i in range(queries.m):
        # The padding behind the last block changes nothing.
        source, target = queries.values + 4 * queries.width * i, queries.codes + queries.width * i
        steps, totals = queries.steps + 4 * queries.lanes * i, queries.totals + 4 * queries.lanes * i
        # Steps of all blocks first, 16 at a time: each alone would wait for two divisions.
        if queries.per_block == 0:
            poke_f32(steps, largest_size(source, queries.width))
        else:
            for b in range(queries.blocks):
                poke_f32(steps + 4 * b, largest_size(source + 4 * b * queries.block, block_width(queries, b)))
        for at in range(0, 4 * queries.lanes, LINE):
            found = steps_of(load_f32(steps + at))
            store_f32(steps + at, found)
            store_f32(queries.inverses + at, inverses_of(found))
        for b in range(queries.blocks):
            start, own = b * queries.block, 4 * b if queries.per_block != 0 else 0
            step, inverse = peek_f32(steps + own), peek_f32(queries.inverses + own)
            total = round_block(source + 4 * start, target + start, block_width(queries, b), step, inverse)
            poke_i32(totals + 4 * b, total)


@inlined
def block_width(queries, b):
    """Dimensions of a block; the last takes what is left."""
    return queries.block if b + 1 < queries.blocks else queries.width - b * queries.block


@inlined
def largest_size(numbers, n):
    """The largest magnitude of n float32 numbers, a multiple of 16, at an address."""
    largest, more, stop = zero_f32(), zero_f32(), numbers + 4 * n
    for at in range(numbers, stop - 64, 128):
        largest, more = larger_size(largest, load_f32(at)), larger_size(more, load_f32(at + 64))
    if n % 32 != 0:
        largest = larger_size(largest, load_f32(stop - 64))
    return largest_lane(larger_size(largest, more))


@inlined
def round_block(source, target, n, step, inverse):
    """Write the codes of n numbers, a multiple of 16, and return their sum."""
    total, whole = zero_i32(), n // 64 * 64
    for d in range(0, whole, 64):
        total = round_bytes(total, source + 4 * d, step, inverse, target + d)
    for d in range(whole, n, 16):
        codes = quotients(load_f32(source + 4 * d), step, inverse)
        total = add_i32(total, codes)
        store_low_i8(target + d, codes)
    return sum_of_lanes(total)


@helper
def order(queries):
    """Put codes in the order in which split kinds (unpack.py) read rows, in place."""
    step, stop = queries.step_length, queries.codes + queries.m * queries.width
    if step == 128:
        for at in range(queries.codes, stop, 128):
            deal(at, 2)
    elif step == 256:
        for at in range(queries.codes, stop, 256):
            deal(at, 4)


@helper
def order_masked(queries, inner):
    """The same for parts of masked kinds; `inner` reads the first."""
    kind, following = inner.kind, queries.rows
    while following != 0:
        part = read_rows(following)
        if MASKED1 <= kind <= MASKED4:
            for i in range(queries.m):
                order_part(kind, queries.codes + queries.width * i + part.start, part.dim)
        following = part.next
        if following != 0:
            kind = read_inner(read_rows(following).scanning).kind


@inlined
def order_part(kind, codes, dim):
    for at in range(codes, codes + dim, 64):
        if kind == MASKED1:
            deal_masked(MASKED1, at)
        elif kind == MASKED2:
            deal_masked(MASKED2, at)
        else:
            deal_masked(MASKED4, at)


@inlined
def bits_stride(dim):
    """Bytes of the bits of a query, in whole registers."""
    return (dim + 511) // 512 * 64


@helper
def pack_signs(queries, bits):
    """Whether all numbers of each query are of one size; if so, their signs as bits, and a mask behind the last.

    Queries are quantized: of numbers of one size all codes are 127 or -127, unless they are too small for a step.
    """
    stride = bits_stride(queries.dim)
    for at in range(bits, bits + (queries.m + 1) * stride, 4):
        poke_i32(at, np.int32(0))
    for i in range(queries.m + 1):
        values, codes = queries.values + 4 * queries.width * i, queries.codes + queries.width * i
        out = bits + i * stride
        for d in range(queries.dim):
            positive = True
            if i < queries.m:
                code = peek_i8(codes + d)
                if abs(code) != 127 or abs(peek_f32(values + 4 * d)) != abs(peek_f32(values)):
                    return False
                positive = code > 0
            if positive:
                poke_i8(out + d // 8, np.int8(peek_i8(out + d // 8) | 1 << d % 8))
    return True


class Panels(Record):
    """Queries, 16 at a time, as the lanes of a tile. In each block, lanes lie side by side: 16 * n of them."""

    _fields_ = (
        ("n", INTEGER),  # as many as tiles take: fours, and at the end one, two or four
        ("stride", INTEGER),  # bytes from panel to panel: no power of two, so that panels do not compete in the cache
        ("codes", INTEGER),  # int8, interleaved by 4: [panel][quad][16][4]; or float32: [panel][dimension][16]
        ("starts", INTEGER),  # int32 (blocks, lanes): -BIAS times the totals
        ("steps", INTEGER),  # float32 (blocks, lanes)
        ("totals", INTEGER),  # float32 (blocks, lanes)
        ("members", INTEGER),  # int32 (lanes,): the query of each lane; 0 where they lie in order
        ("needed", INTEGER),  # with members, float32 (lanes,): the fast score, without base, of a candidate
        ("bases", INTEGER),  # with members, float32 (lanes,): added to the scores of the rows that lanes meet
    )


read_panels = reader(Panels)


def panels_for(queries: Queries, number_bytes: int = 1) -> Panels:
    """Room for panels of integers, or of numbers of four bytes."""
    n = (queries.m + 15) // 16
    n += n % 4 == 3
    stride = 16 * queries.width * number_bytes + LINE
    size = queries.blocks * 16 * n * 4 if number_bytes == 1 else 0
    room = Room(n * stride, size, size, size)
    codes, starts, steps, totals = room.pieces
    panels = Panels(n=n, stride=stride, codes=codes, starts=starts, steps=steps, totals=totals)
    panels.room = room
    return panels


@kernel
def fill_panels(panels_at, queries_at, inner_at):
    """Lay out the codes of all queries."""
    panels, queries = read_panels(panels_at), read_queries(queries_at)
    inner, rows = read_inner(inner_at), read_rows(queries.rows)
    order(queries)
    lanes = 16 * panels.n
    for p in range((queries.m + 15) // 16):
        source, target = queries.codes + 16 * queries.width * p, panels.codes + p * panels.stride
        for d in range(0, queries.width, 64):
            transpose(source + d, queries.width, target + 16 * d, LINE)
    for i in range(queries.m):
        for b in range(queries.blocks):
            at, own = 4 * (lanes * b + i), 4 * queries.lanes * i
            poke_i32(panels.starts + at, shift_of(inner, rows, queries, i, b, False))
            poke_f32(panels.totals + at, np.float32(peek_i32(queries.totals + own + 4 * b)))
            step = own + 4 * b if queries.per_block != 0 else own
            poke_f32(panels.steps + at, peek_f32(queries.steps + step))


@kernel
def fill_float_panels(panels_at, queries_at):
    panels, queries = read_panels(panels_at), read_queries(queries_at)
    for i in range(queries.m):
        source, target = queries.values + 4 * queries.width * i, panels.codes + i // 16 * panels.stride + i % 16 * 4
        for d in range(queries.dim):
            poke_f32(target + 64 * d, peek_f32(source + 4 * d))


def contiguous(x: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous and writable: other arrays have another type, for which numba would compile another kernel."""
    return x if x.flags.c_contiguous and x.flags.writeable else np.array(x, order="C")
