"""Int8: one byte a number, on a grid chosen for each vector or for each dimension."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qindex.formats import INT8
from qindex.io import register
from qindex.quantize.rows import check_dim, decode_rows, encode_rows, unfitted
from qindex.types import Codes, Queries, Vectors, as_vectors


@register("Int8")
@dataclass(frozen=True, eq=False)
class Int8:
    """8-bit integers.

    - `scale="vector"` (default): symmetric, `v ~ scale[j] * code` with `scale[j] = max|v_j| / 127` stored as float32
      beside the codes. Nothing is learnt; dim + 4 bytes a vector.
    - `scale="dim"`: affine, `v[d] ~ lower[d] + step[d] * (code + 128)` over the range seen by `fit`; dim bytes a
      vector. Numbers beyond the range are clipped to it; a constant dimension has step 0 and is kept exactly.
    """

    scale: Literal["vector", "dim"] = "vector"
    lower: NDArray[np.float32] | None = field(default=None, repr=False)  # (dim,) learnt with scale="dim"
    step: NDArray[np.float32] | None = field(default=None, repr=False)  # (dim,) learnt with scale="dim"

    def __post_init__(self) -> None:
        if self.scale not in ("vector", "dim"):
            raise ValueError(f'scale must be "vector" or "dim", got {self.scale!r}')
        if (self.lower is None) != (self.step is None) or (self.scale == "vector" and self.lower is not None):
            raise ValueError('lower and step go together, and only with scale="dim"')
        for name, learnt in (("lower", self.lower), ("step", self.step)):
            if learnt is not None and (
                learnt.dtype != np.float32 or learnt.ndim != 1 or len(learnt) == 0 or not np.isfinite(learnt).all()
            ):
                raise ValueError(f"{name} must be finite float32 (dim,), got {learnt.dtype} {learnt.shape}")
        if (
            self.lower is not None
            and self.step is not None
            and (self.lower.shape != self.step.shape or (self.step < 0).any())
        ):
            raise ValueError(f"step must be {self.lower.shape} without negative numbers, got {self.step.shape}")

    @property
    def fitted(self) -> bool:
        return self.scale == "vector" or self.lower is not None

    def fit(self, vectors: Vectors) -> "Int8":
        """With scale="dim", an Int8 for the range of each dimension of (n, dim) floats; else this one."""
        vectors = as_vectors(vectors, nonempty=True)
        if self.scale == "vector":
            return self
        lower, upper = vectors.min(axis=0), vectors.max(axis=0)
        return Int8("dim", lower, ((upper.astype(np.float64) - lower) / 255).astype(np.float32))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of dim bytes, and a float32 scale each with scale="vector"."""
        if self.scale == "vector":
            return encode_rows(INT8, as_vectors(vectors), _symmetric)
        lower, step = self._learnt()
        divisor = np.where(step > 0, step, np.float32(1))
        return encode_rows(
            INT8,
            as_vectors(vectors, dim=len(lower)),
            lambda block: (np.where(step > 0, (block - lower) / divisor - 128, np.float32(0)), None),
        )

    def dequantize(self, codes: Codes) -> Vectors:
        """The rounded vectors: (n, dim) float32."""
        if self.scale == "vector":
            return decode_rows(codes, INT8, scaled=True)
        lower, step = self._learnt()
        return decode_rows(codes, INT8, len(lower)) * step + (lower + 128 * step)

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats; with scale="dim" times the steps, and with the part of the score that no code changes."""
        if self.scale == "vector":
            values = as_vectors(queries, "queries")
            return Queries(values, np.zeros(len(values)))
        lower, step = self._learnt()
        values = as_vectors(queries, "queries", len(lower))
        return Queries(values * step, (values.astype(np.float64) * (lower + 128 * step)).sum(axis=1))

    def bytes_per_vector(self, dim: int) -> int:
        """dim + 4 with scale="vector", else dim."""
        check_dim("Int8", dim, None if self.lower is None else len(self.lower))
        return dim + (4 if self.scale == "vector" else 0)

    @classmethod
    def from_sentence_transformers(
        cls, embeddings: NDArray[np.int8] | NDArray[np.uint8], ranges: NDArray[np.float32]
    ) -> tuple["Int8", Codes]:
        """Take over what sentence-transformers' `quantize_embeddings(..., "int8" or "uint8", ranges)` wrote.

        `embeddings` (n, dim) int8 or uint8; `ranges` (2, dim), the minima and maxima they were made with. Returns the
        quantizer and the codes. That library cuts down to the step below, so a code stands for the middle of its step.
        """
        if embeddings.dtype not in (np.int8, np.uint8) or embeddings.ndim != 2:
            raise TypeError(f"embeddings must be int8 or uint8 (n, dim), got {embeddings.dtype} {embeddings.shape}")
        dim = embeddings.shape[1]
        if np.shape(ranges) != (2, dim):
            raise ValueError(f"ranges must be (2, {dim}): minima and maxima; got {np.shape(ranges)}")
        lower, upper = as_vectors(ranges, "ranges")
        if (upper < lower).any():
            raise ValueError("ranges must hold the minima first, then the maxima")
        step = (upper - lower) / np.float32(255)
        signed = embeddings if embeddings.dtype == np.int8 else (embeddings ^ np.uint8(128)).view(np.int8)
        quantizer = cls("dim", lower + step / 2, step)
        return quantizer, encode_rows(INT8, signed.astype(np.float32), lambda block: (block, None))

    def _learnt(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.lower is None or self.step is None:
            raise unfitted('Int8(scale="dim")')
        return self.lower, self.step


def _symmetric(block: Vectors) -> tuple[Vectors, NDArray[np.float32]]:
    scale = np.abs(block).max(axis=1) / np.float32(127)
    # A row of zeros, or of numbers too small for a normal float32 scale, is stored as zeros.
    scale[scale < np.finfo(np.float32).tiny] = 0
    return block / np.where(scale > 0, scale, np.float32(1))[:, None] * (scale > 0)[:, None], scale
