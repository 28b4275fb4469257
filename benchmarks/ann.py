"""Recall against speed of the indexes that search a part of the vectors, beside those of other libraries.

    QINDEX_DATA=... python benchmarks/ann.py [--only graphs,lists] [--quick] [--rows 1000000] [--passages 30000]

Sections, each of its own; a run of some leaves the others in the result as they were:

    graphs     GraphIndex, hnswlib, faiss HNSW, usearch, voyager and scalable-vs on 100,000 real vectors
    lists      IVFIndex, faiss IVF and ScaNN on the same
    second     the graphs on vectors of 640 numbers: two encoders of the same passages side by side
    filters    searches that allow a part of the rows, at random or alike, beside no filter and a scan of the allowed
    churn      recall after half of the rows were removed and as many added, beside a fresh build
    scale      --rows vectors of a generator: bytes, building and opening beside what `qindex estimate` says
    constants  what the estimates are made of

Searches run on one thread, in turns: batches of all queries and single calls, preparing the queries included. An
engine is a file of benchmarks/ann with its library's name; a library that is not installed is left out, and said so.

Each section has bars: what qindex should reach. They are printed, and kept in the result under "bars".

Writes benchmarks/results/ann.json and ann.png; a quick run, whose figures mean nothing, writes to the folder for
temporary files instead.
"""

import importlib
import logging
import time
from importlib.metadata import PackageNotFoundError, version

import environment
from quality import STARTED_WITH
from sections import asked, earlier

SECTIONS = {  # and the modules of benchmarks/ann that have them
    "graphs": "speed",
    "lists": "speed",
    "second": "speed",
    "filters": "changes",
    "churn": "changes",
    "scale": "scale",
    "constants": "constants",
}
SIZES = {
    "rows": (1_000_000, "vectors of the section scale"),
    "passages": (30_000, "texts that the section second encodes"),
}
PACKAGES = ["numpy", "numba", "hnswlib", "faiss-cpu", "usearch", "voyager", "scalable-vs", "scann"]


def main() -> None:
    chosen, quick, sizes = asked(__doc__, list(SECTIONS), STARTED_WITH, SIZES)
    logging.basicConfig(level=logging.WARNING)  # before a library says otherwise
    # These load libraries that read the environment when they start.
    from ann import picture
    from qindex import kernels

    for name in chosen:
        print(name, flush=True)
        started = time.perf_counter()
        section = getattr(importlib.import_module(f"ann.{SECTIONS[name]}"), name)(quick, sizes)
        bars = section.pop("bars")
        section["settings"] |= {"path": kernels.path(), "started_with": STARTED_WITH, "quick": quick}
        seconds = round(time.perf_counter() - started)
        print(f"  {seconds} s", flush=True)
        before = earlier("ann")
        where = environment.environment([package for package in PACKAGES if _installed(package)])
        after = before | {name: {"environment": where, "seconds": seconds, **section}}
        result = {section: after[section] for section in SECTIONS if section in after}
        result["bars"] = before.get("bars", {}) | {name: bars}
        environment.write_result("ann", result)
        if name in picture.TITLES:
            picture.draw(result, environment.RESULTS / "ann.png")
    print(f"written to {environment.RESULTS / 'ann.json'}")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
