"""What the door answers for codes on a device is what the reference says. `test_answers.py` runs these checks."""

import sys
from dataclasses import replace
from typing import Any

import kernel_rows
import numpy as np
import pytest
import torch
import triton
from fences import fenced, fenced_rows
from kernel_rows import TREES, assert_same_bits, coded
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS
from qindex.types import Queries
from qindex_kernels import reference
from qindex_kernels.gpu import topk as topk_module
from qindex_kernels.gpu.activations import quantized
from qindex_kernels.gpu.gemv import MAX_ACTIVATIONS
from qindex_kernels.gpu.rows import DECODERS
from qindex_kernels.layout import Level, Rows

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
# These differ from others in numbers alone.
LIKE_OTHERS = ("e5m2", "e3m4", "half4", "table4")


def kinds(*some: str) -> list[Any]:
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in LIKE_OTHERS else []) for kind in some]


INTEGERS = [kind for kind, decoder in DECODERS.items() if decoder.family != "small_float"]


def made(
    kind: str, n: int, dim: int, rng: np.random.Generator, tree: str = "none", scaled: bool = True, biased: bool = True
) -> Rows:
    """Random rows, each of which comes twice. Those of codebook formats share one table, as GPU kernels want it."""
    rows = kernel_rows.made(kind, n, dim, rng, tree, scaled, biased)
    return rows if rows.tables is None or rows.tables.ndim == 2 else replace(rows, tables=rows.tables[0])


def moved(rows: Rows) -> kernels.DeviceCodes:
    return kernels.to_device(coded(rows), DEVICE)


def assert_equal_scores(rows: Rows, values: NDArray[np.float32], chosen: NDArray[np.int64]) -> None:
    offset = np.linspace(-1, 1, len(values))
    found = kernels.score_rows(Queries(values, offset), moved(rows), chosen)
    assert_same_bits(found, reference.score_rows(rows, values, offset, chosen))


def assert_equal_topk(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    k: int,
    ids: NDArray[np.int64] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> None:
    ids = np.arange(len(rows.data))[::-1].copy() if ids is None else ids
    codes = coded(rows)
    wanted = reference.topk(rows, values, offset, ids, allow, k, codes.max_norm)
    found = kernels.topk(Queries(values, offset), kernels.to_device(codes, DEVICE), k, ids=ids, allow=allow)
    np.testing.assert_array_equal(found.ids, wanted[0])
    assert_same_bits(found.scores, wanted[1])


# --- decoding, and exact scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["e4m3", "e5m2", "e3m4", "int8", "sign", "int4", "half4", "e2m1", "nf4"])
def test_every_code_decodes_to_its_level(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    if FORMATS[kind].bits == 8:
        codes = codes[np.isfinite(FORMATS[kind].levels)]
    per_byte = 8 // FORMATS[kind].bits
    rows = Rows(kind, per_byte, codes[:, None].copy())
    values = 3 ** np.arange(per_byte, dtype=np.float32)[None]
    assert_equal_scores(rows, values, np.arange(len(codes))[None])


@pytest.mark.parametrize("kind", ["e4m3", "e8m0"])
def test_every_code_of_a_scale_decodes_to_its_level(kind: str) -> None:
    codes = np.arange(255 if kind == "e8m0" else 127, dtype=np.uint8)[:, None]
    rows = Rows("sign", 1, np.ones((len(codes), 1), np.uint8), levels=(Level(kind, 16, codes),))
    assert_equal_scores(rows, np.ones((1, 1), np.float32), np.arange(len(codes))[None])


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", ["int4", "e4m3"])
def test_exact_scores_equal_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng(0)
    for dim in (1, 17, 100):
        rows = made(kind, 9, dim, rng, tree, scaled=dim != 17, biased=dim != 1)
        values = rng.standard_normal((2, dim)).astype(np.float32)
        assert_equal_scores(rows, values, rng.integers(0, 9, (2, 5)))


# --- top-k -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 rows, so that a hundred rows are enough for steps to leave some out."""
    monkeypatch.setattr(topk_module, "ROWS_IN_BLOCK", 16)
    monkeypatch.setattr(topk_module, "ROWS_TO_SCORE", 16)


@pytest.fixture
def short_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so short that they must grow, from rows that are ranked by comparing to rows that are sorted."""
    monkeypatch.setattr(topk_module, "BLOCKS_LEFT", dict.fromkeys(topk_module.BLOCKS_LEFT, (0, 1)))
    monkeypatch.setattr(topk_module, "ROWS_LEFT", (1, 0))
    monkeypatch.setattr(topk_module, "MOST_RANKED", 8)
    monkeypatch.setattr(topk_module, "SCORES_AT_ONCE", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", kinds(*DECODERS))
def test_topk_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(1)
    values, offset = rng.standard_normal((3, 100)).astype(np.float32), rng.standard_normal(3)
    ids = rng.permutation(90)
    for m in (1, 3):  # one query goes by multiply-add, several by products of int8 or of bfloat16
        rows = made(kind, 90, 100, rng, scaled=m == 3)
        assert_equal_topk(rows, values[:m], offset[:m], 3, ids, rng.random(90) < 0.7 if m == 3 else None)


@pytest.mark.parametrize(("n", "dim", "k"), [(1, 1, 1), (1, 33, 3), (128, 17, 2), (129, 65, 140)])
def test_topk_of_any_size_equals_the_reference(n: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(n)
    for kind, m in (("int8", 2), ("int4", 1)):
        values = rng.standard_normal((m, dim)).astype(np.float32)
        assert_equal_topk(made(kind, n, dim, rng, biased=False), values, np.zeros(m), k)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tree", ["nv", "affine"])
def test_topk_of_rows_with_blocks_equals_the_reference(tree: str) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2, 80)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(made("e2m1", 70, 80, rng, tree), values[:m], np.zeros(m), 2)


@pytest.mark.usefixtures("small_blocks")
def test_a_filter_that_allows_few_or_no_rows_is_kept() -> None:
    rng = np.random.default_rng(3)
    rows = made("int8", 50, 20, rng)
    values = rng.standard_normal((2, 20)).astype(np.float32)
    for allowed in ([], [7], [7, 40]):
        allow = np.isin(np.arange(50), allowed)
        assert_equal_topk(rows, values, np.zeros(2), 3, allow=allow)


@pytest.mark.usefixtures("small_blocks", "short_lists")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_lists_grow_until_they_hold_the_answer(kind: str) -> None:
    rng = np.random.default_rng(12)
    rows = made(kind, 90, 40, rng, biased=False)  # each row comes twice, at other places
    values = rng.standard_normal((3, 40)).astype(np.float32)
    for m, k in ((1, 1), (3, 5)):
        assert_equal_topk(rows, values[:m], np.zeros(m), k, rng.permutation(90))


@pytest.mark.usefixtures("small_blocks", "short_lists")
def test_equal_rows_are_sorted_by_id_where_there_are_many() -> None:
    rng = np.random.default_rng(13)
    rows = made("int8", 1, 20, rng, scaled=False, biased=False)
    rows = replace(rows, data=np.repeat(rows.data, 70, 0))
    assert_equal_topk(rows, np.zeros((2, 20), np.float32), np.array([0.0, -0.0]), 4, rng.permutation(70))


@pytest.mark.usefixtures("small_blocks")
def test_equal_rows_come_in_the_order_of_their_ids() -> None:
    rng = np.random.default_rng(4)
    rows = made("int8", 1, 40, rng, scaled=False, biased=False)
    rows = replace(rows, data=np.repeat(rows.data, 100, 0))
    ids = rng.permutation(100)
    values = rng.standard_normal((2, 40)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2, ids)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "sign"])
def test_queries_that_int8_hardly_tells_apart_get_the_exact_answer(kind: str) -> None:
    rng = np.random.default_rng(5)
    values = rng.uniform(-0.6, 0.6, (6, 40)).astype(np.float32)
    values[:, 0] = 127  # so the step is 1, and the others round to -1, 0 or 1
    assert_equal_topk(made(kind, 100, 40, rng, scaled=False, biased=False), values, np.zeros(6), 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_scores_that_float32_sums_hardly_tell_apart_get_the_exact_answer(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = made(kind, 100, 40, rng, scaled=False, biased=False)
    shared = rows.data.shape[1] // 2
    rows.data[:, :shared] = rows.data[0, :shared]
    values = rng.standard_normal((6, 40)).astype(np.float32)
    values[:, :20] *= 1e7  # a large part that is the same for all rows, and that the offset takes back
    offset = -(values[:, :20].astype(np.float64) @ reference.numbers(rows, slice(0, 1))[0, :20])
    assert_equal_topk(rows, values, offset, 2)
    assert_equal_topk(rows, values[:1], offset[:1], 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [1e-40, 1e15, 0.0])
def test_tiny_and_huge_queries_get_the_exact_answer(size: float) -> None:
    rng = np.random.default_rng(7)
    values = (size * rng.standard_normal((2, 31))).astype(np.float32)
    rows = made("int8", 60, 31, rng, biased=False)
    rows = replace(rows, scale=None if rows.scale is None else rows.scale * np.float32(1e10))
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_sums_that_overflow_in_float32_rule_no_row_out() -> None:
    rng = np.random.default_rng(8)
    size = np.where(np.arange(64) % 32 < 16, 1e37, 1).astype(np.float32)  # of every other block of rows
    huge = Level("float32", 16, rng.uniform(0.1, 2, (64, 4)).astype(np.float32) * size[:, None])
    scale = np.float32(2) / size * rng.choice([-1, 1], 64).astype(np.float32)
    rows = replace(made("int4", 64, 64, rng, biased=False), levels=(huge,), scale=scale)
    values = 100 * rng.standard_normal((2, 64)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2)


# --- linear layers ---------------------------------------------------------------------------------------------------


def assert_close_matmul(rows: Rows, x: NDArray[np.float32]) -> None:
    wanted = reference.matmul(rows, x)
    found = kernels.matmul(torch.from_numpy(x).to(DEVICE), moved(rows)).numpy(force=True)
    numbers, scaled = (reference.numbers(one, slice(None)) for one in (rows, replace(rows, zero=None)))
    scale = 1 if rows.scale is None else np.abs(rows.scale)
    reach = np.abs(x) @ (np.abs(scaled) + np.abs(numbers - scaled)).T * scale
    reach += 0 if rows.bias is None else np.abs(rows.bias)
    bound = (rows.dim + 4) * 2.0**-23 * reach + rows.dim * 2.0**-126
    assert (np.abs(found.astype(np.float64) - wanted) <= (bound if len(x) > MAX_ACTIVATIONS else bound / 2)).all()


@pytest.mark.parametrize("kind", kinds(*DECODERS))
def test_float_matmul_is_within_its_bound(kind: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, 100)).astype(np.float32)
    for m, tree in ((1, "mx"), (3, "none"), (9, "nv"), (9, "none")):  # gemv of one, gemv of several, tiles
        assert_close_matmul(made(kind, 11, 100, rng, tree), x[:m])


@pytest.mark.parametrize("tree", ["mx", "affine", "wide", "shared", "zeros"])
def test_float_matmul_is_within_its_bound_whatever_the_blocks(tree: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((9, 300)).astype(np.float32)
    assert_close_matmul(made("int4", 11, 300, rng, tree), x)


@pytest.mark.parametrize(("n", "dim", "m"), [(1, 1, 1), (1, 513, 2), (65, 32, 65)])
def test_float_matmul_of_any_size_is_within_its_bound(n: int, dim: int, m: int) -> None:
    rng = np.random.default_rng(n)
    for tree in ("none", "affine"):
        rows = made("int4", n, dim, rng, tree, scaled=False)
        assert_close_matmul(rows, rng.standard_normal((m, dim)).astype(np.float32))


def test_tensor_cores_miss_no_bit_of_an_activation() -> None:
    rng = np.random.default_rng(14)
    x = (rng.standard_normal(64) * 2.0 ** rng.integers(-60, 120, 64)).astype(np.float32)
    rows = Rows("int8", 64, np.eye(64, dtype=np.uint8))
    found = kernels.matmul(torch.from_numpy(np.diag(x)).to(DEVICE), moved(rows)).numpy(force=True)
    np.testing.assert_array_equal(found, np.diag(x))


def assert_equal_int8_matmul(rows: Rows, x: NDArray[np.float32]) -> None:
    there, codes = torch.from_numpy(x).to(DEVICE), moved(rows)
    found = kernels.matmul(there, codes, activations="int8").numpy(force=True)
    assert_same_bits(found, reference.matmul_int8(rows, x, 0))
    if rows.block:
        found = kernels.matmul(there, codes, activations="int8-block").numpy(force=True)
        assert_same_bits(found, reference.matmul_int8(rows, x, rows.block))


@pytest.mark.parametrize("kind", kinds(*INTEGERS))
def test_int8_matmul_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 100)).astype(np.float32)
    for tree in ("none", "nv", "affine"):
        assert_equal_int8_matmul(made(kind, 11, 100, rng, tree), x)


@pytest.mark.parametrize("tree", ["mx", "wide", "shared", "zeros"])
def test_int8_matmul_equals_the_reference_whatever_the_blocks(tree: str) -> None:
    rng = np.random.default_rng(9)
    for n, dim, m in ((1, 1, 1), (33, 300, 17)):
        x = rng.standard_normal((m, dim)).astype(np.float32)
        assert_equal_int8_matmul(made("int4", n, dim, rng, tree, scaled=n > 1, biased=n == 1), x)


def test_activations_are_rounded_as_the_reference_rounds_them() -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((40, 33)).astype(np.float32) * np.float32(10.0) ** rng.integers(-44, 30, (40, 1))
    x = np.concatenate([x, np.zeros((1, 33), np.float32)]).astype(np.float32)
    for block in (0, 16):
        codes, steps = quantized(torch.from_numpy(x).to(DEVICE), block)
        wanted = reference.quantize(x, block)
        np.testing.assert_array_equal(codes.numpy(force=True), wanted[0])
        np.testing.assert_array_equal(steps.numpy(force=True), wanted[1])


# --- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    sys.platform != "linux" or DEVICE != "cpu", reason="protects pages of memory, with Linux's mprotect"
)
def test_kernels_read_only_their_arrays() -> None:
    rng = np.random.default_rng(11)
    ids, allow = fenced(np.arange(5), at_end=True), fenced(np.ones(5, bool), at_end=True)
    for kind, dim in (("sign", 1), ("sign", 100), ("int4", 17), ("int8", 33)):
        rows = fenced_rows(made(kind, 5, dim, rng, "affine"), at_end=True)
        x = fenced(rng.standard_normal((3, dim)).astype(np.float32), at_end=True)
        codes = moved(rows)
        assert codes.rows.data.data_ptr() == rows.data.ctypes.data  # the kernels read the fenced arrays themselves
        for values in (x[2:], x):
            queries = Queries(values, fenced(np.zeros(len(values)), at_end=True))
            kernels.topk(queries, codes, 2, ids=ids, allow=allow)
            kernels.scores(queries, codes)
            for activations in ("float32", "int8", "int8-block"):
                kernels.matmul(torch.from_numpy(values), codes, activations=activations)
