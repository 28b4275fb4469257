"""A cross-encoder trained on folds of judged queries: section `quality` of rerank.py."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bars import bar
from lowbit_models import sentence_transformer
from qindex import SentenceEncoder, lowbit
from qindex.evaluate.beir import JudgedCollection
from qindex.evaluate.metrics import evaluate
from qindex.evaluate.metrics import judged as judged_queries
from qindex.rerank import (
    CrossEncoderReranker,
    Fusion,
    Interpolation,
    Judgements,
    ReciprocalRank,
    fit_fusion,
    reranker_plan,
    train_cross_encoder,
)
from qindex.types import Reranker
from quality_data import COLLECTIONS, judged
from quality_measures import interval
from timing import shown

FOLDS, STEPS, SEED = 3, 200, 0
FOUR_BITS = 1  # folds in which another is trained for 4 bits
ASKED = 100  # queries of a collection and fold at most
COMPARED = 10  # of which so many in float32 and in other bits

Run = dict[str, list[str]]  # query -> documents, best first
EIGHT, FOUR = "mxint8, trained for it", "int4, trained for it"
ROUNDED = {"int8, rounded after training": 8, "int4, rounded after training": 4}


def measured(quick: bool) -> dict[str, Any]:
    encoder = SentenceEncoder(sentence_transformer(), plan=lowbit.Plan.default(8))
    collections = judged(("med",) if quick else COLLECTIONS)
    sets = {title: one.judgements(encoder) for title, one in collections.items()}
    places = {t: np.random.default_rng(SEED).permutation(len(one)) % FOLDS for t, one in sets.items()}
    runs: dict[str, dict[str, Run]] = {title: {} for title in sets}
    agreement: dict[str, list[tuple[float, bool]]] = {name: [] for name in (EIGHT, *ROUNDED, FOUR)}
    train_s, fusions = [], []
    for fold in range(1 if quick else FOLDS):
        halves = [one[np.flatnonzero(places[title] != fold).tolist()].split(seed=SEED) for title, one in sets.items()]
        examples = [example for taught, _ in halves for example in taught.examples(seed=SEED)]
        for name, bits in ((EIGHT, 8), (FOUR, 4))[: 2 if fold < FOUR_BITS else 1]:
            plan = reranker_plan(bits)
            started = time.perf_counter()
            steps = 2 if quick else STEPS
            floats = train_cross_encoder(sentence_transformer(), examples, plan=plan, steps=steps, seed=SEED)
            train_s.append(time.perf_counter() - started)
            ours = quantized(floats, plan.with_solver(lowbit.Nearest()))
            fusions.append(fit_fusion(ours, [held_out for _, held_out in halves]))
            print(f"  fold {fold}, {name}: {train_s[-1]:.0f} s of {len(examples)} examples, {fusions[-1]}", flush=True)
            ways = {name: ours, "float32": floats}
            if name == EIGHT:
                ways |= {other: quantized(floats, lowbit.Plan.default(less)) for other, less in ROUNDED.items()}
            for title, one in sets.items():
                asked = np.flatnonzero(places[title] == fold)[: 3 if quick else ASKED].tolist()
                for place, i in enumerate(asked):
                    few = ways if place < COMPARED else {name: ours}
                    rank(one, i, collections[title], few, name, fusions[-1], runs[title], agreement)
    rows = [compared(title, collections[title], found, EIGHT) for title, found in runs.items()]
    agreements = [
        shown({"bits": name, "tau": round(float(np.mean([tau for tau, _ in found])), 4),
               "top_1": round(float(np.mean([same for _, same in found])), 4), "queries": len(found)})
        for name, found in agreement.items()
    ]  # fmt: skip
    settings = {"folds": FOLDS, "steps": STEPS, "asked": ASKED, "compared": COMPARED, "depth": 50, "seed": SEED,
                "train_s": [round(s) for s in train_s],
                "weights": [round(one.weight, 5) for one in fusions]}  # fmt: skip
    return {
        "settings": settings,
        "rows": rows,
        "four_bits": [compared(title, collections[title], found, FOUR) for title, found in runs.items()],
        "agreement": agreements,
        "bars": [] if quick else bars(rows, agreements),
    }


def quantized(reranker: CrossEncoderReranker, plan: lowbit.Plan) -> CrossEncoderReranker:
    return CrossEncoderReranker(reranker.network, plan=plan, tokenizer=reranker.tokenizer)


def rank(
    one: Judgements,
    i: int,
    collection: JudgedCollection,
    ways: Mapping[str, Reranker],
    served: str,
    fusion: Interpolation,
    runs: dict[str, Run],
    agreement: dict[str, list[tuple[float, bool]]],
) -> None:
    """The orders of one query by the way that is `served`, and how far the others agree with float32."""
    query, names = list(collection.queries)[i], list(collection.documents)
    rows = one.found.ids[i].tolist()
    first = one.found.scores[i]
    scores = {name: way.score(one.queries[i], [one.documents[row] for row in rows]) for name, way in ways.items()}
    fused: dict[str, Fusion] = {"fused": fusion, "reciprocal rank": ReciprocalRank()}
    orders = {"first stage": first, "alone": scores[served]}
    orders |= {name: by.fuse(first, scores[served]) for name, by in fused.items()}
    for name, values in orders.items():
        order = np.argsort(-values, kind="stable")
        runs.setdefault(f"{served}: {name}", {})[query] = [names[rows[place]] for place in order]
    wanted = scores.pop("float32", None)
    if wanted is not None:
        for name, found in scores.items():
            tau = float(kendalltau(wanted, found).statistic)
            agreement[name].append((tau, bool(wanted.argmax() == found.argmax())))


def compared(title: str, collection: JudgedCollection, runs: dict[str, Run], served: str) -> dict[str, Any]:
    """nDCG@10 of each order, and what the fused one gains over the first stage, in points."""
    mine = {name.removeprefix(f"{served}: "): run for name, run in runs.items() if name.startswith(served)}
    qrels = {query: grades for query, grades in collection.qrels.items() if query in mine["first stage"]}
    found = {name: evaluate(run, qrels, ["nDCG@10"])["nDCG@10"] for name, run in mine.items()}
    row: dict[str, Any] = {"collection": title, "queries": len(judged_queries(qrels))}
    row |= {name: round(float(values.mean()), 4) for name, values in found.items()}
    gain = interval([100 * (found["fused"] - found["first stage"])])
    return shown(row | {"gain": {name: round(value, 3) for name, value in gain.items()}})


def bars(rows: list[dict[str, Any]], agreements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tau = {found["bits"]: found["tau"] for found in agreements}
    raised = [row["collection"] for row in rows if row["gain"]["low"] > 0]
    worst = min(rows, key=lambda row: row["gain"]["mean"])
    least = worst["gain"]["mean"]
    return [
        bar("collections of four on which 8 bits, fused, raises nDCG@10 beyond the interval", "at least 2",
            f"{len(raised)}: {', '.join(raised)}", len(raised) >= 2),
        bar("the least gain in points of nDCG@10", "no loss above 0.5", f"{least:+.2f} on {worst['collection']}",
            least >= -0.5),
        bar("Kendall's tau of 8 bits with float32", "at least .98", f"{tau[EIGHT]:.4f}", tau[EIGHT] >= 0.98),
        bar("Kendall's tau of 4 bits with float32", "at least .95", f"{tau[FOUR]:.4f}", tau[FOUR] >= 0.95),
    ]  # fmt: skip
