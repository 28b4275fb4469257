"""RaBitQ: 1 to 8 bits a number whose scores are unbiased estimates, with a bound on their error."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FORMATS, SIGN, Format
from qindex.io import register
from qindex.quantize.factored import coded_lengths, encode_factored
from qindex.quantize.gaussian import uniform_step
from qindex.quantize.origin import AboutOrigin, Origin, check_seed
from qindex.quantize.rows import check_dim, row_dots
from qindex.types import Codes, Vectors, as_vectors

# What is tried of a row, relative to where the best step is expected: few steps, and the best of them by exact cosine.
_AROUND = np.exp(np.linspace(-0.15, 0.15, 5))  # the step of a normal number
_NEAR_FULL = np.geomspace(0.95, 1.2, 8)  # from 5 bits on, the step that lets the largest number just reach the end


@register("RaBitQ")
@dataclass(frozen=True, eq=False)
class RaBitQ(AboutOrigin):
    """Rotated residuals on a grid, `v ~ mean + factor * rotation^-1(level)` (arXiv 2405.12497 and 2409.09913).

    A row `r = rotation(v - mean)` is stored as the grid point of the nearest direction and a factor in float16,
    chosen so that `<q, mean> + factor * <rotation(q), level>` is `<q, v>` in the mean over all rotations. `fit` learns
    the mean. Decoded vectors are longer than what was quantized. ceil(dim * bits / 8) + 2 bytes (3, 5, 6 and 7 bits lie
    in planes, each filled up to a byte).

    1 bit: signs. 2 to 4: half-integers. From 5 on: integers, whose grid reaches one step further down than up; against
    half-integers that adds 1 to 2 % to the variance, and it saves the zero that would make them of integers.
    """

    unbiased: ClassVar[bool] = True

    bits: int = 4
    seed: int = 0
    origin: Origin | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be an integer from 1 to 8, got {self.bits!r}")
        check_seed(self.seed)
        if self.origin is not None and (not isinstance(self.origin, Origin) or self.origin.seed != self.seed):
            raise ValueError(f"origin must be learnt by fit with seed {self.seed}, got {self.origin!r}")

    def fit(self, vectors: Vectors) -> "RaBitQ":
        """A RaBitQ about the mean of (n, dim) floats."""
        return RaBitQ(self.bits, self.seed, Origin.of(vectors, self.seed))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes with a float16 factor each.

        Raises ValueError for a vector more than about 100 times as far from the mean as any that `fit` has seen.
        """
        origin = self._learnt()
        return encode_factored(origin, self._format, as_vectors(vectors, dim=origin.dim), self._choose)

    def bytes_per_vector(self, dim: int) -> int:
        """The packed codes and 2 bytes for the factor."""
        check_dim("RaBitQ", dim, None if self.origin is None else self.origin.dim)
        return self._format.row_bytes(dim) + 2

    def half_width(self, codes: Codes, deviations: float = 1.9) -> NDArray[np.float32]:
        """(n,) bounds: `|score - <q, v>| <= |q| * half_width` for about 94 % of rows and queries (1.9 deviations).

        Nothing is stored for it. With `c` the cosine between row and code, the deviation of a score is
        `|q| * (|r| / c) * sqrt((1 - c^2) / (dim - 1))`; the decoded row has the length `|r| / c`, and `1 - c^2` is
        nearly the same for all rows that were rotated at random.
        """
        self._check(codes)
        lengths = coded_lengths(codes, lambda part: part.levels)
        half_width: NDArray[np.float32] = (self._deviation(codes) * deviations * lengths).astype(np.float32)
        return half_width

    def largest_half_width(self, codes: Codes, deviations: float = 1.9) -> float:
        """The half-width of the longest row, from the bound on lengths that comes with the codes."""
        self._check(codes[:0])
        return self._deviation(codes) * deviations * codes.max_norm

    def _deviation(self, codes: Codes) -> float:
        """Of a score, by the lengths of query and decoded row."""
        missed = _missed(self.bits, codes.dim) / max(codes.dim - 1, 1)
        return math.sqrt(missed) * 2.0 ** -self._learnt().exponent

    @property
    def _format(self) -> Format:
        if self.bits == 1:
            return SIGN
        return FORMATS[f"{'half' if self.bits <= 4 else 'int'}{self.bits}"]

    def _choose(self, rows: Vectors) -> tuple[NDArray[np.uint8], Vectors]:
        levels = nearest_direction(rows, self._format)
        return self._format.encode(levels), levels


def nearest_direction(rows: Vectors, format: Format) -> Vectors:
    """Levels (n, dim) of a grid of step 1 (or of signs) that point nearly as `rows` do, each row for itself.

    An exact search would try every step at which some number changes its level, in O(2 ** bits * dim * log dim); the
    few steps tried here leave 1 to 10 % more of `1 - cosine^2` at 2 to 8 bits, that is, less than 1e-3 of the cosine.
    """
    if format == SIGN:
        return signs(rows)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # Numbers whose squares neither under- nor overflow.
    unit = np.divide(rows, np.where(largest > 0, largest, 1), dtype=np.float32)
    expected: NDArray[Any]
    if format.kind == "half_integer":
        spread = np.sqrt(row_dots(unit, unit) / rows.shape[1])
        expected, tried = 1 / (uniform_step(format.bits) * np.where(spread > 0, spread, 1)), _AROUND
    else:
        expected, tried = np.full(len(rows), 2.0 ** (format.bits - 1)), _NEAR_FULL
    best_cosine, best = np.full(len(rows), -np.inf), expected
    for factor in tried:
        levels = _on_grid(unit, expected * factor, format)
        squares = row_dots(levels, levels)
        cosine = row_dots(levels, unit) / np.sqrt(np.where(squares > 0, squares, 1))
        best = np.where(cosine > best_cosine, expected * factor, best)
        best_cosine = np.maximum(cosine, best_cosine)
    return _on_grid(unit, best, format)


def signs(rows: Vectors) -> Vectors:
    """1 or -1 for each number; zero, also -0, counts as positive."""
    ones: Vectors = np.copysign(np.float32(1), rows + np.float32(0))
    return ones


def _on_grid(unit: Vectors, steps_per_unit: NDArray[Any], format: Format) -> Vectors:
    levels: Vectors = unit * steps_per_unit.astype(np.float32)[:, None]
    return round_to_grid(levels, format)


def round_to_grid(numbers: Vectors, format: Format) -> Vectors:
    """The nearest levels of a grid of step 1, in the place of the numbers."""
    if format.kind == "half_integer":
        np.floor(numbers, out=numbers)
        numbers += np.float32(0.5)
    else:
        np.rint(numbers, out=numbers)
    return np.clip(numbers, format.levels.min(), format.levels.max(), out=numbers)


@functools.lru_cache(maxsize=64)
def _missed(bits: int, dim: int) -> float:
    """The mean of `1 - cosine^2` between random directions and their codes."""
    rows = np.random.default_rng(0).standard_normal((max(16, (1 << 17) // dim), dim), np.float32)
    levels = nearest_direction(rows, RaBitQ(bits)._format).astype(np.float64)
    exact = rows.astype(np.float64)
    cosine_squared = (exact * levels).sum(axis=1) ** 2 / ((exact**2).sum(axis=1) * (levels**2).sum(axis=1))
    return max(0.0, 1 - float(cosine_squared.mean()))
