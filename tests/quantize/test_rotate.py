"""The random rotation: orthogonal, undone exactly enough, the same for a row in any company."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.quantize.rotate import rotate, unrotate

every_dim = pytest.mark.parametrize("dim", [1, 2, 3, 7, 64, 100, 384, 768, 1023])


def random_rows(n: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(dim).standard_normal((n, dim)).astype(np.float32)


@every_dim
def test_a_rotation_keeps_all_products(dim: int) -> None:
    matrix = rotate(np.eye(dim, dtype=np.float32), 5).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=2e-6)


@every_dim
def test_a_rotation_is_undone_up_to_rounding(dim: int) -> None:
    rows = random_rows(300, dim)
    np.testing.assert_allclose(unrotate(rotate(rows, 3), 3), rows, atol=1e-5)


def test_a_row_is_rotated_alike_in_any_company() -> None:
    rows = random_rows(700, 100)
    order = np.random.default_rng(0).permutation(700)
    whole = rotate(rows)
    np.testing.assert_array_equal(rotate(rows[order]), whole[order])
    np.testing.assert_array_equal(rotate(rows[411:412]), whole[411:412])
    np.testing.assert_array_equal(unrotate(rows[411:412]), unrotate(rows)[411:412])


def test_the_seed_decides_and_nothing_else() -> None:
    rows = random_rows(4, 50)
    np.testing.assert_array_equal(rotate(rows, 1), rotate(rows, 1))
    assert not np.allclose(rotate(rows, 1), rotate(rows, 2))


@pytest.mark.parametrize("dim", [100, 384, 768])
def test_one_large_number_is_spread_over_all_dimensions(dim: int) -> None:
    for spike in (0, dim // 2, dim - 1):
        row = np.zeros((1, dim), np.float32)
        row[0, spike] = 1
        assert np.abs(rotate(row)).max() < 5 / np.sqrt(dim)


def test_no_rows_and_rows_that_are_not_contiguous_are_rotated_too() -> None:
    assert rotate(np.empty((0, 5), np.float32)).shape == (0, 5)
    rows = random_rows(20, 30)
    np.testing.assert_array_equal(rotate(rows[::2, ::3]), rotate(np.ascontiguousarray(rows[::2, ::3])))
