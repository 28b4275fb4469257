"""Rotation: orthogonal for any dim, random enough, and the same for ever."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qindex.transform import Rotation

few = settings(deadline=None, max_examples=60, derandomize=True)
dims = st.integers(1, 700)
seeds = st.integers(0, 2**32)


def random(seed: int, n: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def matrix(rotation: Rotation, dim: int) -> NDArray[np.float64]:
    """The rows are what becomes of the unit vectors."""
    return rotation.apply(np.eye(dim, dtype=np.float32)).astype(np.float64)


@given(dim=dims, seed=seeds)
@few
def test_it_is_orthogonal_for_any_dim(dim: int, seed: int) -> None:
    turned = matrix(Rotation(seed), dim)
    np.testing.assert_allclose(turned @ turned.T, np.eye(dim), atol=2e-6)


@given(dim=dims, seed=seeds, n=st.integers(0, 9))
@few
def test_undo_gives_back_the_vectors(dim: int, seed: int, n: int) -> None:
    vectors = random(seed, n, dim)
    back = Rotation(seed).undo(Rotation(seed).apply(vectors))
    np.testing.assert_allclose(back, vectors, atol=2e-6 * (1 + np.abs(vectors).max(initial=0)) * dim**0.5)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5), seed=seeds)
@few
def test_prefixes_survive_a_blockwise_rotation(sizes: list[int], seed: int) -> None:
    dim = sum(sizes)
    whole = Rotation(seed, tuple(sizes)).apply(random(seed, 3, dim))
    for blocks in range(1, len(sizes)):
        prefix = sum(sizes[:blocks])
        alone = Rotation(seed, tuple(sizes[:blocks])).apply(random(seed, 3, dim)[:, :prefix])
        np.testing.assert_array_equal(whole[:, :prefix], alone)
    turned = matrix(Rotation(seed, tuple(sizes)), dim)
    np.testing.assert_allclose(turned @ turned.T, np.eye(dim), atol=2e-6)


@given(dim=dims, n=st.integers(1, 600), seed=seeds)
@few
def test_a_row_is_rotated_alike_in_any_company(dim: int, n: int, seed: int) -> None:
    vectors = random(seed, n, dim)
    whole, order = Rotation().apply(vectors), np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(Rotation().apply(vectors[order]), whole[order])
    np.testing.assert_array_equal(Rotation().apply(vectors[n // 2 : n // 2 + 1]), whole[n // 2 : n // 2 + 1])


@pytest.mark.parametrize("dim", [256, 257, 383, 384, 500, 511, 1000])
def test_every_unit_vector_is_spread_over_all_dimensions(dim: int) -> None:
    entries = matrix(Rotation(), dim) * dim**0.5
    # A normal variable has kurtosis 3; four standard errors of a row's estimate are 4 * (96 / dim) ** 0.5.
    assert abs((entries**4).mean() - 3) < 0.1
    assert np.abs((entries**4).mean(axis=1) - 3).max() < 4 * (96 / dim) ** 0.5
    assert np.abs((entries**4).mean(axis=0) - 3).max() < 4 * (96 / dim) ** 0.5


def test_products_of_prepared_queries_are_the_original_ones() -> None:
    queries, vectors = random(0, 5, 300), random(1, 7, 300)
    prepared = Rotation().prepare(queries)
    np.testing.assert_allclose(prepared.values @ Rotation().apply(vectors).T, queries @ vectors.T, atol=1e-4)
    np.testing.assert_array_equal(prepared.offset, 0)


def test_other_seeds_are_other_rotations_and_equal_seeds_are_equal() -> None:
    vectors = random(0, 2, 96)
    np.testing.assert_array_equal(Rotation(3).apply(vectors), Rotation(3).apply(vectors))
    assert np.abs(Rotation(3).apply(vectors) - Rotation(4).apply(vectors)).max() > 0.1


def test_saved_codes_depend_on_the_signs_drawn_so_they_never_change() -> None:
    np.testing.assert_allclose(Rotation().apply(np.array([[1, 2, 3, 4]], np.float32)), [[5, 0, 1, -2]])
    np.testing.assert_allclose(Rotation(7).apply(np.array([[1, 2, 3, 4, 5]], np.float32)), [[-1, -5, 2, 4, -3]])
    turned = Rotation().apply(np.arange(384, dtype=np.float32)[None])[0, [0, 1, 200, 383]]
    np.testing.assert_allclose(turned, [398.66699, -180.98340, 187.49048, -205.13965], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e17])
def test_tiny_and_huge_vectors_keep_their_lengths(scale: float) -> None:
    vectors = random(0, 4, 100) * np.float32(scale / 100)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    turned = np.linalg.norm(Rotation().apply(vectors).astype(np.float64), axis=1)
    np.testing.assert_allclose(turned, lengths, rtol=1e-4)


def test_zeros_stay_zeros_and_vectors_are_left_alone() -> None:
    np.testing.assert_array_equal(Rotation().apply(np.zeros((2, 7), np.float32)), 0)
    vectors = random(0, 2, 7)
    before = vectors.copy()
    Rotation().apply(vectors)
    np.testing.assert_array_equal(vectors, before)


def test_blocks_that_do_not_sum_to_the_dim_say_both() -> None:
    rotation = Rotation(blocks=(4, 4))
    for use in (rotation.fit, rotation.apply, rotation.undo, rotation.prepare):
        with pytest.raises(ValueError, match=r"dim must be 8, the sum of blocks=\(4, 4\), got 9"):
            use(random(0, 2, 9))
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        Rotation().dim_out(0)


@pytest.mark.parametrize("blocks", [(), (4, 0), [4, 4], (4.0,), 8])
def test_blocks_that_are_not_sizes_are_refused(blocks: Any) -> None:
    with pytest.raises(ValueError, match=r"blocks must be a tuple of positive sizes, such as \(64, 64, 128\), got"):
        Rotation(blocks=blocks)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, 1 << 63])
def test_a_seed_that_is_no_integer_from_0_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 2 \\*\\* 63 - 1, got"):
        Rotation(seed)
