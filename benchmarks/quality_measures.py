"""How well a system finds, with intervals over the queries, and how long it takes."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import qindex
from qindex.evaluate.beir import JudgedCollection
from qindex.evaluate.metrics import evaluate, paired_bootstrap
from quality_data import Vectorised
from quality_systems import Ids, Stored, System

K, MEASURE = 10, "nDCG@10"
CONFIDENCE, SAMPLES, SEED = 0.95, 2_000, 0
ROUNDS, MOST_SECONDS = 3, 3.0
SLOW = 2e-3  # seconds of a query above which batches are small

Shares = NDArray[np.float64]


class Found(NamedTuple):
    """A system on one set: of each query's best ten by float32, the share that it finds."""

    system: System
    n_bytes: float
    shares: Shares  # (m,)


def use_threads(n: int | None = None) -> None:
    """Let the libraries that have a setting for it use so many threads (default: all cores)."""
    import faiss
    import torch

    n = n or len(os.sched_getaffinity(0))
    qindex.set_threads(n)
    faiss.omp_set_num_threads(n)
    torch.set_num_threads(n)


def shares(ids: Ids, truth: Ids) -> Shares:
    """The share of each query's true ids (m, k) that are among (m, k) found ones."""
    found: Shares = (truth[:, :, None] == ids[:, None, :]).any(axis=2).mean(axis=1)
    return found


def ndcg(collection: JudgedCollection, ids: Ids) -> Shares:
    """nDCG@10 of each query."""
    names = list(collection.documents)
    run = {query: [names[i] for i in row if i >= 0] for query, row in zip(collection.queries, ids, strict=True)}
    return evaluate(run, collection.qrels, [MEASURE])[MEASURE]


def interval(values: list[Shares], samples: int = SAMPLES) -> dict[str, float]:
    """The mean over queries and then over collections, and where it lies for other queries of the same kind."""
    found = paired_bootstrap(values, confidence=CONFIDENCE, samples=samples, seed=SEED)
    return {name: round(value, 5) for name, value in found._asdict().items()}


def timed(call: Callable[[], Any], units: int) -> dict[str, float]:
    """Seconds for one of the `units` that a call works on: the median and the least of a few calls."""
    seconds: list[float] = []
    while len(seconds) < ROUNDS and sum(seconds) < MOST_SECONDS:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {"median": float(np.median(seconds)) / units, "least": min(seconds) / units}


def recalled(system: System, stored: Stored, data: Vectorised) -> tuple[dict[str, Any], Found]:
    """What a system is and what it finds."""
    ids = stored.search(data.queries, data.truth.shape[1])
    best = stored.search(data.queries, K) if system.shortlists else ids[:, :K]
    found = Found(system, stored.bytes_per_vector, shares(best, data.truth[:, :K]))
    row = {
        "family": system.family,
        "line": system.line,
        "name": system.name,
        "bytes_per_vector": round(stored.bytes_per_vector, 2),
        "recall_at_10": interval([found.shares]),
        "recall_at_100": interval([shares(ids, data.truth)]),
    }
    return row, found


def measured(system: System, data: Vectorised) -> tuple[dict[str, Any], Found]:
    """The same with its speed, on one thread, where its library searches."""
    use_threads(1)
    started = time.perf_counter()
    encode = system.fit(data.documents)
    fit_s = time.perf_counter() - started
    if not system.timed:
        return recalled(system, encode(data.documents), data)
    encode(data.documents[:512])  # compiles
    stored: list[Stored] = []

    def store() -> None:
        stored[:] = [encode(data.documents)]

    encoding = timed(store, len(data.documents))
    use_threads()
    row, found = recalled(system, stored[0], data)
    use_threads(1)
    row |= {"fit_s": round(fit_s, 2), "encode_us": _rounded(encoding, 1e6), **_searching(stored[0], data)}
    return row, found


def _searching(stored: Stored, data: Vectorised) -> dict[str, Any]:
    """Milliseconds a query, one at a time and in a batch."""

    def alone(n: int) -> None:
        for i in range(n):
            stored.search(data.queries[i : i + 1], K)

    once = timed(lambda: alone(1), 1)["least"]
    few = int(np.clip(0.2 / once, 10, 100))
    together = min(len(data.queries), 1_000 if once < SLOW else 100)
    return {
        "single_ms": _rounded(timed(lambda: alone(few), few), 1e3),
        "batch_ms": _rounded(timed(lambda: stored.search(data.queries[:together], K), together), 1e3),
        "batch": together,
    }


def _rounded(seconds: dict[str, float], factor: float) -> dict[str, float]:
    return {name: round(value * factor, 4) for name, value in seconds.items()}
