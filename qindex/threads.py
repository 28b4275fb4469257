"""How many threads a call may use, and the pool that has them.

Kernels release the GIL, are serial, and take a part of the rows or of the queries; the pool runs the parts. So do
NumPy's operations on whole blocks of rows.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Threads:
    """How many threads to use, and the pool that has them; a forked child starts with a pool of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._count: int | None = None
        self._here = threading.local()  # has `working` in the pool's threads

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
        """What `function` makes of each part, in order; or the error of the first part that has one.

        A part that has parts of its own works through them itself: waiting for the pool, it would wait for itself.
        """
        if len(parts) == 1 or self.count == 1 or hasattr(self._here, "working"):
            return [function(*part) for part in parts]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="qindex", initializer=self._enter)
            futures = [self._pool.submit(function, *part) for part in parts]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _enter(self) -> None:
        self._here.working = True


def _threads_from_environment() -> int:
    text = os.environ.get("QINDEX_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"QINDEX_THREADS must be a positive integer, got {text!r}")
    return int(text)


threads = Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.forget_pool)


def set_threads(n: int) -> None:
    """Use up to `n` threads for one call (the default is QINDEX_THREADS, else every core this process may use)."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    threads.set(n)


def split(n: int, parts: int, grain: int = 1) -> list[slice]:
    """0 to n in about equal slices that begin at multiples of `grain`."""
    bounds = [n * part // parts // grain * grain for part in range(parts)] + [n]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]
