"""Compiled top-k and scores equal the NumPy reference to the bit, for every format and every scale tree.

These checks run on the path of this process; `test_paths.py` runs them again on the others.
"""

import itertools

import numpy as np
import pytest
from kernel_rows import KINDS, TREES, assert_same_bits, dims_of, largest_norm, made, of_values
from topk_checks import assert_topk_is_exact

from qindex.formats import FORMATS
from qindex_kernels import reference
from qindex_kernels.cpu.score_rows import score, score_rows
from qindex_kernels.cpu.topk import scan, topk
from qindex_kernels.layout import Level, Rows

N_ROWS = (1, 2, 5, 37, 300)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", KINDS)
def test_topk_equals_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), len(tree)])
    for dim in dims_of(kind, tree):
        n, k = int(rng.choice((5, 37, 300))), int(rng.choice((1, 10)))
        scaled, biased, filtered = rng.random(3) < 0.5
        rows = made(kind, n, dim, rng, tree, scaled, biased)
        values, offset = rng.standard_normal((3, dim)).astype(np.float32), rng.standard_normal(3)
        allow = rng.random(n) < 0.7 if filtered else None
        assert_topk_is_exact(rows, values, k, offset, rng.permutation(n), allow)


@pytest.mark.parametrize("dim", [1, 7, 64, 100, 384, 512, 513, 1100])
def test_queries_of_one_size_against_signs_get_the_exact_answer(dim: int) -> None:
    """They are compared by counting bits, and many rows are equally far."""
    rng = np.random.default_rng(dim)
    signs = np.where(rng.random((5, dim)) < 0.5, 1, -1) * 10.0 ** np.array([[-39], [-37], [-3], [0], [15]])
    for n, scaled, biased in itertools.product((3, 300), (False, True), (False, True)):
        rows = made("sign", n, dim, rng, "none", scaled, biased)
        assert_topk_is_exact(rows, signs.astype(np.float32), 10, rng.standard_normal(5), rng.permutation(n))
        assert_topk_is_exact(rows, signs[2:].astype(np.float32), 10, rng.standard_normal(3), rng.permutation(n))


@pytest.mark.parametrize("kind", KINDS)
def test_topk_equals_the_reference_for_any_number_of_rows_wanted_and_there(kind: str) -> None:
    rng = np.random.default_rng(1)
    for n, scaled, biased, filtered in itertools.product(N_ROWS, *[(False, True)] * 3):
        rows = made(kind, n, 40, rng, "none", scaled, biased)
        values, allow = rng.standard_normal((2, 40)).astype(np.float32), rng.random(n) < 0.7
        for k in (1, n, n + 3):
            assert_topk_is_exact(rows, values, k, None, rng.permutation(n), allow if filtered else None)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", KINDS)
def test_score_rows_equals_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), len(tree)])
    for dim in dims_of(kind, tree):
        n, (scaled, biased) = int(rng.choice((5, 60))), rng.random(2) < 0.5
        rows = made(kind, n, dim, rng, tree, scaled, biased)
        values, offset = rng.standard_normal((3, dim)).astype(np.float32), rng.standard_normal(3)
        chosen = np.concatenate([np.tile(np.arange(n), (3, 1)), rng.integers(0, n, (3, 7))], axis=1)
        found = score_rows(rows, values, offset, chosen)
        assert_same_bits(found, reference.score_rows(rows, values, offset, chosen))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FORMATS[kind].bits <= 8])
def test_every_code_that_is_a_number_scores_like_the_reference(kind: str) -> None:
    format, rng = FORMATS[kind], np.random.default_rng(3)
    codes = np.arange(1 << format.bits, dtype=np.uint8)
    tables = None
    if format.kind == "codebook":
        tables = rng.integers(-128, 128, (1, len(codes))).astype(np.int8)
    else:
        codes = codes[np.isfinite(format.levels)]
    rows = Rows(kind, 70, format.pack(np.repeat(codes[:, None], 70, axis=1)), tables=tables)
    values = rng.standard_normal((2, 70)).astype(np.float32)
    chosen = np.tile(np.arange(len(codes)), (2, 1))
    assert_same_bits(
        score_rows(rows, values, np.zeros(2), chosen), reference.score_rows(rows, values, np.zeros(2), chosen)
    )
    assert_topk_is_exact(rows, values, 20)


@pytest.mark.parametrize("name", ["float32", "float16", "e4m3", "e8m0"])
@pytest.mark.parametrize("kind", ["int8", "int4", "e4m3", "nf4"])
def test_every_finite_block_scale_and_zero_is_read_as_its_format_says(kind: str, name: str) -> None:
    """Of the wide formats, the ends of their range; products beyond float32 are left out."""
    if name == "float32":
        numbers = np.array([0.0, -0.0, 1e-45, -1e-40, 1e-38, 2.5, -7.0, 1e15], np.float32)
    elif name == "float16":
        numbers = np.array([0.0, -0.0, 6e-8, -6e-5, 6.1e-5, 1.5, -65504.0], np.float16)
    else:
        numbers = np.arange(256, dtype=np.uint8)
        numbers = numbers[np.isfinite(FORMATS[name].levels) & (np.abs(FORMATS[name].levels) < 1e15)]
    blocks = len(numbers)
    dim = 32 * blocks
    data = np.repeat(made(kind, 3, 32, np.random.default_rng(4)).data, blocks, axis=0).reshape(3, -1)
    level = Level(name, 32, np.ascontiguousarray(np.stack([numbers, numbers[::-1], np.roll(numbers, 1)])))
    values = np.random.default_rng(5).standard_normal((2, dim)).astype(np.float32)
    chosen = np.tile(np.arange(3), (2, 1))
    for rows in (
        Rows(kind, dim, data, levels=(level,)),
        Rows(kind, dim, data, zero=level),
        Rows(kind, dim, data, levels=(Level("float32", 16, np.full(2 * blocks, 0.7, np.float32)), level)),
    ):
        found = score_rows(rows, values, np.zeros(2), chosen)
        assert_same_bits(found, reference.score_rows(rows, values, np.zeros(2), chosen))
        assert_topk_is_exact(rows, values, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_come_in_the_order_of_their_ids(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = of_values(kind, np.tile(rng.standard_normal((1, 40)), (500, 1)))
    ids = rng.permutation(500).astype(np.int64)
    values = rng.standard_normal((2, 40)).astype(np.float32)
    found, _scores = topk(rows, values, np.zeros(2), ids, None, 7, largest_norm(rows))
    np.testing.assert_array_equal(ids[found], np.tile(np.arange(7), (2, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_of_zeros_score_zero(kind: str) -> None:
    rows = made(kind, 20, 33, np.random.default_rng(7), scaled=True, biased=False)
    found, scores = topk(rows, np.zeros((1, 33), np.float32), np.zeros(1), np.arange(20), None, 20, 1e6)
    np.testing.assert_array_equal(found[0], np.arange(20))
    np.testing.assert_array_equal(scores[0], 0)


# The largest levels of either sign, and codes that alternate between them.
EXTREMES = [kind for kind in KINDS if FORMATS[kind].kind not in ("float", "small_float", "table")]


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("kind", EXTREMES)
def test_integer_sums_hold_the_largest_dim_at_its_extremes(kind: str, block: int) -> None:
    dim = 65_536
    bits = FORMATS[kind].bits
    # Codes of the smallest and of the largest level.
    low, high = (128, 127) if kind == "int8" else (0, 2) if kind == "ternary" else (0, (1 << bits) - 1)
    alternating = np.where(np.arange(dim) % 2, low, high)
    data = FORMATS[kind].pack(np.array([np.full(dim, low), np.full(dim, high), alternating], np.uint8))
    tables = None
    if FORMATS[kind].kind == "codebook":
        tables = np.linspace(-128, 127, 1 << bits).astype(np.int8)[None]
    scales = () if not block else (Level("float32", block, np.ones(dim // block, np.float32)),)
    rows = Rows(kind, dim, data, levels=scales, tables=tables)
    values = np.array([np.ones(dim), -np.ones(dim), np.where(np.arange(dim) % 2, 1, -1)], np.float32)
    assert_topk_is_exact(rows, values, 2)


def test_arrays_that_may_not_be_written_need_no_other_compiled_kernel() -> None:
    rng = np.random.default_rng(8)
    rows = made("int8", 3, 40, rng, "affine")
    arrays = [rng.standard_normal((1, 40)).astype(np.float32), np.zeros(1), np.arange(3), np.ones(3, bool)]
    chosen = np.zeros((1, 2), np.int64)
    for writeable in (True, False):
        for array in (*arrays, chosen, rows.data, rows.scale, rows.bias, rows.levels[0].data):
            array.flags.writeable = writeable
        values, offset, ids, allow = arrays
        assert_topk_is_exact(rows, values, 2, offset, ids, allow)
        score_rows(rows, values, offset, chosen)
    assert len(scan.signatures) == len(score.signatures) == 1
