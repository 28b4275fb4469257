"""A new encoder's queries on codes of an old one: section `versions` of recurrent.py.

MiniLM is the new encoder. Old ones: MiniLM without the last of its layers, as an earlier state of the same model; the
first half of its numbers; and wordllama, with which it has nothing in common.
"""

from collections.abc import Callable
from typing import Any

from bars import bar
from lowbit_models import sentence_transformer
from qindex import FlatIndex, RecurrentBinary, SentenceEncoder
from qindex.quantize.learning import train
from qindex.types import Vectors
from quality_data import COLLECTIONS, judged, passages, wordllama_vectors
from quality_measures import interval, ndcg
from recurrent_upgrade import questions
from timing import shown

BITS, DIM, STEPS = 2, 256, 2000
EARLIER = "MiniLM without its last layer"


def measured(quick: bool) -> dict[str, Any]:
    """The models learn from passages of all collections, of which an index holds the documents; queries are unseen."""
    titles = ("med",) if quick else COLLECTIONS
    collections = judged(titles)
    new = SentenceEncoder(sentence_transformer()).encode_document  # which has no prompts: queries go the same way
    encoders: dict[str, Callable[[list[str]], Vectors]] = {
        EARLIER: SentenceEncoder(without_last_layer(sentence_transformer())).encode_document,
        "half of MiniLM's numbers": lambda texts: new(texts)[:, :192],
        "wordllama": wordllama_vectors,
    }
    texts, _ = passages(titles)
    texts = [text for text, known in zip(texts, wordllama_vectors(texts).any(axis=1), strict=True) if known]
    steps = 20 if quick else STEPS
    new_vectors = new(texts)
    apart = train(RecurrentBinary(BITS, DIM), new_vectors, steps=steps)
    documents = {title: list(one.documents.values()) for title, one in collections.items()}
    asked = {title: questions(one) for title, one in collections.items()}
    new_documents, new_queries = ({title: new(some[title]) for title in titles} for some in (documents, asked))
    rows = []
    for name, encode in encoders.items():
        old_vectors = encode(texts)
        old = train(RecurrentBinary(BITS, DIM), old_vectors, steps=steps)
        beside = train(RecurrentBinary(BITS, DIM), new_vectors, old=old.quantize(old_vectors), steps=steps)
        found: dict[str, dict[str, Any]] = {}
        for title, one in collections.items():
            old_codes = old.quantize(encode(documents[title]))
            for what, quantizer, codes, queries in (
                ("old queries on old codes", old, old_codes, encode(asked[title])),
                ("new queries, trained apart, on old codes", apart, old_codes, new_queries[title]),
                ("new queries, trained beside, on old codes", beside, old_codes, new_queries[title]),
                ("new queries, trained apart, on new codes", apart, apart.quantize(new_documents[title]),
                 new_queries[title]),
                ("new queries, trained beside, on new codes", beside, beside.quantize(new_documents[title]),
                 new_queries[title]),
            ):  # fmt: skip
                index = FlatIndex.from_codes(quantizer, codes)
                found.setdefault(what, {})[title] = ndcg(one, index.search(queries, 100).ids)
        base = found["old queries on old codes"]
        rows += [
            shown({
                "old": name, "name": what,
                "ndcg": {title: round(float(values.mean()), 4) for title, values in each.items()},
                "gain": interval([100 * (each[title] - base[title]) for title in each]),
            })
            for what, each in found.items()
        ]  # fmt: skip
    settings = {"bits": BITS, "dim": DIM, "steps": STEPS, "texts": len(texts)}
    return {"settings": settings, "rows": rows, "bars": [] if quick else [compatible(rows)]}


def without_last_layer(model: Any) -> Any:
    network = model[0].auto_model
    network.encoder.layer = network.encoder.layer[:-1]
    network.config.num_hidden_layers -= 1
    return model


def compatible(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As in the paper, of an old and a new state of one encoder."""
    [gain] = [
        row["gain"]
        for row in rows
        if (row["old"], row["name"]) == (EARLIER, "new queries, trained beside, on old codes")
    ]
    return bar(
        f"nDCG@10 of a new model's queries on the codes of an old one, {EARLIER}, beside old queries on them",
        "more, beyond the interval", f"{gain['mean']:+.2f} points ({gain['low']:+.2f} to {gain['high']:+.2f})",
        gain["low"] > 0)  # fmt: skip
