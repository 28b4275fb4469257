"""Searches under filters, and recall after rows were exchanged."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ann import bars
from ann.curves import KINDS, K
from ann.engine import Setting, grid
from ann.speed import NLIST, Section, small
from qindex import FlatIndex, Float32, GraphIndex, Int4, Int8, IVFIndex, RaBitQ
from qindex.types import Vectors
from quality_data import Vectorised
from quality_measures import SEED, shares, use_threads
from timing import medians

ALLOWED = (0.5, 0.2, 0.05, 0.01, 0.001)
ALONE, ROUNDS = 50, 5
SETTINGS = {  # from fast to thorough: the first that finds UNFILTERED_RECALL is taken
    "GraphIndex": grid(ef=(32, 48, 64, 96, 128, 192, 256)),
    "IVFIndex": grid(nprobe=(8, 16, 32, 64, 128, 192, 256), oversample=(4, 10)),
}
UNFILTERED_RECALL = 0.985

Index = FlatIndex | GraphIndex | IVFIndex
Mask = NDArray[np.bool_]
Row = dict[str, Any]


def _indexes(
    nlist: int,
) -> dict[str, tuple[Callable[[Vectors], GraphIndex | IVFIndex], Callable[[Vectors], FlatIndex]]]:
    """How to build each index, and one of the same codes that scans all rows."""
    return {
        "GraphIndex": (GraphIndex.build, lambda rows: FlatIndex.build(rows, Int4(), rescore=Int8())),
        "IVFIndex": (
            lambda rows: IVFIndex.build(rows, RaBitQ(1), rescore=Int8(), nlist=nlist),
            lambda rows: FlatIndex.build(rows, RaBitQ(1), rescore=Int8()),
        ),
    }


def filters(quick: bool, sizes: dict[str, int]) -> Section:
    """Searches that allow a part of the rows, beside a search of all and an exact scan of the allowed."""
    use_threads(1)
    data = small(quick)
    exact = FlatIndex.build(data.documents, Float32())
    masks = _masks(data)
    truths = {name: exact.search(data.queries, K, allow=mask).ids for name, mask in masks.items()}
    rows = []
    for name, (build, build_scan) in _indexes(_nlist(quick)).items():
        index, scan = build(data.documents), build_scan(data.documents)
        setting, unfiltered = _enough(name, index, data.queries, data.truth[:, :K])
        for (share, which), allowed in masks.items():
            mask = allowed[index.ids]  # an index may keep its rows in another order
            row = {"index": name, "setting": setting, "allowed": share, "which": which, "unfiltered": unfiltered}
            for kind in KINDS:  # which may go other ways
                some = [data.queries] if kind == "batch" else np.split(data.queries, len(data.queries))
                found = np.vstack([index.search(one, K, allow=mask, **setting).ids for one in some])
                recall = round(float(_shares(found, truths[share, which]).mean()), 4)
                times = _times(kind, index, scan, data, (mask, allowed), setting, 1 if quick else ROUNDS)
                row[kind] = {"recall": recall} | times
            said = ", ".join(f"{kind} {row[kind]['recall']:.4f} {row[kind]['share']:.2f}" for kind in KINDS)
            print(f"  {name}, {share:.1%} {which}: {said}", flush=True)
            rows.append(row)
    units = {
        "which": "random rows, or those nearest to one of them, which are far from most queries",
        "unfiltered": "recall@10 of the same search without a filter",
        "batch, single": "share of the ten best allowed rows by float32 that are found; microseconds a query: with the "
        "filter, without, and of a scan of the allowed rows; and the first by the better of the others",
    }
    settings = {"set": data.name, "vectors": len(data.documents), "queries": len(data.queries), "k": K}
    return {"settings": settings, "units": units, "rows": rows, "bars": bars.filter_bars(rows)}


def _masks(data: Vectorised) -> dict[tuple[float, str], Mask]:
    """Which rows are allowed, by their share: at random, and alike."""
    rng = np.random.default_rng(SEED)
    n = len(data.documents)
    alike = np.argsort(-(data.documents @ data.documents[rng.integers(n)]))
    shuffled = rng.permutation(n)
    masks = {}
    for which, order in (("at random", shuffled), ("alike", alike)):
        for share in ALLOWED:
            mask = np.zeros(n, bool)
            mask[order[: max(K, round(share * n))]] = True
            masks[share, which] = mask
    return masks


def _enough(name: str, index: Index, queries: Vectors, truth: NDArray[np.int64]) -> tuple[Setting, float]:
    """The setting with which it finds enough without a filter, the last where none does; and what it finds."""
    for setting in SETTINGS[name]:
        found = float(shares(index.search(queries, K, **setting).ids, truth).mean())
        if found >= UNFILTERED_RECALL:
            break
    return setting, round(found, 4)


def _shares(found: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """As `shares`, where fewer than k rows may be allowed."""
    there = truth >= 0
    hits = (truth[:, :, None] == found[:, None, :]).any(axis=2) & there
    return hits.sum(axis=1) / there.sum(axis=1)


def _times(
    kind: str,
    index: Index,
    scan: FlatIndex,
    data: Vectorised,
    masks: tuple[Mask, Mask],
    setting: Setting,
    rounds: int,
) -> dict[str, float]:
    """Microseconds a query of the three ways, in turns, and the first by the better of the others."""
    ways: dict[str, Callable[[Vectors], Any]] = {
        "filtered": lambda queries: index.search(queries, K, allow=masks[0], **setting),
        "unfiltered": lambda queries: index.search(queries, K, **setting),
        "scan": lambda queries: scan.search(queries, K, allow=masks[1]),
    }
    few = min(ALONE, len(data.queries))

    def call(way: Callable[[Vectors], Any]) -> Callable[[int], Any]:
        if kind == "batch":
            return lambda turn: way(data.queries)
        return lambda turn: [way(data.queries[i : i + 1]) for i in range(few)]

    units = len(data.queries) if kind == "batch" else few
    seconds = medians({name: call(way) for name, way in ways.items()}, rounds)
    us = {name: round(value / units * 1e6, 2) for name, value in seconds.items()}
    return us | {"share": round(us["filtered"] / min(us["unfiltered"], us["scan"]), 3)}


def churn(quick: bool, sizes: dict[str, int]) -> Section:
    """Recall after half of the rows were removed and as many added, beside an index built of what is held then."""
    use_threads()
    data = small(quick)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(data.documents))
    third = len(order) // 3
    gone, stay, new = order[:third], order[third : 2 * third], order[2 * third : 3 * third]
    held = np.concatenate([stay, new])
    own_truth = FlatIndex.build(data.documents[held], Float32()).search(data.queries, K).ids
    truth = held[own_truth]  # as numbers of the documents
    rows = []
    for name, (build, _) in _indexes(_nlist(quick)).items():
        fresh = build(data.documents[held])
        setting, _ = _enough(name, fresh, data.queries, own_truth)
        index = build(data.documents[np.concatenate([gone, stay])])
        index.remove(np.arange(third))
        ids = index.add(data.documents[new])
        numbers = np.full(int(ids.max()) + 2, -1)  # of the documents, by id; the last for the id -1
        numbers[third : 2 * third], numbers[ids] = stay, new

        def recall(of: Index, numbers: NDArray[np.int64]) -> float:
            found = numbers[of.search(data.queries, K, **setting).ids]  # noqa: B023
            return round(float(shares(found, truth).mean()), 5)

        row = {"index": name, "setting": setting, "rows": len(held), "fresh": recall(fresh, np.append(held, -1))}
        row["churned"], held_bytes = recall(index, numbers), index.nbytes
        index.compact()
        row |= {"compacted": recall(index, numbers), "bytes": held_bytes, "bytes_compacted": index.nbytes}
        print(f"  {row}", flush=True)
        rows.append(row)
    units = {
        "fresh, churned, compacted": "recall@10 of a fresh build, after the exchange, and after compact()",
        "bytes": "index.nbytes after the exchange, and after compact()",
    }
    return {"settings": {"set": data.name, "k": K}, "units": units, "rows": rows, "bars": bars.churn_bars(rows)}


def _nlist(quick: bool) -> int:
    return NLIST // 8 if quick else NLIST
