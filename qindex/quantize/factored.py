"""Rows as one factor times levels: `row ~ factor * level`, the factor stored in float16. 2 bytes beside the codes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FLOAT16, Format
from qindex.memory import empty
from qindex.quantize.origin import Origin
from qindex.quantize.rows import ROUNDED_UP, row_dots
from qindex.threads import threads
from qindex.types import BLOCK_GRAIN, BlockValues, Codes, Vectors, row_norms

# Choosing levels takes many passes over a few temporaries, which stay in the cache.
AT_ONCE = 512


def encode_factored(
    origin: Origin,
    format: Format,
    vectors: Vectors,
    choose: Callable[[Vectors], tuple[NDArray[np.uint8], Vectors]],
    *,
    unbiased: bool = True,
    tables: NDArray[np.int8] | None = None,
) -> Codes:
    """Codes of (n, dim) float32. `choose` maps rows about the origin to packed codes and the levels behind them.

    The factor is |r|^2 / <r, level>, which leaves no bias in the product with any query once rows are rotated at
    random; or, not `unbiased`, <r, level> / |level|^2, which leaves the least error of the row. A row at the origin
    has factor 0. Raises ValueError for a row that lies too far out for a factor in float16.
    """
    n, dim = vectors.shape
    data = empty((n, format.row_bytes(dim)), np.uint8)
    factors = np.empty((n, 1), np.float16)

    def encode(start: int) -> float:
        """Codes and factors of some rows, and the length of the longest."""
        part = slice(start, min(start + AT_ONCE, n))
        with np.errstate(over="ignore", invalid="ignore"):  # rows that lie too far out are refused below
            rows = origin.rows(vectors[part])
            data[part], levels = choose(rows)
            products = row_dots(rows, levels)
            wanted = _ratio(row_dots(rows, rows), products) if unbiased else _ratio(products, row_dots(levels, levels))
        check_factors(wanted, vectors, origin, start)
        factors[part, 0] = wanted
        return float((factors[part, 0] * row_norms(levels)).max())

    max_norm = max(threads.map(encode, [(start,) for start in range(0, n, AT_ONCE)]), default=0.0)
    return Codes(
        data,
        format,
        dim,
        max_norm * ROUNDED_UP,
        scales=(BlockValues(factors, FLOAT16, whole_row(dim)),),
        tables=tables,
    )


def check_factors(wanted: NDArray[np.float64], vectors: Vectors, origin: Origin, start: int) -> None:
    """Refuse rows whose factor is too large for float16: those of `vectors` from `start` on."""
    if not wanted.max() <= FLOAT16.max_value:
        row = start + int(wanted.argmax())
        distance = row_norms(vectors[row : row + 1] - origin.mean)[0]
        raise ValueError(
            f"vectors must lie within about 100 times the distance from the mean that fit has seen, but row {row} "
            f"lies {distance:.3g} from it; fit again with such vectors"
        )


def coded_lengths(codes: Codes, levels: Callable[[Codes], Vectors]) -> NDArray[np.float64]:
    """The length of each decoded row, factor times levels: (n,). `levels` decodes some codes without their factors."""
    lengths = np.empty(len(codes))
    for start in range(0, len(codes), AT_ONCE):
        part = codes[start : start + AT_ONCE]
        lengths[start : start + AT_ONCE] = row_norms(levels(part)) * part.scales[0].values[:, 0]
    return lengths


def whole_row(dim: int, grain: int = BLOCK_GRAIN) -> int:
    """The smallest size of a block that holds a row of `dim` numbers."""
    return -(-dim // grain) * grain


def _ratio(numbers: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numbers, by, out=np.zeros_like(numbers), where=~(by <= 0))  # NaN stays
