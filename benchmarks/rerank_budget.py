"""How long reranking takes under a budget, on the demo's collection: section `budget` of rerank.py."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bars import bar
from lowbit_models import sentence_transformer
from qindex import SentenceEncoder, lowbit
from qindex.evaluate.demo import HELD_OUT, build_demo
from qindex.evaluate.docstrings import docstrings
from qindex.rerank import Judgements, reranker_plan, train_reranker
from timing import shown

LIMIT, STEPS, DEPTH, ASKED, BUDGET_MS = 3000, 60, 100, 200, 200


def measured(quick: bool) -> dict[str, Any]:
    model = sentence_transformer()
    encoder = SentenceEncoder(model, plan=lowbit.Plan.default(8))
    limit = 200 if quick else LIMIT
    with tempfile.TemporaryDirectory() as folder:
        collection = build_demo(Path(folder) / "demo", encoder, "", limit).collection
        started = time.perf_counter()
        judgements = Judgements.from_documents(collection.texts(), encoder, most=2000)
        reranker = train_reranker(model, judgements, plan=reranker_plan(8), steps=2 if quick else STEPS)
        train_s = time.perf_counter() - started
        questions = [document.text.split("\n\n")[1] for document in docstrings(limit)[::HELD_OUT]][:ASKED]
        found = collection.search(questions, DEPTH, encoder=encoder)
    fusion, rows = reranker.fuse, []
    ways = {
        "all": {}, f"all, within {BUDGET_MS} ms": {"budget_ms": BUDGET_MS}, "fused": {"fuse": fusion},
        f"fused, within {BUDGET_MS} ms": {"fuse": fusion, "budget_ms": BUDGET_MS},
    }  # fmt: skip
    reranker.fuse = None
    for name, options in ways.items():
        times, read, partial = [], [], 0
        for question, hits in zip(questions, found, strict=True):
            started = time.perf_counter()
            hits = reranker.rerank(question, hits, DEPTH if "fuse" not in options else 10, **options)
            times.append(1e3 * (time.perf_counter() - started))
            read.append(sum("reranker" in hit.stages for hit in hits) if "fuse" not in options else None)
            partial += hits.partial
        rows.append(
            shown({"name": name, "median_ms": round(float(np.median(times)), 1),
                   "p95_ms": round(float(np.percentile(times, 95)), 1), "most_ms": round(max(times), 1),
                   "read": None if read[0] is None else round(float(np.mean(read)), 1),
                   "partial": round(partial / len(times), 3)})
        )  # fmt: skip
    p95 = rows[1]["p95_ms"]
    bars = [bar(f"95th percentile within {BUDGET_MS} ms", "under 250 ms", f"{p95:.0f} ms", p95 < 250)]
    settings = {"passages": len(collection), "questions": len(questions), "depth": DEPTH, "steps": STEPS,
                "train_s": round(train_s), "fusion": str(fusion)}  # fmt: skip
    return {"settings": settings, "rows": rows, "bars": [] if quick else bars}
