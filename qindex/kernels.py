"""The one door to the kernels: `topk`, `score_rows` and `scores` of prepared queries against codes.

Nobody else asks what is installed, how many threads there are, or which kernel fits. All kernels agree to the bit, so
the choice changes speed and nothing else:

- `cpu`, compiled by numba, is the rule. Loading numba costs most of a second, so a process's first few megabytes of
  work (a search from the command line) run in NumPy; once those sum up to what loading costs, numba is loaded.
- `reference`, in NumPy, also serves where numba's compiler is disabled (NUMBA_DISABLE_JIT=1).

Work is split over a thread pool of our own (kernels release the GIL) when it is worth more than a hand-over.
"""

import importlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from qindex.formats import FORMATS
from qindex.types import Codes, Matches, Queries

logger = logging.getLogger(__name__)

# Bytes of codes below which a second thread costs more than it saves (about 0.2 ms of scanning).
_SPLIT_BYTES = 2 << 20

# NumPy scores about 30 MB of codes a second, so this much takes as long as loading numba and one cached kernel.
_NUMPY_BYTES = 16 << 20

# Below this share of allowed rows their copies are scanned, above it all rows are. Measured on 500,000 x 384 codes: the
# two cost the same at 0.16 for int8 and at 0.06 for signs.
_GATHER_SHARE = 0.1


class _Threads:
    """How many threads to use, and the pool that has them; a forked child starts with a pool of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._count: int | None = None

    @property
    def count(self) -> int:
        if self._count is None:
            self._count = _threads_from_environment()
        return self._count

    def set(self, count: int) -> None:
        with self._lock:
            self._count, self._pool = count, None

    def forget_pool(self) -> None:
        self._lock = threading.Lock()
        self._pool = None

    def map(self, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> list[Any]:
        if len(parts) == 1:
            return [function(*parts[0])]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="qindex")
            futures = [self._pool.submit(function, *part) for part in parts]
        return [future.result() for future in futures]


def _threads_from_environment() -> int:
    text = os.environ.get("QINDEX_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"QINDEX_THREADS must be a positive integer, got {text!r}")
    return int(text)


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget_pool)


def set_threads(n: int) -> None:
    """Use up to `n` threads for one call (the default is QINDEX_THREADS, else every core this process may use)."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    _threads.set(n)


class _Backend:
    """Chooses between the compiled kernels and NumPy, and loads the former when they begin to pay."""

    def __init__(self) -> None:
        self._numpy_bytes_left = _NUMPY_BYTES
        self._compiled: dict[tuple[str, str], Callable[..., Any]] = {}

    def function(self, name: str, kind: str, work_bytes: int) -> Callable[..., Any]:
        if (name, kind) in self._compiled:
            return self._compiled[name, kind]
        if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0" or not self._worth_loading(work_bytes):
            return _imported("qindex_kernels.reference", name)
        function = _imported(f"qindex_kernels.cpu.{name}", name)
        started = time.perf_counter()
        _call_on_one_row(function, name, kind)
        seconds = time.perf_counter() - started
        if seconds > 1:
            logger.info("compiled %s for %s rows in %.1f s; `qindex warmup` compiles all", name, kind, seconds)
        self._compiled[name, kind] = function
        return function

    def _worth_loading(self, work_bytes: int) -> bool:
        if "numba" in sys.modules:
            return True
        self._numpy_bytes_left -= work_bytes
        return self._numpy_bytes_left < 0

    def load(self) -> None:
        self._numpy_bytes_left = -1


_backend = _Backend()


def _imported(module: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _call_on_one_row(function: Callable[..., Any], name: str, kind: str) -> None:
    values, offset = np.zeros((1, 1), np.float32), np.zeros(1)
    data = np.zeros((1, FORMATS[kind].row_bytes(1)), np.uint8)
    row = np.zeros((1, 1), np.int64)
    if name == "topk":
        function(kind, values, offset, data, None, None, row[0], None, 1, 1.0)
    else:
        function(kind, values, offset, data, None, None, row)


def warmup(progress: bool | None = None) -> None:
    """Compile every kernel for this machine, or load it from disk. `progress=None` shows a bar on a terminal."""
    _backend.load()
    names = [(name, kind) for kind in FORMATS for name in ("topk", "score_rows")]
    for name, kind in tqdm(names, desc="kernels", unit="kernel", disable=None if progress is None else not progress):
        _backend.function(name, kind, 0)


def topk(
    queries: Queries, codes: Codes, k: int, *, ids: NDArray[np.int64], allow: NDArray[np.bool_] | None = None
) -> Matches:
    """The k best rows for each query by exact score, best first: `Matches` whose ids are **row numbers**.

    `ids` (n,) breaks ties (the smaller id comes first). `allow` (n,) says which rows may be returned.
    """
    _check_dim(queries, codes)
    for name, array, dtype in (("ids", ids, np.int64), ("allow", allow, np.bool_)):
        if array is not None and (array.dtype != dtype or array.shape != (len(codes),)):
            raise ValueError(f"{name} must be {np.dtype(dtype)} ({len(codes)},), got {array.dtype} {array.shape}")
    ids = np.ascontiguousarray(ids)
    if allow is not None:
        rows = np.flatnonzero(allow)
        if len(rows) < _GATHER_SHARE * len(codes):
            found = topk(queries, codes[rows], k, ids=ids[rows])
            if len(rows):
                found = Matches(np.where(found.ids >= 0, rows[found.ids], -1), found.scores)
            return found
        allow = np.ascontiguousarray(allow)
    kept = min(k, len(codes))
    found = _topk(queries, codes, kept, ids, allow) if kept and len(queries) else _no_matches(len(queries), kept)
    if kept == k:
        return found
    padding = _no_matches(len(queries), k - kept)
    return Matches(np.hstack([found.ids, padding.ids]), np.hstack([found.scores, padding.scores]))


def _no_matches(m: int, k: int) -> Matches:
    return Matches(np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32))


def _topk(queries: Queries, codes: Codes, k: int, ids: NDArray[np.int64], allow: NDArray[np.bool_] | None) -> Matches:
    work_bytes = codes.data.nbytes * len(queries)
    function = _backend.function("topk", codes.format.name, work_bytes)

    def run(query_part: slice, row_part: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows, scores = function(
            codes.format.name,
            queries.values[query_part],
            queries.offset[query_part],
            codes.data[row_part],
            None if codes.scale is None else codes.scale[row_part],
            None if codes.offset is None else codes.offset[row_part],
            ids[row_part],
            None if allow is None else allow[row_part],
            k,
            codes.max_norm,
        )
        return np.where(rows >= 0, rows + row_part.start, -1), scores

    n_parts = max(1, min(_threads.count, work_bytes // _SPLIT_BYTES))
    if len(queries) >= 4 * n_parts:  # each thread takes some queries over all rows
        found = _threads.map(run, [(part, slice(0, len(codes))) for part in _split(len(queries), n_parts)])
        return Matches(np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found]))
    found = _threads.map(run, [(slice(0, len(queries)), part) for part in _split(len(codes), n_parts)])
    if len(found) == 1:
        return Matches(*found[0])
    return best(np.hstack([rows for rows, _ in found]), np.hstack([scores for _, scores in found]), k, ids)


def _split(n: int, parts: int) -> list[slice]:
    bounds = [n * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, ids: NDArray[np.int64]) -> Matches:
    """The k best of scored rows (m, r), best first, ties to the smaller id; row -1 (score -inf) comes last."""
    keys = np.where(rows >= 0, ids[rows], np.iinfo(np.int64).max)
    order = np.lexsort((keys, -scores))[:, :k]
    return Matches(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def score_rows(queries: Queries, codes: Codes, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Exact scores of chosen rows, (m, r) row numbers -> (m, r); row -1 scores -inf."""
    _check_dim(queries, codes)
    if rows.ndim != 2 or len(rows) != len(queries):
        raise ValueError(f"rows must be ({len(queries)}, r), got {rows.shape}")
    if rows.size == 0:
        return np.empty(rows.shape, np.float32)
    if rows.min() < -1 or rows.max() >= len(codes):
        raise ValueError(f"rows must lie in [-1, {len(codes)}), got {rows.min()} to {rows.max()}")
    present = rows >= 0
    if not present.any():
        return np.full(rows.shape, -np.inf, np.float32)
    function = _backend.function("score_rows", codes.format.name, rows.size * codes.data.shape[1])
    found = function(
        codes.format.name,
        queries.values,
        queries.offset,
        codes.data,
        codes.scale,
        codes.offset,
        np.ascontiguousarray(np.where(present, rows, 0), np.int64),
    )
    return np.where(present, found, np.float32(-np.inf))


def scores(queries: Queries, codes: Codes) -> NDArray[np.float32]:
    """Exact scores of every row: m queries, n codes -> (m, n) float32."""
    return score_rows(queries, codes, np.broadcast_to(np.arange(len(codes)), (len(queries), len(codes))))


def _check_dim(queries: Queries, codes: Codes) -> None:
    if queries.values.shape[1] != codes.dim:
        raise ValueError(f"queries must be (m, {codes.dim}) for these codes, got {queries.values.shape}")
