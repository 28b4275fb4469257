"""Grids of blocks by search: what solvers without error feedback share."""

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qindex.lowbit.statistics import LayerStatistics
from qindex.memory import empty
from qindex.quantize.blocks import (
    Grid,
    Scheme,
    block_numbers,
    covering,
    outer_scales,
    rounded,
    stored,
)
from qindex.threads import threads
from qindex.types import Codes, Vectors, as_vectors

# Weights that are worked on at once: with their temporaries they stay in the second-level cache.
PART = 1 << 17


class Solver(Protocol):
    """Chooses the codes of a weight matrix."""

    def solve(self, weight: Vectors, scheme: Scheme, statistics: LayerStatistics | None = None, /) -> Codes: ...


class Gridding(Protocol):
    """A solver that chooses a grid for each block, on which weights then take the nearest levels."""

    def grid(
        self,
        weight: Vectors,
        scheme: Scheme,
        outer: NDArray[np.float32] | None = None,
        importance: NDArray[np.float32] | None = None,
        /,
    ) -> Grid:
        """The grids of the blocks of (n, dim) weights.

        `outer` is what `stored` will take; `importance` (dim,) weighs the squared errors of the columns.
        """
        ...


def solve_by_grid(
    solver: Gridding, weight: Vectors, scheme: Scheme, importance: NDArray[np.float32] | None = None
) -> Codes:
    """The codes of (n, dim) weights on the grids that a solver chooses, part by part on all threads."""
    weight = as_vectors(weight, "weight", nonempty=True)
    n, dim = weight.shape
    outer = outer_scales(covering(weight, scheme).scale, scheme)
    by_row = outer is not None and scheme.outer != "matrix"
    step = max(1, PART // dim)

    def work(rows: slice) -> Codes:
        own = outer[rows] if outer is not None and by_row else outer
        grid = solver.grid(weight[rows], scheme, own, importance)
        return rounded(weight[rows], scheme, stored(grid, scheme, dim, own))

    parts = threads.map(work, [(slice(i, min(i + step, n)),) for i in range(0, n, step)])
    data = np.concatenate([part.data for part in parts], out=empty((n, parts[0].data.shape[1]), np.uint8))
    return dataclasses.replace(Codes.concatenate(parts), data=data)


def importance_of(statistics: LayerStatistics | None, dim: int) -> NDArray[np.float32] | None:
    """What the squared error of a weight of each input channel counts: (dim,), or None where all count the same.

    That is the diagonal of the Hessian, to which a hundredth of its mean is added, as GPTQ does, so that what the text
    happened not to reach counts a little.
    """
    if statistics is None or not statistics.diagonal.any():
        return None
    check_dim(statistics, dim)
    relative: NDArray[np.float64] = statistics.diagonal / statistics.diagonal.mean()
    return (relative + 0.01).astype(np.float32)


def check_dim(statistics: LayerStatistics, dim: int) -> None:
    """Refuse statistics of another layer."""
    if statistics.dim != dim:
        raise ValueError(f"statistics must be of the {dim} columns of weight, got {statistics.dim}: of another layer?")


class Rounded(NamedTuple):
    """Weights on the levels of a grid, in the layout of `Blocked`."""

    scale: NDArray[np.float32]  # (n, blocks), as stored
    zero: NDArray[np.float32] | None
    levels: NDArray[np.float32]  # (block, n * blocks)
    residuals: NDArray[np.float32]  # what the weights lie above their levels, in steps
    error: NDArray[np.float32]  # (n, blocks): the weighted squared error, in steps of the covering grid


class Blocked:
    """Some rows of a weight matrix with a column for each block, so that all sums over blocks run along the rows.

    Sums are taken in an order that does not depend on how many blocks there are: equal blocks have equal errors.
    """

    def __init__(self, weight: Vectors, scheme: Scheme, importance: NDArray[np.float32] | None = None) -> None:
        n, self.dim = weight.shape
        block = scheme.block or self.dim
        self.shape = n, -(-self.dim // block)
        self.covering = covering(weight, scheme)
        beyond = -self.dim % block
        self.scheme = scheme
        self.values = self._laid_out(np.pad(weight, ((0, 0), (0, beyond))) if beyond else weight)  # (block, n * blocks)
        self.weights: NDArray[np.float32] | None = None  # of the same shape; None for ones
        if beyond or importance is not None:
            counts = np.ones(self.dim, np.float32) if importance is None else importance
            self.weights = self._laid_out(np.tile(np.pad(counts, (0, beyond)), (n, 1)))

    def _laid_out(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(rows.reshape(self.shape[0] * self.shape[1], -1).T)

    def rounded(self, grid: Grid, outer: NDArray[np.float32] | None) -> Rounded:
        """The weights rounded to the levels of a grid, as it would be stored."""
        scale, zero = block_numbers(stored(grid, self.scheme, self.dim, outer))
        usable = scale > np.finfo(np.float32).tiny  # below, quotients overflow
        places = self.values if zero is None else self.values - zero.reshape(-1)
        places = places * np.divide(1, scale, out=np.zeros_like(scale), where=usable).reshape(-1)
        levels = self.scheme.nearest(places)
        np.subtract(places, levels, out=places)
        squares = self.sums(places * places)
        # In steps of the covering grid, so that no weights are too small for it to be compared.
        steps = np.divide(
            scale, self.covering.scale, out=np.zeros_like(scale), where=usable & (self.covering.scale > 0)
        )
        error = np.where(usable, squares * steps**2, np.float32(np.inf))  # such blocks stay as they are
        return Rounded(scale, zero, levels, places, error)

    def sums(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Over each block, weighted by importance: (n, blocks). Overwrites `numbers`."""
        if self.weights is not None:
            numbers *= self.weights
        left = len(numbers)
        while left > 1:
            half = left // 2
            numbers[:half] += numbers[left - half : left]
            left -= half
        sums: NDArray[np.float32] = numbers[0].reshape(self.shape).copy()
        return sums


class Best:
    """The grid with the least error for each block among those that were offered; of equals, the first."""

    def __init__(self, blocked: Blocked, outer: NDArray[np.float32] | None) -> None:
        self._blocked = blocked
        self._outer = outer
        self.grid = blocked.covering
        self.error = np.full(blocked.shape, np.inf, np.float32)

    def offer(self, grid: Grid, among: NDArray[np.bool_] | bool = True) -> Rounded:
        """The weights on this grid; `among` says which blocks (n, blocks) may take it."""
        found = self._blocked.rounded(grid, self._outer)
        better = (found.error < self.error) & among
        self.error = np.where(better, found.error, self.error)
        middle = self.grid.middle
        if middle is not None and grid.middle is not None:
            middle = np.where(better, grid.middle, middle)
        self.grid = Grid(np.where(better, grid.scale, self.grid.scale), middle)
        return found
