"""Reranking: what a small cross-encoder of one's own is worth, in few bits and within a budget, beside torch.

    python benchmarks/rerank.py [--only quality,speed,budget,causal] [--quick]

    quality   nDCG@10 of a cross-encoder trained on two folds of the judged queries, asked on the third: alone and
              with the first stage, in float32, 8 and 4 bits; agreement of the latter with float32
    speed     50 documents of about 150 tokens, documents a second beside torch, on one thread
    budget    how long a rerank of 100 docstrings takes under a budget of 200 ms
    causal    SmolLM2-135M in each bit width: is the passage that answers picked among distractors

QINDEX_DATA must name the folder with the judged collections. Writes benchmarks/results/rerank.json; a run of some
sections leaves the others as they were.
"""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import environment
from sections import asked, earlier

SECTIONS = ("quality", "speed", "budget", "causal")
PACKAGES = ["numpy", "numba", "torch", "transformers", "sentence-transformers"]
STARTED_WITH = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


def main() -> None:
    chosen, quick, _ = asked(__doc__, SECTIONS, STARTED_WITH)
    import torch

    import qindex

    torch.set_grad_enabled(False)
    for name in chosen:
        print(name, flush=True)
        threads = {"quality": len(os.sched_getaffinity(0)), "speed": 1}.get(name, 2)
        qindex.set_threads(threads)
        torch.set_num_threads(threads)
        started = time.perf_counter()
        section: Callable[[bool], dict[str, Any]] = importlib.import_module(f"rerank_{name}").measured
        measured = section(quick)
        measured["settings"] = {"threads": threads, "quick": quick, **measured.get("settings", {})}
        described = {"environment": environment.environment(PACKAGES), "seconds": round(time.perf_counter() - started)}
        result = earlier("rerank")
        result[name] = described | measured
        environment.write_result("rerank", result)
    print(f"written to {environment.RESULTS / 'rerank.json'}")


if __name__ == "__main__":
    main()
