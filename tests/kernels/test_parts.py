"""Rows that lie in parts of several formats score like the reference, to the bit."""

import numpy as np
import pytest
from fences import fenced, fenced_rows
from kernel_rows import PARTS, assert_same_bits, coded, in_parts
from topk_checks import assert_topk_is_exact

from qindex import kernels
from qindex.types import Queries
from qindex_kernels import reference
from qindex_kernels.cpu.score_rows import score_rows


@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_topk_over_parts_equals_the_reference(name: str, factor: bool) -> None:
    rng = np.random.default_rng([len(name), factor])
    for n, k in ((1, 1), (5, 10), (37, 3), (3000, 10)):
        scaled, biased, filtered = rng.random(3) < 0.5
        rows = in_parts(name, n, rng, scaled, biased, factor)
        values, offset = rng.standard_normal((3, rows.dim)).astype(np.float32), rng.standard_normal(3)
        allow = rng.random(n) < 0.7 if filtered else None
        assert_topk_is_exact(rows, values, k, offset, rng.permutation(n), allow)


@pytest.mark.parametrize("name", PARTS)
def test_scores_of_parts_equal_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    for factor in (False, True):
        rows = in_parts(name, 60, rng, factor=factor)
        values, offset = rng.standard_normal((3, rows.dim)).astype(np.float32), rng.standard_normal(3)
        chosen = np.tile(np.arange(60), (3, 1))
        found = score_rows(rows, values, offset, chosen)
        assert_same_bits(found, reference.score_rows(rows, values, offset, chosen))


def test_queries_far_larger_in_one_part_than_in_another_get_the_exact_answer() -> None:
    rng = np.random.default_rng(2)
    rows = in_parts("falling", 500, rng)
    for size in (1e-38, 1e-6, 1e6, 1e15):
        values = rng.standard_normal((9, rows.dim)).astype(np.float32)
        values[:, :26] *= np.float32(size)
        assert_topk_is_exact(rows, values, 5)


def test_no_byte_outside_of_any_part_is_read() -> None:
    rng = np.random.default_rng(3)
    for name in PARTS:
        some = in_parts(name, 26, rng)
        for n, at_end in ((1, True), (5, True), (5, False), (26, True)):
            rows = fenced_rows(some.part(slice(0, n)), at_end)
            x = fenced(rng.standard_normal((9, rows.dim)).astype(np.float32), at_end)
            assert_topk_is_exact(rows, x, 3)
            score_rows(rows, x[:2], np.zeros(2), fenced(np.tile(np.arange(n), (2, 1)), at_end))


def test_codes_in_parts_are_searched_through_the_door_and_not_multiplied() -> None:
    rng = np.random.default_rng(4)
    codes = coded(in_parts("fine", 300, rng))
    queries = Queries(rng.standard_normal((5, codes.dim)).astype(np.float32), np.zeros(5))
    assert kernels.agree(queries, codes)
    with pytest.raises(ValueError, match="one part for a matrix product"):
        kernels.matmul(queries.values, codes)
    with pytest.raises(ValueError, match="one part for a GPU"):
        kernels.to_device(codes, "cuda")
