"""The one door to the kernels: top-k, scores and matrix products of prepared queries and codes; rotations.

Nobody else asks what is installed, how many threads there are, or which kernel fits. Exact scores, integer products and
rotations agree to the bit whatever computes them, so the choice changes speed and nothing else:

- `qindex/backend.py` chooses between kernels that numba compiles and NumPy's.
- Codes that `to_device` copied to a GPU are searched and multiplied there (`qindex/device.py`).

Work is split over a thread pool of our own (kernels release the GIL) when it is worth more than a hand-over.
"""

import importlib
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qindex import device
from qindex.backend import forced, has_integers, loader, path, warmup
from qindex.device import Activations, DeviceCodes, dtype, on_device
from qindex.threads import set_threads, split, threads
from qindex.types import BlockValues, Codes, Matches, Queries, Vectors
from qindex_kernels.layout import Copies, Level, Listed, Only, Part, Rows, Runs, Through
from qindex_kernels.rotor import Rotor, Steps

if TYPE_CHECKING:
    import torch

__all__ = [
    "DeviceCodes", "Listed", "Only", "Rotor", "Runs", "Steps", "Through", "Walks", "agree", "agree_on_rotation",
    "best", "has_integers", "largest", "link", "listed", "machine", "matmul", "path", "rescore", "rotate",
    "score_rows", "scores", "search_lists", "set_threads", "to_device", "topk", "topk_lists", "topk_us", "warmup",
]  # fmt: skip

# Bytes of codes below which a second thread costs more than it saves (about 0.2 ms of scanning).
_SPLIT_BYTES = 2 << 20

# Of few rows allowed, copies are scanned, or each is scored where it lies. About what that takes, in microseconds at
# 384 dimensions: to copy, each row copied, each row scanned, once and for each query, each row that is scored in place.
_COPIES_US, _COPY_US, _READ_US, _SCAN_US, _LOOK_US = 700.0, 0.1, 0.03, 0.004, 0.19

# A walk in NumPy takes as long as to score so much there: about 0.2 s.
_WALK_BYTES = 6 << 20

# Walks, each of tens of microseconds, below which a second thread costs more than it saves.
_SPLIT_WALKS = 8

# Rows that a matrix product takes at once: no part of a split ends within them.
_ROW_GROUP = 64

# Rows of x for which a thread unpacks codes itself, rather than sharing them out.
_MANY_TOKENS = 96


# Kernels keep what they know of rows for as long as the rows live, so rows live as long as their codes.
_rows_of: WeakKeyDictionary[Codes, Rows] = WeakKeyDictionary()


def _rows(codes: Codes) -> Rows:
    found = _rows_of.get(codes)
    if found is None:
        found = _rows_of[codes] = _as_rows(codes)
    return found


def _as_rows(codes: Codes) -> Rows:
    def level(values: BlockValues) -> Level:
        return Level(values.format.name, values.size, values.data)

    return Rows(
        kind=codes.format.name,
        dim=codes.dim,
        data=codes.data,
        scale=codes.scale,
        bias=codes.offset,
        levels=tuple(map(level, codes.blocks)),
        zero=None if codes.zero is None else level(codes.zero),
        tables=codes.tables,
        more=tuple(Part(part.format.name, part.dim, part.data) for part in codes.more),
    )


def _in_the_space_of(codes: Codes, values: Vectors) -> Vectors:
    columns = codes.column_scale
    return values if columns is None else values * columns


def to_device(codes: Codes, device: "torch.device | str") -> DeviceCodes:
    """Copy codes to a GPU ("cuda", "cuda:1"), where `topk`, `score_rows`, `scores` and `matmul` then work on them.

    Raises ValueError for a device that is no GPU of this machine and for a format without a GPU kernel; ImportError
    where torch or triton is not installed.
    """
    if codes.more:
        raise ValueError("codes must lie in one part for a GPU, got rows in several: take RaBitQ or LloydMax there")
    return on_device(codes, _rows(codes), device)


def topk(
    queries: Queries,
    codes: Codes | DeviceCodes,
    k: int,
    *,
    ids: "NDArray[np.int64] | torch.Tensor",
    allow: "NDArray[np.bool_] | torch.Tensor | None" = None,
) -> Matches:
    """The k best rows for each query by exact score, best first: `Matches` whose ids are **row numbers**.

    `ids` (n,) breaks ties (the smaller id comes first). `allow` (n,) says which rows may be returned. For codes on a
    GPU, they may be tensors of it, which need not be moved there for each call. Queries with `codes` of 1 or 2 bits,
    of the format of the rows, meet them bit by bit where that is faster: the result is the same.
    """
    _check_dim(queries.values, codes)
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 0:
        raise ValueError(f"k must be an integer from 0 on, got {k!r}")
    for name, array, wanted in (("ids", ids, "int64"), ("allow", allow, "bool")):
        if array is not None and (dtype(array) != wanted or array.shape != (len(codes),)):
            raise ValueError(f"{name} must be {wanted} ({len(codes)},), got {dtype(array)} {tuple(array.shape)}")
    if isinstance(codes, DeviceCodes):
        return device.topk(queries, codes, k, ids, allow)
    ids = np.ascontiguousarray(ids)
    if allow is not None:
        all_us, copies_us, in_place_us = _ways_us(int(np.count_nonzero(allow)), len(codes), len(queries))
        if min(copies_us, in_place_us) < all_us:
            rows = np.flatnonzero(allow)
            if in_place_us < copies_us:
                return rescore(queries, codes, np.broadcast_to(rows, (len(queries), len(rows))), k, ids=ids)[0]
            found = topk(queries, codes[rows], k, ids=ids[rows])
            return Matches(np.where(found.ids >= 0, rows[found.ids], -1), found.scores)
        allow = np.ascontiguousarray(allow)
    kept = min(k, len(codes))
    found = _topk(queries, codes, kept, ids, allow) if kept and len(queries) else _no_matches(len(queries), kept)
    return _padded(found, k)


def topk_us(n_allowed: int, n: int, m: int) -> float:
    """About what `topk` takes for each of m queries where so many of n rows of 384 dimensions are allowed."""
    return min(_ways_us(n_allowed, n, m)) / max(m, 1)


def _ways_us(n_allowed: int, n: int, m: int) -> tuple[float, float, float]:
    """Microseconds: a scan of all rows, one of copies of those allowed, and a look at each where it lies."""
    scan_us = _READ_US + m * _SCAN_US
    return n * scan_us, _COPIES_US + n_allowed * (_COPY_US + scan_us), m * n_allowed * _LOOK_US


def _padded(found: Matches, k: int) -> Matches:
    """With rows -1 behind the others, so that there are k."""
    m, kept = found.ids.shape
    if kept == k:
        return found
    padding = _no_matches(m, k - kept)
    return Matches(np.hstack([found.ids, padding.ids]), np.hstack([found.scores, padding.scores]))


def _no_matches(m: int, k: int) -> Matches:
    return Matches(np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32))


def _topk(queries: Queries, codes: Codes, k: int, ids: NDArray[np.int64], allow: NDArray[np.bool_] | None) -> Matches:
    work_bytes = codes.data.nbytes * len(queries)
    bits = _comparable(queries, codes)
    function = loader.function(*_way(bits), codes.format.name, work_bytes)
    rows, values = _rows(codes), _in_the_space_of(codes, queries.values)

    n_parts = max(1, min(threads.count, work_bytes // _SPLIT_BYTES))
    if n_parts == 1:
        return Matches(*function(rows, values, queries.offset, ids, allow, k, codes.max_norm, *bits))

    def run(query_part: slice, row_part: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found, scores = function(
            rows.part(row_part),
            values[query_part],
            queries.offset[query_part],
            ids[row_part],
            None if allow is None else allow[row_part],
            k,
            codes.max_norm,
            *(packed[query_part] for packed in bits),
        )
        return np.where(found >= 0, found + row_part.start, -1), scores

    if len(queries) >= 4 * n_parts:  # each thread takes some queries over all rows
        found = threads.map(run, [(part, slice(0, len(codes))) for part in split(len(queries), n_parts)])
        return Matches(np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found]))
    found = threads.map(run, [(slice(0, len(queries)), part) for part in split(len(codes), n_parts)])
    return best(np.hstack([rows for rows, _ in found]), np.hstack([scores for _, scores in found]), k, ids)


def _comparable(queries: Queries, codes: Codes) -> tuple[NDArray[np.uint8], ...]:
    """The packed codes of queries, (m, row_bytes), if there are some whose bits may be compared with those of rows."""
    own, kind = queries.codes, codes.format.name
    if own is None or own.format.name != kind or kind not in ("sign", "half2") or not codes.is_bare:
        return ()
    return (own.data,)


def _way(bits: tuple[NDArray[np.uint8], ...]) -> tuple[str, str]:
    """The module and the name of the kernel that searches with such codes, or with none."""
    return ("symmetric", "topk_symmetric") if bits else ("topk", "topk")


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, ids: NDArray[np.int64] | None) -> Matches:
    """The k best of scored rows (m, r), best first, ties to the smaller id, or row; row -1 (score -inf) comes last."""
    keys = np.where(rows >= 0, rows if ids is None else ids[rows], np.iinfo(np.int64).max)
    order = np.lexsort((keys, -scores))[:, :k]
    return Matches(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def topk_lists(
    queries: Queries,
    codes: Codes,
    runs: Runs,
    probes: NDArray[np.int32],
    k: int,
    *,
    ids: NDArray[np.int64] | None,
    bases: NDArray[np.float32] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> Matches:
    """As `topk`, for each query among the rows of its lists `probes` (m, p): distinct numbers, -1 for none.

    Without `ids`, the smaller row number comes first of equal ones. `bases` (m, p) are added to the scores of all rows
    of the lists. The caller has checked that `runs` lie within the rows; lists may not share rows.
    """
    _check_dim(queries.values, codes)
    m, n_lists = len(queries), len(runs.starts) - 1
    for name, array, wanted, shape in (
        ("ids", ids, "int64", (len(codes),)),
        ("allow", allow, "bool", (len(codes),)),
        ("probes", probes, "int32", (m, *probes.shape[1:2])),
        ("bases", bases, "float32", probes.shape),
    ):
        if array is not None and (array.dtype != wanted or array.shape != shape):
            raise ValueError(f"{name} must be {wanted} {shape}, got {array.dtype} {array.shape}")
    if probes.size and not -1 <= probes.min() <= probes.max() < n_lists:
        raise ValueError(f"probes must lie in [-1, {n_lists}), got {probes.min()} to {probes.max()}")
    kept = min(k, len(codes))
    if not kept or not m:
        return _no_matches(m, k)
    work_bytes = int(codes.data.nbytes * probes.size / max(n_lists, 1))
    function = loader.function("lists", "topk_lists", codes.format.name, work_bytes)
    rows, values = _rows(codes), _in_the_space_of(codes, queries.values)
    ids = None if ids is None else np.ascontiguousarray(ids)
    allow = None if allow is None else np.ascontiguousarray(allow)

    def run(part: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        own = None if bases is None else bases[part]
        arguments = values[part], queries.offset[part], runs, probes[part], own, ids, allow, kept, codes.max_norm
        found: tuple[NDArray[np.int64], NDArray[np.float32]] = function(rows, *arguments)
        return found

    n_parts = max(1, min(threads.count, work_bytes // _SPLIT_BYTES, m))
    if n_parts == 1:
        return _padded(Matches(*run(slice(0, m))), k)
    parts = threads.map(run, [(part,) for part in split(m, n_parts)])
    found = Matches(np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts]))
    return _padded(found, k)


def listed(
    codes: Codes,
    centroids: Codes,
    runs: Runs,
    fine: Codes | None,
    *,
    shifts: NDArray[np.float32] | None,
    relative: float,
    ids: NDArray[np.int64],
    allow: NDArray[np.bool_] | None,
    copies: tuple[Codes, Runs, NDArray[np.int32], NDArray[np.bool_] | None] | None = None,
) -> Listed:
    """What `search_lists` searches. The caller has checked all of it: `runs` as for `topk_lists`.

    `copies`, with `fine` alone: codes like `codes` and their runs, the rows they are copies of, which are allowed.
    """
    fine_rows = None if fine is None else _rows(fine)
    more = None if copies is None else Copies(_rows(copies[0]), copies[0].max_norm, *copies[1:])
    return Listed(_rows(codes), codes.max_norm, _rows(centroids), shifts, runs, relative, fine_rows, ids, allow, more)


def search_lists(
    listed: Listed,
    queries: Vectors,
    coarse: tuple[Vectors, NDArray[np.float64]],
    fine: tuple[Vectors, NDArray[np.float64]] | None,
    k: int,
    *,
    nprobe: int,
    wanted: int,
) -> tuple[Matches, NDArray[np.int32]]:
    """The k best rows of the `nprobe` lists whose centroids score best, with their **ids**; and the lists, (m, nprobe).

    As `reference.search_lists`. The caller has checked the values and offsets, and took them to the space of the codes.
    """
    rows, m = listed.rows, len(queries)
    n, n_lists = len(rows.data), len(listed.centres.data)
    kept, wanted = min(k, n), min(wanted, n)
    work_bytes = rows.data.nbytes * m * nprobe // n_lists * (1 if listed.copies is None else 2)
    function = loader.function("probe", "search_lists", rows.kind, work_bytes)

    n_parts = min(threads.count, work_bytes // _SPLIT_BYTES, m)
    if n_parts <= 1:
        best, scores, probes = function(listed, queries, coarse, fine, kept, wanted, nprobe)
    else:

        def run(part: slice) -> Any:
            return function(listed, queries[part], some(coarse, part), some(fine, part), kept, wanted, nprobe)

        def some(prepared: Any, part: slice) -> Any:
            return None if prepared is None else (prepared[0][part], prepared[1][part])

        parts = threads.map(run, [(part,) for part in split(m, n_parts)])
        best, scores, probes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return _padded(Matches(best, scores), k), probes


def largest(numbers: NDArray[np.float32], p: int) -> NDArray[np.int32]:
    """The places of the p largest of each row of (m, n) numbers: (m, p), ascending; of equal ones, the first."""
    function = loader.function("lists", "largest", "float32", numbers.nbytes)
    found: NDArray[np.int32] = function(numbers, min(p, numbers.shape[1]))
    return found


def rescore(
    queries: Queries,
    codes: Codes | DeviceCodes,
    rows: NDArray[np.int64],
    k: int,
    *,
    ids: NDArray[np.int64],
    estimates: NDArray[np.float32] | None = None,
    slack: NDArray[np.float64] | None = None,
) -> tuple[Matches, NDArray[np.int64]]:
    """The k best of chosen rows (m, r) by exact score, as `topk` gives them, and how many rows were scored: (m,).

    With `estimates` (m, r) of the scores, in falling order, and a `slack` (m,) that no estimate is below its score by,
    rows are scored only as long as they could still be among the k best.
    """
    chosen = _checked(queries, codes, rows)
    if isinstance(codes, DeviceCodes):
        raise ValueError("codes must be on the CPU to be rescored, got codes on a GPU: use score_rows and best")
    if slack is None or estimates is None:
        estimates, slack = np.zeros(chosen.shape, np.float32), np.full(len(chosen), np.inf)
    function = loader.function("score_rows", "rescore", codes.format.name, rows.size * codes.data.shape[1])
    values = _in_the_space_of(codes, queries.values)
    *found, counts = function(_rows(codes), values, queries.offset, chosen, estimates, slack, ids, k)
    return Matches(*found), counts


class Walks:
    """Walks over a graph of coded rows: the neighbours of each, int32 (n, degree), from some rows on, int32 (entries,).

    Without a graph, rows are found among `Only` some.

    What is no row stands for any. `fine` codes of the same rows, if there are some, rank what a walk finds.
    """

    def __init__(
        self,
        codes: Codes,
        fine: Codes | None,
        graph: tuple[NDArray[np.int32], NDArray[np.int32]] | None,
        ids: NDArray[np.int64],
    ) -> None:
        graph = graph or (np.empty((len(codes), 0), np.int32), np.empty(0, np.int32))
        self._codes, self._ids = codes, ids
        self._over = _rows(codes), _rows(codes if fine is None else fine), *graph, ids
        self._columns = codes.column_scale
        self._fine_columns = self._columns if fine is None else fine.column_scale
        self._compiled: Callable[..., Any] | None = None

    def best(
        self,
        values: Vectors,
        fine_values: Vectors,
        fine_offset: NDArray[np.float64] | None,
        k: int,
        *,
        ef: int,
        ranked: int,
        among: Through | Only | None = None,
    ) -> tuple[Matches, NDArray[np.int64], bool]:
        """The k best rows that a walk meets for each of (m, dim) prepared queries, with their **ids** (n,).

        A walk goes by fast scores of `codes` with `values` and keeps the `ef` best rows; the `ranked` best, at most
        `ef`, are ranked by exact scores with what was prepared for the `fine` codes, or for the same; no offset stands
        for 0. With k = 0, the `ranked` best **rows** and their fast scores instead. `among` says which rows are looked
        for, if not all.

        Also how many rows were expanded, scored and ranked, (3, m), and whether some query has met fewer than k rows,
        or than are `enough` with `Through`.
        """
        if self._columns is not None:
            values = values * self._columns
        if self._fine_columns is not None:
            fine_values = fine_values * self._fine_columns
        m = len(values)
        if m == 0:
            return _no_matches(0, k or ranked), np.zeros((3, 0), np.int64), False
        walks = self._compiled or self._made(m)
        n_parts = 1 if m < 2 * _SPLIT_WALKS else min(threads.count, m // _SPLIT_WALKS)
        if n_parts == 1:
            best, scores, work, short = walks(values, fine_values, fine_offset, k, ef, ranked, among)
            return Matches(best, scores), work, short

        def run(part: slice) -> Any:
            offset = None if fine_offset is None else fine_offset[part]
            return walks(values[part], fine_values[part], offset, k, ef, ranked, among)

        found = threads.map(run, [(part,) for part in split(m, n_parts)])
        best, scores, work, short = zip(*found, strict=True)
        return Matches(np.concatenate(best), np.concatenate(scores)), np.hstack(work), any(short)

    def _made(self, m: int) -> Callable[..., Any]:
        kind = self._codes.format.name
        made: Callable[..., Any] = loader.function("walk", "Walks", kind, _WALK_BYTES * m)(*self._over)
        if loader.compiled(0):
            self._compiled = made
        return made


def link(
    codes: Codes,
    norms: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    targets: NDArray[np.int32],
    starts: NDArray[np.int64],
    candidates: NDArray[np.int32],
    *,
    degree: int,
    room: int,
    alpha: float,
    equals: int,
    most: int,
) -> None:
    """Choose the neighbours of distinct rows, and write them into `neighbours`: as `reference_graph.link`.

    `codes` are int8 with row scales.
    """
    function = loader.function("link", "link", codes.format.name, 32 * len(candidates) * codes.dim)
    rows = _rows(codes)

    def run(part: slice) -> None:
        function(rows, norms, neighbours, targets, starts, candidates, degree, room, alpha, equals, most, part)

    parts = split(len(targets), max(1, min(threads.count, len(targets) // _SPLIT_WALKS)))
    threads.map(run, [(part,) for part in parts])


def score_rows(queries: Queries, codes: Codes | DeviceCodes, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Exact scores of chosen rows, (m, r) row numbers -> (m, r); row -1 scores -inf."""
    chosen = _checked(queries, codes, rows)
    present = chosen >= 0
    if not present.any():
        return np.full(rows.shape, -np.inf, np.float32)
    chosen[~present] = 0
    if isinstance(codes, DeviceCodes):
        return np.where(present, device.score_rows(queries, codes, chosen), np.float32(-np.inf))
    function = loader.function("score_rows", "score_rows", codes.format.name, rows.size * codes.data.shape[1])
    found = function(_rows(codes), _in_the_space_of(codes, queries.values), queries.offset, chosen)
    return np.where(present, found, np.float32(-np.inf))


def _checked(queries: Queries, codes: Codes | DeviceCodes, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy of row numbers (m, r), each of them -1 or a row of the codes."""
    _check_dim(queries.values, codes)
    if rows.ndim != 2 or len(rows) != len(queries) or rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be integers ({len(queries)}, r), got {rows.dtype} {rows.shape}")
    if rows.size and (rows.min() < -1 or rows.max() >= len(codes)):
        raise ValueError(f"rows must lie in [-1, {len(codes)}), got {rows.min()} to {rows.max()}")
    return np.array(rows, np.int64, order="C")


def scores(queries: Queries, codes: Codes | DeviceCodes) -> NDArray[np.float32]:
    """Exact scores of every row: m queries, n codes -> (m, n) float32."""
    if isinstance(codes, DeviceCodes):
        _check_dim(queries.values, codes)
        return device.scores(queries, codes)
    return score_rows(queries, codes, np.broadcast_to(np.arange(len(codes)), (len(queries), len(codes))))


@overload
def matmul(x: Vectors, codes: Codes, *, activations: Activations = "float32") -> NDArray[np.float32]: ...


@overload
def matmul(x: "torch.Tensor", codes: DeviceCodes, *, activations: Activations = "float32") -> "torch.Tensor": ...


def matmul(x: Any, codes: Codes | DeviceCodes, *, activations: Activations = "float32") -> Any:
    """`x` (m, dim) float32 times the decoded codes, plus their offsets: (m, n) float32. One row is a matrix of one row.

    `float32` multiplies in float32 and sums in 16 lanes: off by at most (dim / 16 + 6) * 2 ** -24 times the sum of the
    magnitudes. `int8` rounds each row of `x` to 127 steps on either side, which adds at most half a step of the row
    times the sum of the magnitudes of the numbers; its sums are exact within a block. `int8-block` has a step for each
    block of the codes. No result depends on the number of rows of `x`, of codes, or of threads.

    Beside codes on a GPU, `x` and the result are tensors of it. Rounded activations give the same bits there; float32
    sums come in any order, on tensor cores, which cut off where float32 rounds: off by at most (dim + 4) * 2 ** -23
    times the sum of the magnitudes, where those of zeros of blocks count beside those of their levels. Nothing waits
    for the GPU, so the numbers of `x` are not checked: a row that is not finite gives a row that is not.

    Raises ValueError for another shape, for numbers that are not finite, for codes in parts, for one-hot codes, for
    `int8` with codes whose levels are no small integers (floats of 8 bits and more, e3m2), and for `int8-block` with
    codes without blocks.
    """
    device.check_place(x, codes)
    if dtype(x) != "float32" or x.ndim != 2:
        raise ValueError(f"x must be float32 (m, {codes.dim}), got {dtype(x)} {tuple(x.shape)}")
    _check_dim(x, codes, "x")
    if isinstance(codes, DeviceCodes):
        _check_product(codes, activations)
        return device.matmul(x, codes, activations)
    of_codes = _products.get(codes)
    if of_codes is None:
        of_codes = _products[codes] = {}
    product = of_codes.get(activations)
    if product is None:
        product = of_codes[activations] = _product(codes, activations)
    rows, columns, name, options, n_bytes = product
    x = np.ascontiguousarray(x if columns is None else x * columns)
    m = len(x)
    if not m or not len(codes):
        return np.zeros((m, len(codes)), np.float32)
    # In float32 the compiled kernel and NumPy round differently, so which one runs must not depend on the work.
    function = loader.function("matmul", name, rows.kind, n_bytes * m if options else float("inf"))
    n_parts = max(1, min(threads.count, n_bytes * max(m // 8, 1) // _SPLIT_BYTES))
    if n_parts == 1:
        result = function(rows, x, *options)
    elif m >= _MANY_TOKENS * n_parts:  # each thread takes some rows of x over all codes
        found = threads.map(lambda part: function(rows, x[part], *options), [(p,) for p in split(m, n_parts)])
        result = np.concatenate(found)
    else:
        parts = split(len(codes), n_parts, _ROW_GROUP)
        found = threads.map(lambda part: function(rows.part(part), x, *options), [(part,) for part in parts])
        result = np.concatenate(found, axis=1)
    # A row of x that is not finite gives a row of which no number is; NumPy takes microseconds to reduce even one.
    finite = math.isfinite(result[0, 0]) if m == 1 else np.isfinite(result[:, 0]).all()
    if not finite and not np.isfinite(x).all():
        raise ValueError("x must be finite, but holds NaN or infinity")
    return result


class _Product(NamedTuple):
    """What `matmul` asks of codes, which it does once: in a small layer, asking takes as long as multiplying."""

    rows: Rows
    columns: NDArray[np.float32] | None
    name: str  # of the kernel
    options: tuple[int, ...]  # the dimensions that share a step, where rows of x are rounded
    n_bytes: int


_products: WeakKeyDictionary[Codes, dict[Activations, _Product]] = WeakKeyDictionary()


def _product(codes: Codes, activations: Activations) -> _Product:
    _check_product(codes, activations)
    if codes.more:
        raise ValueError("codes must lie in one part for a matrix product, got rows in several: use kernels.scores")
    rows, columns, n_bytes = _rows(codes), codes.column_scale, codes.data.nbytes
    if activations == "float32":
        return _Product(rows, columns, "matmul", (), n_bytes)
    return _Product(rows, columns, "matmul_int8", (codes.block if activations == "int8-block" else 0,), n_bytes)


def _check_product(codes: Codes | DeviceCodes, activations: Activations) -> None:
    if codes.format.kind == "one_hot":
        raise ValueError(
            f"codes must hold numbers, got {codes.format.name}, which name centroids: multiply with what the quantizer "
            "decodes them to"
        )
    if activations not in ("float32", "int8", "int8-block"):
        raise ValueError(f'activations must be "float32", "int8" or "int8-block", got {activations!r}')
    if activations != "float32" and not has_integers(codes.format.name):
        raise ValueError(f'activations must be "float32" for {codes.format.name} codes, got {activations!r}')
    if activations == "int8-block" and not codes.block:
        raise ValueError('activations must be "int8" for codes without blocks, got "int8-block"')


def rotate(rotor: Rotor, rows: Vectors, *, backwards: bool = False) -> None:
    """Rotate each row of (n, dim) C-contiguous float32, or rotate it back, in place."""
    if rows.dtype != np.float32 or rows.shape[1:] != (rotor.dim,) or not rows.flags.c_contiguous:
        raise ValueError(f"rows must be C-contiguous float32 (n, {rotor.dim}), got {rows.dtype} {rows.shape}")
    if not len(rows):
        return
    # NumPy rotates about eight times as many bytes a second as it scores.
    function = loader.function("rotate", "rotate", "float32", rows.nbytes // 8)
    n_parts = max(1, min(threads.count, rows.nbytes // _SPLIT_BYTES))
    if n_parts == 1:
        function(rotor, rows, backwards)
    else:
        threads.map(lambda part: function(rotor, rows[part], backwards), [(p,) for p in split(len(rows), n_parts)])


def machine() -> dict[str, str]:
    """What the kernels run on: processor, instructions, path, threads, GPU, and where compiled kernels are kept."""
    if forced() == "reference" or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return {"kernels": "reference (NumPy)", "threads": str(threads.count), "gpu": device.gpu()}
    found = path()
    llvm = importlib.import_module("llvmlite.binding")
    known = ("sse4.2", "avx", "f16c", "fma", "avx2", "avxvnni", "neon", "dotprod", "i8mm", "bf16")
    features = [
        name for name, has in llvm.get_host_cpu_features().items() if has and (name in known or "avx512" in name)
    ]
    scan = importlib.import_module("qindex_kernels.cpu.topk").scan
    return {
        "processor": llvm.get_host_cpu_name(),
        "instructions": " ".join(sorted(features)),
        "kernels": found,
        "threads": str(threads.count),
        "gpu": device.gpu(),
        "cache": str(scan.stats.cache_path),
    }


def agree(queries: Queries, codes: Codes) -> bool:
    """Whether compiled kernels give what NumPy gives, to the bit: top-k, and int8 products where codes have them."""
    reference = importlib.import_module("qindex_kernels.reference")
    rows, values = _rows(codes), _in_the_space_of(codes, queries.values)
    k, ids = min(10, len(codes)), np.arange(len(codes))
    bits = _comparable(queries, codes)
    wanted = [*reference.topk(rows, values, queries.offset, ids, None, k, codes.max_norm)]
    function = loader.function(*_way(bits), codes.format.name, float("inf"))
    found = [*function(rows, values, queries.offset, ids, None, k, codes.max_norm, *bits)]
    if has_integers(codes.format.name) and not codes.more:
        wanted.append(reference.matmul_int8(rows, values, 0))
        found.append(loader.function("matmul", "matmul_int8", codes.format.name, float("inf"))(rows, values, 0))
    return all(map(np.array_equal, found, wanted))


def agree_on_rotation(rotor: Rotor, rows: Vectors) -> bool:
    """Whether the compiled kernel rotates rows, and rotates them back, as NumPy does, to the bit."""
    reference = importlib.import_module("qindex_kernels.reference")
    function = loader.function("rotate", "rotate", "float32", float("inf"))
    wanted, found = rows.copy(), rows.copy()
    for backwards in (False, True):
        reference.rotate(rotor, wanted, backwards)
        function(rotor, found, backwards)
        if not np.array_equal(wanted, found):
            return False
    return True


def _check_dim(values: Any, codes: Codes | DeviceCodes, name: str = "queries") -> None:
    if values.shape[1] != codes.dim:
        raise ValueError(f"{name} must be (m, {codes.dim}) for these codes, got {tuple(values.shape)}")
