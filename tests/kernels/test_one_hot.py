"""One-hot rows: compiled top-k and scores equal the NumPy reference to the bit, and that one its definition."""

import itertools

import numpy as np
import pytest
from kernel_rows import ONE_HOT_KINDS, assert_same_bits, largest_norm, made_one_hot
from topk_checks import assert_topk_is_exact

from qindex.formats import FORMATS
from qindex_kernels import reference
from qindex_kernels.cpu.lookups import LANES
from qindex_kernels.cpu.score_rows import score_rows
from qindex_kernels.cpu.topk import topk
from qindex_kernels.layout import Rows

every_kind = pytest.mark.parametrize("kind", ONE_HOT_KINDS)

# One, odd, what is read at once and one more, and what is common.
PARTS = (1, 2, 3, 7, 8, 9, 31, 32, 33, 48, 96)


@every_kind
@pytest.mark.parametrize("parts", [1, 3, 32, 48])
def test_the_reference_gives_the_product_with_ones_and_zeros(kind: str, parts: int) -> None:
    rng = np.random.default_rng(parts)
    rows = made_one_hot(kind, 40, parts, rng)
    values, offset = rng.standard_normal((2, rows.dim)).astype(np.float32), rng.standard_normal(2)
    numbers = reference.numbers(rows, slice(None))
    assert numbers.sum(axis=1).tolist() == [parts] * 40
    plain = Rows("float32", rows.dim, numbers.astype("<f4").view(np.uint8), rows.scale, rows.bias)
    chosen = np.tile(np.arange(40), (2, 1))
    found = reference.score_rows(rows, values, offset, chosen)
    assert_same_bits(found, reference.score_rows(plain, values, offset, chosen))


@every_kind
@pytest.mark.parametrize("parts", PARTS)
def test_topk_equals_the_reference(kind: str, parts: int) -> None:
    rng = np.random.default_rng(parts)
    for n in (1, 5, 63, 64, 65, 300):
        scaled, biased, filtered = rng.random(3) < 0.5
        rows = made_one_hot(kind, n, parts, rng, scaled, biased)
        values, offset = rng.standard_normal((3, rows.dim)).astype(np.float32), rng.standard_normal(3)
        allow = rng.random(n) < 0.7 if filtered else None
        for k in (1, 10, n + 3):
            assert_topk_is_exact(rows, values, k, offset, rng.permutation(n), allow)


@every_kind
@pytest.mark.parametrize("m", [8, 16, 17, LANES, LANES + 1, 2 * LANES + 9])
def test_topk_of_any_batch_equals_the_reference(kind: str, m: int) -> None:
    rng = np.random.default_rng(m)
    rows = made_one_hot(kind, 700, 12, rng)
    values, offset, ids = rng.standard_normal((m, rows.dim)).astype(np.float32), rng.standard_normal(m), np.arange(700)
    found = topk(rows, values, offset, ids, None, 5, largest_norm(rows))
    wanted = reference.topk(rows, values, offset, ids, None, 5, largest_norm(rows))
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_same_bits(found[1], wanted[1])


@every_kind
@pytest.mark.parametrize("parts", PARTS)
def test_score_rows_equals_the_reference(kind: str, parts: int) -> None:
    rng = np.random.default_rng(parts)
    for scaled, biased in itertools.product((False, True), repeat=2):
        rows = made_one_hot(kind, 60, parts, rng, scaled, biased)
        values, offset = rng.standard_normal((3, rows.dim)).astype(np.float32), rng.standard_normal(3)
        chosen = rng.integers(0, 60, (3, 70))
        found = score_rows(rows, values, offset, chosen)
        assert_same_bits(found, reference.score_rows(rows, values, offset, chosen))


@every_kind
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e10])
def test_hard_queries_get_the_exact_answer(kind: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    rows = made_one_hot(kind, 300, 20, rng, scaled=False, biased=False)
    rows = Rows(kind, rows.dim, rows.data, (scale * (1 + rng.random(300) / 100)).astype(np.float32))
    plain = rng.standard_normal(rows.dim)
    near = 1 + 1e-6 * plain  # rows that the tables in int8 cannot tell apart
    spike = np.where(np.arange(rows.dim) == 7, 1e4, plain)
    half_steps = np.where(rng.random(rows.dim) < 0.5, 0.499, 0.501) / 127
    half_steps[0] = 1
    mixed = plain * 10.0 ** rng.uniform(-10, 10, rows.dim)
    queries = [plain, near, spike, half_steps, mixed, plain * 1e-40, plain * 1e-37, plain * 1e15, 0 * plain]
    for k in (1, 10):
        assert_topk_is_exact(rows, np.array(queries, np.float32), k)


@every_kind
def test_sums_hold_the_most_codes_of_the_largest_entries(kind: str) -> None:
    format = FORMATS[kind]
    parts = 65_536 // format.span
    codes = np.zeros((130, parts), np.uint8)
    codes[1::2] = format.span - 1
    codes[2::3, ::2] = format.span - 1
    rows = Rows(kind, 65_536, format.pack(codes))
    ends = np.zeros((4, parts, format.span), np.float32)
    ends[0, :, 0], ends[0, :, -1], ends[1], ends[2], ends[3, :, -1] = 1, -1, 1, -1, 1e30
    assert_topk_is_exact(rows, ends.reshape(4, -1), 3)


@every_kind
def test_equal_rows_come_in_the_order_of_their_ids(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = made_one_hot(kind, 1, 40, rng, scaled=False, biased=False)
    rows = Rows(kind, rows.dim, np.repeat(rows.data, 500, axis=0))
    ids, values = rng.permutation(500), rng.standard_normal((9, rows.dim)).astype(np.float32)
    for m in (2, 9):
        found, _scores = topk(rows, values[:m], np.zeros(m), ids, None, 7, largest_norm(rows))
        np.testing.assert_array_equal(ids[found], np.tile(np.arange(7), (m, 1)))
