"""What a metric makes of quantized rows and of queries, before they meet in an inner product."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from qindex.quantize import Chain, Float16, Float32, Int8
from qindex.quantize.origin import AboutOrigin
from qindex.types import Codes, Quantizer, Queries, Vectors, row_norms

Metric = Literal["ip", "cosine", "l2"]

_AT_ONCE = 4096  # rows: float64 of more would take room


@dataclass(frozen=True)
class Coder:
    """One fitted quantizer under one metric: what rows and queries become before they meet.

    "cosine" normalises both sides (a vector of zeros stays zero). "l2" turns the negative squared distance into an
    inner product: -|q - v|^2 = (-|q|^2) + (-|v|^2) + <2q, v>, with v as decoded; or as it was, where products are
    unbiased estimates of those with the vectors, because decoded vectors are then too long.
    """

    quantizer: Quantizer
    metric: Metric

    def encode(self, vectors: Vectors) -> Codes:
        """Codes of (n, dim) floats."""
        codes = self.quantizer.quantize(normalised(vectors) if self.metric == "cosine" else vectors)
        if self.metric == "l2" and unbiased(self.quantizer):
            return dataclasses.replace(codes, offset=-(row_norms(vectors) ** 2).astype(np.float32))
        return self.with_lengths(codes)

    def with_lengths(self, codes: Codes) -> Codes:
        """The codes with what "l2" adds to the scores of decoded rows."""
        if self.metric != "l2":
            return codes
        offset = np.empty(len(codes), np.float32)
        for start in range(0, len(codes), _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            offset[block] = -(row_norms(self.quantizer.dequantize(codes[block])) ** 2)
        return dataclasses.replace(codes, offset=offset)

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats."""
        if self.metric == "cosine":
            return self.quantizer.prepare(normalised(queries))
        prepared = self.quantizer.prepare(queries)
        if self.metric == "ip":
            return prepared
        return Queries(2 * prepared.values, 2 * prepared.offset - row_norms(queries) ** 2)

    def directions(self, queries: Vectors) -> Vectors:
        """The values of `prepare`, without the work on offsets: enough to put rows in order."""
        if self.plain:
            return queries
        if self.metric == "ip" and isinstance(self.quantizer, AboutOrigin):
            return self.quantizer.directions(queries)
        return self.prepare(queries).values

    @cached_property
    def plain(self) -> bool:
        """Whether `prepare` leaves (m, dim) float32 as they are, with offsets of 0."""
        quantizer = self.quantizer
        of_vectors = isinstance(quantizer, Int8) and quantizer.scale == "vector"
        return self.metric == "ip" and (of_vectors or isinstance(quantizer, Float16 | Float32))


def unbiased(quantizer: Quantizer) -> bool:
    """Whether scores are unbiased estimates of products with the vectors, rather than products with decoded ones."""
    return bool(getattr(quantizer, "unbiased", False))


def check_metric(quantizer: Quantizer | None, metric: str) -> None:
    """Refuse a metric that there is not, or that a quantizer cannot have."""
    if metric not in get_args(Metric):
        raise ValueError(f'metric must be "ip", "cosine" or "l2", got {metric!r}')
    if metric == "l2" and isinstance(quantizer, Chain) and quantizer.queries == "same":
        raise ValueError(
            f'metric "l2" needs a Chain whose transforms have queries="inverse", got {quantizer!r}; for distances '
            "between transformed vectors, apply the fitted transforms to documents and queries yourself"
        )


def decoded_dim(quantizer: Quantizer, codes: Codes) -> int:
    """Numbers of a decoded vector. ValueError for codes of a format or dim that are not the quantizer's."""
    decoded = quantizer.dequantize(codes[:0])
    return int(decoded.shape[1])


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays as it is."""
    units = np.empty_like(vectors, np.float32)
    for start in range(0, len(vectors), _AT_ONCE):
        part = vectors[start : start + _AT_ONCE]
        norms = row_norms(part)
        units[start : start + _AT_ONCE] = part / np.where(norms > 0, norms, 1)[:, None]  # in float64
    return units
