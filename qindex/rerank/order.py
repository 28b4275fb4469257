"""Reranking itself: hits of a first stage, put in the order of a reranker's scores, within a budget of time."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from qindex.rerank.fusion import Fusion
from qindex.types import Hit, Reranker

# Of a budget, what is left for what follows the scores.
_RESERVE_S = 0.002

# Hits of a first stage that a reranker reads, unless that is told.
DEPTH = 50

# Documents that are scored at once where reranking may stop before the last.
_CHUNK = 8


class Reranked(list[Hit]):
    """Hits, best first. `partial`: the budget ended before every document that could matter was scored."""

    partial: bool = False


def rerank(
    reranker: Reranker,
    query: str,
    hits: Sequence[Hit],
    k: int = 10,
    *,
    budget_ms: float | None = None,
    fuse: Fusion | None = None,
    progress: bool | None = None,
) -> Reranked:
    """The k best of `hits` by the scores of `reranker`, or by what `fuse` makes of them and the scores of the hits.

    A reranker may have a `fuse` of its own, which holds if none is told here.

    A hit's `stages["reranker"]` is what it was scored; its `score` is what it is ordered by. Equal scores keep the
    order that hits came in, which is that of their scores, best first.

    Documents are scored from the first hit on. With `budget_ms`, scoring ends in time, going by how fast the reranker
    was so far: those scored come first in their new order, the others follow in their old one with the score of the
    first stage and no `stages["reranker"]`, and `partial` is set, even if not a single document could be scored. With a
    `fuse` that is bounded, scoring ends once no other hit can come among the k best.

    Raises ValueError for an empty query, k < 1, a budget that is not positive, hits that are not best first, and for a
    reranker that must have all documents before it (`compares`) with a budget or a bounded `fuse`.
    """
    first = _checked(query, hits, k, budget_ms)
    fuse = getattr(reranker, "fuse", None) if fuse is None else fuse
    bounded = fuse is not None and bool(np.isfinite(fuse.highest(0.0)))
    if getattr(reranker, "compares", False) and (budget_ms is not None or bounded):
        raise ValueError(
            "budget_ms must be None, and fuse without a bound, for a reranker that puts all documents in order at "
            "once: pass fewer hits, or take another reranker"
        )
    deadline = None if budget_ms is None else time.perf_counter() + budget_ms / 1e3 - _RESERVE_S
    scores, partial = np.empty(0, np.float32), False
    bar = tqdm(total=len(hits), desc="rerank", unit="document", disable=not _shown(progress, len(hits)))
    with bar:
        while len(scores) < len(hits):
            if fuse is not None and bounded and _decided(fuse, first, scores, k):
                break
            n = _next(reranker, query, hits, len(scores), deadline, by_chunks=bounded)
            if not n:
                partial = True
                break
            some = hits[len(scores) : len(scores) + n]
            scores = np.concatenate([scores, _timed(reranker, query, [hit.text for hit in some])])
            bar.update(n)
    fused = scores if fuse is None else fuse.fuse(first[: len(scores)], scores)
    scored = [
        dataclasses.replace(hit, score=float(score), stages={**hit.stages, "reranker": float(own)})
        for hit, score, own in zip(hits, fused, scores, strict=False)
    ]
    order = np.argsort(-fused, kind="stable")
    found = Reranked([*(scored[i] for i in order), *hits[len(scores) :]][:k])
    found.partial = partial
    return found


def _checked(query: str, hits: Sequence[Hit], k: int, budget_ms: float | None) -> NDArray[np.float32]:
    """The scores of the hits."""
    check_query(query)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if budget_ms is not None and not budget_ms > 0:
        raise ValueError(f"budget_ms must be larger than 0, or None for no limit, got {budget_ms}")
    first = np.array([hit.score for hit in hits], np.float32)
    if np.any(first[1:] > first[:-1]):
        raise ValueError("hits must come best first, as a search gives them: sort them by score")
    return first


def check_query(query: str) -> None:
    """A query is a string with something in it."""
    if not isinstance(query, str):
        raise TypeError(f"query must be one string, got {type(query).__name__}")
    if not query.strip():
        raise ValueError(f"query must hold some text, got {query!r}")


def _shown(progress: bool | None, n: int) -> bool:
    if progress is None:
        return n > _CHUNK and sys.stderr is not None and sys.stderr.isatty()
    return progress


def _decided(fuse: Fusion, first: NDArray[np.float32], scores: NDArray[np.float32], k: int) -> bool:
    """Whether no hit behind those that have scores can come among the k best, by a bounded fusion."""
    n = len(scores)
    if n < k:
        return False
    worst = np.partition(fuse.fuse(first[:n], scores), n - k)[n - k]
    return bool(fuse.highest(float(first[n])) < worst)


# Seconds that rerankers took for a character of a query and its document.
_pace: WeakKeyDictionary[Reranker, float] = WeakKeyDictionary()


def _next(
    reranker: Reranker, query: str, hits: Sequence[Hit], done: int, deadline: float | None, *, by_chunks: bool
) -> int:
    """How many of the hits behind those that are done to score at once; 0 where there is no time for any."""
    most = min(_CHUNK, len(hits) - done) if by_chunks else len(hits) - done
    if deadline is None:
        return most
    pace, left = _pace.get(reranker), deadline - time.perf_counter()
    if pace is None:
        return 1 if left > 0 else 0
    seconds = np.cumsum([pace * (len(query) + len(hit.text)) for hit in hits[done : done + most]])
    if seconds[0] > left:
        return 0
    # A guess that is off may take as long again: of many, half of what there is time for.
    return max(1, int(np.searchsorted(seconds, left / 2, "right")))


def _timed(reranker: Reranker, query: str, documents: list[str]) -> NDArray[np.float32]:
    started = time.perf_counter()
    scores = np.asarray(reranker.score(query, documents), np.float32)
    if scores.shape != (len(documents),):
        raise ValueError(
            f"score must give ({len(documents)},) numbers, got {scores.shape} by {type(reranker).__name__}"
        )
    n = sum(len(query) + len(document) for document in documents)
    found = (time.perf_counter() - started) / n
    before = _pace.get(reranker)
    # Slower times count at once, faster ones little by little.
    _pace[reranker] = found if before is None else max(found, 0.7 * before + 0.3 * found)
    return scores


def score_nonempty(
    score: Callable[[str, list[str]], NDArray[np.float32]], query: str, documents: Sequence[str]
) -> NDArray[np.float32]:
    """Scores of those documents that hold some text, and -inf for the others, which say nothing."""
    check_query(query)
    there = [i for i, document in enumerate(documents) if document.strip()]
    found = np.full(len(documents), -np.inf, np.float32)
    if there:
        found[there] = score(query, [documents[i] for i in there])
    return found
