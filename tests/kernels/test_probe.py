"""A search of lists in one call, compiled and in NumPy, all to the bit: query by query, and step by step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_rows import KINDS, ONE_HOT_KINDS, PARTS, assert_same_bits, in_parts, largest_norm, made, made_one_hot
from numpy.typing import NDArray
from test_lists import runs_of

from qindex_kernels import reference
from qindex_kernels.cpu.probe import search_lists
from qindex_kernels.layout import Copies, Listed, Rows


def moved(rows: Rows, order: NDArray[np.int64]) -> Rows:
    """The same rows in another order."""

    def taken(array: Any, own: int) -> Any:
        return array if array is None or array.ndim < own else array[order]

    return replace(
        rows, data=rows.data[order], scale=taken(rows.scale, 1), bias=taken(rows.bias, 1),
        levels=tuple(level._replace(data=taken(level.data, 2)) for level in rows.levels),
        zero=None if rows.zero is None else rows.zero._replace(data=taken(rows.zero.data, 2)),
        tables=taken(rows.tables, 3), more=tuple(part._replace(data=part.data[order]) for part in rows.more),
    )  # fmt: skip


def assert_found_alike(rows: Rows, rng: np.random.Generator, k: int, n_lists: int = 9, dim: int = 20) -> None:
    n = len(rows.data)
    runs, ids, centres = runs_of(n, n_lists, rng), rng.permutation(10 * n)[:n], made("int8", n_lists, dim, rng, "none")
    centres = Rows("int8", dim, centres.data, centres.scale)
    finer, wanted = made("int8", n, 33, rng), 3 * k
    for m in (1, 2, 40):
        values, offset = rng.standard_normal((m, rows.dim)).astype(np.float32), rng.standard_normal(m)
        queries = rng.standard_normal((m, dim)).astype(np.float32)
        second = finer, (rng.standard_normal((m, 33)).astype(np.float32), rng.standard_normal(m))
        shifts = rng.standard_normal(n_lists).astype(np.float32)
        of = rng.permutation(n)  # with other codes, as those of rows in other lists are
        others = Copies(
            moved(rows, rng.permutation(n)), largest_norm(rows), runs_of(n, n_lists, rng), of.astype("i4"), None
        )
        some = rng.random(n) < 0.5
        for shift, relative, fine, allow, copies in (
            (None, 0.0, None, None, None), (shifts, 2.0, None, None, None), (None, 1.0, second, some, None),
            (None, 2.0, second, None, others), (shifts, 0.0, second, some, others._replace(allow=some[of])),
        ):  # fmt: skip
            fine_rows, fine_queries = fine or (None, None)
            listed = Listed(rows, largest_norm(rows), centres, shift, runs, relative, fine_rows, ids, allow, copies)
            arguments = (listed, queries, (values, offset), fine_queries, k, min(wanted, n) if fine else k, 4)
            wanted_ids, wanted_scores, wanted_probes = reference.search_lists(*arguments)
            for _again in range(2):  # rooms are used again
                found, scores, probes = search_lists(*arguments)
                np.testing.assert_array_equal(np.sort(probes, axis=1), wanted_probes)
                np.testing.assert_array_equal(found, wanted_ids)
                assert_same_bits(scores, wanted_scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_of_lists_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for n, k, tree in ((1, 1, "none"), (90, 4, "none"), (60, 4, "affine")):
        assert_found_alike(made(kind, n, 65, rng, tree), rng, k)


@pytest.mark.parametrize("name", PARTS)
def test_a_search_of_rows_in_parts_equals_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    assert_found_alike(in_parts(name, 80, rng), rng, 5)


@pytest.mark.parametrize("kind", ONE_HOT_KINDS)
def test_a_search_of_one_hot_rows_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(1)
    assert_found_alike(made_one_hot(kind, 200, 9, rng), rng, 5)


@pytest.mark.parametrize("n_lists", [4, 64, 150])
def test_centroids_in_any_number_are_ordered_alike(n_lists: int) -> None:
    rng = np.random.default_rng(n_lists)
    for dim in (1, 64, 384):
        assert_found_alike(made("int8", 300, 40, rng), rng, 5, n_lists, dim)
