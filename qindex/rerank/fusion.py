"""What a reranker's scores and those of the first stage make together.

A weak reranker must not spoil what a good retriever found: `Interpolation.fit` gives a reranker as much say as judged
queries show it to be worth, which may be none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qindex.io import register

Scores = NDArray[np.float32]


class Fusion(Protocol):
    """Scores of the same documents by the first stage and by a reranker, (n,) each -> (n,), larger is better."""

    def fuse(self, first: Scores, reranked: Scores, /) -> Scores: ...

    def highest(self, first: float, /) -> float:
        """No document that scores `first` in the first stage is given more than this; inf where there is no bound."""
        ...


@register("rerank.Interpolation")
@dataclass(frozen=True)
class Interpolation:
    """first + weight * min(reranked, ceiling), of scores as they stand.

    `weight` 0 keeps the order of the first stage. Scores of a reranker above `ceiling` count as if they were there, so
    that reranking may stop once no other document can still come among the best; None is no bound.
    """

    weight: float
    ceiling: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight must be finite and at least 0, got {self.weight}")
        if self.ceiling is not None and not math.isfinite(self.ceiling):
            raise ValueError(f"ceiling must be finite, or None for no bound, got {self.ceiling}")

    def fuse(self, first: Scores, reranked: Scores) -> Scores:
        if self.weight == 0:
            return first.astype(np.float32)
        counted = reranked if self.ceiling is None else np.minimum(reranked, np.float32(self.ceiling))
        return (first + np.float32(self.weight) * counted).astype(np.float32)

    def highest(self, first: float) -> float:
        if self.weight and self.ceiling is None:
            return math.inf
        # By the same float32 steps as any other document, so that rounding takes none above it.
        return float(self.fuse(np.array([first], np.float32), np.array([self.ceiling or 0.0], np.float32))[0])

    @classmethod
    def fit(
        cls, judged: Sequence[tuple[Scores, Scores, NDArray[Any]]], *, k: int = 10, cautious: bool = True
    ) -> Interpolation:
        """The weight with the best nDCG@k on judged queries, which the reranker was not trained on.

        Each query is (first, reranked, grades), (n,) each, of the documents that its first stage found. Tried are 0 and
        weights from a hundredth to a hundred times that with which both stages vary alike. A `cautious` fit takes the
        smallest weight that is within a standard error of the best: few queries say little, and there the first stage
        is to be trusted. The ceiling is the largest score that the reranker gave.

        Raises ValueError for no query with a relevant document.
        """
        kept = [(np.asarray(f), np.asarray(r), np.asarray(g, np.float64)) for f, r, g in judged if np.max(g) > 0]
        if not kept:
            raise ValueError("judged must hold a query with a relevant document at least, got none")
        spread = float(np.mean([np.std(first) for first, _, _ in kept]))
        reranked_spread = float(np.mean([np.std(reranked) for _, reranked, _ in kept]))
        ceiling = float(max(np.max(reranked) for _, reranked, _ in kept))
        equal = spread / reranked_spread if reranked_spread > 0 else 0.0
        weights = [0.0, *(equal * np.logspace(-2, 2, 17)).tolist()] if equal > 0 else [0.0]
        gains = np.array([[ndcg(cls(weight).fuse(f, r), g, k) for f, r, g in kept] for weight in weights])
        best = int(np.argmax(gains.mean(axis=1)))
        if cautious:
            short = gains[best] - gains  # of each weight, query by query
            error = short.std(axis=1) / math.sqrt(len(kept))
            best = int(np.argmax(short.mean(axis=1) <= error))
        return cls(weights[best], ceiling)


@register("rerank.ReciprocalRank")
@dataclass(frozen=True)
class ReciprocalRank:
    """1 / (k + rank) of both stages (Cormack et al., SIGIR 2009): for scores that cannot be compared."""

    k: int = 60

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def fuse(self, first: Scores, reranked: Scores) -> Scores:
        return sum((1 / (self.k + 1 + _ranks(scores)) for scores in (first, reranked)), np.zeros(len(first))).astype(
            np.float32
        )

    def highest(self, first: float) -> float:
        return math.inf


def _ranks(scores: Scores) -> NDArray[np.int64]:
    """From 0, of the best."""
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return ranks


def ndcg(scores: Scores, grades: NDArray[np.float64], k: int) -> float:
    """nDCG@k of the order of scores among these documents alone, gains being grades."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gains = np.maximum(grades, 0)
    found, ideal = gains[np.argsort(-scores, kind="stable")][:k], np.sort(gains)[::-1][:k]
    return float(found @ discounts[: len(found)] / (ideal @ discounts[: len(ideal)]))
