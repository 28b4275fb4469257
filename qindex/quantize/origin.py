"""Where rows are coded: about their mean, in rotated axes if wanted, and brought into the range of float16."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.io import register
from qindex.quantize import blocks
from qindex.quantize.rows import BLOCK, check_codes, unfitted
from qindex.transform import Rotation
from qindex.types import Codes, Queries, Vectors, as_vectors, row_norms

# What is stored of a row in float16 is about its root mean square. That of the longest row seen becomes 2 ** 8: rows
# up to 100 times as long still fit, and rows a million times shorter keep all bits.
_LONGEST = 8


@register("Origin")
@dataclass(frozen=True, eq=False)
class Origin:
    """A point and axes: `row = 2 ** exponent * rotation(vector - mean)`. The power of two is exact."""

    mean: NDArray[np.float32]  # (dim,)
    exponent: int
    seed: int | None = None  # of the rotation; None: rows keep their axes

    def __post_init__(self) -> None:
        if (
            not isinstance(self.mean, np.ndarray)
            or self.mean.dtype != np.float32
            or self.mean.ndim != 1
            or len(self.mean) == 0
            or not np.isfinite(self.mean).all()
        ):
            raise ValueError(f"mean must be finite float32 (dim,), got {self.mean!r}")
        if not isinstance(self.exponent, int) or not -120 <= self.exponent <= 120:
            raise ValueError(f"exponent must be an integer in [-120, 120], got {self.exponent!r}")
        if self.seed is not None:
            check_seed(self.seed)

    @classmethod
    def of(cls, vectors: Vectors, seed: int | None = None) -> "Origin":
        """The origin of (n, dim) floats: their mean, and the power of two that suits their distances from it."""
        vectors = as_vectors(vectors, nonempty=True)
        n, dim = vectors.shape
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        longest = max(float(row_norms(vectors[i : i + BLOCK] - mean).max()) for i in range(0, n, BLOCK))
        exponent = _LONGEST - math.frexp(longest / math.sqrt(dim))[1] if longest > 0 else 0
        return cls(mean, max(-120, min(120, exponent)), seed)

    @property
    def dim(self) -> int:
        return len(self.mean)

    def is_like(self, other: "Origin") -> bool:
        """Whether both turn vectors into the same rows."""
        return (self.exponent, self.seed) == (other.exponent, other.seed) and np.array_equal(self.mean, other.mean)

    def rows(self, vectors: Vectors) -> Vectors:
        """(n, dim) float32 in the axes of the codes."""
        return self._rotated((vectors - self.mean) * np.float32(2.0**self.exponent))

    def vectors(self, rows: Vectors) -> Vectors:
        """What `rows` turned into (n, dim) rows, up to rounding."""
        return self._rotated(rows.copy(), backwards=True) * self._unit + self.mean

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats as rows in these axes meet them, with their products with the mean."""
        values = as_vectors(queries, "queries", self.dim)
        return Queries(self.directions(values), (values.astype(np.float64) * self.mean).sum(axis=1))

    def directions(self, queries: Vectors) -> Vectors:
        """(m, dim) float32 as rows in these axes meet them."""
        return self._rotated(queries * self._unit)

    def _rotated(self, rows: Vectors, backwards: bool = False) -> Vectors:
        """`rows`, rotated in place if there is a rotation."""
        if self._rotor is not None:
            kernels.rotate(self._rotor, rows, backwards=backwards)
        return rows

    @cached_property
    def _unit(self) -> np.float32:
        return np.float32(2.0**-self.exponent)

    @cached_property
    def _rotor(self) -> kernels.Rotor | None:
        return None if self.seed is None else Rotation(self.seed).rotor(self.dim)


class AboutOrigin(ABC):
    """What quantizers have in common whose `fit` learns an `Origin`."""

    origin: Origin | None

    @abstractmethod
    def quantize(self, vectors: Vectors) -> Codes: ...

    @property
    def fitted(self) -> bool:
        return self.origin is not None

    def dequantize(self, codes: Codes) -> Vectors:
        """The vectors that scores are products with: (n, dim) float32."""
        origin = self._learnt()
        self._check(codes)
        return origin.vectors(blocks.decode(codes))

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats in the axes of the codes, and their products with the mean."""
        return self._learnt().prepare(queries)

    def directions(self, queries: Vectors) -> Vectors:
        """(m, dim) float32 in the axes of the codes: what `prepare` gives, without the products."""
        return self._learnt().directions(queries)

    def _check(self, codes: Codes) -> None:
        """Refuse codes that this quantizer cannot have made."""
        check_codes(codes, self.quantize(np.empty((0, self._learnt().dim), np.float32)))

    def _learnt(self) -> Origin:
        if self.origin is None:
            raise unfitted(type(self).__name__)
        return self.origin


def check_seed(seed: int) -> None:
    """Refuse what cannot seed a rotation."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        raise ValueError(f"seed must be an integer from 0 to 2 ** 63 - 1, got {seed!r}")
