"""OPQ: axes for which a product quantizer errs little."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.transform.affine import Affine, AffineTransform, QueryRule, check_dim
from qindex.transform.pca import principal_axes
from qindex.types import Vectors, as_vectors

_SMALLEST = 1e-9  # variances count as this share of the largest at least


@register("OPQ")
@dataclass(frozen=True, eq=False)
class OPQ(AffineTransform):
    """Centres and rotates for a product quantizer with as many codes: `Chain(OPQ(48), ProductQuantizer(48))`.

    Principal axes, dealt out so that all parts have about the same product of variances. Parts then depend little on
    each other and cost the same error: the best rotation for normal vectors (Ge et al., 2013, the parametric
    solution). It is learnt from all vectors, in seconds; rotations that are fitted to centroids follow the noise of a
    sample.
    """

    queries: ClassVar[QueryRule] = "inverse"  # type: ignore[misc]  # a field of others

    n_codes: int = 48
    affine: Affine | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        check_n_codes(self.n_codes)

    def fit(self, vectors: Vectors) -> "OPQ":
        """An OPQ with the axes of (n, dim) floats."""
        vectors = as_vectors(vectors, nonempty=True)
        dim = self.dim_out(vectors.shape[1])
        mean, axes, variances = principal_axes(vectors)
        order = _dealt(variances, part_columns(dim, self.n_codes))
        return replace(self, affine=Affine(mean, np.ones(dim, np.float32), axes[order]))

    def dim_out(self, dim: int) -> int:
        """dim."""
        check_dim(dim, self.affine)
        part_columns(dim, self.n_codes)
        return dim


def check_n_codes(n_codes: int) -> None:
    """Refuse what is no number of parts."""
    if not isinstance(n_codes, int) or isinstance(n_codes, bool) or n_codes < 1:
        raise ValueError(f"n_codes must be a positive integer, got {n_codes!r}")


def part_columns(dim: int, n_codes: int) -> list[slice]:
    """Neighbouring dimensions in n_codes parts, as equally many as can be, the longer parts first."""
    if dim < n_codes:
        raise ValueError(f"n_codes must be at most dim, {dim}, got {n_codes}")
    size, longer = divmod(dim, n_codes)
    ends = np.cumsum([size + 1] * longer + [size] * (n_codes - longer)).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _dealt(variances: NDArray[np.float64], parts: list[slice]) -> list[int]:
    """Which axis comes where: each, from the largest variance on, to the part of the smallest product with room."""
    smallest = _SMALLEST * max(variances[0], np.finfo(np.float64).tiny / _SMALLEST)
    logs = np.log(np.maximum(variances, smallest) / smallest)
    dealt: list[list[int]] = [[] for _ in parts]
    products = np.zeros(len(parts))
    for axis, log in enumerate(logs):
        part = int(products.argmin())
        dealt[part].append(axis)
        full = len(dealt[part]) == parts[part].stop - parts[part].start
        products[part] = np.inf if full else products[part] + log
    return [axis for part in dealt for axis in part]
