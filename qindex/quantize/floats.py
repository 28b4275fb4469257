"""Float32 and Float16: vectors as they are, or rounded to half the bytes."""

from dataclasses import dataclass

import numpy as np

from qindex.formats import FLOAT16, FLOAT32
from qindex.io import register
from qindex.quantize.rows import check_dim, decode_rows, encode_rows
from qindex.types import Codes, Queries, Vectors, as_vectors


@register("Float32")
@dataclass(frozen=True)
class Float32:
    """No quantization: 4 bytes a number. The baseline of every comparison."""

    fitted = True

    def fit(self, vectors: Vectors) -> "Float32":
        """Check the vectors; there is nothing to learn."""
        as_vectors(vectors, nonempty=True)
        return self

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of 4 * dim bytes."""
        return encode_rows(FLOAT32, as_vectors(vectors), lambda block: (block, None))

    def dequantize(self, codes: Codes) -> Vectors:
        """The vectors, unchanged: (n, dim) float32."""
        return decode_rows(codes, FLOAT32)

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats, unchanged."""
        values = as_vectors(queries, "queries")
        return Queries(values, np.zeros(len(values)))

    def bytes_per_vector(self, dim: int) -> int:
        """4 * dim."""
        check_dim("Float32", dim)
        return FLOAT32.row_bytes(dim)


@register("Float16")
@dataclass(frozen=True)
class Float16:
    """IEEE half precision: 2 bytes a number, for numbers up to 65,504."""

    fitted = True

    def fit(self, vectors: Vectors) -> "Float16":
        """Check the vectors; there is nothing to learn."""
        _check_range(as_vectors(vectors, nonempty=True))
        return self

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of 2 * dim bytes. ValueError for a number that float16 cannot hold."""
        return encode_rows(FLOAT16, _check_range(as_vectors(vectors)), lambda block: (block, None))

    def dequantize(self, codes: Codes) -> Vectors:
        """The rounded vectors: (n, dim) float32."""
        return decode_rows(codes, FLOAT16)

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats, unchanged: only the stored side is rounded."""
        values = as_vectors(queries, "queries")
        return Queries(values, np.zeros(len(values)))

    def bytes_per_vector(self, dim: int) -> int:
        """2 * dim."""
        check_dim("Float16", dim)
        return FLOAT16.row_bytes(dim)


def _check_range(vectors: Vectors) -> Vectors:
    largest = float(np.abs(vectors).max(initial=0))
    if largest > FLOAT16.max_value:
        raise ValueError(
            f"vectors must hold numbers up to {FLOAT16.max_value:.0f} for Float16, got {largest:.6g}; "
            "normalise them or use Float32"
        )
    return vectors
