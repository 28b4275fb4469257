"""The k best rows for each query, exact, without ever writing the scores of a whole scan.

Fast scores are wrong by at most a margin (float32 sums, or int8 queries on tensor cores). Three steps, each of which
lets through everything that may be among the k best:

1. A scan writes, for each query and block of rows, the best fast score in the block. At least k rows reach the k-th
   best of these bests, so a block whose best lies more than two margins below it holds none of the k.
2. The blocks that are left, about k for a query, are scored again by float32 sums, and the same rule picks rows.
3. The rows that are left are scored exactly and ranked.

So the result is that of `reference.topk`, to the bit, whatever the data: where many rows are nearly equal, more blocks
and rows are left, and only time is lost. A fast score that overflows counts as unknown: it rules nothing out.
"""

import torch
import triton
import triton.language as tl

from qindex_kernels.gpu.dots import dots, dots_of_few, integer_dots
from qindex_kernels.gpu.matmul import quantized
from qindex_kernels.gpu.rows import DECODERS, DeviceRows, form, pointers
from qindex_kernels.gpu.score_rows import score_rows

ROWS_IN_BLOCK = 128
WIDTH = 64  # dimensions at a time; half as many where each costs a loop over all queries
QUERIES_AT_ONCE = 1024  # bounds the memory of step 1: 4 bytes for each query and block
SCORES_AT_ONCE = 1 << 25  # and of step 2

SMALLEST_NORMAL = 2.0**-126


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
def rows_of_block(rows, allow, block, N: tl.constexpr):
    """The rows (N,) of a block and which of them may be returned; block -1 has none."""
    row = block * N + tl.arange(0, N)
    keep = (row >= 0) & (row < rows.n)
    if allow is not None:
        keep &= tl.load(allow + row, mask=keep, other=0) != 0
    return row, keep


@triton.jit
def _best_kernel(
    rows, queries, steps, m, allow, best, FORM: tl.constexpr, N: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr
):
    """A program scores a block of N rows for M queries. With `steps`, the queries are int8."""
    tiles = tl.cdiv(m, M)  # programs of one block run side by side and share its codes in the L2 cache
    block = tl.program_id(0) // tiles
    query = tl.program_id(0) % tiles * M + tl.arange(0, M)
    present = query < m
    row, keep = rows_of_block(rows, allow, block, N)
    if steps is not None:
        step = tl.load(steps + query, mask=present, other=0)
        dot = integer_dots(rows, FORM, row, keep, queries, query, present, 0, rows.dim, WIDTH).to(tl.float32)
        dot *= (step * FORM.unit)[None, :]
    elif M == 1:
        dot = tl.trans(dots_of_few(rows, FORM, row, keep, queries, tl.program_id(0) % tiles * M, m, M, WIDTH))
    else:
        dot = dots(rows, FORM, row, keep, queries, query, present, WIDTH)
    blocks = tl.cdiv(rows.n, N)
    tl.store(best + query.to(tl.int64) * blocks + block, tl.max(finished(rows, dot, row, keep), 0), mask=present)


@triton.jit
def _scores_kernel(rows, queries, allow, blocks, c, scores, FORM: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr):
    """A program scores one of the c blocks that were chosen for a query; block -1 stands for none."""
    query = tl.program_id(0) // c
    block = tl.load(blocks + tl.program_id(0))
    row, keep = rows_of_block(rows, allow, block, N)
    dot = tl.trans(dots_of_few(rows, FORM, row, keep, queries, query, query + 1, 1, WIDTH))
    at = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    tl.store(scores + at, tl.reshape(finished(rows, dot, row, keep), (N,)))


def best_of_blocks(
    rows: DeviceRows, queries: torch.Tensor, steps: torch.Tensor | None, allow: torch.Tensor | None
) -> torch.Tensor:
    """Step 1: the best fast score of each block of ROWS_IN_BLOCK rows, (m, blocks) float32."""
    m, blocks = len(queries), triton.cdiv(len(rows.data), ROWS_IN_BLOCK)
    tile = 1 if m == 1 else 16 if m <= 16 else 64 if m <= 64 or steps is None else 128
    width = WIDTH if m == 1 or steps is not None else WIDTH // 2
    best = torch.empty((m, blocks), dtype=torch.float32, device=queries.device)
    with torch.cuda.device_of(queries):
        _best_kernel[(triton.cdiv(m, tile) * blocks,)](
            pointers(rows), queries, steps, m, allow, best,
            FORM=form(rows), N=ROWS_IN_BLOCK, M=tile, WIDTH=width, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
    return best


def scores_of_blocks(
    rows: DeviceRows, values: torch.Tensor, allow: torch.Tensor | None, blocks: torch.Tensor
) -> torch.Tensor:
    """Step 2: the fast scores of all rows of chosen blocks: (m, c) block numbers -> (m, c * ROWS_IN_BLOCK) float32."""
    m, c = blocks.shape
    scores = torch.empty((m, c * ROWS_IN_BLOCK), dtype=torch.float32, device=values.device)
    with torch.cuda.device_of(values):
        _scores_kernel[(m * c,)](
            pointers(rows), values, allow, blocks, c, scores,
            FORM=form(rows), N=ROWS_IN_BLOCK, WIDTH=WIDTH, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
    return scores


def shortlist(fast: torch.Tensor, k: int, margin: torch.Tensor) -> torch.Tensor:
    """The columns of fast scores (m, r) that may hold one of the k best, each row's padded with -1: (m, c)."""
    bar = torch.full((len(fast), 1), float("-inf"), device=fast.device)
    if fast.shape[1] >= k:
        certain = torch.where(fast == float("inf"), float("-inf"), fast)
        kth = certain.topk(k, dim=1).values[:, -1:]
        bar = torch.nextafter((kth.double() - 2 * margin[:, None]).float(), bar)  # rounded down
    most = int(((fast >= bar) & (fast > float("-inf"))).sum(1).max())
    best = fast.topk(most, dim=1)
    return torch.where((best.values >= bar) & (best.values > float("-inf")), best.indices, -1)


def topk(
    rows: DeviceRows,
    values: torch.Tensor,
    offset: torch.Tensor,
    ids: torch.Tensor,
    allow: torch.Tensor | None,
    k: int,
    max_norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `reference.topk`, to the bit, on tensors of one device: row numbers int64 (m, k), scores float32 (m, k)."""
    found = torch.full((len(values), k), -1, dtype=torch.int64, device=values.device)
    scores = torch.full((len(values), k), float("-inf"), device=values.device)
    if len(rows.data) == 0 or k == 0:
        return found, scores
    values = values.contiguous()
    allow = None if allow is None else allow.contiguous().view(torch.uint8)
    for start in range(0, len(values), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        _topk(rows, values[part], offset[part].double(), ids, allow, max_norm, found[part], scores[part])
    return found, scores


def _topk(
    rows: DeviceRows,
    values: torch.Tensor,
    offset: torch.Tensor,
    ids: torch.Tensor,
    allow: torch.Tensor | None,
    max_norm: float,
    found: torch.Tensor,
    scores: torch.Tensor,
) -> None:
    """Fill `found` and `scores`, (m, k), for a part of the queries."""
    k = found.shape[1]
    margin = rounding_margin(rows, values, offset, max_norm)
    if len(values) > 1 and takes_integers(rows):
        fast, step = quantized(values)
        missed = torch.linalg.vector_norm(values.double() - step.double() * fast.double(), dim=1)
        blocks = shortlist(best_of_blocks(rows, fast, step, allow), k, margin + missed * max_norm)
    else:
        blocks = shortlist(best_of_blocks(rows, values, None, allow), k, margin)
    if blocks.shape[1] == 0:
        return
    queries = max(1, SCORES_AT_ONCE // (blocks.shape[1] * ROWS_IN_BLOCK))
    for start in range(0, len(values), queries):
        part = slice(start, start + queries)
        column = shortlist(scores_of_blocks(rows, values[part], allow, blocks[part]), k, margin[part])
        chosen = column.clamp(min=0)
        chosen = blocks[part].gather(1, chosen // ROWS_IN_BLOCK) * ROWS_IN_BLOCK + chosen % ROWS_IN_BLOCK
        exact = score_rows(rows, values[part], offset[part], chosen.clamp(min=0))
        _rank(torch.where(column < 0, -1, chosen), exact, ids, found[part], scores[part])


def takes_integers(rows: DeviceRows) -> bool:
    """Whether whole rows are integers times a number, so that int8 queries give sums without rounding."""
    return not rows.block and DECODERS[rows.kind].family in ("grid", "e2m1")


def rounding_margin(rows: DeviceRows, values: torch.Tensor, offset: torch.Tensor, max_norm: float) -> torch.Tensor:
    """How far a float32 score, summed in any order, may lie from the exact one, itself rounded: float64 (m,).

    A sum of dim products makes at most dim roundings of 2 ** -24 of the sum of magnitudes, which Cauchy-Schwarz bounds
    by |query| * max_norm; a few more finish the score. Twice that is taken, which also covers the length of an int8
    query, at most twice that of the query. Last comes what underflows, under the largest row scale.
    """
    length = torch.linalg.vector_norm(values.double(), dim=1)
    reach = length * max_norm + offset.abs() + rows.max_bias
    return (rows.dim + 16) * (2.0**-23 * reach + SMALLEST_NORMAL * (1 + rows.max_scale))


def _rank(
    rows: torch.Tensor, exact: torch.Tensor, ids: torch.Tensor, found: torch.Tensor, scores: torch.Tensor
) -> None:
    """Write the best of scored rows (m, r), best first, ties to the smaller id; row -1 stands for none."""
    exact = torch.where(rows < 0, float("-inf"), exact)
    order = torch.where(rows < 0, torch.iinfo(torch.int64).max, ids[rows.clamp(min=0)]).argsort(dim=1, stable=True)
    # Adding zero makes -0.0 equal to 0.0 for every way of sorting.
    by_score = (exact + 0.0).gather(1, order).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_score)[:, : found.shape[1]]
    found[:, : order.shape[1]] = rows.gather(1, order)
    scores[:, : order.shape[1]] = exact.gather(1, order)
