"""Quantizers side by side on one set of vectors: what each costs, keeps, and how fast it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from qindex.evaluate.metrics import recall
from qindex.index.flat import FlatIndex
from qindex.quantize import Float32
from qindex.types import Quantizer, Vectors


class Comparison(NamedTuple):
    """One line of the table."""

    name: str
    bytes_per_vector: int  # codes and scales, those of the rescore included
    recall: float  # share of float32's best k that are among this one's
    queries_per_second: float  # one query at a time


def compare(
    vectors: Vectors, queries: Vectors, quantizers: Mapping[str, tuple[Quantizer, Quantizer | None]], k: int = 10
) -> list[Comparison]:
    """Search `queries` in a FlatIndex of each (quantizer, rescore), on as many threads as are set."""
    truth = FlatIndex.build(vectors, Float32()).search(queries, k).ids
    rows = []
    for name, (quantizer, rescore) in quantizers.items():
        index = FlatIndex.build(vectors, quantizer, rescore=rescore)
        ids = index.search(queries, k).ids
        start = time.perf_counter()
        for i in range(len(queries)):
            index.search(queries[i : i + 1], k)
        seconds = time.perf_counter() - start
        dim = vectors.shape[1]
        n_bytes = quantizer.bytes_per_vector(dim) + (rescore.bytes_per_vector(dim) if rescore else 0)
        rows.append(Comparison(name, n_bytes, recall(ids, truth), len(queries) / seconds))
    return rows
