"""nDCG@10 of every way to store vectors, on judged collections: section `collections` of rag_storage.py."""

from typing import Any

import numpy as np

from lowbit_models import sentence_transformer
from qindex import SentenceEncoder
from quality_data import COLLECTIONS, judged
from quality_measures import CONFIDENCE, MEASURE, SAMPLES, Shares, interval, ndcg
from rag_storage_systems import REDUCERS, SEED, SHARES, Given, System, systems
from timing import shown

REFERENCE = ("study", "float32")
# A way, and what it calls float8 and int8.
WAYS = (
    ("study", "float8 e4m3", "int8"),
    ("decoded", "float8 e4m3", "int8"),
    ("qindex", 'Float8("e4m3")', 'Int8("dim")'),
)


def measured(quick: bool) -> dict[str, Any]:
    collections = judged(("med", "xquad-en") if quick else COLLECTIONS)
    encoder = SentenceEncoder(sentence_transformer())
    documents = {title: encoder.encode_document(list(one.documents.values())) for title, one in collections.items()}
    given = {
        title: Given(
            documents[title],
            encoder.encode_query(list(one.queries.values())),
            np.concatenate([rows for other, rows in documents.items() if other != title]),
        )
        for title, one in collections.items()
    }
    compared = systems(encoder.dim)
    scores: dict[tuple[str, str], list[Shares]] = {}  # of each way and name, by collection
    rows = []
    for system in compared:
        key = system.way, system.name
        scores[key] = [ndcg(one, system.search(given[title])) for title, one in collections.items()]
        means = [float(values.mean()) for values in scores[key]]
        rows.append(shown({
            "way": system.way, "type": system.type, "reducer": system.reducer, "share": system.share,
            "name": system.name, "bytes": system.bytes_per_vector,
            "ndcg": {title: round(mean, 5) for title, mean in zip(collections, means, strict=True)},
            "mean": round(float(np.mean(means)), 5), "loss": _percent(scores, REFERENCE, key),
        }))  # fmt: skip
    gains = [
        {"claim": claim, "way": way, "first": first, "second": second,
         "gain": _percent(scores, (way, first), (way, second))}
        for claim, way, first, second in _pairs(compared)
    ]  # fmt: skip
    settings = {
        "model": f"all-MiniLM-L6-v2, {encoder.dim} dimensions, normalised",
        "measure": MEASURE,
        "collections": {
            title: {"documents": len(one.documents), "queries": len(one.queries)} for title, one in collections.items()
        },
        "confidence": CONFIDENCE,
        "bootstrap_samples": SAMPLES,
        "seed": SEED,
    }
    units = {
        "bytes": "bytes per vector: codes, and scales and factors where each vector has its own",
        "ndcg, mean": f"mean {MEASURE} of the queries, and of the collections, 0 to 1",
        "loss": "what float32 has more, in percent of its mean, and the ends of the interval",
        "gain": "what the first has more than the second, in percent of float32's mean",
    }
    return {"settings": settings, "units": units, "rows": rows, "gains": gains}


def _percent(
    scores: dict[tuple[str, str], list[Shares]], first: tuple[str, str], second: tuple[str, str]
) -> dict[str, float]:
    """What the first has more than the second, in percent of float32's mean."""
    reference = float(np.mean([values.mean() for values in scores[REFERENCE]]))
    return interval([100 * (a - b) / reference for a, b in zip(scores[first], scores[second], strict=True)])


def _pairs(compared: list[System]) -> list[tuple[str, str, str, str]]:
    """What the study's conclusions compare: claim, way and the names of two systems."""
    names = {(one.way, one.type, one.reducer, one.share): one.name for one in compared}
    pairs = []
    for way, float8, int8 in WAYS:
        for share in SHARES:
            pairs.append(("PCA", way, *(names[way, float8, reducer, share] for reducer in REDUCERS)))
        pairs.append(("half", way, names[way, float8, "PCA", 0.5], names[way, int8, "", 1.0]))
    return pairs
