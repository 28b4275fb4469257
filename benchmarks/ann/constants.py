"""What the seconds of `qindex.index.estimate` are made of, measured on one thread under the names they have there."""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ann import scale
from ann.curves import cores
from ann.data import generated
from ann.speed import Section, small
from qindex import (
    Binary,
    FlatIndex,
    Float8,
    Float16,
    Float32,
    GraphIndex,
    Int4,
    Int8,
    IVFIndex,
    LloydMax,
    Microscaling,
    ProductQuantizer,
    RaBitQ,
    Spectral,
)
from qindex.index import estimate
from quality_measures import use_threads

FEW = 4  # times fewer rows, to see how times grow
IDS, IDS_DIM = 2_000_000, 8  # of a file that is opened


def constants(quick: bool, sizes: dict[str, int]) -> Section:
    """Seconds of one build each, less what encoding takes."""
    use_threads(1)
    data = small(quick)
    rows = data.documents
    n, dim = rows.shape
    encoders = (
        Float32(), Float16(), Float8("e4m3"), Int8(), Int4(), Binary(), *map(RaBitQ, range(1, 9)),
        *map(LloydMax, range(1, 5)), Spectral(dim // 2 + 2), Microscaling("mxfp4"), ProductQuantizer(dim // 8),
    )  # fmt: skip
    ns = {estimate.encode_name(one): _encode_ns(one, rows[: n // FEW]) for one in encoders}

    for few in (rows[: n // 50], np.hstack([rows[: n // 50]] * 2)):  # compiles
        IVFIndex.build(few, Int8(), rescore=Int8(), spill=True)
        _graph(few)
    nlist = estimate.default_lists(n)
    lists_s = _seconds(lambda: IVFIndex.build(rows, Int8(), nlist=nlist)) - n * dim * ns["Int8"] * 1e-9
    compared = estimate.compared_rows(n, nlist) * nlist * dim
    one_list, two_lists = (
        _seconds(lambda spill=spill: IVFIndex.build(rows, Int8(), rescore=Int8(), nlist=nlist, spill=spill))
        for spill in (False, True)
    )

    def linking(vectors: Any) -> float:
        """Seconds for a row."""
        encoding = vectors.size * (ns["Int4"] + ns["Int8"]) * 1e-9
        return (_seconds(lambda: _graph(vectors)) - encoding) / len(vectors)

    some = rows[: n // FEW]
    many, few = linking(rows), linking(some)
    # The same neighbours, of twice as many numbers.
    long = linking(np.hstack([some, some]) * np.float32(math.sqrt(0.5)))
    # Of more rows, which no longer lie in caches, than there are real ones.
    with tempfile.TemporaryDirectory() as folder:
        generated(Path(folder) / "rows.npy", FEW * n, dim, 1)
        made = np.load(Path(folder) / "rows.npy")
        growth = float(np.log(linking(made) / linking(made[:n])) / np.log(FEW))
    # few = a * (fixed + dim) and long = a * (fixed + 2 * dim)
    fixed = max(0.0, dim * (2 * few - long) / max(long - few, 1e-9))
    encoding = some.size * (ns["Int4"] + ns["Int8"]) * 1e-9
    alone, together = (_clock(lambda: _graph(some), threads) - encoding for threads in (1, cores()))
    opening, checking = _opening()
    found = {
        "ENCODE_NS": {name: round(value, 1) for name, value in ns.items()},
        "COMPARE_NS": round(lists_s / compared * 1e9, 4),
        "SECOND_NS": round((two_lists - one_list) * 1e9 / rows.size - ns["Int8"], 1),
        "LINK_US": round(many * 1e6 * (100_000 / n) ** growth, 1),
        "LINK_GROWTH": round(growth, 3),
        "LINK_FIXED": round(fixed),
        "LINK_THREADS": round(math.log(alone / together) / math.log(cores()), 2) if cores() > 1 else 1.0,
        "OPEN_S": round(opening, 4),
        "OPEN_NS": round(checking * 1e9, 2),
    }
    for name, value in found.items():
        there = getattr(estimate, name)
        print(f"  {name} = {value}  # now {there}", flush=True)
    settings = {"set": data.name, "vectors": n, "dim": dim, "nlist": nlist, "threads": 1}
    return {"settings": settings, "rows": found, "bars": []}


def _encode_ns(quantizer: Any, vectors: Any) -> float:
    """Of a number, fitted already."""
    fitted = quantizer.fit(vectors)
    fitted.quantize(vectors[:512])  # compiles
    return min(_seconds(lambda: fitted.quantize(vectors)) for _ in range(3)) / vectors.size * 1e9


def _opening() -> tuple[float, float]:
    """Seconds for a new process to open a small file, and for each id of a large one."""
    rng, seconds = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        file, asked = Path(folder) / "index.qindex", Path(folder) / "queries.npy"
        np.save(asked, np.zeros((1, IDS_DIM), np.float32))
        for n in (1_000, IDS):
            FlatIndex.build(rng.standard_normal((n, IDS_DIM), np.float32), Int8()).save(file)
            seconds.append(float(np.median([scale.opening(file, asked)[0] for _ in range(5)])))
    return seconds[0], max(0.0, (seconds[1] - seconds[0]) / (IDS - 1_000))


def _graph(vectors: Any) -> GraphIndex:
    return GraphIndex.build(vectors, Int4(), rescore=Int8())


def _clock(call: Callable[[], Any], threads: int) -> float:
    """Of the clock, on so many threads."""
    use_threads(threads)
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    use_threads(1)
    return seconds


def _seconds(call: Callable[[], Any]) -> float:
    """Of the processor, which others on the machine disturb less than the clock."""
    started = time.process_time()
    call()
    return time.process_time() - started
