"""GPTQ: columns are rounded one by one, and those to come make up for the error."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.lowbit.solvers.grids import check_dim
from qindex.lowbit.solvers.hqq import HQQ
from qindex.lowbit.solvers.nearest import Nearest
from qindex.lowbit.statistics import LayerStatistics
from qindex.quantize.blocks import (
    Grid,
    Scheme,
    block_numbers,
    covering,
    in_levels,
    outer_scales,
    rounded,
    stored,
)
from qindex.types import Codes, Vectors, as_vectors

# Columns whose errors are fed to all later ones together.
_LAZY = 128
# How often the damping is raised tenfold until the Hessian can be factored.
_TRIES = 8


@register("GPTQ")
@dataclass(frozen=True)
class GPTQ:
    """Error feedback by the Hessian of the inputs, H = sum of x x^T (arXiv 2210.17323), around any scheme.

    `damping` times the mean of the diagonal is added to it, and ten times as much until it can be factored. The grid of
    a block is chosen by `inner` when its first column is reached, from the weights as they then are; a scale for the
    whole row is chosen at the start, and so are all grids with `order`, which takes the columns with the largest inputs
    first. Dead channels are rounded like others and pass no error on.

    With a single bit, later columns cannot make up for much: a damping of 0.1 and HQQ within are better there.
    """

    damping: float = 0.01
    inner: Nearest | HQQ = field(default_factory=lambda: Nearest(clip=True))
    order: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.damping, float) or not 0 < self.damping <= 1:
            raise ValueError(f"damping must be a float above 0, up to 1, got {self.damping!r}")
        if not isinstance(self.inner, Nearest | HQQ):
            raise TypeError(f"inner must be Nearest or HQQ, got {self.inner!r}")
        if not isinstance(self.order, bool):
            raise TypeError(f"order must be True or False, got {self.order!r}")

    def solve(self, weight: Vectors, scheme: Scheme, statistics: LayerStatistics | None = None, /) -> Codes:
        """Codes of (n, dim) float32.

        Raises ValueError without a Hessian, or for one that no damping makes positive definite.
        """
        weight = as_vectors(weight, "weight", nonempty=True)
        dim = weight.shape[1]
        if statistics is None or not statistics.count or statistics.hessian is None:
            found = "only its diagonal" if statistics is not None and statistics.count else "none"
            raise ValueError(
                f"statistics must have the Hessian of the layer's inputs for GPTQ, got {found}: calibrate with text "
                "that reaches the layer and a max_dim no less than its width, or choose Nearest or HQQ"
            )
        check_dim(statistics, dim)
        sequence = np.argsort(-statistics.diagonal, kind="stable") if self.order else np.arange(dim)
        feedback = _feedback(statistics.hessian[np.ix_(sequence, sequence)], self.damping)
        importance = np.empty(dim, np.float32)
        importance[sequence] = feedback.diagonal() ** -2  # what an error in a column costs after all was made up for
        grids = _Grids(self.inner, weight, scheme, importance)
        decided_ahead = self.order or not scheme.block
        if decided_ahead:
            for block in range(grids.n_blocks):
                grids.decide(block, weight[:, grids.columns(block)])
        left = np.ascontiguousarray(weight.T[sequence])  # (dim, n): what is left to round
        chosen = np.empty_like(left)
        for columns in _parts(dim, grids.size):
            errors = np.empty((columns.stop - columns.start, len(weight)), np.float32)
            for i in range(columns.start, columns.stop):
                block, first = divmod(int(sequence[i]), grids.size)
                if not decided_ahead and not first:
                    grids.decide(block, np.ascontiguousarray(left[i : i + grids.size].T))
                chosen[sequence[i]] = decoded = grids.rounded(block, left[i])
                errors[i - columns.start] = error = (left[i] - decoded) / feedback[i, i]
                left[i + 1 : columns.stop] -= np.outer(feedback[i, i + 1 : columns.stop], error)
            left[columns.stop :] -= feedback[columns, columns.stop :].T @ errors
        return rounded(np.ascontiguousarray(chosen.T), scheme, grids.codes())


def _feedback(hessian: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    """The upper triangular U with U^T U the inverse of the damped Hessian, its mean diagonal taken for 1."""
    from scipy.linalg import LinAlgError, cholesky, lapack  # importing qindex stays light

    diagonal = hessian.diagonal()
    mean = diagonal.mean() or 1.0
    dead = diagonal == 0
    for tries in range(_TRIES):
        damped = hessian / mean
        damped[np.diag_indices_from(damped)] += np.where(dead, 1, damping * 10**tries)
        try:
            # H = R R^T with R upper triangular, from the last column to the first; so U is the inverse of R.
            root = cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1]
        except LinAlgError:
            continue
        inverse, _ = lapack.dtrtri(root, lower=0)
        upper: NDArray[np.float32] = np.triu(inverse).astype(np.float32)
        return upper
    raise ValueError(
        f"statistics must have a Hessian that damping makes positive definite, but {damping * 10 ** (_TRIES - 1):g} "
        "times its mean diagonal did not: collect the statistics anew"
    )


def _parts(dim: int, size: int) -> Iterator[slice]:
    """Columns in parts of about `_LAZY`, so that a block of `size` lies in one part or begins with one."""
    step = size if size > _LAZY else _LAZY // size * size
    for start in range(0, dim, step):
        stop = min(start + step, dim)
        yield from (slice(i, min(i + _LAZY, stop)) for i in range(start, stop, _LAZY))


class _Grids:
    """The grids of the blocks of a weight matrix, decided one by one."""

    def __init__(self, inner: Nearest | HQQ, weight: Vectors, scheme: Scheme, importance: NDArray[np.float32]) -> None:
        self._inner, self._scheme, self._importance = inner, scheme, importance
        self._outer = outer_scales(covering(weight, scheme).scale, scheme)
        self._dim = weight.shape[1]
        self.size = scheme.block or self._dim
        self.n_blocks = -(-self._dim // self.size)
        self._wanted: list[Grid] = []
        self._numbers: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []

    def columns(self, block: int) -> slice:
        return slice(block * self.size, min((block + 1) * self.size, self._dim))

    def decide(self, block: int, weight: Vectors) -> None:
        """Choose the grid of the next block from its weights, (n, size)."""
        outer = self._outer
        if outer is not None and self._scheme.outer != "matrix":
            outer = outer[:, [block * self.size // self._scheme.outer_size]]
        grid = self._inner.grid(weight, self._scheme, outer, self._importance[self.columns(block)])
        scale, zero = block_numbers(stored(grid, self._scheme, weight.shape[1], outer))
        self._wanted.append(grid)
        self._numbers.append((scale[:, 0], None if zero is None else zero[:, 0]))

    def rounded(self, block: int, column: NDArray[np.float32]) -> NDArray[np.float32]:
        """A column of the block, (n,), as its nearest levels decode."""
        scale, zero = self._numbers[block]
        scaled = self._scheme.nearest(in_levels(column, scale, zero)) * scale
        return scaled if zero is None else scaled + zero

    def codes(self) -> Codes:
        """All grids together, as they are stored, without the weights."""
        scale = np.concatenate([grid.scale for grid in self._wanted], axis=1)
        middles = [grid.middle for grid in self._wanted if grid.middle is not None]
        grid = Grid(scale, np.concatenate(middles, axis=1) if middles else None)
        return stored(grid, self._scheme, self._dim, self._outer)
