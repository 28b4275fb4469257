"""Recall against queries per second: building an engine, its settings in turns with those of others, and levels."""

import ctypes
import gc
import itertools
import os
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ann.engine import Engine
from quality_data import Vectorised
from quality_measures import shares

K = 10
LEVELS = (0.90, 0.95, 0.99)
KINDS = ("batch", "single")
SINGLES = 200  # queries of a turn that are asked one at a time
ROUNDS, LEAST_SECONDS = 3, 0.1
LOWEST, ENOUGH = 0.8, 0.995  # settings below are not timed; nor are more thorough ones than the first to reach this

Point = dict[str, Any]


def built(engine: Engine, data: Vectorised, cores: int) -> dict[str, Any]:
    """Builds the engine: what it took and what it takes."""
    threads = cores if engine.slow else 1
    engine.warm_up(data.documents)
    before = _resident()
    started, processor = time.perf_counter(), time.process_time()
    engine.fit(data.documents, threads)
    took = {"threads": threads, "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - processor}
    grown = _resident() - before
    n = len(data.documents)
    row = {
        "library": engine.library,
        "name": engine.name,
        "line": engine.line,
        "bytes_per_vector": round(engine.n_bytes / n, 1),
        "resident_bytes_per_vector": round(grown / n, 1),
        "build": {name: round(value, 2) for name, value in took.items()},
    }
    print(
        f"  {engine.library} {engine.name}: {row['bytes_per_vector']:g} bytes, built in {took['cpu_s']:.1f} s",
        flush=True,
    )
    return row


def curves(engines: Sequence[Engine], data: Vectorised, rounds: int = ROUNDS) -> list[list[Point]]:
    """For each engine its settings worth taking, with recall and queries per second of batches and of single calls."""
    chosen = [_worth_timing(engine, data) for engine in engines]
    seconds: dict[tuple[int, int, str], list[float]] = {}
    for turn in range(rounds):
        for i, (engine, points) in enumerate(zip(engines, chosen, strict=True)):
            for j, point in enumerate(points):
                engine.set(**point["setting"])
                if j == 0:
                    engine.query(data.queries, K)  # others were in the cache
                alone = [data.queries[at : at + 1] for at in _some(len(data.queries), turn)]
                calls = {
                    "batch": (lambda engine=engine: engine.query(data.queries, K), len(data.queries)),
                    "single": (lambda engine=engine, alone=alone: [engine.query(one, K) for one in alone], len(alone)),
                }
                for kind, (call, units) in calls.items():
                    seconds.setdefault((i, j, kind), []).append(_seconds(call) / units)
    for i, points in enumerate(chosen):
        for j, point in enumerate(points):
            for kind in KINDS:
                point[f"{kind}_qps"] = round(1 / float(np.median(seconds[i, j, kind])), 1)
    return chosen


def _worth_timing(engine: Engine, data: Vectorised) -> list[Point]:
    """Settings with their recall, without those that another beats clearly in both recall and time."""
    tried: list[tuple[float, Point]] = []
    for setting in engine.ladder:
        engine.set(**setting)
        engine.query(data.queries[:100], K)
        started = time.perf_counter()
        ids = engine.query(data.queries, K)
        seconds = time.perf_counter() - started
        recall = float(shares(np.asarray(ids), data.truth[:, :K]).mean())
        tried.append((seconds, {"setting": dict(setting), "recall": round(recall, 5)}))
        if recall >= ENOUGH:
            break
    best = max(point["recall"] for _, point in tried)
    return [
        point
        for seconds, point in tried
        if (point["recall"] >= LOWEST or point["recall"] == best)
        and not any(other["recall"] >= point["recall"] and 1.25 * faster < seconds for faster, other in tried)
    ]


def _some(n: int, turn: int) -> list[int]:
    return [(turn * SINGLES + i) % n for i in range(min(SINGLES, n))]


def _seconds(call: Callable[[], Any]) -> float:
    """Of one call, repeated until it took long enough."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < LEAST_SECONDS:
        call()
        calls += 1
    return (time.perf_counter() - started) / calls


def frontier(points: Sequence[Point], kind: str) -> list[tuple[float, float]]:
    """Recall and queries per second of the points that no other beats in both, by recall."""
    pairs = sorted(((point["recall"], point[f"{kind}_qps"]) for point in points), reverse=True)
    best: list[tuple[float, float]] = []
    for recall, qps in pairs:
        if not best or qps > best[-1][1]:
            best.append((recall, qps))
    return best[::-1]


def at_recall(points: Sequence[Point], level: float, kind: str) -> float | None:
    """Queries per second at a recall, between the two settings about it; None where no setting reaches it.

    Where every setting has more recall, that of the fastest: there is nothing faster to be had.
    """
    best = frontier(points, kind)
    if not best or best[-1][0] < level:
        return None
    if best[0][0] >= level:
        return best[0][1]
    for (low, fast), (high, slow) in itertools.pairwise(best):
        if low < level <= high:
            share = (level - low) / (high - low)
            return float(np.exp((1 - share) * np.log(fast) + share * np.log(slow)))
    raise AssertionError("a level within the recalls lies between two of them")


def levels(points: Sequence[Point]) -> dict[str, dict[str, float | None]]:
    """`at_recall` for all levels and kinds."""
    return {
        f"{level:.2f}": {
            kind: None if (found := at_recall(points, level, kind)) is None else round(found, 1) for kind in KINDS
        }
        for level in LEVELS
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _resident() -> int:
    """Bytes of this process in memory, without those that were freed but not given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
