"""Int4: ranges, and the optimum against a plain loop over one row."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.quantize import Int4
from qindex.quantize.int4 import optimal_ends


def rows_of(seed: int, n: int = 60, dim: int = 96) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) * rng.uniform(0.2, 2, dim) + rng.standard_normal((n, 1))).astype(np.float32)


def loss(row: NDArray[np.float64], low: float, high: float) -> float:
    step = (high - low) / 15
    error = row - (low + step * np.rint((np.clip(row, low, high) - low) / step))
    return float(0.9 * (row @ error) ** 2 / (row @ row) + 0.1 * (error @ error))


def osq(row: NDArray[np.float64]) -> tuple[float, float]:
    """The published iteration for one row, from the better of two starts."""
    reach = 2.514 * row.std()
    starts = (max(row.mean() - reach, row.min()), min(row.mean() + reach, row.max())), (row.min(), row.max())
    low, high = min(starts, key=lambda ends: loss(row, *ends))
    best = loss(row, low, high)
    for _ in range(5):
        s = np.rint((np.clip(row, low, high) - low) / ((high - low) / 15)) / 15
        daa, dab, dbb, dax, dbx = ((1 - s) ** 2).sum(), (s * (1 - s)).sum(), (s**2).sum(), row @ (1 - s), row @ s
        m0 = 0.9 / (row @ row) * dax**2 + 0.1 * daa
        m1 = 0.9 / (row @ row) * dax * dbx + 0.1 * dab
        m2 = 0.9 / (row @ row) * dbx**2 + 0.1 * dbb
        det = m0 * m2 - m1**2
        new = (m2 * dax - m1 * dbx) / det, (m0 * dbx - m1 * dax) / det
        if not loss(row, *new) < best:
            break
        (low, high), best = new, loss(row, *new)
    return low, high


def test_the_optimum_of_all_rows_is_that_of_each_row_alone() -> None:
    rows = rows_of(0)
    low, high = optimal_ends(rows)
    wanted = np.array([osq(row) for row in rows.astype(np.float64)])
    # Ties between codes may fall otherwise in float32, and then lead to another optimum nearly as good.
    same = np.isclose(low, wanted[:, 0], atol=2e-3) & np.isclose(high, wanted[:, 1], atol=2e-3)
    assert same.mean() > 0.9
    ours, theirs = ([loss(row, *ends) for row, ends in zip(rows.astype(np.float64), pairs, strict=True)]
                    for pairs in (zip(low, high, strict=True), wanted))  # fmt: skip
    assert np.sum(ours) < 1.01 * np.sum(theirs)


def test_the_optimum_harms_scores_less_than_the_range_of_a_normal_number_and_than_the_whole_range() -> None:
    rows = rows_of(1).astype(np.float64)
    low, high = optimal_ends(rows.astype(np.float32))
    reach = 2.514 * rows.std(axis=1)
    for other_low, other_high in (
        (rows.min(axis=1), rows.max(axis=1)),
        (rows.mean(axis=1) - reach, rows.mean(axis=1) + reach),
    ):
        ours = sum(loss(*one) for one in zip(rows, low, high, strict=True))
        assert ours < sum(loss(*one) for one in zip(rows, other_low, other_high, strict=True))


def test_a_range_reaches_from_the_smallest_number_to_the_largest() -> None:
    vectors = rows_of(2)
    quantizer = Int4("range").fit(vectors)
    assert quantizer.origin is not None
    centred = vectors - quantizer.origin.mean
    decoded = quantizer.dequantize(quantizer.quantize(vectors)) - quantizer.origin.mean
    step = np.ptp(centred, axis=1) / 15
    np.testing.assert_allclose(decoded.min(axis=1), centred.min(axis=1), atol=0.02 * step.max())
    np.testing.assert_allclose(decoded.max(axis=1), centred.max(axis=1), atol=0.02 * step.max())
    assert np.all(np.abs(decoded - centred) <= 0.52 * step[:, None])


@pytest.mark.parametrize("grid", ["range", "optimal"])
def test_a_row_takes_half_a_byte_a_number_and_four_bytes(grid: str) -> None:
    quantizer = Int4(grid).fit(rows_of(3, dim=384))  # type: ignore[arg-type]
    assert quantizer.bytes_per_vector(384) == 196 == quantizer.quantize(rows_of(3, 8, 384)).nbytes / 8
    assert Int4().bytes_per_vector(5) == 7


def test_rows_of_equal_numbers_are_kept_to_float16() -> None:
    vectors = np.full((3, 20), 0.3, np.float32) * np.array([[1], [2], [-4]], np.float32)
    for grid in ("range", "optimal"):
        quantizer = Int4(grid).fit(vectors)  # type: ignore[arg-type]
        np.testing.assert_allclose(quantizer.dequantize(quantizer.quantize(vectors)), vectors, atol=2e-3)


def test_unknown_grids_and_vectors_far_beyond_those_seen_are_refused() -> None:
    with pytest.raises(ValueError, match='grid must be "range" or "optimal", got \'osq\''):
        Int4("osq")  # type: ignore[arg-type]
    vectors = rows_of(4)
    with pytest.raises(ValueError, match="row 2 lies much farther out; fit again"):
        Int4().fit(vectors).quantize(vectors[:3] * np.array([[1], [1], [1e5]], np.float32))
