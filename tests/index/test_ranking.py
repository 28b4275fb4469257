"""FlatIndex against a brute-force ranking in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.index import FlatIndex
from qindex.index.flat import Metric
from qindex.quantize import Binary, Float8, Float16, Float32, Int8
from qindex.types import Index, Quantizer

QUANTIZERS = [
    *(Float32(), Float16(), Float8("e4m3"), Float8("e5m2"), Float8("e3m4")),
    *(Int8(), Int8("dim"), Binary(), Binary(center=True)),
]
every_quantizer = pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
every_metric = pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).standard_normal((400, 40)).astype(np.float32) + np.float32(0.3)
    vectors[300:350] = vectors[:50]  # ties
    return vectors


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


def true_scores(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], quantizer: Quantizer, metric: Metric
) -> NDArray[np.float64]:
    """Of the decoded vectors, (m, n)."""
    if metric == "cosine":
        queries, vectors = unit(queries), unit(vectors)
    fitted = quantizer.fit(vectors)
    rows, decoded = queries.astype(np.float64), fitted.dequantize(fitted.quantize(vectors)).astype(np.float64)
    return -((rows[:, None] - decoded) ** 2).sum(axis=2) if metric == "l2" else rows @ decoded.T


def ranking(scores: NDArray[np.float64], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    # Rows that are equal get equal scores only up to float64's rounding in a matrix product.
    return np.stack([ids[np.lexsort((ids, -row))[:k]] for row in scores.round(9)])


@every_metric
@every_quantizer
def test_the_ranking_is_that_of_the_decoded_vectors(
    quantizer: Quantizer, metric: Metric, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    ids = np.random.default_rng(2).permutation(5000)[: len(vectors)]
    index = FlatIndex.build(vectors, quantizer, ids=ids, metric=metric)
    found, wanted = index.search(queries, 20), true_scores(queries, vectors, quantizer, metric)
    np.testing.assert_array_equal(found.ids, ranking(wanted, ids, 20))
    np.testing.assert_allclose(found.scores, -np.sort(-wanted, axis=1)[:, :20], rtol=2e-6, atol=2e-6)
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32


@every_metric
def test_ties_go_to_the_smaller_id(metric: Metric) -> None:
    ids = np.random.default_rng(0).permutation(90)
    index = FlatIndex.build(np.tile(np.float32([[3, 4, 5]]), (90, 1)), Int8(), ids=ids, metric=metric)
    np.testing.assert_array_equal(index.search(np.float32([[1, 2, 3], [0, 0, 0]]), 90).ids, [range(90)] * 2)


@pytest.mark.parametrize("rescore", [None, Float32()])
def test_places_beyond_the_index_are_padded(rescore: Quantizer | None, vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:3], Int8(), rescore=rescore)
    ids, scores = index.search(vectors[:2], 5)
    assert ids.shape == scores.shape == (2, 5)
    assert np.all(np.sort(ids[:, :3]) == [0, 1, 2])
    assert np.all(ids[:, 3:] == -1)
    assert np.all(np.isneginf(scores[:, 3:]))


@every_metric
def test_one_query_at_a_time_answers_as_a_batch(
    metric: Metric, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, Binary(), rescore=Int8(), metric=metric)
    batch = index.search(queries, 7)
    for i in range(len(queries)):
        single = index.search(queries[i : i + 1], 7)
        np.testing.assert_array_equal(single.ids[0], batch.ids[i])
        np.testing.assert_array_equal(single.scores[0], batch.scores[i])


def test_no_queries_have_no_answers(vectors: NDArray[np.float32]) -> None:
    for rescore in (None, Float32()):
        ids, scores = FlatIndex.build(vectors, rescore=rescore).search(vectors[:0], 4)
        assert ids.shape == scores.shape == (0, 4)


@every_metric
def test_rescoring_everything_ranks_by_the_second_quantizer(
    metric: Metric, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    two = FlatIndex.build(vectors, Binary(), rescore=Float16(), metric=metric)
    found, wanted = (
        two.search(queries, 10, oversample=40),
        FlatIndex.build(vectors, Float16(), metric=metric).search(queries),
    )
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_rescoring_takes_oversample_times_k_rows(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    two, coarse, fine = (
        FlatIndex.build(vectors, Binary(), rescore=Float32()),
        FlatIndex.build(vectors, Binary()),
        FlatIndex.build(vectors, Float32()),
    )
    for options in ({}, {"oversample": 4}):
        found = two.search(queries, 5, **options)
        for i in range(len(queries)):
            candidates = coarse.search(queries[i : i + 1], 20).ids[0]
            wanted = fine.search(queries[i : i + 1], 5, allow=candidates)
            np.testing.assert_array_equal(found.ids[i], wanted.ids[0])
            np.testing.assert_array_equal(found.scores[i], wanted.scores[0])


def test_fitted_quantizers_are_used_unchanged(vectors: NDArray[np.float32]) -> None:
    fitted = Int8("dim").fit(vectors[:100])
    index = FlatIndex.build(vectors, fitted, rescore=fitted)
    assert index.quantizer is fitted


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_codes_made_earlier_are_searched_like_vectors(
    metric: Metric, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    ids = np.arange(len(vectors)) * 3
    index = FlatIndex.from_codes(Int8(), Int8().quantize(vectors), ids=ids, metric=metric)
    wanted = FlatIndex.build(vectors, Int8(), ids=ids, metric=metric).search(queries)
    found = index.search(queries)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_an_index_says_what_it_is(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors, Binary(), rescore=Int8(), metric="cosine")
    assert isinstance(index, Index)
    assert (len(index), index.dim, index.metric) == (400, 40, "cosine")
    assert index.nbytes == 400 * (5 + 44 + 8)
    assert FlatIndex.build(vectors, metric="l2").nbytes == 400 * (44 + 4 + 8)
    assert repr(index).startswith("FlatIndex(400 x 40, Binary(")
    with pytest.raises(ValueError, match="read-only"):
        index.ids[0] = 7


def test_float64_float16_lists_and_strided_arrays_are_taken(vectors: NDArray[np.float32]) -> None:
    wanted = FlatIndex.build(vectors[:9]).search(vectors[:2])
    for given in (vectors[:9].astype(np.float64), vectors[:9].tolist(), np.asfortranarray(vectors[:9])):
        found = FlatIndex.build(given).search(vectors[:2].astype(np.float64))
        np.testing.assert_array_equal(found.ids, wanted.ids)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    half = vectors[:9].astype(np.float16)
    np.testing.assert_array_equal(
        FlatIndex.build(half).search(half).ids, FlatIndex.build(half.astype(np.float32)).search(half).ids
    )
