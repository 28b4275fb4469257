"""Spectral: any number of bytes, with the bits where the vectors vary most."""

from dataclasses import dataclass, field

import numpy as np

from qindex.formats import FLOAT16, FLOAT32, INT8, SIGN, Format
from qindex.io import register
from qindex.memory import empty
from qindex.quantize import shaping
from qindex.quantize.factored import AT_ONCE, check_factors, whole_row
from qindex.quantize.origin import check_seed
from qindex.quantize.rabitq import round_to_grid, signs
from qindex.quantize.rows import ROUNDED_UP, check_codes, check_dim, row_dots, unfitted
from qindex.quantize.spectrum import Spectrum
from qindex.types import BlockValues, Codes, Part, Queries, Vectors, as_vectors, row_norms

LEAST_BYTES = 16

# Sizes of the steps that are tried for each row, where levels are so fine that what lies beyond the last one decides.
TRIED = np.exp(np.arange(-5, 2) * 0.08).astype(np.float32)
FINE = 6  # bits


@register("Spectral")
@dataclass(frozen=True, eq=False)
class Spectral:
    """Transform coding in `bytes` a vector: `v ~ mean + factor * axes^T (unit * level)`, and no training.

    `fit` finds the principal axes, gives each a width of 0 to 8 bits by its variance (reverse water-filling), and turns
    axes of equal bits at random among each other. A row lies on uniform grids, one part a width, with a float16 factor
    that keeps the row's distance from the mean. 16 bytes or more, up to dim + 2, where all axes have 8 bits; or
    dim + 4, for a factor in float32, whose rounding is felt beside theirs.
    """

    bytes: int = 98
    seed: int = 0
    spectrum: Spectrum | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if not isinstance(self.bytes, int) or isinstance(self.bytes, bool) or self.bytes < LEAST_BYTES:
            raise ValueError(f"bytes must be an integer of at least {LEAST_BYTES}, got {self.bytes!r}")
        check_seed(self.seed)
        if self.spectrum is not None and (
            not isinstance(self.spectrum, Spectrum)
            or self.spectrum.row_bytes != self.bytes - _factor_bytes(self.bytes, self.spectrum.dim)
        ):
            raise ValueError(f"spectrum must be learnt by fit for {self.bytes} bytes, got {self.spectrum!r}")

    def fit(self, vectors: Vectors) -> "Spectral":
        """A Spectral with the mean and the axes of (n, dim) floats. Any number of rows will do, more tell more.

        Raises ValueError where all axes together cannot take so many bytes.
        """
        vectors = as_vectors(vectors, nonempty=True)
        dim = vectors.shape[1]
        for_axes = self.bytes_per_vector(dim) - _factor_bytes(self.bytes, dim)
        return Spectral(self.bytes, self.seed, Spectrum.of(vectors, for_axes, self.seed))

    @property
    def fitted(self) -> bool:
        return self.spectrum is not None

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes with a factor each.

        Raises ValueError for a vector more than about 100 times as far from the mean as any that `fit` has seen.
        """
        spectrum = self.learnt
        vectors = as_vectors(vectors, dim=spectrum.dim)
        n, kept = len(vectors), len(spectrum.bits)
        parts = [Part(empty((n, format.row_bytes(count)), np.uint8), format, count) for format, count in spectrum.parts]
        factor = _factor_format(self.bytes, spectrum.dim)
        factors = np.empty((n, 1), factor.name)
        max_norm = 0.0
        for start in range(0, n, AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, n))
            with np.errstate(over="ignore", invalid="ignore"):  # rows that lie too far out are refused below
                directions, sizes = spectrum.directions(vectors[rows])
                levels = _levels(spectrum, directions)
                decoded = row_norms(levels * spectrum.units) / np.sqrt(spectrum.dim)
                wanted = np.divide(sizes, decoded, out=np.zeros_like(sizes), where=decoded > 0)
            check_factors(wanted, vectors, spectrum.origin, start)
            factors[rows, 0] = wanted
            for part, numbers in zip(parts, _in_parts(levels, spectrum), strict=True):
                part.data[rows] = part.format.encode(numbers)
            norms = factors[rows, 0] * row_norms(levels)
            max_norm = max(max_norm, float(norms.max()))
        scales = (BlockValues(factors, factor, whole_row(kept)),)
        first, *more = parts
        return Codes(first.data, first.format, kept, max_norm * ROUNDED_UP, scales=scales, more=tuple(more))

    def dequantize(self, codes: Codes) -> Vectors:
        """The vectors that scores are products with: (n, dim) float32."""
        spectrum = self.learnt
        check_codes(codes, self.quantize(np.empty((0, spectrum.dim), np.float32)))
        result = np.empty((len(codes), spectrum.dim), np.float32)
        for start in range(0, len(codes), AT_ONCE):
            part = codes[start : start + AT_ONCE]
            result[start : start + AT_ONCE] = spectrum.vectors(part.levels * part.scales[0].values * spectrum.units)
        return result

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats as the levels meet them, and their products with the mean."""
        spectrum = self.learnt
        queries = as_vectors(queries, "queries", spectrum.dim)
        return Queries(spectrum.along(queries), (queries.astype(np.float64) * spectrum.origin.mean).sum(axis=1))

    def bytes_per_vector(self, dim: int) -> int:
        """`bytes`, of which 2 are for the factor, or 4 of `dim + 4`."""
        check_dim("Spectral", dim, None if self.spectrum is None else self.spectrum.dim)
        if self.bytes > dim + 2 and self.bytes != dim + 4:
            raise ValueError(
                f"bytes must be at most {dim + 2} for vectors of dim {dim} (8 bits for each of {dim} axes, and 2 bytes "
                f"for the factor) or {dim + 4} (4 bytes for the factor), got {self.bytes}"
            )
        return self.bytes

    @property
    def learnt(self) -> Spectrum:
        """What `fit` has found; ValueError before it."""
        if self.spectrum is None:
            raise unfitted("Spectral")
        return self.spectrum


def _factor_format(bytes: int, dim: int) -> Format:
    return FLOAT32 if bytes == dim + 4 else FLOAT16


def _factor_bytes(bytes: int, dim: int) -> int:
    return _factor_format(bytes, dim).bits // 8


def _levels(spectrum: Spectrum, directions: Vectors) -> Vectors:
    """Levels near directions: the nearest or, where they are fine, those of the step that brings them nearest."""
    steps, units = spectrum.steps, spectrum.units
    in_steps = np.divide(directions, steps, out=np.zeros_like(directions), where=steps > 0)
    if spectrum.bits[0] < FINE:
        return _nearest(spectrum, in_steps)
    best, best_cosine = np.ones((len(directions), 1), np.float32), np.full(len(directions), -np.inf)
    for size in TRIED:
        decoded = _nearest(spectrum, in_steps / size) * units
        squares = row_dots(decoded, decoded)
        cosine = row_dots(directions, decoded) / np.sqrt(np.where(squares > 0, squares, 1))
        best[cosine > best_cosine] = size
        best_cosine = np.maximum(cosine, best_cosine)
    in_steps /= best
    if spectrum.feedback is None:
        return _nearest(spectrum, in_steps)
    return shaping.rounded(in_steps, spectrum.feedback, INT8.levels.min(), INT8.levels.max())


def _nearest(spectrum: Spectrum, in_steps: Vectors) -> Vectors:
    levels = in_steps.copy()
    for (format, _), numbers in zip(spectrum.parts, _in_parts(levels, spectrum), strict=True):
        if format == SIGN:
            numbers[...] = signs(numbers)
        else:
            round_to_grid(numbers, format)
    return levels


def _in_parts(numbers: Vectors, spectrum: Spectrum) -> list[Vectors]:
    """Views of the columns of each part."""
    return np.split(numbers, np.cumsum([count for _, count in spectrum.parts])[:-1], axis=1)
