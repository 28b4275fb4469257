"""Center and Standardize: each dimension is moved, and stretched to unit variance."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.transform import moments
from qindex.transform.affine import Affine, AffineTransform, QueryRule, check_rule
from qindex.types import Vectors, as_vectors


@register("Center")
@dataclass(frozen=True, eq=False)
class Center(AffineTransform):
    """Subtracts the mean of the vectors that `fit` saw.

    `queries="inverse"` (default) keeps the scores of the vectors as they were. `"same"` takes the mean from queries
    too: products of what differs from the mean.
    """

    queries: QueryRule = "inverse"
    affine: Affine | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        check_rule(self.queries)

    def fit(self, vectors: Vectors) -> "Center":
        """A Center with the mean of (n, dim) floats."""
        vectors = as_vectors(vectors, nonempty=True)
        mean = moments.mean(vectors).astype(np.float32)
        return replace(self, affine=Affine(mean, np.ones_like(mean)))


@register("Standardize")
@dataclass(frozen=True, eq=False)
class Standardize(AffineTransform):
    """Gives each dimension the mean 0 and the standard deviation 1 over the vectors that `fit` saw.

    A dimension without variance, or with one too small for a normal float32 deviation, is only centred: constants are
    kept exactly.

    `queries="inverse"` (default) stretches queries the other way, which keeps the scores of the vectors as they were.
    `"same"` treats queries as documents, so that every dimension weighs alike: another ranking, as of raw affine codes.
    """

    queries: QueryRule = "inverse"
    affine: Affine | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        check_rule(self.queries)

    def fit(self, vectors: Vectors) -> "Standardize":
        """A Standardize with the means and deviations of (n, dim) floats."""
        vectors = as_vectors(vectors, nonempty=True)
        mean = moments.mean(vectors)
        scale = positive(np.sqrt(moments.variance(vectors, mean)))
        return replace(self, affine=Affine(mean.astype(np.float32), scale))


def positive(deviations: NDArray[np.float64]) -> NDArray[np.float32]:
    """Deviations as scales: 1 in place of zero, and of what no normal float32 can hold."""
    return np.where(deviations < np.finfo(np.float32).tiny, 1, deviations).astype(np.float32)
