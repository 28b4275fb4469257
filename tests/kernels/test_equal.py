"""Compiled kernels equal the NumPy reference to the bit.

These checks run on the path of this process; `test_paths.py` runs them again on the others.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.formats import FORMATS
from qindex_kernels import reference
from qindex_kernels.cpu.score_rows import score_rows
from qindex_kernels.cpu.topk import TOPK, topk

# One, odd, one register, register + tail of every kind, and what is common.
DIMS = (1, 3, 15, 16, 17, 32, 33, 64, 65, 100, 384, 1000)
N_ROWS = (1, 2, 5, 37, 300)


def packed_rows(kind: str, n: int, dim: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows of which each comes twice, so that there are ties."""
    values = rng.standard_normal(((n + 1) // 2, dim)).astype(np.float32) * (50 if kind == "int8" else 1)
    return FORMATS[kind].encode(np.concatenate([values, values])[:n])


def max_norm(kind: str, data: NDArray[np.uint8], dim: int, scale: NDArray[np.float32] | None) -> float:
    norms = np.linalg.norm(reference.decode(kind, data, dim), axis=1)
    return float((norms if scale is None else norms * scale).max()) * (1 + 1e-6)


def assert_equal_topk(kind: str, *rest: Any) -> None:
    wanted, found = reference.topk(kind, *rest), topk(kind, *rest)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1].view(np.int32), wanted[1].view(np.int32))
    assert not np.isnan(found[1]).any()


def assert_equal_scores(kind: str, *rest: Any) -> None:
    wanted, found = reference.score_rows(kind, *rest), score_rows(kind, *rest)
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", FORMATS)
def test_topk_equals_the_reference(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    values, offset = rng.standard_normal((3, dim)).astype(np.float32), rng.standard_normal(3)
    for n, scaled, biased, filtered in itertools.product(N_ROWS, *[(False, True)] * 3):
        data = packed_rows(kind, n, dim, rng)
        scale = np.repeat(rng.random(n).astype(np.float32), 2)[:n] if scaled else None
        bias = rng.integers(-1, 2, n).astype(np.float32) if biased else None
        allow = rng.random(n) < 0.7 if filtered else None
        ids = rng.permutation(n).astype(np.int64)
        bound = max_norm(kind, data, dim, scale)
        for k in rng.permutation([1, 10, n, n + 3])[:2].tolist():
            assert_equal_topk(kind, values, offset, data, scale, bias, ids, allow, k, bound)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", FORMATS)
def test_score_rows_equals_the_reference(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    values, offset = rng.standard_normal((3, dim)).astype(np.float32), rng.standard_normal(3)
    for n, scaled, biased in itertools.product(N_ROWS, (False, True), (False, True)):
        data = packed_rows(kind, n, dim, rng)
        scale = rng.random(n).astype(np.float32) if scaled else None
        bias = rng.standard_normal(n).astype(np.float32) if biased else None
        rows = np.concatenate([np.tile(np.arange(n), (3, 1)), rng.integers(0, n, (3, 7))], axis=1)
        assert_equal_scores(kind, values, offset, data, scale, bias, rows)


@pytest.mark.parametrize("kind", ["e4m3", "e5m2", "e3m4", "int8", "sign"])
def test_every_code_that_is_a_number_scores_like_the_reference(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    if kind != "sign":
        codes = codes[np.isfinite(FORMATS[kind].levels)]
    data = np.repeat(codes[:, None], 5, axis=1)
    dim = 40 if kind == "sign" else 5
    values = np.random.default_rng(0).standard_normal((2, dim)).astype(np.float32)
    rows = np.tile(np.arange(len(codes)), (2, 1))
    assert_equal_scores(kind, values, np.zeros(2), data, None, None, rows)
    bound = max_norm(kind, data, dim, None)
    assert_equal_topk(kind, values, np.zeros(2), data, None, None, rows[0], None, 20, bound)


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_rows_come_in_the_order_of_their_ids(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = np.tile(FORMATS[kind].encode(rng.standard_normal((1, 40)).astype(np.float32)), (500, 1))
    ids = rng.permutation(500).astype(np.int64)
    values = rng.standard_normal((2, 40)).astype(np.float32)
    rows, _scores = topk(kind, values, np.zeros(2), data, None, None, ids, None, 7, max_norm(kind, data, 40, None))
    np.testing.assert_array_equal(ids[rows], np.tile(np.arange(7), (2, 1)))


# --- the error bound of the fast pass --------------------------------------------------------------------------------


def hard_queries(dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Queries whose int8 form, or whose float32 sums, lose most of what matters."""
    plain = rng.standard_normal(dim)
    spike = plain.copy()
    spike[0] = 1e4
    mixed = plain * 10.0 ** rng.uniform(-10, 10, dim)
    cancelling = np.where(np.arange(dim) % 2, 1e6, -1e6) + plain
    one_step = np.where(np.arange(dim) % 2, 1.0, 0.5 / 127)  # every other number halfway between int8 steps
    return np.array(
        [plain, spike, mixed, cancelling, one_step, plain * 1e-40, plain * 1e-37, plain * 1e15, 0 * plain]
    ).astype(np.float32)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dim", [1, 31, 200])
def test_hard_queries_get_the_exact_answer(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    base = rng.standard_normal(dim)
    near = base + 0.05 * rng.standard_normal((700, dim))  # rows that the fast pass can hardly tell apart
    data = FORMATS[kind].encode((near * (30 if kind == "int8" else 1)).astype(np.float32))
    values = hard_queries(dim, rng)
    offset = np.tile([0.0, 1e3, -1e-3], 3)
    bias = rng.standard_normal(700).astype(np.float32)
    ids = rng.permutation(700).astype(np.int64)
    for shift in (None, bias, bias * 1000):
        for k in (1, 10):
            bound = max_norm(kind, data, dim, None)
            assert_equal_topk(kind, values, offset, data, None, shift, ids, None, k, bound)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e3, 1e10])
def test_row_scales_of_any_size_get_the_exact_answer(kind: str, size: float) -> None:
    rng = np.random.default_rng(2)
    values = hard_queries(96, rng)
    data = packed_rows(kind, 3000, 96, rng)
    scale = (size * (1 + rng.random(3000) / 100)).astype(np.float32)
    offset, ids = np.zeros(len(values)), np.arange(3000)
    assert_equal_topk(kind, values, offset, data, scale, None, ids, None, 10, max_norm(kind, data, 96, scale))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_underflows_in_a_fast_sum_may_be_large_under_its_row_scale(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        data = FORMATS[kind].encode(rng.standard_normal((300, 65)).astype(np.float32))
        values = (1e-40 * rng.standard_normal((3, 65))).astype(np.float32)
        scale = (1e10 * (1 + rng.standard_normal(300) / 1000)).astype(np.float32)
        ids, bound = np.arange(300), max_norm(kind, data, 65, scale)
        assert_equal_topk(kind, values, np.zeros(3), data, scale, None, ids, None, 10, bound)


def test_int8_sums_hold_the_largest_dim_at_its_extremes() -> None:
    dim = 65_536
    rows = [np.full(dim, -128), np.full(dim, 127), np.full(dim, -127), np.where(np.arange(dim) % 2, 127, -128)]
    data = np.array(rows, np.int8).view(np.uint8)
    values = np.array([np.ones(dim), -np.ones(dim), np.where(np.arange(dim) % 2, 1, -1)], np.float32)
    ids = np.arange(4)
    bound = max_norm("int8", data, dim, None)
    assert_equal_topk("int8", values, np.zeros(3), data, None, None, ids, None, 4, bound)
    assert topk("int8", values, np.zeros(3), data, None, None, ids, None, 1, bound)[1][0, 0] == 127 * dim


def test_sign_sums_hold_the_largest_dim_at_its_extremes() -> None:
    dim = 65_536
    data = np.array([np.zeros(dim // 8), np.full(dim // 8, 255), np.full(dim // 8, 0xAA)], np.uint8)
    values = np.array([np.ones(dim), -np.ones(dim)], np.float32)
    bound = max_norm("sign", data, dim, None)
    assert_equal_topk("sign", values, np.zeros(2), data, None, None, np.arange(3), None, 3, bound)
    assert topk("sign", values, np.zeros(2), data, None, None, np.arange(3), None, 1, bound)[1][0, 0] == dim


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_and_queries_of_zeros_score_zero(kind: str) -> None:
    data = FORMATS[kind].encode(np.zeros((20, 33), np.float32))
    values = np.zeros((1, 33), np.float32)
    rows, scores = topk(kind, values, np.zeros(1), data, None, None, np.arange(20), None, 20, 1e3)
    np.testing.assert_array_equal(rows[0], np.arange(20))
    np.testing.assert_array_equal(scores[0], 0)


def test_queries_that_may_not_be_written_need_no_other_compiled_kernel() -> None:
    values, data = np.ones((1, 40), np.float32), np.ones((3, 40), np.uint8)
    for writeable in (True, False):
        values.flags.writeable = writeable
        assert_equal_topk("int8", values, np.zeros(1), data, None, None, np.arange(3), None, 2, 10.0)
    assert len(TOPK["int8"].signatures) == 1
