"""Queries that are codes: counting the bits that differ from rows gives the scores of their values, to the bit.

These checks run on the path of this process; `test_paths.py` runs them again on the others.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_rows import assert_same_bits, coded, made
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS, HALF2, INT2, SIGN
from qindex.threads import threads
from qindex.types import Codes, Matches, Queries
from qindex_kernels import reference
from qindex_kernels.cpu.symmetric import topk_counted, topk_symmetric
from qindex_kernels.layout import Rows

KINDS = ("sign", "half2")
every_kind = pytest.mark.parametrize("kind", KINDS)

DIMS = (*range(1, 131), 255, 256, 257, 384, 511, 512, 513, 1000)


def some_rows(kind: str, n: int, dim: int, rng: np.random.Generator) -> Rows:
    """Random rows, each of which comes twice; bits behind the last number may be anything."""
    data = rng.integers(0, 256, (n, FORMATS[kind].row_bytes(dim)), np.uint8)
    return Rows(kind, dim, data[np.arange(n) % -(-n // 2)])


def some_codes(kind: str, n: int, dim: int, seed: int = 0) -> Codes:
    return coded(some_rows(kind, n, dim, np.random.default_rng(seed)))


def some_queries(kind: str, m: int, dim: int, rng: np.random.Generator) -> Queries:
    codes = coded(some_rows(kind, m, dim, rng))
    return Queries.of_codes(codes, (10.0 ** rng.uniform(-6, 6, m)).astype(np.float32), rng.standard_normal(m))


def assert_counting_is_exact(
    rows: Rows,
    queries: Queries,
    k: int,
    ids: NDArray[np.int64] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> None:
    assert queries.codes is not None
    ids = np.arange(len(rows.data))[::-1].copy() if ids is None else ids
    rest: Any = (ids, allow, k)
    best, scores = reference.topk(rows, queries.values, queries.offset, *rest, 1e9)
    for found in (
        topk_counted(rows, queries.values, queries.offset, *rest, queries.codes.data),
        topk_symmetric(rows, queries.values, queries.offset, *rest, 1e9, queries.codes.data),
    ):
        np.testing.assert_array_equal(found[0], best)
        assert_same_bits(found[1], scores)


# --- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
@every_kind
def test_counting_bits_equals_the_reference(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    for n, k in ((int(rng.integers(1, 20)), 3), (300, 10)):
        rows, queries = some_rows(kind, n, dim, rng), some_queries(kind, 3, dim, rng)
        allow = rng.random(n) < 0.7 if dim % 2 else None
        assert_counting_is_exact(rows, queries, k, rng.permutation(n), allow)


@every_kind
def test_counting_bits_equals_the_reference_for_any_number_of_rows_wanted_and_there(kind: str) -> None:
    rng = np.random.default_rng(1)
    for n, m in itertools.product((1, 2, 4, 5, 15, 16, 17, 700), (1, 2, 9, 65)):
        rows, queries = some_rows(kind, n, 70, rng), some_queries(kind, m, 70, rng)
        for k, allow in ((1, None), (n, None), (n + 3, rng.random(n) < 0.5), (5, np.zeros(n, bool))):
            assert_counting_is_exact(rows, queries, k, rng.permutation(n), allow)


@given(data=st.data())
@every_kind
def test_scores_that_round_to_one_number_are_ties(kind: str, data: st.DataObject) -> None:
    """An offset that is large beside the scale leaves few scores, or one, to the distances there are."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dim, n, k = (data.draw(st.integers(1, most)) for most in (200, 120, 20))
    magnitudes = st.floats(-40, 17)
    scale = np.array([10.0 ** data.draw(magnitudes) for _ in range(2)], np.float32)
    offset = np.array([data.draw(st.sampled_from([-1, 0, 1])) * 10.0 ** data.draw(magnitudes) for _ in range(2)])
    rows, codes = some_rows(kind, n, dim, rng), coded(some_rows(kind, 2, dim, rng))
    small = scale < np.finfo(np.float32).tiny * 8  # has too few bits for three halves of it
    queries = Queries.of_codes(codes, np.where(small, np.float32(1), scale), offset)
    assert_counting_is_exact(rows, queries, k, rng.permutation(n))


@every_kind
def test_equal_rows_come_in_the_order_of_their_ids(kind: str) -> None:
    rng = np.random.default_rng(2)
    row = some_rows(kind, 1, 100, rng)
    rows, ids = Rows(kind, 100, np.repeat(row.data, 500, axis=0)), rng.permutation(500)
    queries = some_queries(kind, 2, 100, rng)
    assert queries.codes is not None
    found, _ = topk_counted(rows, queries.values, queries.offset, ids, None, 7, queries.codes.data)
    np.testing.assert_array_equal(ids[found], np.tile(np.arange(7), (2, 1)))


@every_kind
def test_sums_hold_the_largest_dim_at_its_extremes(kind: str) -> None:
    format, dim = FORMATS[kind], 65_536
    codes = np.zeros((3, dim), np.uint8)
    codes[1] = codes[2, ::2] = (1 << format.bits) - 1
    rows = Rows(kind, dim, np.repeat(format.pack(codes), 9, axis=0))
    assert_counting_is_exact(rows, Queries.of_codes(coded(rows)[:27:9], np.ones(3, np.float32)), 20)


# --- the door --------------------------------------------------------------------------------------------------------


def with_and_without(queries: Queries, codes: Codes, k: int, **rest: Any) -> tuple[Matches, Matches]:
    bare = Queries(queries.values, queries.offset)
    return kernels.topk(queries, codes, k, **rest), kernels.topk(bare, codes, k, **rest)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert_same_bits(found.scores, wanted.scores)


@pytest.mark.parametrize("n_threads", [1, 3])
@every_kind
def test_codes_beside_queries_change_no_result(kind: str, n_threads: int) -> None:
    rng, before = np.random.default_rng(3), threads.count
    codes, ids = some_codes(kind, 30_000, 384), rng.permutation(30_000)
    kernels.set_threads(n_threads)
    try:
        for m in (1, 3, 40):
            queries = some_queries(kind, m, 384, rng)
            for share in (1, 0.6, 0.01, 0.0001):
                allow = None if share == 1 else rng.random(30_000) < share
                assert_same(*with_and_without(queries, codes, 10, ids=ids, allow=allow))
    finally:
        kernels.set_threads(before)


@every_kind
def test_rows_that_are_more_than_their_levels_are_scored_with_all_that_they_are(kind: str) -> None:
    rng = np.random.default_rng(4)
    queries = some_queries(kind, 2, 64, rng)
    for scaled, biased, tree in ((True, False, "none"), (False, True, "none"), (False, False, "mx")):
        codes = coded(made(kind, 50, 64, rng, tree, scaled, biased))
        assert_same(*with_and_without(queries, codes, 50, ids=np.arange(50)))


def test_queries_in_codes_of_another_format_are_scored_by_their_values() -> None:
    rng = np.random.default_rng(5)
    assert_same(*with_and_without(some_queries("sign", 2, 64, rng), some_codes("half2", 50, 64), 9, ids=np.arange(50)))
    assert_same(*with_and_without(some_queries("half2", 2, 64, rng), some_codes("sign", 50, 64), 9, ids=np.arange(50)))


# --- the queries -----------------------------------------------------------------------------------------------------


@every_kind
def test_values_made_of_codes_are_their_levels_times_the_scale(kind: str) -> None:
    codes, scale = some_codes(kind, 5, 33), np.array([1, 0.1, 1e-20, 3e17, 1 / 3], np.float32)
    queries = Queries.of_codes(codes, scale)
    np.testing.assert_allclose(queries.values, scale[:, None] * codes.levels, rtol=2**-21)
    assert not queries.offset.any()


@every_kind
def test_values_that_are_not_those_of_the_codes_are_refused(kind: str) -> None:
    codes, offset = some_codes(kind, 3, 40), np.zeros(3)
    values = codes.levels * np.float32(0.25)
    Queries(values, offset, codes)
    wrong = values.copy()
    wrong[2, 39] = np.nextafter(wrong[2, 39], np.float32(1))
    for others in (wrong, -values, 0 * values, np.full_like(values, np.nan)):
        with pytest.raises(ValueError, match=r"values must be exactly the levels of codes .* Queries\.of_codes"):
            Queries(others, offset, codes)


def test_a_scale_whose_product_with_a_level_is_rounded_is_refused() -> None:
    codes = Codes(HALF2.pack(np.full((1, 8), 3, np.uint8)), HALF2, 8, 5.0)
    with pytest.raises(ValueError, match="values must be exactly"):
        Queries(np.ones((1, 8), np.float32), np.zeros(1), codes)  # 1 is 1.5 times no float32 number


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (some_codes("sign", 4, 40), r"codes must be \(3, 40\) like values, got \(4, 40\)"),
        (some_codes("sign", 3, 41), r"codes must be \(3, 40\) like values, got \(3, 41\)"),
        (Codes(INT2.encode(np.ones((3, 40), np.float32)), INT2, 40, 9.0), "codes must be of signs .* got int2: leave"),
        (
            Codes(SIGN.encode(np.ones((3, 40), np.float32)), SIGN, 40, 9.0, np.ones(3, np.float32)),
            "codes must be .* without scales, .* got sign with more than that",
        ),
    ],
)
def test_codes_that_cannot_be_those_of_the_queries_are_refused(codes: Codes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Queries(np.ones((3, 40), np.float32), np.zeros(3), codes)


def test_codes_that_are_no_codes_are_refused() -> None:
    wrong: Any = np.zeros((3, 5), np.uint8)
    with pytest.raises(TypeError, match="codes must be Codes, got ndarray"):
        Queries(np.ones((3, 40), np.float32), np.zeros(3), wrong)


def test_scales_of_another_type_or_shape_are_refused() -> None:
    for wrong in (np.ones(2, np.float32), np.ones(3)):
        with pytest.raises(ValueError, match=r"scale must be float32 \(3,\), got"):
            Queries.of_codes(some_codes("sign", 3, 40), wrong)
