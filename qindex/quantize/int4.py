"""Int4: half a byte a number, on a range of its own for each vector."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FLOAT16, INT4
from qindex.io import register
from qindex.memory import empty
from qindex.quantize.factored import whole_row
from qindex.quantize.gaussian import uniform_step
from qindex.quantize.origin import AboutOrigin, Origin
from qindex.quantize.rows import ROUNDED_UP, check_dim, row_dots
from qindex.types import BlockValues, Codes, Vectors, as_vectors, row_norms

_STEPS = 15  # between 16 levels
_ROUNDS = 5
_ANY_DIRECTION = 0.1  # weight of the error in any direction, beside that of the error along the row

# Kernels cut 4 bits by masks where a scale holds for whole steps of 128 dimensions.
_GRAIN = 128

_AT_ONCE = 512  # the temporaries of so many rows stay in the cache


@register("Int4")
@dataclass(frozen=True, eq=False)
class Int4(AboutOrigin):
    """4-bit integers on a range for each vector: `v ~ mean + zero + step * code`. `fit` learns the mean.

    - `grid="optimal"` (default): the range that harms scores least, found from that of a normal number by up to five
      rounds of least squares in which the error along the vector counts most (Lucene's OSQ).
    - `grid="range"`: from the smallest number to the largest (LVQ).

    Zero and step are stored in float16: ceil(dim / 2) + 4 bytes. Nothing is rotated: each dimension keeps its place.
    """

    grid: Literal["range", "optimal"] = "optimal"
    origin: Origin | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if self.grid not in ("range", "optimal"):
            raise ValueError(f'grid must be "range" or "optimal", got {self.grid!r}')
        if self.origin is not None and (not isinstance(self.origin, Origin) or self.origin.seed is not None):
            raise ValueError(f"origin must be learnt by fit, without a rotation, got {self.origin!r}")

    def fit(self, vectors: Vectors) -> "Int4":
        """An Int4 about the mean of (n, dim) floats."""
        return Int4(self.grid, Origin.of(vectors))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes with a step and a zero each, in float16.

        Raises ValueError for a vector much farther from the mean than any that `fit` has seen (10 times or more).
        """
        origin = self._learnt()
        vectors = as_vectors(vectors, dim=origin.dim)
        n, dim = vectors.shape
        data = empty((n, INT4.row_bytes(dim)), np.uint8)
        steps, zeros = np.empty((n, 1), np.float16), np.empty((n, 1), np.float16)
        codes = Codes(
            data,
            INT4,
            dim,
            0.0,
            scales=(BlockValues(steps, FLOAT16, whole_row(dim, _GRAIN)),),
            zero=BlockValues(zeros, FLOAT16, whole_row(dim, _GRAIN)),
        )
        max_norm = 0.0
        for start in range(0, n, _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, n))
            with np.errstate(over="ignore", invalid="ignore"):  # rows that lie too far out are refused below
                rows = origin.rows(vectors[part])
                low, high = _whole_range(rows) if self.grid == "range" else optimal_ends(rows)
            steps[part, 0] = _in_float16((high - low) / _STEPS, start)
            step = steps[part].astype(np.float32)
            # Code 8 of 0 to 15 has level 0, half a step above the middle.
            zeros[part, 0] = _in_float16((high + low + step[:, 0]) / 2, start)
            zero = zeros[part].astype(np.float32)
            levels = (rows - zero) * np.divide(1, step, out=np.zeros_like(step), where=step > 0)
            levels = np.clip(np.rint(levels, out=levels), -8, 7, out=levels)
            data[part] = INT4.encode(levels)
            levels *= step
            # Levels and zeros may cancel, and a fast scan rounds each for itself.
            longest = row_norms(levels).max(), row_norms(levels + zero).max(), np.abs(zero).max() * dim**0.5
            max_norm = max(max_norm, *map(float, longest))
        return dataclasses.replace(codes, max_norm=max_norm * ROUNDED_UP)

    def bytes_per_vector(self, dim: int) -> int:
        """ceil(dim / 2) + 4."""
        check_dim("Int4", dim, None if self.origin is None else self.origin.dim)
        return INT4.row_bytes(dim) + 4


def _whole_range(rows: Vectors) -> NDArray[np.float64]:
    return np.stack([rows.min(axis=1), rows.max(axis=1)]).astype(np.float64)


def optimal_ends(rows: Vectors) -> NDArray[np.float64]:
    """(2, n) the lowest and the highest of 16 levels for each of (n, dim) rows, good for products with the rows.

    What is made small is `0.9 * <error, row>^2 / |row|^2 + 0.1 * |error|^2`. It starts from the range that suits a
    normal number or from the whole range, whichever is better. Each round solves for the ends that are best for the
    codes of the last; a row is left as it was when that no longer helps.
    """
    dim = rows.shape[1]
    fixed = np.stack([rows.sum(axis=1, dtype=np.float64), row_dots(rows, rows)])
    whole = _whole_range(rows)
    reach = rows.std(axis=1, dtype=np.float64) * uniform_step(4) * _STEPS / 2
    normal = np.clip(fixed[0] / dim + np.stack([-reach, reach]), *whole)
    whole_sums, sums = _sums(rows, whole, fixed), _sums(rows, normal, fixed)
    whole_loss, loss = _loss(whole, whole_sums, dim), _loss(normal, sums, dim)
    heavy = whole_loss < loss  # the tails of the row are
    ends, sums = np.where(heavy, whole, normal), np.where(heavy, whole_sums, sums)
    loss = np.minimum(loss, whole_loss)

    active = np.arange(len(rows))
    for _ in range(_ROUNDS):
        new_ends = _best_ends(sums, dim)
        new_sums = _sums(rows[active], new_ends, fixed[:, active])
        new_loss = _loss(new_ends, new_sums, dim)
        better = new_loss < loss[active]
        active, sums = active[better], new_sums[:, better]
        ends[:, active], loss[active] = new_ends[:, better], new_loss[better]
    return ends


def _sums(rows: Vectors, ends: NDArray[np.float64], fixed: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, n) sums over each row of its numbers, their squares, its codes from 0 to 15, their squares, and products."""
    width = ends[1] - ends[0]
    per_step = np.divide(_STEPS, width, out=np.zeros_like(width), where=width > 0)
    codes = (rows - ends[0].astype(np.float32)[:, None]) * per_step.astype(np.float32)[:, None]
    np.clip(np.rint(codes, out=codes), 0, _STEPS, out=codes)
    return np.stack([*fixed, codes.sum(axis=1, dtype=np.float64), row_dots(codes, codes), row_dots(rows, codes)])


def _loss(ends: NDArray[np.float64], sums: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    total, squares, codes, code_squares, products = sums
    low, step = ends[0], (ends[1] - ends[0]) / _STEPS
    along = squares - low * total - step * products
    error = (
        squares - 2 * (low * total + step * products) + low * low * dim + step * (2 * low * codes + step * code_squares)
    )
    loss = _along(squares) * along**2 + _ANY_DIRECTION * error
    return np.where(step >= 0, loss, np.inf)


def _best_ends(sums: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """The ends that are best for given codes: two linear equations a row. Crossed ends where they have no solution."""
    total, squares, codes, code_squares, products = sums
    # The upper end has the share code / 15 in a level, the lower end the rest.
    both = codes / _STEPS - code_squares / _STEPS**2
    high_row, high_high = products / _STEPS, code_squares / _STEPS**2
    low_row, low_high, low_low = total - high_row, both, dim - codes / _STEPS - both
    along = _along(squares)
    a = along * low_row**2 + _ANY_DIRECTION * low_low
    b = along * low_row * high_row + _ANY_DIRECTION * low_high
    c = along * high_row**2 + _ANY_DIRECTION * high_high
    determinant = a * c - b * b
    solvable = determinant > 1e-12 * a * c
    divisor = np.where(solvable, determinant, 1)
    ends = np.stack([c * low_row - b * high_row, a * high_row - b * low_row]) / divisor
    return np.where(solvable, ends, np.array([[0.0], [-1.0]]))


def _along(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of the squared product of error and row."""
    return np.divide(1 - _ANY_DIRECTION, squares, out=np.zeros_like(squares), where=squares > 0)


def _in_float16(numbers: NDArray[np.float64], first_row: int) -> NDArray[np.float64]:
    if not np.abs(numbers).max() <= FLOAT16.max_value:
        raise ValueError(
            f"vectors must lie about as near to the mean as those that fit has seen, but row "
            f"{first_row + int(np.abs(numbers).argmax())} lies much farther out; fit again with such vectors"
        )
    return numbers
