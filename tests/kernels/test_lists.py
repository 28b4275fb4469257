"""The best rows of chosen lists: one by one and list by list, compiled and in NumPy, all to the bit."""

import numpy as np
import pytest
from fences import fenced_rows
from kernel_rows import KINDS, ONE_HOT_KINDS, PARTS, assert_same_bits, in_parts, largest_norm, made, made_one_hot
from numpy.typing import NDArray

from qindex_kernels import reference
from qindex_kernels.cpu.lists import largest, topk_lists
from qindex_kernels.layout import Rows, Runs


def runs_of(n: int, n_lists: int, rng: np.random.Generator) -> Runs:
    """Lists of none, one or two runs of n rows, in any order."""
    bounds = np.sort(rng.integers(0, n + 1, 2 * n_lists - 1))
    bounds = np.concatenate([[0], bounds, [n]])
    order = rng.permutation(2 * n_lists)
    starts = np.concatenate([[0], np.sort(rng.integers(0, 2 * n_lists + 1, n_lists - 1)), [2 * n_lists]])
    return Runs(starts.astype(np.int64), bounds[:-1][order], np.diff(bounds)[order])


def probes_of(m: int, n_lists: int, p: int, rng: np.random.Generator) -> NDArray[np.int32]:
    probes = np.argsort(rng.random((m, n_lists)), axis=1)[:, :p].astype(np.int32)
    probes[rng.random(probes.shape) < 0.1] = -1
    return probes


def assert_found_alike(rows: Rows, rng: np.random.Generator, k: int, n_lists: int = 5) -> None:
    n = len(rows.data)
    runs, ids = runs_of(n, n_lists, rng), rng.permutation(n)
    # Bases or none; all rows, a filter, or a least score and no ids. Many queries, with which NumPy takes long, go half
    # of these ways.
    for m, ways in ((1, range(6)), (3, range(6)), (20, (0, 3, 4)), (70, (1, 2, 5))):
        values, offset = rng.standard_normal((m, rows.dim)).astype(np.float32), rng.standard_normal(m)
        probes = probes_of(m, n_lists, 3, rng)
        for way in ways:
            bases = rng.standard_normal(probes.shape).astype(np.float32) if way % 2 else None
            allow = rng.random(n) < 0.5 if way // 2 == 1 else None
            own, least = (None, rng.standard_normal(m).astype(np.float32)) if way // 2 == 2 else (ids, None)
            arguments = rows, values, offset, runs, probes, bases, own, allow, k, largest_norm(rows), least
            wanted, found = (function(*arguments) for function in (reference.topk_lists, topk_lists))
            np.testing.assert_array_equal(found[0], wanted[0])
            assert_same_bits(found[1], wanted[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_lists_equal_the_reference(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for n, k, tree in ((1, 2, "none"), (90, 4, "none"), (90, 12, "factor"), (60, 4, "affine"), (60, 4, "wide")):
        assert_found_alike(fenced_rows(made(kind, n, 65, rng, tree), at_end=True), rng, k)


@pytest.mark.parametrize("name", PARTS)
def test_the_best_of_lists_of_rows_in_parts_equal_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    assert_found_alike(in_parts(name, 80, rng), rng, 5)


@pytest.mark.parametrize("kind", ONE_HOT_KINDS)
def test_the_best_of_lists_of_one_hot_rows_equal_the_reference(kind: str) -> None:
    rng = np.random.default_rng(1)
    assert_found_alike(made_one_hot(kind, 200, 9, rng), rng, 5)


def test_lists_are_found_past_the_queries_that_are_taken_at_once() -> None:
    rng = np.random.default_rng(0)
    rows, m = made("int8", 40, 8, rng), 2051
    runs, probes = runs_of(40, 3, rng), probes_of(2051, 3, 2, rng)
    values, offset = rng.standard_normal((m, 8)).astype(np.float32), np.zeros(m)
    arguments = rows, values, offset, runs, probes, None, np.arange(40), None, 3, largest_norm(rows)
    for found, wanted in zip(topk_lists(*arguments), reference.topk_lists(*arguments), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 1000])
def test_the_largest_numbers_equal_the_reference(n: int) -> None:
    rng = np.random.default_rng(n)
    numbers = rng.standard_normal((6, n)).astype(np.float32)
    numbers[1] = np.round(numbers[1])  # with ties, and zeros of both signs
    numbers[2], numbers[3] = 0, -np.abs(numbers[3])
    numbers[4] *= np.float32(1e30)
    for p in {1, n // 2, n - 1, n} - {0}:
        np.testing.assert_array_equal(largest(numbers, p), reference.largest(numbers, p))
