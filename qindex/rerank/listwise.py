"""Long lists put in order by whoever can order a short one: a window that slides from the end to the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

# Numbers of documents, at most as many as a window -> a score for each.
Scored = Callable[[Sequence[int]], NDArray[np.float64]]


def slide(n: int, window: int, step: int, scored: Scored) -> list[int]:
    """The numbers 0 to n - 1, best first (RankGPT, arXiv 2304.09542).

    A window holds the best of what it has met, so that the best `window - step` of all come to the front in one pass;
    those behind them are in order only where their windows were. Equal scores keep their order.
    """
    order = list(range(n))
    start = max(0, n - window)
    while n:
        some = order[start : start + window]
        places = np.argsort(-np.asarray(scored(some), np.float64), kind="stable")
        order[start : start + window] = [some[place] for place in places]
        if not start:
            break
        start = max(0, start - step)
    return order
