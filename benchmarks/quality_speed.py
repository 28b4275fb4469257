"""Searches and quantizing in turns with other libraries, on one thread."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import faiss
import numpy as np

import quality_faiss
import quality_peers
from qindex import RaBitQ
from qindex.types import Vectors
from quality_bars import SAMPLES, bar, points
from quality_data import Vectorised
from quality_measures import SEED, K, interval, shares
from quality_systems import Stored, ours
from timing import medians

ALONE, NOISE = 20, 1e-4


class Pair(NamedTuple):
    """A system of qindex and one of another library that, where it is said, should take `times` as long for a query."""

    ours: str
    theirs: str
    times: float | None


PAIRS = (
    Pair("RaBitQ(2)", "2 bits", 1.2),
    Pair("RaBitQ(2)", "2 bits, calibrated", 1.2),
    Pair("Spectral(98)", "2 bits, calibrated", None),
    Pair("RaBitQ(4)", "4 bits", 1.2),
    Pair("RaBitQ(4)", "4 bits, calibrated", 1.2),
    Pair("Spectral(194)", "4 bits, calibrated", None),
    Pair("RaBitQ(2)", "RaBitQfs2", 3.0),
    Pair("RaBitQ(4)", "RaBitQfs4", 3.0),
    Pair("RaBitQ(1), rescore=RaBitQ(2)", "RaBitQfs2", 3.0),
    Pair("RaBitQ(1), rescore=RaBitQ(4)", "RaBitQfs4", 3.0),
    Pair("RaBitQ(1), rescore=RaBitQ(4)", "4 bits, calibrated", 1.2),
    Pair("RaBitQ(1)", "IndexBinaryFlat", 1.0),
)


def side_by_side(data: Vectorised) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars of PAIRS: one query at a time, and all in a batch. Rotating or packing queries is part of it."""
    systems = {one.name: one for one in (*ours(data.dim), *quality_faiss.systems(data.dim), *quality_peers.systems())}
    stored: dict[str, Stored] = {}
    rows, bars = [], []
    for pair in PAIRS:
        for name in (pair.ours, pair.theirs):
            if name not in stored:
                stored[name] = systems[name].fit(data.documents)(data.documents)
        found = [shares(stored[name].search(data.queries, K), data.truth[:, :K]) for name in (pair.ours, pair.theirs)]
        difference = interval([found[0] - found[1]], SAMPLES)
        label = f"{systems[pair.theirs].family} {pair.theirs}"
        row = {"ours": pair.ours, "theirs": label, "recall_at_10": [round(float(one.mean()), 4) for one in found]}
        row["recall_difference"] = difference
        for kind, call, queries, rounds in (("single", _singles, ALONE, 9), ("batch", _batch, len(data.queries), 5)):
            calls = {"ours": call(stored[pair.ours], data), "theirs": call(stored[pair.theirs], data)}
            seconds = medians(calls, rounds)
            row[f"{kind}_ms"] = [round(seconds[side] / queries * 1e3, 4) for side in calls]
            row[f"{kind}_ratio"] = round(seconds["theirs"] / seconds["ours"], 3)
        ratios = [row["single_ratio"], row["batch_ratio"]]
        rows.append(row)
        if pair.times is None:
            continue
        what = f"{pair.ours} beside {label}: a query, and one of a batch"
        wanted = f"both at least {pair.times:g} times as fast; recall@10 not lower beyond the interval"
        said = f"{ratios[0]:.2f} and {ratios[1]:.2f} times; recall@10 {found[0].mean():.4f}, {points(difference)}"
        bars.append(bar(what, wanted, said, min(ratios) >= pair.times and difference["high"] >= 0))
    return rows, bars


def _singles(stored: Stored, data: Vectorised) -> Callable[[int], None]:
    def call(turn: int) -> None:
        for i in range(ALONE):
            at = (turn * ALONE + i) % len(data.queries)
            stored.search(data.queries[at : at + 1], K)

    return call


def _batch(stored: Stored, data: Vectorised) -> Callable[[int], Any]:
    return lambda turn: stored.search(data.queries, K)


def quantizing(documents: Vectors, copies: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds to quantize many vectors to 4 bits, RaBitQ(4) and faiss's in turns: the documents with a little noise."""
    dim = documents.shape[1]
    rng = np.random.default_rng(SEED)
    index = faiss.index_factory(dim, f"RR{dim},RaBitQ4", faiss.METRIC_INNER_PRODUCT)
    index.train(documents)
    quantizer = RaBitQ(4).fit(documents)
    calls = {"ours": quantizer.quantize, "theirs": index.add}
    calls["ours"](documents[:512])  # compiles
    seconds = dict.fromkeys(calls, 0.0)
    codes = []
    for _ in range(copies):
        rows = documents + NOISE * rng.standard_normal(documents.shape, np.float32)
        for name, call in calls.items():
            started = time.perf_counter()
            codes.append(call(rows))
            seconds[name] += time.perf_counter() - started
    n = copies * len(documents)
    row = {"rows": n, "dim": dim, "ours_s": round(seconds["ours"], 2), "theirs_s": round(seconds["theirs"], 2)}
    found = f"{row['ours_s']} s"
    passed = seconds["ours"] <= seconds["theirs"]
    return row, bar(f"{n:,} x {dim} to RaBitQ(4)", f"at most faiss's {row['theirs_s']} s", found, passed)
