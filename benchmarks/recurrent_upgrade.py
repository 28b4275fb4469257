"""A new encoder's queries on the index of the old one, through adapters: section `upgrade` of recurrent.py.

wordllama (256 numbers) is the old encoder, all-MiniLM-L6-v2 (384) the new one. Adapters never see a query. They are
fitted to what somebody who upgrades may have: all documents of the index by both encoders (who has that may as well
build a new index), a quarter of them with their passages, or documents of other collections.
"""

import itertools
import time
from typing import Any, NamedTuple

import numpy as np

from lowbit_models import sentence_transformer
from qindex import FlatIndex, Float32, RaBitQ, SentenceEncoder, fit_adapter
from qindex.encode.adapter import KINDS
from qindex.encode.chunks import split_passages
from qindex.evaluate.beir import JudgedCollection
from qindex.types import Quantizer, Vectors
from quality_data import COLLECTIONS, PASSAGE_CHARS, judged, wordllama_vectors
from quality_measures import K, Shares, interval, ndcg
from timing import shown

SAMPLE, SEED, QUICK_DOCUMENTS = 0.25, 0, 300
QUANTIZERS: dict[str, Quantizer] = {"float32": Float32(), "RaBitQ 2 bits": RaBitQ(bits=2)}


class Pair(NamedTuple):
    """The same texts by both encoders."""

    old: Vectors
    new: Vectors


class Encoded(NamedTuple):
    collection: JudgedCollection
    documents: Pair
    queries: Pair
    sample: Pair  # some documents and their passages


def measured(quick: bool) -> dict[str, Any]:
    encoder = SentenceEncoder(sentence_transformer())
    sets = {
        title: encoded(one, encoder, quick) for title, one in judged(COLLECTIONS[:2] if quick else COLLECTIONS).items()
    }
    rows = [row for title in sets for row in compared(title, sets)]
    settings = {"old": "wordllama", "new": "all-MiniLM-L6-v2", "sample": SAMPLE, "passage_chars": PASSAGE_CHARS,
                "k": K, "seed": SEED}  # fmt: skip
    return {"settings": settings, "rows": rows, "means": means(rows)}


def encoded(one: JudgedCollection, encoder: SentenceEncoder, quick: bool) -> Encoded:
    def both(texts: list[str]) -> Pair:
        return Pair(wordllama_vectors(texts), encoder.encode_document(texts))

    if quick:
        documents = dict(itertools.islice(one.documents.items(), QUICK_DOCUMENTS))
        one = JudgedCollection(documents, one.queries, one.qrels)
    texts = list(one.documents.values())
    chosen = np.random.default_rng(SEED).permutation(len(texts))[: int(SAMPLE * len(texts))]
    passages = [passage.text for i in chosen for passage in split_passages(texts[i], PASSAGE_CHARS)]
    return Encoded(one, both(texts), both(questions(one)), both([*(texts[i] for i in chosen), *passages]))


def questions(one: JudgedCollection) -> list[str]:
    """wordllama knows no capitals: the questions of npl, which has no others, would be noise."""
    return [text.lower() if text.isupper() else text for text in one.queries.values()]


def compared(title: str, sets: dict[str, Encoded]) -> list[dict[str, Any]]:
    """nDCG@10 on one collection: of each adapter, and of both encoders with indexes of their own."""
    one, rows = sets[title], []
    others = [other.documents for name, other in sets.items() if name != title]
    fitted_on = {
        "own documents": one.documents,
        "a quarter and passages": one.sample,
        "other collections": Pair(*(np.concatenate([pair[side] for pair in others]) for side in range(2))),
    }
    for name, quantizer in QUANTIZERS.items():
        indexes = [FlatIndex.build(vectors, quantizer) for vectors in one.documents]
        old, new = (found(one, index, queries) for index, queries in zip(indexes, one.queries, strict=True))
        for (source, texts), kind in itertools.product(fitted_on.items(), KINDS):
            started = time.perf_counter()
            adapter = fit_adapter(texts.old, texts.new, kind=kind, seed=SEED)
            fit_s = time.perf_counter() - started
            adapted = found(one, indexes[0], adapter.apply(one.queries.new))
            rows.append(
                shown({"set": title, "quantizer": name, "fitted_on": source, "texts": len(texts.old), "kind": kind,
                       "old": round(float(old.mean()), 4), "new": round(float(new.mean()), 4),
                       "adapted": round(float(adapted.mean()), 4),
                       **shares(float(old.mean()), float(new.mean()), float(adapted.mean())),
                       "gain": interval([adapted - old]), "fit_s": round(fit_s, 2)})
            )  # fmt: skip
    return rows


def found(one: Encoded, index: FlatIndex, queries: Vectors) -> Shares:
    return ndcg(one.collection, index.search(queries, K).ids)


def shares(old: float, new: float, adapted: float) -> dict[str, float]:
    """Of what the new encoder finds, and of what it would gain with an index of its own."""
    return {"of_new": round(adapted / new, 3), "recovered": round((adapted - old) / (new - old), 3)}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same over all collections: of the mean nDCG@10, as single collections gain too little to divide by."""
    by: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault((row["quantizer"], row["fitted_on"], row["kind"]), []).append(row)
    result = []
    for (quantizer, source, kind), some in by.items():
        old, new, adapted = (float(np.mean([row[name] for row in some])) for name in ("old", "new", "adapted"))
        result.append(
            shown({"quantizer": quantizer, "fitted_on": source, "kind": kind, "old": round(old, 4),
                   "new": round(new, 4), "adapted": round(adapted, 4), **shares(old, new, adapted)})
        )  # fmt: skip
    return result
