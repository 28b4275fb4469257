"""Many rows: bytes, building and opening beside what `estimate` says."""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ann import bars
from ann.curves import K, cores
from ann.data import DECAY, TOPICS, generated
from ann.speed import Section
from qindex import FlatIndex, Float32, GraphIndex, Int4, Int8, IVFIndex, RaBitQ
from qindex.index.estimate import estimate
from qindex.types import Vectors
from quality_measures import shares, use_threads

Build = Callable[[Vectors], FlatIndex | GraphIndex | IVFIndex]

DIM, QUERIES = 384, 200
BUILDS: dict[str, tuple[Build, dict[str, Any]]] = {  # and as `estimate` is asked
    "FlatIndex, Int8()": (FlatIndex.build, {"index": "flat"}),
    "IVFIndex, RaBitQ(1), rescore=Int8()": (
        lambda rows: IVFIndex.build(rows, RaBitQ(1), rescore=Int8()),
        {"index": "ivf", "quantizer": RaBitQ(1), "rescore": Int8()},
    ),
    "GraphIndex, Int4(), rescore=Int8()": (
        lambda rows: GraphIndex.build(rows, Int4(), rescore=Int8()),
        {"index": "graph", "quantizer": Int4(), "rescore": Int8()},
    ),
}

# A process that opens a file and asks it once. What it imports is loaded before; kernels come from their cache.
OPENING = """
import json, sys, time
import numpy as np
import numba, qindex, qindex.index, qindex.kernels
queries = np.load(sys.argv[2])
started = time.perf_counter()
index = qindex.load(sys.argv[1])
opened = time.perf_counter()
index.search(queries[:1], 10)
print(json.dumps([opened - started, time.perf_counter() - started]))
"""


def scale(quick: bool, sizes: dict[str, int]) -> Section:
    """Indexes of many rows of a generator, on all cores."""
    n = 20_000 if quick else sizes["rows"]
    use_threads()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        queries = generated(folder / "rows.npy", n, DIM, QUERIES)
        np.save(folder / "queries.npy", queries)
        vectors = np.load(folder / "rows.npy", mmap_mode="r")
        truth = _truth(vectors, queries)
        for name, (build, asked) in BUILDS.items():
            build(vectors[:2_000])  # compiles
            started = time.perf_counter()
            index = build(vectors)
            build_s = time.perf_counter() - started
            recall = float(shares(index.search(queries, K).ids, truth).mean())
            file = folder / "index.qindex"
            index.save(file)
            del index
            gc.collect()
            opening(file, folder / "queries.npy")  # kernels and pages are warm from now on
            open_s = float(np.median([opening(file, folder / "queries.npy")[0] for _ in range(3)]))
            _forget(file)
            cold_s = opening(file, folder / "queries.npy")[1]
            expected = estimate(n, DIM, threads=cores(), **asked)
            row = {
                "index": name,
                "rows": n,
                "bytes": {"measured": file.stat().st_size, "estimated": expected.n_bytes},
                "build_s": {"measured": round(build_s, 3), "estimated": round(expected.build_s, 3)},
                "open_s": {"measured": round(open_s, 5), "estimated": round(expected.open_s, 5)},
                "cold_s": round(cold_s, 4),
                "recall_at_10": round(recall, 4),
            }
            print(f"  {row}", flush=True)
            rows.append(row)
    units = {
        "bytes": "of the saved file",
        "build_s": "seconds to build on all cores",
        "open_s": "seconds of qindex.load, the file in memory",
        "cold_s": "seconds of qindex.load and the first query, the file not in memory, kernels compiled before",
        "recall_at_10": "of a search as it is without further settings",
    }
    settings = {"rows": n, "dim": DIM, "threads": cores(), "topics": TOPICS, "decay": DECAY}
    return {"settings": settings, "units": units, "rows": rows, "bars": bars.scale_bars(rows)}


def _truth(vectors: Vectors, queries: Vectors) -> Any:
    """The best rows by float32, a part of the rows at a time."""
    best: list[Any] = []
    at_once = 200_000
    for start in range(0, len(vectors), at_once):
        found = FlatIndex.build(vectors[start : start + at_once], Float32()).search(queries, K)
        best.append((found.scores, found.ids + start))
    scores, ids = (np.hstack([part[i] for part in best]) for i in (0, 1))
    return np.take_along_axis(ids, np.argsort(-scores, axis=1)[:, :K], axis=1)


def opening(file: Path, queries: Path) -> list[float]:
    """Seconds of loading, and of loading and a first query, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", OPENING, str(file), str(queries)], env=environment, capture_output=True, check=True
    )
    seconds: list[float] = json.loads(run.stdout)
    return seconds


def _forget(file: Path) -> None:
    """Have the system drop the file's pages."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
