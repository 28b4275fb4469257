"""How good an answer is: measures of rankings against judgements, recall of ids, and how sure a difference is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Run = Mapping[str, Sequence[str]]  # query id -> document ids, best first
Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade; 1 and above is relevant

# trec_eval, which counts below, crashes on a cutoff of 0.
_MEASURE = re.compile(r"(nDCG|R|RR)@[1-9][0-9]*")


def evaluate(
    run: Run, qrels: Qrels, measures: Sequence[str] = ("nDCG@10", "R@100", "RR@10")
) -> dict[str, NDArray[np.float64]]:
    """Measure a run: one number for each judged query, in the order of `judged(qrels)`.

    `measures` are "nDCG@k" (with the grades as gains), "R@k" (recall) and "RR@k" (reciprocal rank), all of trec_eval.
    What counts is the order of the documents, not their scores, so no tie is broken again. A judged query that `run`
    lacks, or for which it found nothing, counts 0; a query without judgements does not count.

    Raises ValueError for another measure, a document listed twice, or no judgements at all; ImportError without
    ir-measures.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError("evaluate needs ir-measures: pip install 'qindex[evaluate]'") from error
    for measure in measures:
        if not _MEASURE.fullmatch(measure):
            raise ValueError(f'measures must be "nDCG@k", "R@k" or "RR@k" with k from 1, got {measure!r}')
    queries = judged(qrels)
    if not queries:
        raise ValueError("qrels must judge at least one query, got none")

    rankings = {query: run.get(query, ()) for query in queries}
    for query, documents in rankings.items():
        if isinstance(documents, str):
            raise TypeError(f"run[{query!r}] must be a sequence of document ids, got one string: {documents[:30]!r}")
        if len(set(documents)) < len(documents):
            raise ValueError(f"run[{query!r}] must list each document once, got one of them twice")
    scored = {
        query: {document: -float(rank) for rank, document in enumerate(documents)}
        for query, documents in rankings.items()
    }
    parsed = {ir_measures.parse_measure(measure): measure for measure in measures}
    results = {measure: np.zeros(len(queries)) for measure in measures}
    rows = {query: row for row, query in enumerate(queries)}
    judgements = {query: dict(qrels[query]) for query in queries}
    for value in ir_measures.iter_calc(list(parsed), judgements, scored):
        results[parsed[value.measure]][rows[value.query_id]] = value.value
    return results


def judged(qrels: Qrels) -> list[str]:
    """The queries that have judgements, sorted: what the numbers of `evaluate` stand for."""
    return sorted(query for query, grades in qrels.items() if grades)


def recall(ids: ArrayLike, truth: ArrayLike) -> float:
    """The share of the true ids that were found, (m, k) and (m, t) integers, averaged over the queries.

    With both of width k this is recall@k. -1 stands for no id on either side; a query without a true id does not
    count. Raises ValueError if none is left, or if the two differ in queries.
    """
    found, wanted = np.asarray(ids), np.asarray(truth)
    if found.ndim != 2 or wanted.ndim != 2 or len(found) != len(wanted):
        raise ValueError(
            f"ids and truth must be (m, k) and (m, t) for the same m, got {found.shape} and {wanted.shape}"
        )
    shares = [np.isin(row[row >= 0], ids_).mean() for ids_, row in zip(found, wanted, strict=True) if (row >= 0).any()]
    if not shares:
        raise ValueError("truth must hold an id for at least one query, got none")
    return float(np.mean(shares))


class Interval(NamedTuple):
    """A mean and the bounds between which resampling leaves it."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    differences: Sequence[ArrayLike], *, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean difference of two systems, with an interval for other queries of the same kind.

    `differences` holds for each collection the differences per query, (m,) floats: `mine - theirs` of `evaluate`.
    Queries are drawn with replacement within each collection, and collections weigh the same, as in an average over
    collections. One collection is `[mine - theirs]`.

    Raises ValueError for no collection, an empty one, NaN or infinity, a confidence outside (0, 1) or samples < 1.
    """
    collections = [np.asarray(one, np.float64) for one in differences]
    if not collections or any(one.ndim != 1 or not one.size or not np.isfinite(one).all() for one in collections):
        shapes = [one.shape for one in collections]
        raise ValueError(f"differences must be finite (m,) arrays with m >= 1, one for each collection, got {shapes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    rng = np.random.default_rng(seed)
    means = np.array(
        [[one[rng.integers(one.size, size=one.size)].mean() for _ in range(samples)] for one in collections]
    ).mean(axis=0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(np.mean([one.mean() for one in collections])), float(low), float(high))
