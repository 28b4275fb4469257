"""The best of chosen rows: compiled and in NumPy alike, and rows that cannot win are left alone."""

import numpy as np
import pytest
from kernel_rows import KINDS, PARTS, assert_same_bits, in_parts, made

from qindex_kernels import reference
from qindex_kernels.cpu.score_rows import rescore
from qindex_kernels.layout import Rows


def assert_rescored_alike(rows: Rows, rng: np.random.Generator, k: int) -> None:
    n, m = len(rows.data), 4
    values, offset = rng.standard_normal((m, rows.dim)).astype(np.float32), rng.standard_normal(m)
    chosen = np.argsort(rng.random((m, n)), axis=1)[:, : max(1, n - 2)]
    chosen = np.hstack([chosen, chosen[:, :3]])  # rows that come twice
    ids = rng.permutation(n)
    exact = reference.score_rows(rows, values, offset, chosen)
    order = np.argsort(-exact, axis=1, kind="stable")
    chosen, exact = np.take_along_axis(chosen, order, 1), np.take_along_axis(exact, order, 1)
    chosen[rng.random(chosen.shape) < 0.2] = -1
    for slack in (np.inf, 0.0, 1.0):
        rest = (chosen, exact, np.full(m, slack), ids, k)
        wanted, found = (function(rows, values, offset, *rest) for function in (reference.rescore, rescore))
        np.testing.assert_array_equal(found[0], wanted[0])
        assert_same_bits(found[1], wanted[1])
        np.testing.assert_array_equal(found[2], wanted[2])
        # Estimates that are the scores themselves rule out nothing that belongs to the best.
        everything = reference.rescore(rows, values, offset, chosen, exact, np.full(m, np.inf), ids, k)
        assert_same_bits(found[1], everything[1])
        assert (found[2] <= everything[2]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_chosen_rows_equal_the_reference(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for n, k, tree in ((1, 1, "none"), (7, 10, "factor"), (60, 5, "none"), (60, 5, "affine")):
        assert_rescored_alike(made(kind, n, 65, rng, tree), rng, k)


@pytest.mark.parametrize("name", PARTS)
def test_the_best_of_chosen_rows_in_parts_equal_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    for n, k in ((1, 3), (60, 5)):
        assert_rescored_alike(in_parts(name, n, rng), rng, k)


def test_rows_behind_the_first_that_cannot_win_are_not_scored() -> None:
    rows = Rows("int8", 1, np.array([[9], [8], [7], [6], [5]], np.uint8))
    chosen, estimates = np.array([[0, 1, 2, 3, 4]]), np.array([[9, 8, 7, 6, 5]], np.float32)
    arguments = (np.ones((1, 1), np.float32), np.zeros(1), chosen, estimates)
    for slack, wanted in ((0.5, 2), (1.0, 3), (1.5, 3), (3.0, 5), (100.0, 5)):
        for function in (reference.rescore, rescore):
            best, _scores, counts = function(rows, *arguments, np.array([slack]), np.arange(5), 2)
            assert best.tolist() == [[0, 1]]
            assert counts.tolist() == [wanted]
