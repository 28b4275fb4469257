"""Float8: one byte a number in a small float format, under one power-of-two scale."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qindex.formats import FORMATS, Format
from qindex.io import register
from qindex.quantize.rows import check_dim, decode_rows, encode_rows, unfitted
from qindex.types import Codes, Queries, Vectors, as_vectors


@register("Float8")
@dataclass(frozen=True)
class Float8:
    """8-bit floats. `e4m3` (finite, as in torch's float8_e4m3fn), `e5m2` or `e3m4` (IEEE-like): 1 byte a number.

    `fit` learns one power of two that brings the largest number seen just under the format's largest, so that few
    numbers fall among the format's subnormals (a plain cast of unit vectors to e3m4 loses most of them). A number
    beyond the range seen saturates.
    """

    format: Literal["e4m3", "e5m2", "e3m4"] = "e4m3"
    exponent: int | None = None  # learnt: a code stands for level * 2 ** -exponent

    def __post_init__(self) -> None:
        if self.format not in ("e4m3", "e5m2", "e3m4"):
            raise ValueError(f'format must be "e4m3", "e5m2" or "e3m4", got {self.format!r}')
        if self.exponent is not None and not (isinstance(self.exponent, int) and -120 <= self.exponent <= 120):
            raise ValueError(f"exponent must be None or an integer in [-120, 120], got {self.exponent!r}")

    @property
    def fitted(self) -> bool:
        return self.exponent is not None

    def fit(self, vectors: Vectors) -> "Float8":
        """A Float8 with the power of two that suits these vectors, (n, dim) floats."""
        largest = float(np.abs(as_vectors(vectors, nonempty=True)).max())
        ratio = self._format.max_value / largest if largest > 0 else 1.0
        return Float8(self.format, max(-120, min(120, math.floor(math.log2(ratio)))))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of dim bytes, rounded to nearest, ties to even."""
        factor = np.float32(2.0 ** self._exponent())
        return encode_rows(self._format, as_vectors(vectors), lambda block: (block * factor, None))

    def dequantize(self, codes: Codes) -> Vectors:
        """The rounded vectors: (n, dim) float32."""
        return decode_rows(codes, self._format) * np.float32(2.0 ** -self._exponent())

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats, with the scale of the codes taken over to their side (exactly: it is a power of two)."""
        values = as_vectors(queries, "queries") * np.float32(2.0 ** -self._exponent())
        return Queries(values, np.zeros(len(values)))

    def bytes_per_vector(self, dim: int) -> int:
        """dim: the scale is one for all vectors."""
        check_dim("Float8", dim)
        return self._format.row_bytes(dim)

    @property
    def _format(self) -> Format:
        return FORMATS[self.format]

    def _exponent(self) -> int:
        if self.exponent is None:
            raise unfitted("Float8")
        return self.exponent
