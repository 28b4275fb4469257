"""Laws of scores and rankings."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qindex.index import FlatIndex
from qindex.index.flat import Metric
from qindex.quantize import (
    Binary,
    Float8,
    Float16,
    Float32,
    Int4,
    Int8,
    LloydMax,
    Microscaling,
    ProductQuantizer,
    RaBitQ,
)
from qindex.types import Quantizer

ALL = [
    *(Float32(), Float16(), Float8("e4m3"), Float8("e5m2"), Float8("e3m4"), Int8(), Int8("dim"), Binary()),
    *(RaBitQ(1), RaBitQ(4), RaBitQ(6), LloydMax(3), Int4(), Microscaling("mxfp8"), Microscaling("nvint4", rotate=True)),
    *(ProductQuantizer(3), ProductQuantizer(5, bits=4)),
]
every_quantizer = pytest.mark.parametrize("quantizer", ALL, ids=repr)
every_metric = pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
few = settings(deadline=None, max_examples=15, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def random_vectors(seed: int, n: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@every_metric
@every_quantizer
@given(seed=seeds)
@few
def test_permuting_rows_permutes_ids(quantizer: Quantizer, metric: Metric, seed: int) -> None:
    vectors, queries = random_vectors(seed, 30, 9), random_vectors(seed + 1, 3, 9)
    vectors[20:] = vectors[:10]  # ties must not depend on the order of the rows either
    order = np.random.default_rng(seed).permutation(30)
    fitted = quantizer.fit(vectors)
    plain = FlatIndex.build(vectors, fitted, metric=metric).search(queries, 30)
    permuted = FlatIndex.build(vectors[order], fitted, ids=order, metric=metric).search(queries, 30)
    np.testing.assert_array_equal(permuted.ids, plain.ids)
    np.testing.assert_array_equal(permuted.scores, plain.scores)


@every_quantizer
@given(seed=seeds, exponent=st.integers(-20, 20))
@few
def test_a_query_twice_as_long_scores_twice_as_high(quantizer: Quantizer, seed: int, exponent: int) -> None:
    index = FlatIndex.build(random_vectors(seed, 20, 7), quantizer)
    queries, factor = random_vectors(seed + 1, 2, 7), np.float32(2.0**exponent)
    plain, scaled = index.search(queries, 20), index.search(queries * factor, 20)
    np.testing.assert_array_equal(scaled.ids, plain.ids)
    np.testing.assert_array_equal(scaled.scores, plain.scores * factor)


@every_quantizer
@given(seed=seeds, exponent=st.integers(-10, 10))
@few
def test_cosine_scores_do_not_know_lengths(quantizer: Quantizer, seed: int, exponent: int) -> None:
    vectors, queries = random_vectors(seed, 20, 7), random_vectors(seed + 1, 2, 7)
    plain = FlatIndex.build(vectors, quantizer, metric="cosine").search(queries, 20)
    factor = np.float32(2.0**exponent)
    scaled = FlatIndex.build(vectors * factor, quantizer, metric="cosine").search(queries / factor, 20)
    np.testing.assert_array_equal(scaled.ids, plain.ids)
    np.testing.assert_array_equal(scaled.scores, plain.scores)


@every_quantizer
@given(seed=seeds)
@few
def test_cosine_is_ip_of_normalised_vectors(quantizer: Quantizer, seed: int) -> None:
    vectors, queries = random_vectors(seed, 20, 7), random_vectors(seed + 1, 2, 7)
    unit = [
        (v / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)).astype(np.float32) for v in (vectors, queries)
    ]
    cosine = FlatIndex.build(vectors, quantizer, metric="cosine").search(queries, 20)
    ip = FlatIndex.build(unit[0], quantizer).search(unit[1], 20)
    np.testing.assert_allclose(cosine.scores, ip.scores, atol=1e-6)


@given(seed=seeds, n=st.integers(1, 60), dim=st.integers(8, 40))
@few
def test_every_vector_finds_itself(seed: int, n: int, dim: int) -> None:
    vectors = random_vectors(seed, n, dim)
    ids, scores = FlatIndex.build(vectors, Int8(), metric="cosine").search(vectors, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assume(np.all((unit @ unit.T)[~np.eye(n, dtype=bool)] < 0.97))  # beyond int8's error
    np.testing.assert_array_equal(ids[:, 0], np.arange(n))
    np.testing.assert_allclose(scores, 1, atol=0.02)


@every_metric
@given(seed=seeds, k=st.integers(1, 40))
@few
def test_fewer_answers_are_the_first_of_more(metric: Metric, seed: int, k: int) -> None:
    index = FlatIndex.build(random_vectors(seed, 30, 5), Binary(), metric=metric)  # few levels: many ties
    queries = random_vectors(seed + 1, 2, 5)
    few_found, all_found = index.search(queries, k), index.search(queries, 40)
    np.testing.assert_array_equal(few_found.ids, all_found.ids[:, :k])
    np.testing.assert_array_equal(few_found.scores, all_found.scores[:, :k])
    assert np.all(few_found.scores[:, :-1] >= few_found.scores[:, 1:])


@given(seed=seeds)
@few
def test_l2_of_exact_vectors_is_the_negative_squared_distance(seed: int) -> None:
    vectors, queries = random_vectors(seed, 20, 7), random_vectors(seed + 1, 2, 7)
    ids, scores = FlatIndex.build(vectors, Float32(), metric="l2").search(queries, 20)
    wanted = -((queries[:, None].astype(np.float64) - vectors[ids]) ** 2).sum(axis=2)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
