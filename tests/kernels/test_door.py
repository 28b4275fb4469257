"""`qindex.kernels` refuses what no kernel may see, and gives one answer whichever kernel answers."""

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from kernel_rows import INTEGER_KINDS, KINDS, assert_same_bits, coded, made
from numpy.typing import NDArray

from qindex import kernels
from qindex.backend import loader
from qindex.formats import FLOAT32, FORMATS, INT8
from qindex.quantize import Int8
from qindex.quantize.blocks import decode
from qindex.threads import threads
from qindex.types import BlockValues, Codes, Queries


def some_codes(kind: str = "int8", n: int = 7, dim: int = 64, tree: str = "none") -> Codes:
    return coded(made(kind, n, dim, np.random.default_rng(0), tree))


def some_values(m: int = 2, dim: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((m, dim)).astype(np.float32)


def queries(m: int = 2, dim: int = 64) -> Queries:
    return Queries(some_values(m, dim), np.linspace(-1, 1, m))


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = threads.count
    kernels.path()  # loads numba: from here on the compiled kernels answer
    yield
    kernels.set_threads(before)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_another_dim_is_refused_with_both_shapes() -> None:
    codes, wanted = some_codes(), r"must be \(m, 64\) for these codes, got \(2, 63\)"
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.topk(queries(dim=63), codes, 3, ids=np.arange(7))
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.score_rows(queries(dim=63), codes, np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.scores(queries(dim=63), codes)
    with pytest.raises(ValueError, match=f"x {wanted}"):
        kernels.matmul(some_values(dim=63), codes)


@pytest.mark.parametrize("ids", [np.arange(6), np.arange(7, dtype=np.int32), np.arange(7.0), np.arange(7)[None]])
def test_ids_of_another_type_or_shape_are_refused(ids: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"ids must be int64 \(7,\), got"):
        kernels.topk(queries(), some_codes(), 3, ids=ids)


@pytest.mark.parametrize("allow", [np.ones(8, bool), np.ones(7, np.uint8), np.ones((1, 7), bool)])
def test_filters_of_another_type_or_shape_are_refused(allow: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"allow must be bool \(7,\), got"):
        kernels.topk(queries(), some_codes(), 3, ids=np.arange(7), allow=allow)


@pytest.mark.parametrize("k", [-1, 2.5])
def test_a_k_that_is_no_count_is_refused(k: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^k must be"):
        kernels.topk(queries(), some_codes(), k, ids=np.arange(7))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([0, 1]), r"rows must be .*\(2, r\), got .*\(2,\)"),
        (np.zeros((3, 1), np.int64), r"rows must be .*\(2, r\), got .*\(3, 1\)"),
        (np.array([[0], [7]]), r"rows must lie in \[-1, 7\), got 0 to 7"),
        (np.array([[0], [-2]]), r"rows must lie in \[-1, 7\), got -2 to 0"),
        (np.array([[0], [2**63]], np.uint64), r"rows must lie in"),
        (np.array([[0.5], [1.0]]), r"rows must be"),
        (np.array([[True], [False]]), r"rows must be"),
    ],
)
def test_rows_that_are_not_there_are_refused(rows: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.score_rows(queries(), some_codes(), rows)


@pytest.mark.parametrize("x", [np.ones((2, 64)), np.ones((2, 64), np.float16), np.ones(64, np.float32)])
def test_activations_of_another_type_or_shape_are_refused(x: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"x must be float32 \(m, 64\), got float\d\d \("):
        kernels.matmul(x, some_codes())


@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused(wrong: float, activations: Any) -> None:
    x = some_values()
    x[1, 63] = wrong
    with pytest.raises(ValueError, match="x must be finite"):
        kernels.matmul(x, some_codes(), activations=activations)


def test_activations_whose_squares_overflow_are_welcome() -> None:
    x, codes = np.full((2, 64), 1e30, np.float32), some_codes()
    for activations in ("float32", "int8"):
        found = kernels.matmul(x, codes, activations=activations)
        np.testing.assert_allclose(found, 1e30 * decode(codes).sum(axis=1) * [[1], [1]], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_rounded_activations_are_for_codes_that_are_integers(kind: str) -> None:
    codes = some_codes(kind)
    if kind in INTEGER_KINDS:
        kernels.matmul(some_values(), codes, activations="int8")
    else:
        with pytest.raises(ValueError, match=f'activations must be "float32" for {kind} codes'):
            kernels.matmul(some_values(), codes, activations="int8")


def test_steps_for_each_block_need_blocks() -> None:
    with pytest.raises(ValueError, match="codes without blocks"):
        kernels.matmul(some_values(), some_codes(), activations="int8-block")
    kernels.matmul(some_values(), some_codes(tree="wide"), activations="int8-block")


def test_other_activations_are_refused() -> None:
    wrong: Any = "int4"
    with pytest.raises(ValueError, match='activations must be "float32", "int8" or "int8-block", got \'int4\''):
        kernels.matmul(some_values(), some_codes(), activations=wrong)


def test_tables_for_each_block_need_blocks_of_whole_registers() -> None:
    scales = BlockValues(np.ones((7, 4), np.float32), FLOAT32, 16)
    tables = np.zeros((7, 4, 16), np.int8)
    with pytest.raises(ValueError, match="64"):
        Codes(np.zeros((7, 32), np.uint8), FORMATS["table4"], 64, 1.0, scales=(scales,), tables=tables)


# --- arrays as users have them ---------------------------------------------------------------------------------------


def test_strided_and_read_only_arrays_give_the_same_answers() -> None:
    codes, x = some_codes(n=20), some_values(4)
    ids, allow, rows = np.arange(20)[::-1].copy(), np.arange(20) % 3 > 0, np.array([[1, 2], [3, -1], [0, 0], [5, 5]])
    wanted = kernels.topk(Queries(x, np.arange(4.0)), codes, 3, ids=ids, allow=allow)
    wanted_scores = kernels.score_rows(Queries(x, np.arange(4.0)), codes, rows)

    def awkward(array: NDArray[Any]) -> NDArray[Any]:
        spread = np.repeat(array, 2, axis=-1)[..., ::2]
        spread.flags.writeable = False
        return spread

    x.flags.writeable = False
    strange = Queries(x, awkward(np.arange(4.0)))
    found = kernels.topk(strange, codes, 3, ids=awkward(ids), allow=awkward(allow))
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert_same_bits(found.scores, wanted.scores)
    for some in (awkward(rows), np.asfortranarray(rows), rows.astype(np.int32)):
        assert_same_bits(kernels.score_rows(strange, codes, some), wanted_scores)
    for activations in ("float32", "int8"):
        product = kernels.matmul(x, codes, activations=activations)
        for some in (awkward(x), np.asfortranarray(x), x[::-1][::-1]):
            assert_same_bits(kernels.matmul(some, codes, activations=activations), product)


def test_no_rows_and_no_queries_are_answered() -> None:
    for n, m in ((0, 2), (7, 0), (0, 0)):
        codes = some_codes(n=7)[:n]
        matches = kernels.topk(queries(m), codes, 3, ids=np.arange(n))
        assert matches.ids.shape == matches.scores.shape == (m, 3)
        assert kernels.scores(queries(m), codes).shape == (m, n)
        for activations in ("float32", "int8"):
            assert kernels.matmul(some_values(m), codes, activations=activations).shape == (m, n)
    assert kernels.topk(queries(), some_codes(), 0, ids=np.arange(7)).ids.shape == (2, 0)
    assert (kernels.score_rows(queries(), some_codes(), np.full((2, 3), -1)) == -np.inf).all()


# --- column scales ---------------------------------------------------------------------------------------------------


def column_scaled(kind: str, tree: str, columns: NDArray[np.float32]) -> Codes:
    codes = some_codes(kind, 60, len(columns), tree)
    return dataclasses.replace(codes, scales=(*codes.scales, BlockValues(columns, FLOAT32, 1)))


@pytest.mark.parametrize("kind", ["int8", "int4", "e4m3", "nf4"])
@pytest.mark.parametrize("tree", ["none", "nv", "affine"])
def test_column_scales_are_honoured(kind: str, tree: str) -> None:
    columns = np.exp(np.random.default_rng(2).standard_normal(100)).astype(np.float32)
    codes = column_scaled(kind, tree, columns)
    some = queries(3, 100)
    wanted = some.values.astype(np.float64) @ decode(codes).T.astype(np.float64) + codes.offset
    size = np.abs(wanted).max()
    scores = kernels.scores(some, codes)
    np.testing.assert_allclose(scores, wanted + some.offset[:, None], atol=1e-5 * size)
    matches = kernels.topk(some, codes, 5, ids=np.arange(60))
    best = np.lexsort((np.tile(np.arange(60), (3, 1)), -scores))[:, :5]
    np.testing.assert_array_equal(matches.ids, best)
    np.testing.assert_allclose(kernels.matmul(some.values, codes), wanted, atol=1e-5 * size)
    if kind != "e4m3":
        rounded = kernels.matmul(some.values, codes, activations="int8")
        np.testing.assert_allclose(rounded, wanted, atol=0.05 * size)


def test_small_column_scales_leave_topk_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = np.clip(rng.integers(-120, 121, 64) + rng.integers(-1, 2, (700, 64)), -127, 127).astype(np.int8)
        numbers[:, 0] = rng.integers(-1, 2, 700)
        columns = np.full(64, 1e-3, np.float32)
        columns[0] = 1
        values = (rng.standard_normal((1, 64)) / columns).astype(np.float32)
        norm = float(np.linalg.norm(numbers.astype(np.float64), axis=1).max()) * (1 + 1e-6)
        codes = Codes(numbers.view(np.uint8), INT8, 64, norm, scales=(BlockValues(columns, FLOAT32, 1),))
        some = Queries(values, np.zeros(1))
        scores = kernels.scores(some, codes)[0]
        wanted = np.lexsort((np.arange(700), -scores))[:5]
        np.testing.assert_array_equal(kernels.topk(some, codes, 5, ids=np.arange(700)).ids[0], wanted)


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tree"), [("int8", "none"), ("int4", "nv"), ("e4m3", "mx")])
@pytest.mark.parametrize(("m", "n"), [(1, 7001), (65, 1021)])
def test_products_do_not_depend_on_threads(kind: str, tree: str, m: int, n: int) -> None:
    rows, x = made(kind, n, 1500, np.random.default_rng(3), tree), some_values(m, 1500)
    codes = coded(rows)
    for activations in ("float32", "int8", "int8-block"):
        if (activations == "int8-block" and not codes.block) or (activations != "float32" and kind == "e4m3"):
            continue
        answers = []
        for count in (1, 2, 3):
            kernels.set_threads(count)
            answers.append(kernels.matmul(x, codes, activations=activations))
        assert_same_bits(answers[1], answers[0])
        assert_same_bits(answers[2], answers[0])


def test_codes_are_freed_with_their_last_reference() -> None:
    codes = Int8().quantize(np.eye(64, dtype=np.float32))
    queries, ids = Queries(np.ones((1, 64), np.float32), np.zeros(1)), np.arange(64)
    gc.disable()
    try:
        for _ in range(2):
            kernels.topk(queries, codes, 3, ids=ids)
            loader.function("topk", "topk", "int8", float("inf"))  # the second time, compiled
        data = weakref.ref(codes.data)
        del codes
        assert data() is None
    finally:
        gc.enable()
