"""Curves of all libraries: graphs, inverted lists, and graphs on a second set."""

import importlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import ceilings
import quality_data
from ann import bars, ours
from ann.curves import KINDS, ROUNDS, SINGLES, K, built, cores, curves, levels
from ann.data import two_encoders
from ann.engine import Engine
from quality_data import Vectorised
from quality_measures import use_threads

Section = dict[str, Any]

NLIST = 1_024
PEERS_OF_GRAPHS = ("hnswlib", "faiss", "usearch", "voyager", "svs")
PEERS_OF_LISTS = ("faiss", "scann")
UNITS = {
    "bytes_per_vector": "of the file that the index is saved to: codes, links, centroids, ids",
    "resident_bytes_per_vector": "growth of the process by the build; what a library keeps for itself is part of it",
    "build": "seconds of the clock and of the processor, on so many threads",
    "points": "recall@10 and queries a second, all in one batch and one at a time, preparing queries included",
    "at": "queries a second at a recall, between the two settings about it; null where no setting reaches it",
}


def small(quick: bool) -> Vectorised:
    return quality_data.minilm_100k(5_000, 200) if quick else quality_data.minilm_100k()


def graphs(quick: bool, sizes: dict[str, int]) -> Section:
    """GraphIndex and the graphs of other libraries."""
    data = small(quick)
    peers, missing = _peers(PEERS_OF_GRAPHS)
    engines = [*ours.graphs(data.dim), *(make(data.dim) for peer in peers for make in peer.GRAPHS)]
    section = _compared(engines, data, quick)
    scaling = _scaling(data)
    section["bars"] = [
        *bars.graph_bars(section["rows"], data.name),
        *bars.build_bars(section["rows"], ours.DEFAULT, scaling),
    ]
    return section | {"scaling": scaling, "missing": missing}


def lists(quick: bool, sizes: dict[str, int]) -> Section:
    """IVFIndex and the inverted lists of other libraries."""
    data = small(quick)
    nlist = NLIST // 8 if quick else NLIST
    peers, missing = _peers(PEERS_OF_LISTS)
    engines = [*ours.lists(nlist), *(engine for peer in peers for engine in peer.lists(data.dim, nlist))]
    section = _compared(engines, data, quick)
    section["settings"]["nlist"] = nlist
    section["bars"] = bars.list_bars(section["rows"], data.name)
    return section | {"missing": missing}


def second(quick: bool, sizes: dict[str, int]) -> Section:
    """The graphs again, on vectors of 640 numbers."""
    data = two_encoders(1_000 if quick else sizes["passages"])
    peers, missing = _peers(PEERS_OF_GRAPHS)
    engines = [*ours.graphs(data.dim), *(make(data.dim) for peer in peers for make in peer.GRAPHS)]
    section = _compared(engines, data, quick)
    section["bars"] = bars.second_bars(section["rows"], data.name)
    return section | {"missing": missing}


def _peers(names: Sequence[str]) -> tuple[list[Any], list[str]]:
    """The modules of the libraries that are installed, and the names of the others."""
    found, missing = [], []
    for name in names:
        try:
            found.append(importlib.import_module(f"ann.{name}"))
        except ImportError as error:
            print(f"  left out: {error}", flush=True)
            missing.append(name)
    return found, missing


def _compared(engines: Sequence[Engine], data: Vectorised, quick: bool) -> Section:
    use_threads(1)
    if quick:
        for engine in engines:
            engine.ladder = engine.ladder[::5]
    rows = [built(engine, data, cores()) for engine in engines]
    for row, points in zip(rows, curves(engines, data, 1 if quick else ROUNDS), strict=True):
        row |= {"points": points, "max_recall": max(point["recall"] for point in points), "at": levels(points)}
        said = ", ".join(
            f"{level}: {' / '.join('-' if at[kind] is None else f'{at[kind]:,.0f}' for kind in KINDS)}"
            for level, at in row["at"].items()
        )
        print(f"  {row['library']} {row['name']}: {said}", flush=True)
    settings = {
        "set": data.name,
        "vectors": len(data.documents),
        "queries": len(data.queries),
        "dim": data.dim,
        "k": K,
        "single_calls": SINGLES,
        "rounds": 1 if quick else ROUNDS,
    }
    return {"settings": settings, "units": UNITS, "rows": rows}


def _scaling(data: Vectorised) -> dict[str, Any]:
    """How many times as fast all cores are as one: at building the graph, and at a loop in registers beside it."""
    threads = cores()

    def build(n: int) -> float:
        started = time.perf_counter()
        ours.graphs(data.dim)[0].fit(data.documents, n)
        return time.perf_counter() - started

    ceilings.integer_peak()  # compiles
    registers = _registers(1) * threads / _registers(threads)
    found = {"threads": threads, "build": build(1) / build(threads), "registers": registers}
    return {name: round(value, 3) for name, value in found.items()}


def _registers(threads: int, calls: int = 2_000) -> float:
    """Seconds of so many calls in each of the threads."""

    def work() -> None:
        for _ in range(calls):
            ceilings.integer_peak()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started
