"""LloydMax: 1 to 4 bits a number on the levels that suit rotated vectors best."""

import functools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FORMATS, SIGN, Format, places
from qindex.io import register
from qindex.quantize.factored import encode_factored
from qindex.quantize.gaussian import lloyd_max
from qindex.quantize.origin import AboutOrigin, Origin, check_seed
from qindex.quantize.rabitq import signs
from qindex.quantize.rows import check_dim, row_dots
from qindex.types import Codes, Vectors, as_vectors


@register("LloydMax")
@dataclass(frozen=True, eq=False)
class LloydMax(AboutOrigin):
    """Rotated residuals on the best levels of a normal number, `v ~ mean + factor * rotation^-1(level)` (EDEN).

    The levels (Lloyd and Max) are stored as int8 in one table of 2 ** bits bytes that all codes share; rounding them
    adds 0.1 to 0.5 % to the squared error. `scale` chooses the factor of a row, which is stored in float16:
    "unbiased" makes scores right in the mean over all rotations, "least-error" brings decoded vectors nearest to the
    true ones, and shortens them. `fit` learns the mean. ceil(dim * bits / 8) + 2 bytes (3 bits lie in two planes, each
    filled up to a byte).
    """

    bits: int = 4
    seed: int = 0
    scale: Literal["unbiased", "least-error"] = "unbiased"
    origin: Origin | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 4:
            raise ValueError(f"bits must be an integer from 1 to 4, got {self.bits!r}; for more, use RaBitQ")
        check_seed(self.seed)
        if self.scale not in ("unbiased", "least-error"):
            raise ValueError(f'scale must be "unbiased" or "least-error", got {self.scale!r}')
        if self.origin is not None and (not isinstance(self.origin, Origin) or self.origin.seed != self.seed):
            raise ValueError(f"origin must be learnt by fit with seed {self.seed}, got {self.origin!r}")

    @property
    def unbiased(self) -> bool:
        """Whether scores are estimates of products with the vectors, not products with decoded ones."""
        return self.scale == "unbiased"

    def fit(self, vectors: Vectors) -> "LloydMax":
        """A LloydMax about the mean of (n, dim) floats."""
        return LloydMax(self.bits, self.seed, self.scale, Origin.of(vectors, self.seed))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes with a float16 factor each.

        Raises ValueError for a vector more than about 100 times as far from the mean as any that `fit` has seen.
        """
        origin = self._learnt()
        return encode_factored(
            origin,
            self._format,
            as_vectors(vectors, dim=origin.dim),
            self._choose,
            unbiased=self.scale == "unbiased",
            tables=None if self.bits == 1 else table(self.bits)[None],
        )

    def bytes_per_vector(self, dim: int) -> int:
        """The packed codes and 2 bytes for the factor; the table is one for all vectors."""
        check_dim("LloydMax", dim, None if self.origin is None else self.origin.dim)
        return self._format.row_bytes(dim) + 2

    @property
    def _format(self) -> Format:
        return SIGN if self.bits == 1 else FORMATS[f"table{self.bits}"]

    def _choose(self, rows: Vectors) -> tuple[NDArray[np.uint8], Vectors]:
        if self.bits == 1:
            levels = signs(rows)
            return SIGN.encode(levels), levels
        stored = table(self.bits).astype(np.float32)
        spread = np.sqrt(row_dots(rows, rows) / rows.shape[1])
        in_table = rows * (_unit(self.bits) / np.where(spread > 0, spread, 1)).astype(np.float32)[:, None]
        codes = places(in_table, stored)
        return self._format.pack(codes), stored[codes]


def _unit(bits: int) -> float:
    """What a level is multiplied with, so that the largest becomes 127."""
    return float(127 / lloyd_max(bits)[-1])


@functools.cache
def table(bits: int) -> NDArray[np.int8]:
    """The levels as stored: (2 ** bits,), ascending."""
    return np.rint(lloyd_max(bits) * _unit(bits)).astype(np.int8)
