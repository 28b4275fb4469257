"""What centring, standardising, whitening and PCA learn: a mean, scales and perhaps axes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.transform.moments import blocks
from qindex.types import Queries, Vectors, as_vectors

# Below so many rows a product of matrices is no faster than one dot product after the other, and its threads would wait
# for cores that others use: a search prepares one query at a time.
FEW_ROWS = 8

QueryRule = Literal["inverse", "same"]


@register("Affine")
@dataclass(frozen=True, eq=False)
class Affine:
    """`y = axes (x - mean) / scale`, undone by `x = axes^T (scale * y) + mean`.

    That gives back `x` where `axes` are orthonormal and as many as dimensions; with fewer of them it gives the part of
    `x` in their span. Computed in float64: rounding to float32 then hides in what order a batch of rows was added up.
    """

    mean: NDArray[np.float32]  # (dim,)
    scale: NDArray[np.float32]  # (dim_out,), positive
    axes: NDArray[np.float32] | None = None  # (dim_out, dim); None stands for the dimensions themselves

    def __post_init__(self) -> None:
        for name, learnt in (("mean", self.mean), ("scale", self.scale), ("axes", self.axes)):
            if learnt is not None and (learnt.dtype != np.float32 or not np.isfinite(learnt).all()):
                raise ValueError(f"{name} must be finite float32, got {learnt.dtype}")
        dim = self.mean.size
        wanted = (dim,) if self.axes is None else self.axes.shape[:1]
        if self.mean.shape != (dim,) or self.scale.shape != wanted or not 1 <= self.scale.size <= dim:
            raise ValueError(f"mean must be (dim,) and scale (1 to dim,), got {self.mean.shape} and {self.scale.shape}")
        if self.axes is not None and self.axes.shape != (self.scale.size, dim):
            raise ValueError(f"axes must be ({self.scale.size}, {dim}), got {self.axes.shape}")
        if not np.all(self.scale > 0):
            raise ValueError(f"scale must be positive, got {self.scale.min()}")

    @property
    def dim(self) -> int:
        return len(self.mean)

    def apply(self, vectors: Vectors, name: str = "vectors") -> Vectors:
        """(n, dim) floats -> (n, dim_out). ValueError for a row that becomes too long for float32 scores."""
        rows = as_vectors(vectors, name, self.dim)
        return _blockwise(lambda x: self._along_axes(x - self.mean) / self.scale, rows, f"transformed {name}")

    def undo(self, vectors: Vectors) -> Vectors:
        """(n, dim_out) floats -> (n, dim)."""
        rows = as_vectors(vectors, dim=len(self.scale))
        return _blockwise(lambda y: self._from_axes(y * self.scale) + self.mean, rows, "vectors undone")

    def prepare(self, queries: Vectors, rule: QueryRule) -> Queries:
        """(m, dim) floats: by the rule "inverse" to score against what is undone, by "same" what `apply` gives."""
        if rule == "same":
            values = self.apply(queries, "queries")
            return Queries(values, np.zeros(len(values)))
        rows = as_vectors(queries, "queries", self.dim)
        values = _blockwise(lambda q: self._along_axes(q) * self.scale, rows, "transformed queries")
        return Queries(values, (rows.astype(np.float64) * self.mean).sum(axis=1))

    @cached_property
    def _exact_axes(self) -> NDArray[np.float64]:
        return np.empty((0, self.dim)) if self.axes is None else self.axes.astype(np.float64)

    def _along_axes(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows if self.axes is None else along_axes(rows, self._exact_axes)

    def _from_axes(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows if self.axes is None else rows @ self._exact_axes


class AffineTransform:
    """What transforms have in common whose `fit` learns an `Affine`."""

    queries: QueryRule
    affine: Affine | None

    @property
    def fitted(self) -> bool:
        return self.affine is not None

    def apply(self, vectors: Vectors) -> Vectors:
        """axes (x - mean) / scale: (n, dim) floats -> (n, dim_out) float32."""
        return self._learnt().apply(vectors)

    def undo(self, vectors: Vectors) -> Vectors:
        """axes^T (scale * y) + mean: (n, dim_out) floats -> (n, dim) float32."""
        return self._learnt().undo(vectors)

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats along the axes times the scale, and their products with the mean; by "same" as `apply`."""
        return self._learnt().prepare(queries, self.queries)

    def dim_out(self, dim: int) -> int:
        """dim."""
        return check_dim(dim, self.affine)

    def _learnt(self) -> Affine:
        if self.affine is None:
            raise unfitted(type(self).__name__)
        return self.affine


def along_axes(rows: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """rows (n, dim) @ axes^T (dim_out, dim): (n, dim_out)."""
    if len(rows) >= FEW_ROWS:
        return rows @ axes.T
    return np.stack([np.vecdot(axes, row) for row in rows]) if len(rows) else np.empty((0, len(axes)))


def unfitted(name: str) -> ValueError:
    """The error of using a transform that has yet to learn from data."""
    return ValueError(f"{name} must be fitted before use: call fitted = transform.fit(vectors) and use what it returns")


def check_dim(dim: int, affine: Affine | None) -> int:
    """`dim`, unless it is not positive or not the one of the vectors that `fit` saw."""
    if dim < 1 or (affine is not None and dim != affine.dim):
        raise ValueError(f"dim must be {'positive' if affine is None else f'{affine.dim}, as fitted'}, got {dim}")
    return dim


def check_rule(rule: str) -> None:
    """Refuse what is not a QueryRule."""
    if rule not in get_args(QueryRule):
        raise ValueError(f'queries must be "inverse" or "same", got {rule!r}')


def _blockwise(function: Callable[[NDArray[np.float64]], NDArray[np.float64]], vectors: Vectors, name: str) -> Vectors:
    """`function` of all rows, in float64, as float32. `name` is what an error calls the result."""
    with np.errstate(over="ignore"):  # reported by the check
        parts = [function(vectors[rows].astype(np.float64)).astype(np.float32) for rows in blocks(len(vectors))]
    return as_vectors(np.concatenate(parts), name)
