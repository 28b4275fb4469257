"""Microscaling: floats or integers of 4 to 8 bits, each block of 16 or 32 numbers under a scale of one byte."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qindex.io import register
from qindex.quantize import blocks
from qindex.quantize.blocks import SCHEMES, Scheme
from qindex.quantize.origin import check_seed
from qindex.quantize.rows import BLOCK, check_codes, check_dim, unfitted
from qindex.transform import Rotation
from qindex.types import Codes, Queries, Vectors, as_vectors

MicroscalingFormat = Literal["mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nvint4"]
_FORMATS = ("mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nvint4")


@register("Microscaling")
@dataclass(frozen=True)
class Microscaling:
    """The block formats of accelerators. One byte of scale for each block, the last of which may be cut short.

    - `mxint8`, `mxint6`, `mxint4`, `mxfp8`, `mxfp6`, `mxfp4`: blocks of 32 under a power of two. Nothing is learnt.
    - `nvfp4`, `nvint4`: blocks of 16 under an e4m3 scale, relative to one float32 scale for all vectors, which `fit`
      learns. A block with larger numbers than any that was seen saturates.

    With `rotate=True`, vectors and queries are rotated at random first (by `seed`), so that no number stands out of its
    block.
    """

    format: MicroscalingFormat = "mxint8"
    rotate: bool = False
    seed: int = 0
    matrix_scale: float | None = None  # learnt: nvfp4, nvint4

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ValueError(f"format must be one of {', '.join(_FORMATS)}, got {self.format!r}")
        if not isinstance(self.rotate, bool):
            raise TypeError(f"rotate must be True or False, got {self.rotate!r}")
        check_seed(self.seed)
        if self.seed and not self.rotate:
            raise ValueError(f"seed changes nothing without rotate=True, got {self.seed}")
        if self.matrix_scale is not None and (
            not self._learns or not isinstance(self.matrix_scale, float) or not 0 <= self.matrix_scale <= 1e18
        ):
            raise ValueError(
                f"matrix_scale must be a float in [0, 1e18], and None but for nvfp4 and nvint4, got "
                f"{self.matrix_scale!r} for {self.format}"
            )

    @property
    def fitted(self) -> bool:
        return not self._learns or self.matrix_scale is not None

    def fit(self, vectors: Vectors) -> "Microscaling":
        """With nvfp4 and nvint4, a Microscaling with the scale that (n, dim) floats share; else this one."""
        vectors = as_vectors(vectors, nonempty=True)
        if not self._learns:
            return self
        largest = max(float(np.abs(self._rotated(vectors[i : i + BLOCK])).max()) for i in range(0, len(vectors), BLOCK))
        scale = blocks.matrix_scale(largest or 1.0, self._scheme)
        return Microscaling(self.format, self.rotate, self.seed, scale)

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes with their block scales."""
        if not self.fitted:
            raise unfitted(f"Microscaling({self.format!r})")
        return blocks.encode(self._rotated(as_vectors(vectors)), self._scheme, self.matrix_scale)

    def dequantize(self, codes: Codes) -> Vectors:
        """The rounded vectors: (n, dim) float32."""
        check_codes(codes, self.quantize(np.empty((0, codes.dim), np.float32)))
        rows = blocks.decode(codes)
        return Rotation(self.seed).undo(rows) if self.rotate else rows

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats, rotated as the vectors are."""
        if not self.fitted:
            raise unfitted(f"Microscaling({self.format!r})")
        values = self._rotated(as_vectors(queries, "queries"))
        return Queries(values, np.zeros(len(values)))

    def bytes_per_vector(self, dim: int) -> int:
        """The packed codes and a byte for each block; the scale of nvfp4 and nvint4 is one for all vectors."""
        check_dim("Microscaling", dim)
        return self._scheme.format.row_bytes(dim) + -(-dim // self._scheme.block)

    @property
    def _scheme(self) -> Scheme:
        return SCHEMES[self.format]

    @property
    def _learns(self) -> bool:
        return self._scheme.outer == "matrix"

    def _rotated(self, vectors: Vectors) -> Vectors:
        return Rotation(self.seed).apply(vectors) if self.rotate else vectors
