"""Rounding to nearest, with or without a search for how much of a block's range to keep."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.lowbit.solvers.grids import Best, Blocked, importance_of, solve_by_grid
from qindex.lowbit.statistics import LayerStatistics
from qindex.quantize.blocks import Grid, Scheme, covering
from qindex.types import Codes, Vectors

# Which part of its range the grid of a block keeps: AWQ's grid search (arXiv 2306.00978) ends at 0.5.
_SHRINKS = np.linspace(1, 0.4, 21, dtype=np.float32)


@register("Nearest")
@dataclass(frozen=True)
class Nearest:
    """Round to nearest.

    `clip` shrinks the grid of each block by what leaves the least squared error, out of 21 factors from 1 to 0.4, the
    columns weighted by the diagonal of the statistics where they are given. Numbers beyond the grid saturate.
    """

    clip: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.clip, bool):
            raise TypeError(f"clip must be True or False, got {self.clip!r}")

    def solve(self, weight: Vectors, scheme: Scheme, statistics: LayerStatistics | None = None, /) -> Codes:
        """Codes of (n, dim) float32. Statistics matter only with `clip`; those of an unreached layer count for none."""
        return solve_by_grid(self, weight, scheme, importance_of(statistics, weight.shape[1]))

    def grid(
        self,
        weight: Vectors,
        scheme: Scheme,
        outer: NDArray[np.float32] | None = None,
        importance: NDArray[np.float32] | None = None,
        /,
    ) -> Grid:
        """The grids of the blocks of (n, dim) weights: those that cover them, or shrunk."""
        if not self.clip:
            return covering(weight, scheme)
        best = Best(Blocked(weight, scheme, importance), outer)
        scale, middle = best.grid
        for shrink in _SHRINKS:
            best.offer(Grid(scale * shrink, middle))
        return best.grid
