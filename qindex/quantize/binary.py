"""Binary: the sign of each number, one bit."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qindex.formats import SIGN
from qindex.io import register
from qindex.quantize.rows import check_dim, decode_rows, encode_rows, unfitted
from qindex.types import Codes, Queries, Vectors, as_vectors


@register("Binary")
@dataclass(frozen=True, eq=False)
class Binary:
    """Signs: `v ~ mean + level * (+1 or -1)`, one bit a number; zero counts as positive.

    `fit` learns `level`, the mean distance from the mean (the least-squares choice), and with `center=True` the mean;
    without it the mean is zero. Queries stay floats: the score is that of the decoded vector.
    """

    center: bool = False
    level: float | None = None  # learnt
    mean: NDArray[np.float32] | None = field(default=None, repr=False)  # (dim,) learnt

    def __post_init__(self) -> None:
        if not isinstance(self.center, bool):
            raise TypeError(f"center must be True or False, got {self.center!r}")
        if (self.level is None) != (self.mean is None):
            raise ValueError("level and mean are learnt together: use fit")
        if self.level is not None and not (isinstance(self.level, float) and 0 <= self.level <= 1e18):
            raise ValueError(f"level must be a float in [0, 1e18], got {self.level!r}")
        if self.mean is not None and (
            self.mean.dtype != np.float32
            or self.mean.ndim != 1
            or len(self.mean) == 0
            or not np.isfinite(self.mean).all()
        ):
            raise ValueError(f"mean must be finite float32 (dim,), got {self.mean.dtype} {self.mean.shape}")

    @property
    def fitted(self) -> bool:
        return self.level is not None

    def fit(self, vectors: Vectors) -> "Binary":
        """A Binary with the level (and mean) of (n, dim) floats."""
        vectors = as_vectors(vectors, nonempty=True)
        mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        if not self.center:
            mean = np.zeros_like(mean)
        return Binary(self.center, float(np.abs(vectors - mean).mean(dtype=np.float64)), mean)

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of ceil(dim / 8) bytes."""
        _level, mean = self._learnt()
        return encode_rows(SIGN, as_vectors(vectors, dim=len(mean)), lambda block: (block - mean, None))

    def dequantize(self, codes: Codes) -> Vectors:
        """mean + level * sign: (n, dim) float32."""
        level, mean = self._learnt()
        return decode_rows(codes, SIGN, len(mean)) * np.float32(level) + mean

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats times the level, and their products with the mean."""
        level, mean = self._learnt()
        values = as_vectors(queries, "queries", len(mean))
        return Queries(values * np.float32(level), (values.astype(np.float64) * mean).sum(axis=1))

    def bytes_per_vector(self, dim: int) -> int:
        """ceil(dim / 8)."""
        check_dim("Binary", dim, None if self.mean is None else len(self.mean))
        return SIGN.row_bytes(dim)

    @classmethod
    def from_sentence_transformers(
        cls, embeddings: NDArray[np.int8] | NDArray[np.uint8], dim: int
    ) -> tuple["Binary", Codes]:
        """Take over what sentence-transformers' `quantize_embeddings(..., "binary" or "ubinary")` wrote.

        `embeddings` (n, ceil(dim / 8)): int8 ("binary", shifted by 128) or uint8 ("ubinary"), first dimension in the
        highest bit. Returns the quantizer, with a level that gives decoded vectors length 1, and the codes.
        """
        if embeddings.dtype not in (np.int8, np.uint8) or embeddings.ndim != 2:
            raise TypeError(f"embeddings must be int8 or uint8 (n, dim / 8), got {embeddings.dtype} {embeddings.shape}")
        check_dim("Binary", dim)
        if embeddings.shape[1] != SIGN.row_bytes(dim):
            raise ValueError(f"embeddings must be (n, {SIGN.row_bytes(dim)}) for dim {dim}, got {embeddings.shape}")
        packed: NDArray[np.uint8] = embeddings.view(np.uint8)
        if embeddings.dtype == np.int8:
            packed = packed ^ np.uint8(128)
        signs = np.unpackbits(packed, axis=1, count=dim, bitorder="big").astype(np.float32) - np.float32(0.5)
        quantizer = cls(level=float(dim**-0.5), mean=np.zeros(dim, np.float32))
        return quantizer, encode_rows(SIGN, signs, lambda block: (block, None))

    def _learnt(self) -> tuple[float, NDArray[np.float32]]:
        if self.level is None or self.mean is None:
            raise unfitted("Binary")
        return self.level, self.mean
