"""Wrong input is refused before anything is done; the message names the argument, what was wanted and what came."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import kernels
from qindex.index import FlatIndex
from qindex.quantize import Binary, Float8, Int8

VECTORS = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)


def with_bad(value: float) -> NDArray[np.float32]:
    vectors = VECTORS.copy()
    vectors[3, 2] = value
    return vectors


BAD_VECTORS: list[tuple[str, Any, type[Exception], str]] = [
    ("NaN", with_bad(np.nan), ValueError, "must be finite .* row 3 has NaN or infinity"),
    ("infinity", with_bad(-np.inf), ValueError, "must be finite .* row 3 has NaN or infinity"),
    ("too long", with_bad(1e19), ValueError, r"must be finite with norms up to 1e\+18, but row 3 has a norm of 1e\+19"),
    ("one vector", VECTORS[0], ValueError, r"must be \(n, .*\), got \(6,\); a single vector is {name}\[None\]"),
    ("a stack", VECTORS[None], ValueError, r"must be \(n, .*\), got \(1, 20, 6\)"),
    ("no dim", VECTORS[:, :0], ValueError, r"must be \(n, .*\), got \(20, 0\)"),
    ("integers", VECTORS.astype(np.int8), TypeError, r"must hold floats, got int8; pass {name}.astype\(np.float32\)"),
    ("complex", VECTORS.astype(np.complex64), TypeError, "must hold floats, got complex64"),
    ("texts", ["why is the sky blue?"], TypeError, "must hold floats, got <U20"),
    ("a bare string", "why", TypeError, "must hold floats, got <U3"),
    ("nothing", None, TypeError, "must hold floats, got object"),
]
every_bad_matrix = pytest.mark.parametrize(
    ("bad", "error", "message"), [case[1:] for case in BAD_VECTORS], ids=[case[0] for case in BAD_VECTORS]
)


@pytest.fixture
def index() -> FlatIndex:
    return FlatIndex.build(VECTORS, Int8())


@every_bad_matrix
def test_build_refuses(bad: Any, error: type[Exception], message: str) -> None:
    for quantizer in (Int8(), Int8("dim"), Float8(), Binary()):
        with pytest.raises(error, match="vectors " + message.replace("{name}", "vectors")):
            FlatIndex.build(bad, quantizer)


@every_bad_matrix
def test_add_refuses(bad: Any, error: type[Exception], message: str, index: FlatIndex) -> None:
    with pytest.raises(error, match="vectors " + message.replace("{name}", "vectors")):
        index.add(bad)
    assert len(index) == 20


@every_bad_matrix
def test_search_refuses(bad: Any, error: type[Exception], message: str, index: FlatIndex) -> None:
    with pytest.raises(error, match="queries " + message.replace("{name}", "queries")):
        index.search(bad)


def test_wrong_dim_says_both_shapes(index: FlatIndex) -> None:
    with pytest.raises(ValueError, match=r"queries must be \(n, 6\), got \(20, 5\)"):
        index.search(VECTORS[:, :5])
    with pytest.raises(ValueError, match=r"vectors must be \(n, 6\), got \(20, 5\)"):
        index.add(VECTORS[:, :5])


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vectors must have at least one row, got \(0, 6\)"):
        FlatIndex.build(VECTORS[:0])
    with pytest.raises(ValueError, match="codes must have at least one row, got 0"):
        FlatIndex.from_codes(Int8(), Int8().quantize(VECTORS[:0]))


def test_one_row_is_a_corpus() -> None:
    for quantizer in (Int8(), Int8("dim"), Float8(), Binary(), Binary(center=True)):
        assert FlatIndex.build(VECTORS[:1], quantizer).search(VECTORS[:1], 1).ids.tolist() == [[0]]


def test_too_many_dims_are_refused() -> None:
    with pytest.raises(ValueError, match="dim must be an integer from 1 to 65536, got 65537"):
        FlatIndex.build(np.ones((1, 65_537), np.float32))


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k must be at least 1, got 0"),
        (-1, ValueError, "k must be at least 1, got -1"),
        (2.5, TypeError, "k must be an integer, got 2.5"),
        ("3", TypeError, "k must be an integer, got '3'"),
        (None, TypeError, "k must be an integer, got None"),
    ],
)
def test_k_must_be_a_positive_integer(k: Any, error: type[Exception], message: str, index: FlatIndex) -> None:
    with pytest.raises(error, match=message):
        index.search(VECTORS, k)


def test_numpy_integers_are_integers(index: FlatIndex) -> None:
    assert index.search(VECTORS, np.int64(3)).ids.shape == (20, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("abc", TypeError, r"ids must be a one-dimensional array of integers, got <U3 \(\)"),
        (["a", "b"], TypeError, "ids must be a one-dimensional array of integers, got <U1"),
        ([0.0, 1.0], TypeError, "ids must be a one-dimensional array of integers, got float64"),
        ([True, False], TypeError, "ids must be a one-dimensional array of integers, got bool"),
        ([[0], [1]], TypeError, r"ids must be a one-dimensional array of integers, got int64 \(2, 1\)"),
        ([4, 4], ValueError, "ids must be distinct, but 4 come more than once"),
        ([4, -4], ValueError, "ids must not be negative, got -4"),
        ([1, 2, 3], ValueError, "ids must be one for each of 2 vectors, got 3"),
    ],
)
def test_ids_must_be_distinct_and_not_negative(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FlatIndex.build(VECTORS[:2], ids=ids)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    message = 'metric must be "ip", "cosine" or "l2", got \'dot\''
    with pytest.raises(ValueError, match=message):
        FlatIndex.build(VECTORS, metric="dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        FlatIndex.from_codes(Int8(), Int8().quantize(VECTORS), metric="dot")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["int8", Int8])
def test_a_quantizer_is_an_object_not_a_name_or_a_class(bad: Any) -> None:
    with pytest.raises(TypeError, match="quantizer must be"):
        FlatIndex.build(VECTORS, bad)
    with pytest.raises(TypeError, match="rescore must be"):
        FlatIndex.build(VECTORS, rescore=bad)


def test_codes_do_not_go_with_an_unfitted_quantizer_or_cosine() -> None:
    codes = Binary().fit(VECTORS).quantize(VECTORS)
    with pytest.raises(ValueError, match="fitted"):
        FlatIndex.from_codes(Binary(), codes)
    with pytest.raises(ValueError, match='metric must be "ip" or "l2" for codes: normalise'):
        FlatIndex.from_codes(Binary().fit(VECTORS), codes, metric="cosine")
    with pytest.raises(ValueError, match="codes must be int8 codes, got sign codes of dim 6"):
        FlatIndex.from_codes(Int8(), codes)


def test_oversample_without_rescore_is_refused(index: FlatIndex) -> None:
    with pytest.raises(ValueError, match=r"oversample needs an index built with rescore="):
        index.search(VECTORS, 3, oversample=4)
    rescored = FlatIndex.build(VECTORS, Binary(), rescore=Int8())
    with pytest.raises(ValueError, match="oversample must be at least 1, got 0"):
        rescored.search(VECTORS, 3, oversample=0)
    with pytest.raises(TypeError, match=r"oversample must be an integer, got 1\.5"):
        rescored.search(VECTORS, 3, oversample=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allow", "error", "message"),
    [
        (np.ones(3, bool), ValueError, "allow must be a mask of length 20, aligned with index.ids; got 3"),
        ([[1], [2]], ValueError, "allow must be one filter or a list of 3, one for each query; got a list of 2"),
        ([[1], [2], np.ones(3, bool)], ValueError, r"allow\[2\] must be a mask of length 20"),
        ([[1], [2], ["a"]], TypeError, r"allow\[2\] must be a boolean mask or an array of ids, got <U1"),
        ([1.5], TypeError, "allow must be a boolean mask or an array of ids, got float64"),
        ("abc", TypeError, "allow must be a boolean mask or an array of ids, got <U3"),
        (np.ones((3, 20), bool), TypeError, r"allow must be a boolean mask or an array of ids, got bool \(3, 20\)"),
        (7, TypeError, r"allow must be a boolean mask or an array of ids, got int64 \(\)"),
    ],
)
def test_allow_must_be_masks_or_ids(allow: Any, error: type[Exception], message: str, index: FlatIndex) -> None:
    with pytest.raises(error, match=message):
        index.search(VECTORS[:3], 2, allow=allow)


@pytest.mark.parametrize("n", [0, -1, 2.0, "2", True, None])
def test_the_number_of_threads_must_be_a_positive_integer(n: Any) -> None:
    with pytest.raises(ValueError, match="n must be a positive integer, got"):
        kernels.set_threads(n)


def test_prepared_queries_must_fit_the_codes() -> None:
    queries, codes = Int8().prepare(VECTORS), Int8().quantize(VECTORS[:, :4].copy())
    for use in (lambda: kernels.scores(queries, codes), lambda: kernels.topk(queries, codes, 1, ids=np.arange(20))):
        with pytest.raises(ValueError, match=r"queries must be \(m, 4\) for these codes, got \(20, 6\)"):
            use()


def test_rows_to_score_must_exist() -> None:
    queries, codes = Int8().prepare(VECTORS[:2]), Int8().quantize(VECTORS)
    with pytest.raises(ValueError, match=r"rows must lie in \[-1, 20\), got 0 to 20"):
        kernels.score_rows(queries, codes, np.array([[0], [20]]))
    with pytest.raises(ValueError, match=r"rows must be integers \(2, r\), got int64 \(1, 1\)"):
        kernels.score_rows(queries, codes, np.array([[0]]))
    found = kernels.score_rows(queries, codes, np.array([[-1, 3], [-1, -1]]))
    assert np.isneginf(found[[0, 1, 1], [0, 0, 1]]).all()
    assert found[0, 1] == kernels.scores(queries, codes)[0, 3]
