"""The k best rows for each query, exact, without ever writing the scores of a whole scan.

Fast scores are wrong by at most a margin (float32 sums, or rounded queries and numbers on tensor cores). Three steps:

1. A scan writes, for each query and block of rows, the best fast score in the block. At least k rows reach the k-th
   best of these bests, so a block whose best lies more than two margins below it holds none of the k.
2. The rows of the blocks that are left, about k for a query, are scored exactly.
3. The best of them are ranked.

Steps 2 and 3 take lists of a fixed length, so that the GPU goes through all steps by itself; where more blocks are
left, or more rows are equal, than a list holds, they come again with longer ones. So the result is that of
`reference.topk`, to the bit, whatever the data: where many rows are nearly equal, only time is lost. A fast score that
overflows counts as unknown: it rules nothing out.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from qindex_kernels.gpu.dots import dots_of_few, integer_dots, rounded_dots
from qindex_kernels.gpu.launch import launch
from qindex_kernels.gpu.queries import DeviceQueries, prepared, takes_integers
from qindex_kernels.gpu.rows import DeviceRows, moved
from qindex_kernels.gpu.score_rows import exact_scores

ROWS_IN_BLOCK = 64
# (most queries, rows of a program, queries of a program, dimensions at a time), of int8 and of bfloat16 queries
INTEGER_TILES = ((16, 128, 16, 128), (64, 128, 64, 128), (1 << 62, 128, 128, 128))
ROUNDED_TILES = ((16, 128, 16, 64), (64, 128, 64, 64), (128, 128, 128, 64), (1 << 62, 64, 256, 64))
SINGLE = (128, 1, 128)
ROWS_TO_SCORE = 16  # of a program in step 2
RANKED = 64  # rows that a program of step 3 ranks
MOST_RANKED = 4096  # each is compared with all others; longer lists are sorted

# Blocks in the first list: so many times k and so many more. Rounded queries leave more of them: of 3 million random
# rows, for k = 10, up to 78 under int8 queries and 36 under bfloat16 ones.
BLOCKS_LEFT = {"float32": (1, 14), "bfloat16": (2, 34), "int8": (8, 38)}
ROWS_LEFT = (2, 32)  # rows, likewise
LONGER = 4  # times, where that was not enough

QUERIES_AT_ONCE = 1024  # bounds the memory of step 1: 4 bytes for each query and block
SCORES_AT_ONCE = 1 << 25  # and of step 2

ABSENT = tl.constexpr(-(1 << 31))  # the key of no row
LAST_ID = tl.constexpr((1 << 63) - 1)


@triton.jit
def finished(rows, dot, row, keep):
    """Scores without the query's offset, from dots that rows lie along the first axis of; -inf where not to keep."""
    if rows.scale is not None:
        dot *= tl.load(rows.scale + row, mask=keep, other=0)[:, None]
    if rows.bias is not None:
        dot += tl.load(rows.bias + row, mask=keep, other=0)[:, None]
    dot = tl.where(tl.abs(dot) < float("inf"), dot, float("inf"))
    return tl.where(keep[:, None], dot, float("-inf"))


@triton.jit
def rows_to_keep(rows, allow, first, N: tl.constexpr):
    """N rows and which of them may be returned."""
    row = first + tl.arange(0, N)
    keep = row < rows.n
    if allow is not None:
        keep &= tl.load(allow + row, mask=keep, other=0) != 0
    return row, keep


@triton.jit(do_not_specialize=["m", "blocks"])
def _best_kernel(
    rows, queries, steps, m, blocks, allow, best,
    FORM: tl.constexpr, N: tl.constexpr, B: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """A program scores N rows, in blocks of B, for M queries: int8 ones, which have steps, or bfloat16 ones, or one."""
    tiles = tl.cdiv(m, M)  # programs of the same rows run side by side and share their codes in the L2 cache
    first_query = tl.program_id(0) % tiles * M
    query = first_query + tl.arange(0, M)
    present = query < m
    row, keep = rows_to_keep(rows, allow, tl.program_id(0) // tiles * N, N)
    if M == 1:
        dot = tl.trans(dots_of_few(rows, FORM, row, keep, queries, first_query, m, M, WIDTH))
    elif steps is not None:
        step = tl.load(steps + query, mask=present, other=0)
        dot = integer_dots(rows, FORM, row, keep, queries, query, present, 0, rows.dim, WIDTH).to(tl.float32)
        dot *= (step * FORM.unit)[None, :]
    else:
        dot = rounded_dots(rows, FORM, row, keep, queries, query, present, WIDTH)
    found = tl.max(tl.reshape(finished(rows, dot, row, keep), (N // B, B, M)), 1)
    block = tl.program_id(0) // tiles * (N // B) + tl.arange(0, N // B)
    at = query.to(tl.int64)[None, :] * blocks + block[:, None]
    tl.store(best + at, found, mask=(block < blocks)[:, None] & present[None, :])


@triton.jit
def bar_of(bests, margins, query, k, c):
    """What the best of a block must reach, by the falling bests of c blocks: float64."""
    kth = tl.load(bests + query * c + k - 1, mask=k <= c, other=float("-inf")).to(tl.float64)
    unknown = tl.load(bests + query * c) == float("inf")
    return tl.where(unknown, float("-inf"), kth - 2 * tl.load(margins + query))


@triton.jit(do_not_specialize=["k", "c"])
def _score_kernel(
    rows, values, offset, allow, bests, chosen, margins, k, c, keys,
    FORM: tl.constexpr, N: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """A program scores N rows of one of the c blocks that were chosen for a query, if it reaches the bar."""
    place = (tl.program_id(0) // (B // N)).to(tl.int64)
    part = tl.program_id(0) % (B // N) * N
    query = place // c
    best = tl.load(bests + place)
    bar = bar_of(bests, margins, query, k, c)
    key = tl.full((N,), ABSENT, tl.int32)
    if (best > float("-inf")) & ((best.to(tl.float64) < bar) == 0):  # a bar that is no number rules nothing out
        row, keep = rows_to_keep(rows, allow, tl.load(chosen + place) * B + part, N)
        bits = exact_scores(rows, FORM, row, keep, values, offset, query, N).to(tl.int32, bitcast=True)
        key = tl.where(keep, bits ^ ((bits >> 31) & 0x7FFFFFFF), key)  # integers in the order of the scores
    tl.store(keys + place * B + part + tl.arange(0, N), key)


@triton.jit
def candidates(keys, places, chosen, ids, query, i, c, length, B: tl.constexpr):
    """The keys, rows and ids of candidates i of a query."""
    mask = i < length
    key = tl.load(keys + query * length + i, mask=mask, other=ABSENT)
    place = tl.load(places + query * length + i, mask=mask, other=0)
    row = tl.load(chosen + query * c + place // B) * B + place % B
    row = tl.where(key == ABSENT, -1, row)
    return key, row, tl.load(ids + row, mask=row >= 0, other=LAST_ID)


@triton.jit
def in_order(key):
    """Keys of equal scores are equal: that of -0.0 becomes that of 0.0."""
    return tl.where(key == -1, 0, key)


@triton.jit(do_not_specialize=["k", "c", "blocks", "length", "tiles"])
def _rank_kernel(
    keys, places, bests, chosen, margins, ids, k, c, blocks, length, tiles, found,
    SORTED: tl.constexpr, B: tl.constexpr, T: tl.constexpr
):  # fmt: skip
    """A program finds the ranks of T of the candidates of a query, by counting those before each, and writes the k best
    where they belong."""
    query = (tl.program_id(0) // tiles).to(tl.int64)
    i = tl.program_id(0) % tiles * T + tl.arange(0, T)
    key, row, id = candidates(keys, places, chosen, ids, query, i, c, length, B)
    rank = i
    if not SORTED:
        mine = in_order(key)
        rank = tl.zeros((T,), tl.int32)
        for first in range(0, tiles * T, T):
            j = first + tl.arange(0, T)
            other, _row, other_id = candidates(keys, places, chosen, ids, query, j, c, length, B)
            tied = (in_order(other)[None, :] == mine[:, None]) & (other_id[None, :] <= id[:, None])
            # There may be many candidates that are no rows, whose ids are equal.
            tied &= (other_id[None, :] < id[:, None]) | (j[None, :] < i[:, None])
            rank += tl.sum(((in_order(other)[None, :] > mine[:, None]) | tied).to(tl.int32), 1)
    at = found + query * (2 * k + 1) + rank
    score = tl.where(row < 0, -0x800000, key ^ ((key >> 31) & 0x7FFFFFFF))  # the bits of -inf
    tl.store(at, row, mask=rank < k)
    tl.store(at + k, score.to(tl.int64), mask=rank < k)

    last_best = tl.load(bests + query * c + c - 1)
    bar = bar_of(bests, margins, query, k, c)
    all_blocks = (c == blocks) | (last_best == float("-inf")) | (last_best.to(tl.float64) < bar)
    kth = tl.load(keys + query * length + k - 1, mask=k <= length, other=ABSENT)
    last = tl.load(keys + query * length + length - 1)
    all_rows = (length == c * B) | (kth == ABSENT) | (in_order(last) < in_order(kth))
    tl.store(found + query * (2 * k + 1) + 2 * k, (all_blocks & all_rows).to(tl.int64))


def topk(
    rows: DeviceRows,
    columns: torch.Tensor | None,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: torch.Tensor,
    allow: torch.Tensor | None,
    k: int,
    max_norm: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `reference.topk`, to the bit, of values times columns (dim,): row numbers (m, k) and scores (m, k)."""
    m = len(values)
    if rows.n == 0 or k == 0 or m == 0:
        return np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)
    ids = ids.contiguous()
    allow = None if allow is None else allow.contiguous().view(torch.uint8)
    with torch.cuda.device_of(ids):
        parts = [slice(start, start + QUERIES_AT_ONCE) for start in range(0, m, QUERIES_AT_ONCE)]
        found = [_topk(rows, columns, values[part], offset[part], ids, allow, k, max_norm) for part in parts]
    both = found[0] if len(found) == 1 else np.concatenate(found)
    return both[:, :k].copy(), both[:, k : 2 * k].astype(np.int32).view(np.float32)


def _topk(
    rows: DeviceRows,
    columns: torch.Tensor | None,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    ids: torch.Tensor,
    allow: torch.Tensor | None,
    k: int,
    max_norm: float,
) -> NDArray[np.int64]:
    """For each query k row numbers, the bits of k scores, and whether it is done: (m, 2 * k + 1)."""
    m, blocks = len(values), -(-rows.n // ROWS_IN_BLOCK)
    way = "float32" if m == 1 else "int8" if takes_integers(rows) else "bfloat16"
    queries = prepared(rows, columns, values, offset, way, max_norm)
    best = best_of_blocks(rows, queries, allow)
    c, length = (times * k + more for times, more in (BLOCKS_LEFT[way], ROWS_LEFT))
    found = np.zeros((m, 2 * k + 1), np.int64)
    left = np.arange(m)
    while len(left):
        c = min(c, blocks)
        size = max(1, SCORES_AT_ONCE // (c * ROWS_IN_BLOCK))
        for start in range(0, len(left), size):
            part = left[start : start + size]
            some, theirs = (queries, best) if len(part) == m else (queries.of(part), best[moved(part, best.device)])
            found[part] = ranked(rows, some, theirs, allow, ids, k, c, length).numpy(force=True)
        left = left[found[left, -1] == 0]
        c, length = LONGER * c, LONGER * length
    return found


def best_of_blocks(rows: DeviceRows, queries: DeviceQueries, allow: torch.Tensor | None) -> torch.Tensor:
    """Step 1: the best fast score of each block of ROWS_IN_BLOCK rows, (m, blocks) float32."""
    m, n = queries.fast.shape[0], rows.n
    tiles = INTEGER_TILES if queries.step is not None else ROUNDED_TILES
    tile_n, tile_m, width = SINGLE if m == 1 else next(one[1:] for one in tiles if m <= one[0])
    blocks = -(-n // ROWS_IN_BLOCK)
    best = torch.empty((m, blocks), dtype=torch.float32, device=queries.fast.device)
    launch(
        rows.compiled, _best_kernel, -(-m // tile_m) * -(-n // tile_n),
        (rows.pointers, queries.fast, queries.step, m, blocks, allow, best),
        (rows.form, tile_n, ROWS_IN_BLOCK, tile_m, width), num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return best


def ranked(
    rows: DeviceRows,
    queries: DeviceQueries,
    best: torch.Tensor,
    allow: torch.Tensor | None,
    ids: torch.Tensor,
    k: int,
    c: int,
    length: int,
) -> torch.Tensor:
    """Steps 2 and 3, of c blocks and `length` of their rows for each query: int64 (m, 2 * k + 1) as of `_topk`."""
    m, blocks = best.shape
    bests, chosen = best.topk(c, dim=1)
    keys = torch.empty((m, c * ROWS_IN_BLOCK), dtype=torch.int32, device=best.device)
    launch(
        rows.compiled, _score_kernel, m * c * (ROWS_IN_BLOCK // ROWS_TO_SCORE),
        (rows.pointers, queries.values, queries.offset, allow, bests, chosen, queries.margin, k, c, keys),
        (rows.form, ROWS_TO_SCORE, ROWS_IN_BLOCK), num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    length, is_long = min(length, keys.shape[1]), length > MOST_RANKED
    keys, places = in_full_order(keys, chosen, ids) if is_long else keys.topk(length, dim=1)
    found = torch.empty((m, 2 * k + 1), dtype=torch.int64, device=best.device)
    tiles = -(-(k if is_long else max(length, k)) // RANKED)
    launch(
        rows.compiled, _rank_kernel, m * tiles,
        (keys, places, bests, chosen, queries.margin, ids, k, c, blocks, keys.shape[1], tiles, found),
        (is_long, ROWS_IN_BLOCK, RANKED), num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return found


def in_full_order(keys: torch.Tensor, chosen: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All keys (m, r) as the k best are ordered, and the places where they were."""
    rows = (chosen[:, :, None] * ROWS_IN_BLOCK + torch.arange(ROWS_IN_BLOCK, device=keys.device)).flatten(1)
    absent = keys == ABSENT.value
    order = torch.where(absent, LAST_ID.value, ids[rows.clamp(max=len(ids) - 1)]).argsort(dim=1, stable=True)
    by_key = torch.where(keys == -1, 0, keys).gather(1, order).argsort(dim=1, descending=True, stable=True)
    places = order.gather(1, by_key)
    return keys.gather(1, places), places
