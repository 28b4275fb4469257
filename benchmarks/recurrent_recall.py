"""Recall of trained and of untrained codes: section `recall` of recurrent.py."""

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from bars import bar
from qindex import FlatIndex, RecurrentBinary
from qindex.quantize.learning import Check
from quality_data import Vectorised, minilm_100k
from recurrent_systems import Codec, codecs
from timing import shown

STEPS, SEEDS, K = 2000, 3, 10
SEVERAL = ("RecurrentBinary(2, 192)", "RecurrentBinary(3, 256)", "Spectral(50), trained", "Spectral(98), trained")
BARS = {  # of recall with a float query, and with codes on both sides
    "RecurrentBinary(2, 192)": (0.785, 0.715),
    "RecurrentBinary(3, 256)": (0.86, 0.80),
    "Spectral(50), trained": (0.795, None),
    "Spectral(98), trained": (0.905, None),
}


def measured(quick: bool) -> dict[str, Any]:
    data = minilm_100k(5000, 100) if quick else minilm_100k()
    rows, curves = [], {}
    for codec in codecs(20 if quick else STEPS):
        seeds = range(SEEDS if codec.name in SEVERAL and not quick else 1)
        runs = [_run(codec, data, seed) for seed in seeds]
        rows.append(shown({
            "name": codec.name, "line": codec.line, "bytes": runs[0]["bytes"], "seeds": len(runs),
            "recall": round(statistics.mean(run["recall"] for run in runs), 4),
            "recalls": [round(run["recall"], 4) for run in runs],
            "coded": round(statistics.mean(run["coded"] for run in runs), 4),
            "codeds": [round(run["coded"], 4) for run in runs],
            "train_s": round(statistics.mean(run["train_s"] for run in runs), 1),
        }))  # fmt: skip
        if codec.trained:
            curves[codec.name] = runs[0]["curve"]
    settings = {"steps": STEPS, "k": K, "rows": len(data.documents), "queries": len(data.queries)}
    return {"settings": settings, "rows": rows, "curves": curves, "bars": [] if quick else bars(rows)}


def _run(codec: Codec, data: Vectorised, seed: int) -> dict[str, Any]:
    curve: list[Check] = []
    documents, queries = codec.mapped(data.documents), codec.mapped(data.queries)
    started = time.perf_counter()
    quantizer = codec.make(seed, curve.append, documents)
    train_s = time.perf_counter() - started
    index = FlatIndex.build(documents, quantizer)
    if isinstance(quantizer, RecurrentBinary):
        symmetric = FlatIndex.from_codes(replace(quantizer, symmetric=True), quantizer.quantize(documents))
        coded = symmetric.search(queries, K).ids
    else:
        coded = index.search(quantizer.dequantize(quantizer.quantize(queries)), K).ids
    truth = data.truth[:, :K]

    def recall(ids: Any) -> float:
        return float(np.mean((ids[:, :, None] == truth[:, None]).any(axis=2)))

    return {
        "bytes": quantizer.bytes_per_vector(documents.shape[1]), "recall": recall(index.search(queries, K).ids),
        "coded": recall(coded), "train_s": train_s, "curve": [[check.step, *map(_short, check[1:])] for check in curve],
    }  # fmt: skip


def _short(number: float) -> float:
    return round(number, 4)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {row["name"]: row for row in rows}
    bars = []
    for name, (wanted, wanted_coded) in BARS.items():
        row = found[name]
        title = f"recall@10 on minilm-100k of {name}, {row['bytes']} bytes"
        bars.append(bar(title, f"at least {wanted}", f"{row['recall']:.4f}", row["recall"] >= wanted))
        if wanted_coded is not None:
            reached = row["coded"] >= wanted_coded
            bars.append(bar(f"{title}, both sides coded", f"at least {wanted_coded}", f"{row['coded']:.4f}", reached))
    return bars
