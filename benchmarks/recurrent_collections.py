"""nDCG@10 of codes that have learnt from other text: section `collections` of recurrent.py."""

from dataclasses import replace
from typing import Any

import numpy as np

from bars import bar
from lowbit_models import sentence_transformer
from qindex import FlatIndex, Float32, RaBitQ, RecurrentBinary, SentenceEncoder, Spectral
from qindex.quantize import Binary
from quality_data import COLLECTIONS, judged, minilm_100k
from quality_measures import interval, ndcg
from recurrent_recall import STEPS
from recurrent_systems import Codec, recurrent, trained_spectral, untrained
from timing import shown

TWO_BITS = "RecurrentBinary(2, 384)"


def measured(quick: bool) -> dict[str, Any]:
    learnt_from = minilm_100k(3000, 10).documents if quick else minilm_100k().documents
    collections = judged(("med",) if quick else COLLECTIONS)
    encoder = SentenceEncoder(sentence_transformer())
    vectors = {
        title: (encoder.encode_document(list(one.documents.values())), encoder.encode_query(list(one.queries.values())))
        for title, one in collections.items()
    }
    steps = 20 if quick else STEPS
    systems: list[Codec] = [
        untrained("Float32()", "floats", Float32()),
        recurrent(2, 384, steps), recurrent(3, 256, steps), recurrent(2, 192, steps),
        trained_spectral(98, steps), untrained("Spectral(98)", "Spectral", Spectral(98)),
        untrained("Spectral(50)", "Spectral", Spectral(50)),
        untrained("RaBitQ(2)", "RaBitQ", RaBitQ(2)), untrained("RaBitQ(1)", "RaBitQ", RaBitQ(1)),
        untrained("Binary(center=True)", "sign", Binary(center=True)),
        untrained("384 hyperplanes", "LSH", Binary(), planes=384),
    ]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    rows = []
    for codec in systems:
        quantizer = codec.make(0, None, codec.mapped(learnt_from))
        ways = {codec.name: quantizer}
        if isinstance(quantizer, RecurrentBinary):
            ways[f"{codec.name}, both sides coded"] = replace(quantizer, symmetric=True)
        for name, way in ways.items():
            found[name] = {}
            for title, (documents, queries) in vectors.items():
                index = FlatIndex.build(codec.mapped(documents), way)
                found[name][title] = ndcg(collections[title], index.search(codec.mapped(queries), 100).ids)
            kept = [100 * (found[name][title] - found["Float32()"][title]) for title in vectors]
            means = {title: round(float(values.mean()), 4) for title, values in found[name].items()}
            share = np.mean(list(means.values())) / np.mean([v.mean() for v in found["Float32()"].values()])
            rows.append(shown({
                "name": name, "bytes": way.bytes_per_vector(384), "ndcg": means, "share": round(float(share), 4),
                "change": interval(kept),
            }))  # fmt: skip
    share = {row["name"]: row["share"] for row in rows}[TWO_BITS]
    kept_bar = bar("nDCG@10 that 2 bits a dimension keep, trained on other text", "at least 98 %", f"{share:.2%}",
                   bool(share >= 0.98))  # fmt: skip
    return {"rows": rows, "bars": [] if quick else [kept_bar]}
