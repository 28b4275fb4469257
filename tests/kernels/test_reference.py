"""The NumPy reference against other ways to the same numbers."""

import math

import numpy as np
import pytest
from kernel_rows import DIMS, INTEGER_KINDS, KINDS, TREES, assert_same_bits, made
from numpy.typing import NDArray

from qindex.formats import FORMATS
from qindex_kernels import reference
from qindex_kernels.layout import Level, Rows

every_kind = pytest.mark.parametrize("kind", KINDS)
every_tree = pytest.mark.parametrize("tree", TREES)


def level_numbers(level: Level, n: int) -> list[list[np.float32]]:
    format = FORMATS[level.kind]
    numbers = format.levels[level.data] if level.data.dtype == np.uint8 else level.data
    return np.broadcast_to(np.atleast_2d(numbers), (n, level.data.shape[-1])).astype(np.float32).tolist()


def one_by_one(rows: Rows) -> NDArray[np.float64]:
    """The formula of `layout`, a number at a time."""
    n, f32, format = len(rows.data), np.float32, FORMATS[rows.kind]
    levels = [(level.size, level_numbers(level, n)) for level in rows.levels]
    zeros = None if rows.zero is None else level_numbers(rows.zero, n)
    result = np.empty((n, rows.dim))
    decoded = None if rows.tables is not None else format.decode(rows.data, rows.dim)
    codes = None if rows.tables is None else format.unpack(rows.data, rows.dim)
    for j in range(n):
        for d in range(rows.dim):
            if rows.tables is None:
                number = decoded[j, d]
            else:
                tables = rows.tables if rows.tables.ndim == 2 else rows.tables[j]
                number = f32(tables[d // rows.block if len(tables) > 1 else 0, codes[j, d]])
            if levels:
                scale = f32(levels[0][1][j][d // levels[0][0]])
                for size, numbers in levels[1:]:
                    scale = scale * f32(numbers[j][d // size])
                number = number * scale
            if zeros is not None:
                number = number + f32(zeros[j][d // rows.block])
            result[j, d] = number
    return result


@every_tree
@every_kind
def test_numbers_are_those_of_the_formula(kind: str, tree: str) -> None:
    rng = np.random.default_rng(0)
    for dim in (1, 33, 150):
        rows = made(kind, 6, dim, rng, tree)
        np.testing.assert_array_equal(reference.numbers(rows, slice(None)), one_by_one(rows))
        np.testing.assert_array_equal(reference.numbers(rows, np.array([4, 1])), one_by_one(rows)[[4, 1]])


@every_tree
@every_kind
def test_scores_and_products_are_those_of_the_numbers(kind: str, tree: str) -> None:
    rng = np.random.default_rng(1)
    for scaled, biased in ((False, False), (True, False), (False, True), (True, True)):
        rows = made(kind, 50, 150, rng, tree, scaled, biased)
        values, offset = rng.standard_normal((4, 150)).astype(np.float32), rng.standard_normal(4)
        dots = np.einsum("id,jd->ij", values.astype(np.float64), reference.numbers(rows, slice(None)))
        wanted = dots * (1 if rows.scale is None else rows.scale) + (0 if rows.bias is None else rows.bias)
        size = np.abs(wanted).max()
        np.testing.assert_allclose(reference.matmul(rows, values), wanted, rtol=1e-6, atol=1e-6 * size)
        chosen = rng.integers(0, 50, (4, 30))
        found = reference.score_rows(rows, values, offset, chosen)
        wanted = np.take_along_axis(wanted + offset[:, None], chosen, 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * size)


@every_kind
def test_the_true_score_is_rounded_once(kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = made(kind, 40, 100, rng, scaled=False, biased=False)
    values = rng.standard_normal((1, 100)).astype(np.float32)
    products = reference.numbers(rows, slice(None)) * values  # exact in float64
    wanted = np.array([[math.fsum(row) for row in products]]).astype(np.float32)
    found = reference.score_rows(rows, values, np.zeros(1), np.arange(40)[None])
    np.testing.assert_array_equal(found, wanted)


@every_kind
def test_topk_sorts_all_scores(kind: str) -> None:
    rng = np.random.default_rng(1)
    rows = made(kind, 60, 20, rng)
    values, ids, allow = rng.standard_normal((3, 20)).astype(np.float32), rng.permutation(60), rng.random(60) < 0.6
    scores = reference.score_rows(rows, values, np.zeros(3), np.tile(np.arange(60), (3, 1)))
    for mask, k in ((None, 1), (None, 60), (None, 70), (allow, 10), (allow, 60), (np.zeros(60, bool), 5)):
        best, found = reference.topk(rows, values, np.zeros(3), ids, mask, k, 1e9)
        for i in range(3):
            allowed = [j for j in range(60) if mask is None or mask[j]]
            wanted = sorted(allowed, key=lambda j: (-scores[i, j], ids[j]))[:k]
            assert best[i].tolist() == wanted + [-1] * (k - len(wanted))
            assert found[i].tolist() == [scores[i, j] for j in wanted] + [-math.inf] * (k - len(wanted))


@every_kind
def test_many_rows_are_scored_in_parts_without_a_seam(kind: str) -> None:
    rows, values = made(kind, 20, 3, np.random.default_rng(2)), np.ones((1, 3), np.float32)
    chosen = np.random.default_rng(3).integers(0, 20, (1, 2 * reference.ROWS_AT_ONCE + 1))
    each = reference.score_rows(rows, values, np.ones(1), np.arange(20)[None])
    found = reference.score_rows(rows, values, np.ones(1), chosen)
    np.testing.assert_array_equal(found, each[:, chosen[0]])


@pytest.mark.parametrize("block", [0, 16, 48])
@pytest.mark.parametrize("dim", DIMS)
def test_activations_are_rounded_to_the_nearest_of_127_steps(dim: int, block: int) -> None:
    x = np.random.default_rng(dim).standard_normal((5, dim)).astype(np.float32)
    x[1], x[2], x[3] = 0, 1e-40, x[3] * 1e30
    codes, steps = reference.quantize(x, block)
    size = block or dim
    assert (codes.dtype, steps.dtype, steps.shape) == (np.int8, np.float32, (5, -(-dim // size)))
    step = np.repeat(steps, size, axis=1)[:, :dim].astype(np.float64)
    assert (np.abs(x - codes * step) <= step / 2 * (1 + 1e-5)).all()
    assert (np.abs(codes.astype(int)) <= 127).all()
    starts = np.arange(0, dim, size)
    largest = np.maximum.reduceat(np.abs(codes.astype(int)), starts, axis=1)
    assert (largest[[0, 3, 4]] == 127).all()
    assert not codes[[1, 2]].any()


@every_tree
@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_integer_products_are_those_of_the_rounded_activations(kind: str, tree: str) -> None:
    rng = np.random.default_rng(4)
    rows, x = made(kind, 20, 150, rng, tree), rng.standard_normal((6, 150)).astype(np.float32)
    for x_block in {0, rows.block}:
        codes, steps = reference.quantize(x, x_block)
        rounded = codes * np.repeat(steps, x_block or 150, axis=1)[:, :150].astype(np.float64)
        found = reference.matmul_int8(rows, x, x_block)
        # nf4 is rounded too: each level by up to 1 / 254.
        wrong = np.abs(rounded).sum(axis=1, keepdims=True) / 254 if kind == "nf4" else 0
        size = 1 if not rows.levels else np.abs(reference.block_scale(rows, slice(None))).max()
        numbers = reference.numbers(rows, slice(None))
        assert rows.scale is not None
        assert rows.bias is not None
        wanted = rounded @ numbers.T * rows.scale + rows.bias
        rounding = 1e-6 * (np.abs(rounded) @ np.abs(numbers).T * rows.scale + 1) * 10
        assert (np.abs(found - wanted) <= wrong * size * rows.scale + rounding).all()


def test_levels_of_formats_are_those_of_the_library() -> None:
    for kind in KINDS:
        if FORMATS[kind].kind in ("float", "codebook"):
            continue
        levels = FORMATS[kind].levels
        numbers = np.isfinite(levels)
        assert_same_bits(reference.LEVELS[kind][numbers].astype(np.float32), levels[numbers])
