"""The NumPy reference against other ways to the same numbers."""

import math

import numpy as np
import pytest

from qindex.formats import FORMATS
from qindex_kernels import reference

every_kind = pytest.mark.parametrize("kind", FORMATS)


@every_kind
@pytest.mark.parametrize("dim", [1, 33, 384])
def test_scores_are_those_of_the_decoded_numbers(kind: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    format = FORMATS[kind]
    data = format.encode(rng.standard_normal((50, dim)).astype(np.float32) * 10)
    values, offset = rng.standard_normal((4, dim)).astype(np.float32), rng.standard_normal(4)
    scale, bias = rng.random(50).astype(np.float32), rng.standard_normal(50).astype(np.float32)
    decoded = format.decode(data, dim).astype(np.float64)
    dots = np.einsum("id,jd->ij", values.astype(np.float64), decoded)
    rows = rng.integers(0, 50, (4, 30))
    for s, b in ((None, None), (scale, None), (None, bias), (scale, bias)):
        wanted = offset[:, None] + (0 if b is None else b) + dots * (1 if s is None else s)
        found = reference.score_rows(kind, values, offset, data, s, b, rows)
        np.testing.assert_allclose(found, np.take_along_axis(wanted, rows, 1), rtol=1e-6, atol=1e-6)


@every_kind
def test_the_true_score_is_rounded_once(kind: str) -> None:
    rng = np.random.default_rng(0)
    format = FORMATS[kind]
    data = format.encode(rng.standard_normal((40, 100)).astype(np.float32) * 10)
    values = rng.standard_normal((1, 100)).astype(np.float32)
    products = format.decode(data, 100).astype(np.float64) * values  # exact in float64
    wanted = np.array([[math.fsum(row) for row in products]]).astype(np.float32)
    found = reference.score_rows(kind, values, np.zeros(1), data, None, None, np.arange(40)[None])
    np.testing.assert_array_equal(found, wanted)


@every_kind
def test_topk_sorts_all_scores(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = FORMATS[kind].encode(rng.standard_normal((60, 20)).astype(np.float32) * 10)
    data[30:] = data[:30]
    values, ids, allow = rng.standard_normal((3, 20)).astype(np.float32), rng.permutation(60), rng.random(60) < 0.6
    every_row = np.tile(np.arange(60), (3, 1))
    scores = reference.score_rows(kind, values, np.zeros(3), data, None, None, every_row)
    for mask, k in ((None, 1), (None, 60), (None, 70), (allow, 10), (allow, 60), (np.zeros(60, bool), 5)):
        rows, found = reference.topk(kind, values, np.zeros(3), data, None, None, ids, mask, k, 1e9)
        for i in range(3):
            allowed = [j for j in range(60) if mask is None or mask[j]]
            wanted = sorted(allowed, key=lambda j: (-scores[i, j], ids[j]))[:k]
            assert rows[i].tolist() == wanted + [-1] * (k - len(wanted))
            assert found[i].tolist() == [scores[i, j] for j in wanted] + [-math.inf] * (k - len(wanted))


@every_kind
def test_many_rows_are_scored_in_parts_without_a_seam(kind: str) -> None:
    data = FORMATS[kind].encode(np.random.default_rng(2).standard_normal((20, 3)).astype(np.float32))
    values = np.ones((1, 3), np.float32)
    rows = np.random.default_rng(3).integers(0, 20, (1, 2 * reference.ROWS_AT_ONCE + 1))
    each = reference.score_rows(kind, values, np.ones(1), data, None, None, np.arange(20)[None])
    found = reference.score_rows(kind, values, np.ones(1), data, None, None, rows)
    np.testing.assert_array_equal(found, each[:, rows[0]])
