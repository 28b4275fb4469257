"""PCA: the coordinates along the axes of largest variance."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.transform import moments
from qindex.transform.affine import Affine, AffineTransform, QueryRule, check_dim
from qindex.types import Vectors, as_vectors


@register("PCA")
@dataclass(frozen=True, eq=False)
class PCA(AffineTransform):
    """Keeps the axes of largest variance: `dim` of them, or as many as hold the share `kept` of the variance.

    Scores are those of the vectors as far as the kept axes and the mean describe them. With fewer rows than `dim`, or
    constant dimensions, the last axes hold no variance; they complete an orthonormal basis.
    """

    queries: ClassVar[QueryRule] = "inverse"  # type: ignore[misc]  # a field of the others

    dim: int | None = None
    kept: float | None = None
    affine: Affine | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if (self.dim is None) == (self.kept is None):
            raise ValueError(f"PCA takes either dim or kept, got dim={self.dim!r} and kept={self.kept!r}")
        if self.dim is not None and not (isinstance(self.dim, int) and self.dim >= 1):
            raise ValueError(f"dim must be a positive integer, got {self.dim!r}; a share is PCA(kept={self.dim!r})")
        if self.kept is not None and not (isinstance(self.kept, int | float) and 0 < self.kept <= 1):
            raise ValueError(f"kept must be a share of the variance in (0, 1], got {self.kept!r}")

    def fit(self, vectors: Vectors) -> "PCA":
        """A PCA with the axes of (n, dim) floats."""
        vectors = as_vectors(vectors, nonempty=True)
        if self.dim is not None and self.dim > vectors.shape[1]:
            raise ValueError(f"dim must be at most that of the vectors, {vectors.shape[1]}, got {self.dim}")
        mean, axes, variances = principal_axes(vectors)
        dim = self.dim
        if dim is None:
            assert self.kept is not None
            sums = np.cumsum(variances)
            dim = int(np.searchsorted(sums, self.kept * sums[-1])) + 1
        return replace(self, affine=Affine(mean, np.ones(dim, np.float32), axes[:dim].copy()))

    def dim_out(self, dim: int) -> int:
        """The number of axes kept; with `kept=` known after `fit`."""
        check_dim(dim, self.affine)
        if self.dim is None:
            return len(self._learnt().scale)
        if self.dim > dim:
            raise ValueError(f"dim must be at least {self.dim} for {self!r}, got {dim}")
        return self.dim


def principal_axes(vectors: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Mean (dim,), orthonormal axes (dim, dim) as rows, and their variances (dim,), largest first.

    Each axis points where the first of its (nearly) largest numbers is positive. Variances lost in rounding are zero.
    """
    from scipy.linalg import eigh  # importing qindex stays light

    mean = moments.mean(vectors)
    variances, columns = eigh(moments.covariance(vectors, mean))
    variances, axes = variances[::-1], columns.T[::-1]
    sizes = np.abs(axes)
    # A largest number must not lose to its equal by the last bit.
    first = np.argmax(sizes > 0.999 * sizes.max(axis=1, keepdims=True), axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), first])[:, None]
    lost = variances <= len(axes) * np.finfo(np.float64).eps * variances[0]
    return mean.astype(np.float32), axes.astype(np.float32), np.where(lost, 0, variances)
