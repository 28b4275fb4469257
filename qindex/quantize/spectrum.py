"""What Spectral learns: the principal axes of rows, turned at random where bits are equal, and the bits of each."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FORMATS, SIGN, Format
from qindex.io import register
from qindex.quantize import shaping
from qindex.quantize.allocate import water_fill
from qindex.quantize.gaussian import uniform_error, uniform_step
from qindex.quantize.origin import Origin
from qindex.transform import Rotation
from qindex.transform.affine import along_axes
from qindex.transform.pca import principal_axes
from qindex.types import Vectors, as_vectors, row_norms

# An error along an axis weighs as this power of its variance: 1 if queries were like rows drawn at random, 0 for plain
# errors. Of 0, 0.25, 0.5, 0.75 and 1 it leaves the most recall@10, or within the error of the most, at 34 to 290 bytes
# for MiniLM and for static embeddings; a quarter less or more costs up to 0.6 points.
_WEIGHT = 0.5

# Rows at once, in float64.
_ROWS = 4096


@register("Spectrum")
@dataclass(frozen=True, eq=False)
class Spectrum:
    """Axes along which rows about the origin are coded, those of most bits first.

    `spread` is what a number along an axis is about: the root of its mean square, in rows whose numbers have a mean
    square of 1.
    """

    origin: Origin
    axes: NDArray[np.float32]  # (kept, dim), orthonormal
    bits: NDArray[np.uint8]  # (kept,), from 8 to 1, descending
    spread: NDArray[np.float32]  # (kept,)
    # Where every axis has 8 bits, the first can get no more of them: their errors are moved to the others (`shaping`).
    feedback: NDArray[np.float32] | None = None  # (kept, kept)
    # By which rows are decoded and queries mapped, if training has found others than the axes (`quantize.learning`).
    decoder: NDArray[np.float32] | None = None  # (kept, dim)

    def __post_init__(self) -> None:
        if not isinstance(self.origin, Origin) or self.origin.seed is not None:
            raise ValueError(f"origin must be an Origin without a seed, got {self.origin!r}")
        kept, dim = len(self.bits), self.origin.dim
        if (self.feedback is not None) != (kept > 0 and self.bits.min() == 8):
            raise ValueError("feedback must be given where all axes have 8 bits, and only there")
        arrays: list[tuple[str, NDArray[Any], Any, tuple[int, ...]]] = [
            ("axes", self.axes, np.float32, (kept, dim)),
            ("bits", self.bits, np.uint8, (kept,)),
            ("spread", self.spread, np.float32, (kept,)),
        ]
        if self.feedback is not None:
            arrays.append(("feedback", self.feedback, np.float32, (kept, kept)))
        if self.decoder is not None:
            arrays.append(("decoder", self.decoder, np.float32, (kept, dim)))
        for name, array, dtype, shape in arrays:
            if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
        if not 1 <= kept <= dim or self.bits.max() > 8 or self.bits.min() < 1 or np.any(self.bits[1:] > self.bits[:-1]):
            raise ValueError(f"bits must be from 8 to 1, descending, for 1 to {dim} axes, got {self.bits}")
        if self.spread.min() < 0:
            raise ValueError(f"spread must not be negative, got {self.spread.min()}")

    @classmethod
    def of(cls, vectors: Vectors, budget: int, seed: int) -> "Spectrum":
        """The spectrum of (n, dim) floats, for codes of `budget` bytes a row."""
        vectors = as_vectors(vectors, nonempty=True)
        origin = Origin.of(vectors)
        _, axes, variances = principal_axes(vectors)
        relative = variances / variances[0] if variances[0] > 0 else variances
        bits = water_fill(relative ** (1 + _WEIGHT), budget).astype(np.uint8)
        kept = int(np.count_nonzero(bits))
        bits = bits[:kept]
        rotation = Rotation(seed, tuple(count for _, count in _runs(bits)))
        turned = np.ascontiguousarray(rotation.apply(np.ascontiguousarray(axes[:kept].T)).T)
        fed = np.zeros((kept, kept), np.float32) if bits.min() == 8 else None
        unmeasured = cls(origin, turned, bits, np.ones(kept, np.float32), fed)
        squares, rows = np.zeros(kept), 0
        for start in range(0, len(vectors), _ROWS):
            directions, sizes = unmeasured.directions(vectors[start : start + _ROWS])
            squares += np.square(directions, dtype=np.float64).sum(axis=0)
            rows += int(np.count_nonzero(sizes))
        measured = dataclasses.replace(unmeasured, spread=np.sqrt(squares / max(rows, 1)).astype(np.float32))
        if fed is None:
            return measured
        # Queries are like rows: an error weighs as the variance in its direction. In steps, as numbers are rounded.
        scaled = measured.steps[:, None] * (turned.astype(np.float64) @ axes.T)
        return dataclasses.replace(measured, feedback=shaping.feedback((scaled * relative) @ scaled.T))

    @property
    def dim(self) -> int:
        return self.origin.dim

    @cached_property
    def _exact_axes(self) -> NDArray[np.float64]:
        return self.axes.astype(np.float64)

    @cached_property
    def _exact_decoder(self) -> NDArray[np.float64]:
        return self._exact_axes if self.decoder is None else self.decoder.astype(np.float64)

    @property
    def parts(self) -> list[tuple[Format, int]]:
        """The format of each part of a row, and how many axes it holds."""
        return [(_format(bits), count) for bits, count in _runs(self.bits)]

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row."""
        return sum(format.row_bytes(count) for format, count in self.parts)

    @property
    def steps(self) -> NDArray[np.float32]:
        """Between neighbouring levels of each axis (kept,): those of the least error. Of signs, their distance."""
        return self.spread * np.array([0.0, *map(uniform_step, range(1, 9))], np.float32)[self.bits]

    @property
    def units(self) -> NDArray[np.float32]:
        """What levels are multiplied with when they are decoded (kept,), before the factor of a row.

        Levels of the least error are closer to zero than what they stand for, the more so the fewer bits. Axes of
        unequal bits only go together when that is made up for: decoded, each is spread as its numbers are.
        """
        shrunk = np.sqrt([1.0, *(1 - uniform_error(bits) for bits in range(1, 9))])
        halves = np.where(self.bits == 1, 0.5, 1.0)  # the levels of signs are -1 and 1
        return (self.steps * halves / shrunk[self.bits]).astype(np.float32)

    def directions(self, vectors: Vectors) -> tuple[Vectors, NDArray[np.float64]]:
        """(n, dim) float32 -> rows brought to a mean square of 1, along the axes (n, kept); its root before (n,)."""
        rows = self.origin.rows(vectors)
        sizes = row_norms(rows) / np.sqrt(self.dim)
        # In float64: rounding to float32 then hides in what order a batch of rows was added up.
        along = along_axes(rows.astype(np.float64), self._exact_axes) / np.where(sizes > 0, sizes, 1)[:, None]
        return along.astype(np.float32), sizes

    def vectors(self, decoded: Vectors) -> Vectors:
        """What lies at these numbers along the axes: (n, kept) -> (n, dim)."""
        return self.origin.vectors((decoded.astype(np.float64) @ self._exact_decoder).astype(np.float32))

    def along(self, queries: Vectors) -> Vectors:
        """(m, dim) floats as levels along the axes meet them: (m, kept)."""
        units = self.units * 2.0**-self.origin.exponent
        return (along_axes(queries.astype(np.float64), self._exact_decoder) * units).astype(np.float32)


def _format(bits: int) -> Format:
    if bits == 1:
        return SIGN
    return FORMATS[f"{'half' if bits <= 4 else 'int'}{bits}"]


def _runs(bits: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Descending bits as pairs of bits and how many axes have them."""
    return [(width, count) for width in range(8, 0, -1) if (count := int(np.count_nonzero(bits == width)))]
