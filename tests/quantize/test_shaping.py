"""Shaped rounding: less of the error that counts, little more of all the others."""

import numpy as np
from numpy.typing import NDArray

from qindex.quantize.shaping import feedback, rounded


def weights(dim: int) -> NDArray[np.float64]:
    """A falling spectrum in axes that are not those of the numbers."""
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]
    return (turned / np.arange(1, dim + 1) ** 1.5) @ turned.T


def test_shaped_errors_count_less_than_those_of_plain_rounding() -> None:
    numbers = np.random.default_rng(1).normal(0, 40, (500, 64)).astype(np.float32)
    shaped = rounded(numbers, feedback(weights(64)), -128, 127) - numbers
    plain = np.clip(np.rint(numbers), -128, 127) - numbers
    assert np.einsum("ni,ij,nj", shaped, weights(64), shaped) < 0.6 * np.einsum("ni,ij,nj", plain, weights(64), plain)
    assert np.square(shaped).sum() < 1.5 * np.square(plain).sum()


def test_results_are_integers_within_the_range() -> None:
    numbers = np.random.default_rng(1).normal(0, 90, (100, 20)).astype(np.float32)
    result = rounded(numbers, feedback(weights(20)), -128, 127)
    np.testing.assert_array_equal(result, np.rint(result))
    assert (result.min(), result.max()) == (-128, 127)


def test_weights_that_favour_no_direction_round_plainly() -> None:
    numbers = np.random.default_rng(1).normal(0, 9, (50, 20)).astype(np.float32)
    for even in (np.eye(20), np.eye(20) * 1e-60, np.zeros((20, 20))):
        np.testing.assert_array_equal(rounded(numbers, feedback(even), -128, 127), np.rint(numbers))


def test_a_row_is_rounded_the_same_in_any_company() -> None:
    numbers = np.random.default_rng(1).normal(0, 9, (50, 20)).astype(np.float32)
    matrix = feedback(weights(20))
    np.testing.assert_array_equal(
        rounded(numbers, matrix, -128, 127)[7:9], rounded(numbers[7:9].copy(), matrix, -128, 127)
    )
