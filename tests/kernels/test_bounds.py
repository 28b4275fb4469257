"""The error bound of the fast pass holds: inputs that fast scores can hardly tell apart get the exact answer."""

from dataclasses import replace

import numpy as np
import pytest
from kernel_rows import KINDS, made, of_values
from numpy.typing import NDArray
from topk_checks import assert_topk_is_exact

from qindex.formats import FORMATS
from qindex_kernels.layout import Level, Rows


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


def near_rows(kind: str, n: int, dim: int, rng: np.random.Generator) -> Rows:
    """Rows that the fast pass can hardly tell apart."""
    return of_values(kind, rng.standard_normal(dim) + 0.05 * rng.standard_normal((n, dim)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 31, 200])
def test_hard_queries_get_the_exact_answer(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    rows, values = near_rows(kind, 300, dim, rng), hard_queries(dim, rng)
    bias = rng.standard_normal(300).astype(np.float32)
    for shift, k in ((None, 1), (None, 10), (bias, 10), (bias * 1000, 1)):
        assert_topk_is_exact(replace(rows, bias=shift), values, k, np.array(3 * [0.0, 1e3, -1e-3]))


@pytest.mark.parametrize("block", [0, 64])
@pytest.mark.parametrize("kind", ["int8", "int6", "int4", "half3", "e2m1", "e2m3", "ternary", "sign"])
def test_rows_along_all_that_the_int8_query_misses_get_the_exact_answer(kind: str, block: int) -> None:
    """The bound is reached: but for its first number the int8 query is zero, and rows come from worst to best."""
    dim = 256
    largest = FORMATS[kind].max_value
    numbers = np.where(np.arange(dim) <= np.arange(dim)[:, None], largest, -largest).astype(np.float32)
    numbers[:, 0] = 0
    query = np.full((1, dim), 0.499 / 127, np.float32)
    query[0, 0] = 1
    levels = (Level("float32", block, np.ones(dim // block, np.float32)),) if block else ()
    rows = Rows(kind, dim, FORMATS[kind].encode(numbers), levels=levels)
    for k in (1, 5):
        assert_topk_is_exact(rows, query, k)
        assert_topk_is_exact(rows, -query, k)


@pytest.mark.parametrize("kind", ["float16", "e4m3", "e2m3", "e2m1", "nf4", "int8", "int6", "int4", "ternary", "sign"])
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_blocks_of_any_spread_get_the_exact_answer(kind: str, spread: float) -> None:
    """Scales of powers of two from all alike to 2 ** -30 ... 2 ** 30, with zeros of their size."""
    rng = np.random.default_rng(0)
    n, dim = 200, 200
    values = hard_queries(dim, rng)
    scales = np.exp2(rng.normal(0, spread, (1, 13)) + rng.normal(0, 0.01, (n, 13))).astype(np.float32)
    zeros = (scales * rng.standard_normal((n, 13))).astype(np.float32)
    rows = near_rows(kind, n, dim, rng)
    one = replace(rows, levels=(Level("float32", 16, scales),))
    assert_topk_is_exact(one, values, 10)
    assert_topk_is_exact(replace(one, zero=Level("float32", 16, zeros)), values, 10)
    coarse = Level("e8m0", 64, rng.integers(97, 157, (n, 4)).astype(np.uint8))
    assert_topk_is_exact(replace(one, levels=(*one.levels, coarse), scale=rng.random(n).astype(np.float32)), values, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e10])
def test_row_scales_of_any_size_get_the_exact_answer(kind: str, size: float) -> None:
    rng = np.random.default_rng(2)
    scale = (size * (1 + rng.random(500) / 100)).astype(np.float32)
    assert_topk_is_exact(replace(made(kind, 500, 96, rng, biased=False), scale=scale), hard_queries(96, rng), 10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_underflows_in_a_fast_sum_may_be_large_under_its_row_scale(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        values = (1e-40 * rng.standard_normal((3, 65))).astype(np.float32)
        scale = (1e10 * (1 + rng.standard_normal(300) / 1000)).astype(np.float32)
        rows = made(kind, 300, 65, rng, biased=False)
        assert_topk_is_exact(replace(rows, scale=scale), values, 10)
        blocks = Level("float32", 16, (1e-3 * rng.random((300, 5))).astype(np.float32))
        assert_topk_is_exact(replace(rows, scale=scale, levels=(blocks,)), values, 10)


@pytest.mark.parametrize("dim", [1, 3, 65])
def test_rows_of_subnormal_numbers_get_the_exact_answer(dim: int) -> None:
    rng = np.random.default_rng(1)
    scale = (1e30 * (1 + rng.random(300) / 1000)).astype(np.float32)
    for size in (1e-40, 1e-43, 1e-44, 3e-45):
        for _ in range(5):
            numbers = (size * rng.standard_normal((300, dim))).astype(np.float32)
            rows = Rows("float32", dim, numbers.view(np.uint8), scale=scale)
            assert_topk_is_exact(rows, rng.standard_normal((3, dim)).astype(np.float32), 10)


@pytest.mark.parametrize(("kind", "code", "level"), [("int8", 124, 124), ("int4", 0, -8), ("e4m3", 0x7E, 448)])
def test_blocks_much_longer_than_what_is_left_beside_their_zero_get_the_exact_answer(
    kind: str, code: int, level: int
) -> None:
    rng = np.random.default_rng(3)
    for size in (1e3, 1e5, 1e7):
        for _ in range(10):
            data = np.full((400, 32 if kind == "int4" else 64), code, np.uint8)
            scales = (size * (1 + 1e-6 * rng.random((400, 1)))).astype(np.float32)
            zeros = np.full((400, 1), -level * size, np.float32)
            rows = Rows(kind, 64, data, levels=(Level("float32", 64, scales),), zero=Level("float32", 64, zeros))
            assert_topk_is_exact(rows, rng.standard_normal((2, 64)).astype(np.float32), 5)
