"""Answers without a fixed k, from searches that have one: pages that continue, and all rows within a radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from qindex.index.metric import Metric
from qindex.types import Matches

# Numbers of queries (c,) and k -> their matches (c, k), as an index finds them.
SearchFor = Callable[[NDArray[np.int64], int], Matches]

GROWTH = 4  # each search asks for so many times as many rows as the last, so that all of them cost little more
FIRST = 64  # rows of the first search within a radius


def pages(search: SearchFor, m: int, page: int, n: int) -> Iterator[Matches]:
    """The ranking of `n` rows for each of m queries, (m, page) at a time, no row twice, until none is left.

    Where a search for more rows finds better ones than an earlier page had, they come on the next page.
    """
    given: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * m
    waiting = [Matches(np.empty(0, np.int64), np.empty(0, np.float32))] * m
    everyone, asked = np.arange(m), 0
    while m:
        while asked < n and any(len(one.ids) < page for one in waiting):
            asked = min(max(GROWTH * asked, GROWTH * page), n)
            found = search(everyone, asked)
            waiting = [_new(found.ids[i], found.scores[i], given[i]) for i in range(m)]
        if not any(len(one.ids) for one in waiting):
            return
        next_page = Matches(np.full((m, page), -1, np.int64), np.full((m, page), -np.inf, np.float32))
        for i, (ids, scores) in enumerate(waiting):
            taken = min(page, len(ids))
            next_page.ids[i, :taken], next_page.scores[i, :taken] = ids[:taken], scores[:taken]
            given[i] = np.concatenate([given[i], ids[:taken]])
            waiting[i] = Matches(ids[taken:], scores[taken:])
        yield next_page


def _new(ids: NDArray[np.int64], scores: NDArray[np.float32], given: NDArray[np.int64]) -> Matches:
    new = (ids >= 0) & ~np.isin(ids, given)
    return Matches(ids[new], scores[new])


def within(search: SearchFor, m: int, least: float, n: int) -> list[Matches]:
    """All of `n` rows that score `least` or more, best first, for each of m queries: ids and scores (r,)."""
    result = [Matches(np.empty(0, np.int64), np.empty(0, np.float32))] * m
    left, asked = np.arange(m), min(FIRST, n)
    while len(left) and asked:
        found = search(left, asked)
        reached = (found.scores >= least) & (found.ids >= 0)
        for query, ids, scores, inside in zip(left, *found, reached, strict=True):
            result[query] = Matches(ids[inside], scores[inside])
        if asked == n:
            break
        left, asked = left[reached[:, -1]], min(GROWTH * asked, n)
    return result


def least_score(radius: float, metric: Metric) -> float:
    """The score that rows within a radius reach: a Euclidean distance with "l2", a score with "ip" and "cosine"."""
    if isinstance(radius, bool) or not isinstance(radius, int | float | np.integer | np.floating):
        raise TypeError(f"radius must be a number, got {radius!r}")
    radius = float(radius)
    if math.isnan(radius) or (metric == "l2" and radius < 0):
        wanted = 'a distance from 0 on with metric "l2"' if metric == "l2" else "a number"
        raise ValueError(f"radius must be {wanted}, got {radius!r}")
    return -(radius**2) if metric == "l2" else radius
