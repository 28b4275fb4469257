"""A new encoder's queries on codes of an old one: section `versions` of recurrent.py."""

from typing import Any

from bars import bar
from lowbit_models import sentence_transformer
from qindex import FlatIndex, RecurrentBinary, SentenceEncoder
from qindex.quantize.learning import train
from quality_data import COLLECTIONS, judged, passages, wordllama_vectors
from quality_measures import interval, ndcg
from recurrent_upgrade import questions
from timing import shown

BITS, DIM, STEPS = 2, 256, 2000


def measured(quick: bool) -> dict[str, Any]:
    """The models learn from passages of all collections, of which an index holds the documents; queries are unseen."""
    titles = ("med",) if quick else COLLECTIONS
    collections = judged(titles)
    encoder = SentenceEncoder(sentence_transformer())
    texts, _ = passages(titles)
    texts = [text for text, known in zip(texts, wordllama_vectors(texts).any(axis=1), strict=True) if known]
    steps = 20 if quick else STEPS
    old_vectors, new_vectors = wordllama_vectors(texts), encoder.encode_document(texts)
    old = train(RecurrentBinary(BITS, DIM), old_vectors, steps=steps)
    apart = train(RecurrentBinary(BITS, DIM), new_vectors, steps=steps)
    beside = train(RecurrentBinary(BITS, DIM), new_vectors, old=old.quantize(old_vectors), steps=steps)
    found: dict[str, dict[str, Any]] = {}
    for title, one in collections.items():
        documents, queries = list(one.documents.values()), questions(one)
        asked = {"old": wordllama_vectors(queries), "new": encoder.encode_query(queries)}
        held = {"old": wordllama_vectors(documents), "new": encoder.encode_document(documents)}
        stored = {name: q.quantize(held["old" if name == "old" else "new"]) for name, q in
                  (("old", old), ("apart", apart), ("beside", beside))}  # fmt: skip
        for name, quantizer, codes, side in (
            ("old queries on old codes", old, "old", "old"),
            ("new queries, trained apart, on old codes", apart, "old", "new"),
            ("new queries, trained beside, on old codes", beside, "old", "new"),
            ("new queries, trained apart, on new codes", apart, "apart", "new"),
            ("new queries, trained beside, on new codes", beside, "beside", "new"),
        ):
            index = FlatIndex.from_codes(quantizer, stored[codes])
            found.setdefault(name, {})[title] = ndcg(one, index.search(asked[side], 100).ids)
    base = found["old queries on old codes"]
    rows = [
        shown({
            "name": name, "ndcg": {title: round(float(values.mean()), 4) for title, values in each.items()},
            "gain": interval([100 * (each[title] - base[title]) for title in each]),
        })
        for name, each in found.items()
    ]  # fmt: skip
    gain = {row["name"]: row["gain"] for row in rows}["new queries, trained beside, on old codes"]
    compatible = bar(
        "nDCG@10 of a new model's queries on old codes, beside old queries on them", "more, beyond the interval",
        f"{gain['mean']:+.2f} points ({gain['low']:+.2f} to {gain['high']:+.2f})", gain["low"] > 0)  # fmt: skip
    settings = {"bits": BITS, "dim": DIM, "steps": STEPS, "texts": len(texts)}
    return {"settings": settings, "rows": rows, "bars": [] if quick else [compatible]}
