"""Encoding and scanning of recurrent codes, on one thread: section `speed` of recurrent.py."""

from dataclasses import replace
from typing import Any

import numpy as np

from bars import bar
from qindex import RecurrentBinary, kernels
from qindex.quantize.learning import train
from qindex.types import Queries
from quality_data import minilm_100k
from timing import medians, shown

SIZES = ((2, 192), (2, 384), (3, 256), (1, 384))
ROWS, ROUNDS, K, BATCH = 20_000, 5, 10, 64


def measured(quick: bool) -> dict[str, Any]:
    data = minilm_100k(4000, 64) if quick else minilm_100k()
    part = data.documents[: 1000 if quick else ROWS]
    rounds = 1 if quick else ROUNDS
    weight = np.random.default_rng(0).standard_normal((384, 384)).astype(np.float32)
    encoding, scanning = [], []
    for bits, dim in SIZES:
        quantizer = train(RecurrentBinary(bits, dim), data.documents, steps=2, checks=1, progress=False)
        model = quantizer.model
        seconds = medians({"codes": lambda _, q=quantizer: q.quantize(part), "sgemm": lambda _: part @ weight}, rounds)
        peak = 2 * len(part) * weight.size / seconds["sgemm"]
        # Encoder and decoder, then the errors that are fed forward, for each of four stretches.
        multiplied = 2 * dim * 384 + 4 * dim * dim / 2
        encoding.append(shown({
            "name": f"RecurrentBinary({bits}, {dim})", "vectors_per_s": round(len(part) / seconds["codes"]),
            "of_matmul_peak": round(2 * multiplied * len(part) / seconds["codes"] / peak, 3),
            "peak_gflops": round(peak / 1e9, 1),
        }))  # fmt: skip
        assert model is not None
        codes = quantizer.quantize(data.documents)
        for rows, place in ((codes[:10_000], "cache"), (codes, "memory")):
            scanning.append(_scan(quantizer, rows, data.queries, place, rounds))
    reached = {row["name"]: row for row in encoding}["RecurrentBinary(2, 384)"]
    found = f"{reached['vectors_per_s']:,} a second, {reached['of_matmul_peak']:.2f} of the peak"
    good = reached["vectors_per_s"] >= 100_000 or reached["of_matmul_peak"] >= 0.5
    return {
        "settings": {"rows": len(part), "rounds": rounds, "k": K, "batch": BATCH},
        "encoding": encoding,
        "scanning": scanning,
        "bars": [] if quick else [bar(
            "vectors coded a second and thread, 384 dimensions in 2 bits", "100,000, or half of the matmul peak", found,
            good)],
    }  # fmt: skip


def _scan(quantizer: RecurrentBinary, codes: Any, queries: Any, place: str, rounds: int) -> dict[str, Any]:
    """Nanoseconds a row and query: the float query (rounded to int8 for a first look), and codes on both sides."""
    ids = np.arange(len(codes))
    sides = {"float": quantizer.prepare(queries), "coded": replace(quantizer, symmetric=True).prepare(queries)}
    calls = {}
    for side, prepared in sides.items():
        for n in (1, BATCH):
            some = _first(prepared, n)
            calls[f"{side}, {n}"] = lambda _, some=some: kernels.topk(some, codes, K, ids=ids)
    seconds = medians(calls, rounds)
    ns = {name: round(1e9 * taken / (len(codes) * int(name.split(", ")[1])), 2) for name, taken in seconds.items()}
    name = f"RecurrentBinary({quantizer.bits}, {quantizer.dim})"
    return shown({"name": name, "place": place, "rows": len(codes), "bytes": codes.data.shape[1], "ns": ns})


def _first(prepared: Queries, n: int) -> Queries:
    return Queries(prepared.values[:n], prepared.offset[:n], None if prepared.codes is None else prepared.codes[:n])
