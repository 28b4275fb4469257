"""Whiten: unit variance along every principal axis."""

from dataclasses import dataclass, field, replace

import numpy as np

from qindex.io import register
from qindex.transform.affine import Affine, AffineTransform, QueryRule, check_rule
from qindex.transform.pca import principal_axes
from qindex.transform.scaling import positive
from qindex.types import Vectors, as_vectors


@register("Whiten")
@dataclass(frozen=True, eq=False)
class Whiten(AffineTransform):
    """The coordinates along the principal axes, each divided by its standard deviation.

    `shrinkage` s in [0, 1] draws the variances v together, to `(1 - s) * v + s * mean(v)`, so that axes which hold
    little but noise are not blown up; with fewer rows than dimensions some hold nothing at all. With s = 0 such axes
    keep their scale; with s = 1 only centring and a rotation are left.

    `queries="inverse"` (default) keeps the scores of the vectors as they were. `"same"` treats queries as documents,
    so that every axis weighs alike (the product of Mahalanobis): another ranking.
    """

    shrinkage: float = 0.01
    queries: QueryRule = "inverse"
    affine: Affine | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if not (isinstance(self.shrinkage, int | float) and 0 <= self.shrinkage <= 1):
            raise ValueError(f"shrinkage must be in [0, 1], got {self.shrinkage!r}")
        check_rule(self.queries)

    def fit(self, vectors: Vectors) -> "Whiten":
        """A Whiten with the axes and deviations of (n, dim) floats."""
        mean, axes, variances = principal_axes(as_vectors(vectors, nonempty=True))
        shrunk = (1 - self.shrinkage) * variances + self.shrinkage * variances.mean()
        return replace(self, affine=Affine(mean, positive(np.sqrt(shrunk)), axes))
