"""Documents a second of a MiniLM cross-encoder: section `speed` of rerank.py."""

import copy
import statistics
from typing import Any

import numpy as np
import torch

from bars import bar, invariant
from lowbit_models import dynamic, passages, sentence_transformer
from qindex import lowbit
from qindex.rerank import CrossEncoderReranker, reranker_plan
from qindex.rerank.training import with_head
from timing import medians, shown

DOCUMENTS, LOW, HIGH, ROUNDS = 50, 130, 170, 7
QUERY = "what similarity laws must be obeyed when constructing aeroelastic models of heated high speed aircraft"


def measured(quick: bool) -> dict[str, Any]:
    model = sentence_transformer()
    documents = passages(8 if quick else DOCUMENTS, model.tokenizer, LOW, HIGH)
    tokens = statistics.mean(len(pair) for pair in model.tokenizer([QUERY] * len(documents), documents)["input_ids"])
    torch.manual_seed(0)  # of the head, whose weights do not matter here
    network = with_head(model)[0].eval()
    plans = {"qindex mxint8": reranker_plan(8), "qindex int8": lowbit.Plan.default(8), "qindex int4": reranker_plan(4)}
    ours = {name: CrossEncoderReranker(network, plan=plan, tokenizer=model.tokenizer) for name, plan in plans.items()}
    theirs = {
        "torch float32": network,
        "torch bf16": copy.deepcopy(network).to(torch.bfloat16),
        "torch dynamic int8": dynamic(network),
    }
    calls: dict[str, Any] = {name: lambda _, one=one: one.score(QUERY, documents) for name, one in ours.items()}
    calls |= {name: lambda _, one=one: _predict(one, model.tokenizer, documents) for name, one in theirs.items()}
    seconds = medians(calls, 1 if quick else ROUNDS)
    rows = [
        shown({"name": name, "documents_per_s": round(len(documents) / seconds[name], 1),
               "ratio": round(seconds["torch float32"] / seconds[name], 3),
               "bytes": _bytes(ours.get(name), theirs.get(name))})
        for name in calls
    ]  # fmt: skip
    ratio = {row["name"]: row["ratio"] for row in rows}["qindex mxint8"]

    def scored(some: list[str]) -> Any:
        return ours["qindex mxint8"].score(QUERY, some)

    bars = [
        bar("documents a second in mxint8, by torch float32's", "at least 2.5x", f"{ratio:.2f}x", ratio >= 2.5),
        bar("a document's score alone, among any others and in any order, 1 or 2 threads", "equal to the bit",
            *invariant(scored, documents)),
    ]  # fmt: skip
    settings = {"documents": len(documents), "tokens": round(tokens, 1), "rounds": ROUNDS}
    return {"settings": settings, "rows": rows, "bars": [] if quick else bars}


def _predict(network: Any, tokenizer: Any, documents: list[str], batch: int = 32) -> Any:
    order = np.argsort([len(document) for document in documents], kind="stable").tolist()
    scores = np.empty(len(documents), np.float32)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        pairs = tokenizer(
            [QUERY] * len(some), [documents[i] for i in some], padding=True, truncation=True, return_tensors="pt"
        )
        scores[some] = network(**pairs).logits[:, 0].float().numpy()
    return scores


def _bytes(ours: CrossEncoderReranker | None, theirs: Any) -> int:
    if ours is not None:
        return lowbit.report(ours.network).nbytes
    found = sum(p.nbytes for p in theirs.parameters())
    packed = [m for m in theirs.modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    return found + sum(m.weight().numel() + 4 * m.out_features for m in packed)
