"""Centroids: as many as asked for, none without rows, also where they are trained in groups."""

import numpy as np
import pytest

from qindex.index import kmeans


@pytest.fixture
def in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are trained in groups although they are few."""
    monkeypatch.setattr(kmeans, "FLAT", 10)


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize(("n", "n_lists"), [(3000, 100), (200, 200), (1000, 11)])
def test_lists_in_groups_are_as_many_as_wanted_and_hold_rows(n: int, n_lists: int) -> None:
    sample = np.random.default_rng(0).standard_normal((n, 16)).astype(np.float32)
    centroids = kmeans.train(sample, n_lists, seed=0)
    assert centroids.shape == (n_lists, 16)
    np.testing.assert_array_equal(centroids, kmeans.train(sample, n_lists, seed=0))
    labels, squares = kmeans.nearest(kmeans.as_codes(centroids), sample)
    assert len(np.unique(labels)) >= 0.95 * n_lists
    spread = np.square(sample - sample.mean(axis=0)).sum(axis=1).mean()
    assert squares.mean() < spread


def test_lists_in_groups_lie_nearly_as_close_as_those_trained_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sample = (
        rng.standard_normal((60, 16))[rng.integers(60, size=4000)] + 0.2 * rng.standard_normal((4000, 16))
    ).astype(np.float32)

    def missed() -> float:
        centroids = kmeans.train(sample, 80, seed=0)
        return float(kmeans.nearest(kmeans.as_codes(centroids), sample)[1].mean())

    at_once = missed()
    monkeypatch.setattr(kmeans, "FLAT", 10)
    assert missed() < 1.3 * at_once


@pytest.mark.usefixtures("in_groups")
def test_identical_rows_are_trained_in_groups_too() -> None:
    centroids = kmeans.train(np.ones((500, 8), np.float32), 40, seed=0)
    np.testing.assert_array_equal(centroids, np.ones((40, 8)))
