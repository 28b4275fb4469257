"""SmolLM2 as a reranker, by the likelihood of the query, in each bit width: section `causal` of rerank.py."""

import time
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from lowbit_models import causal, sentence_transformer
from qindex import SentenceEncoder, lowbit
from qindex.rerank import CausalReranker
from quality_data import judged
from timing import shown

ASKED, CANDIDATES, SEED = 40, 10, 0
RECIPES = ("float32", "int8", "mxint8", "int4", "nf4", "int3", "int2")


def measured(quick: bool) -> dict[str, Any]:
    collection = judged(("xquad-en",))["xquad-en"]
    one = collection.judgements(SentenceEncoder(sentence_transformer(), plan=lowbit.Plan.default(8)))
    asked = np.random.default_rng(SEED).permutation(len(one))[: 4 if quick else ASKED].tolist()
    candidates = [_candidates(one.found.ids[i].tolist(), one.grades[i]) for i in asked]
    first = float(np.mean([rows[0] in one.grades[i] for i, rows in zip(asked, candidates, strict=True)]))
    network, tokenizer = causal()
    rows: list[dict[str, Any]] = []
    wanted: list[Any] = []
    for recipe in ("float32", "int8") if quick else RECIPES:
        plan = lowbit.Plan.of({"*embed*": "int8", "*lm_head": "int8", "*": recipe} if recipe != "float32"
                              else {"*": "float32"})  # fmt: skip
        reranker = CausalReranker(network, "likelihood", plan=plan, tokenizer=tokenizer)
        reranker.score(one.queries[0], [one.documents[0]] * 4)
        started = time.perf_counter()
        scores = [
            reranker.score(one.queries[i], [one.documents[row] for row in some])
            for i, some in zip(asked, candidates, strict=True)
        ]
        seconds = time.perf_counter() - started
        wanted = wanted or scores
        picked = [some[s.argmax()] in one.grades[i] for i, some, s in zip(asked, candidates, scores, strict=True)]
        tau = [kendalltau(a, b).statistic for a, b in zip(wanted, scores, strict=True)]
        same = [a.argmax() == b.argmax() for a, b in zip(wanted, scores, strict=True)]
        rows.append(
            shown({"recipe": recipe, "bytes": lowbit.report(reranker.network).nbytes,
                   "picked": round(float(np.mean(picked)), 3), "tau": round(float(np.mean(tau)), 4),
                   "top_1": round(float(np.mean(same)), 3),
                   "documents_per_s": round(len(asked) * CANDIDATES / seconds, 1)})
        )  # fmt: skip
    settings = {"queries": len(asked), "candidates": CANDIDATES, "first_stage_picked": round(first, 3), "seed": SEED}
    return {"settings": settings, "rows": rows, "bars": []}


def _candidates(found: list[int], grades: Any) -> list[int]:
    """The best of the first stage, the right passage among them."""
    some = found[:CANDIDATES]
    return some if any(row in grades for row in some) else [*some[:-1], next(iter(grades))]
