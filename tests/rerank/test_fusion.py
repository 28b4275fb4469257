import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qindex
from qindex import io
from qindex.rerank import Interpolation, ReciprocalRank
from qindex.rerank.fusion import ndcg

RNG = np.random.default_rng(0)


def queries(n, reranker_is_right):
    """Of twenty documents three are right; the first stage mostly knows."""
    made = []
    for _ in range(n):
        grades = np.zeros(20)
        grades[RNG.choice(20, 3, replace=False)] = 1
        first = (0.3 * grades + 0.15 * RNG.normal(size=20)).astype(np.float32)
        good = 4 * grades + RNG.normal(size=20)
        reranked = (good if reranker_is_right else 5 * RNG.normal(size=20)).astype(np.float32)
        order = np.argsort(-first)
        made.append((first[order], reranked[order], grades[order]))
    return made


def mean_ndcg(fuse, judged):
    return np.mean([ndcg(fuse.fuse(first, reranked), grades, 10) for first, reranked, grades in judged])


def test_a_good_reranker_gets_a_weight_that_helps_on_other_queries():
    fitted = Interpolation.fit(queries(60, True))
    others = queries(200, True)
    assert fitted.weight > 0
    assert mean_ndcg(fitted, others) > mean_ndcg(Interpolation(0.0), others) + 0.05


def test_a_reranker_that_guesses_does_not_spoil_the_first_stage():
    fitted = Interpolation.fit(queries(60, False))
    others = queries(200, False)
    assert mean_ndcg(fitted, others) >= mean_ndcg(Interpolation(0.0), others) - 0.005


def test_a_cautious_fit_trusts_the_reranker_no_more_than_the_best_weight_would():
    few = queries(4, True)
    assert Interpolation.fit(few).weight <= Interpolation.fit(few, cautious=False).weight


def test_a_reranker_that_says_nothing_gets_no_weight():
    judged = [(first, np.zeros(20, np.float32), grades) for first, _, grades in queries(5, True)]
    assert Interpolation.fit(judged).weight == 0


def test_without_a_right_document_nothing_can_be_fitted():
    with pytest.raises(ValueError, match="judged must hold a query with a relevant document"):
        Interpolation.fit([(np.ones(3, np.float32), np.ones(3, np.float32), np.zeros(3))])


@given(
    st.lists(st.tuples(st.floats(-10, 10, width=32), st.floats(-50, 50, width=32)), min_size=1, max_size=30),
    st.floats(0, 10, width=32),
    st.floats(-20, 60, width=32),
)
def test_nothing_is_given_more_than_the_highest_that_its_first_score_allows(scores, weight, ceiling):
    first, reranked = (np.array(column, np.float32) for column in zip(*scores, strict=True))
    fuse = Interpolation(weight, ceiling)
    fused = fuse.fuse(first, reranked)
    assert (fused <= [fuse.highest(float(one)) for one in first]).all()


def test_ndcg_counts_grades_as_gains():
    grades = np.array([0.0, 2.0, 1.0])
    assert ndcg(np.array([1.0, 3.0, 2.0], np.float32), grades, 10) == 1.0
    wanted = (1 / math.log2(3) * 2 + 1 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert ndcg(np.array([3.0, 2.0, 1.0], np.float32), grades, 10) == pytest.approx(wanted)


@pytest.mark.parametrize("fusion", [Interpolation(0.25, 3.0), Interpolation(0.0), ReciprocalRank(10)])
def test_a_fusion_comes_back_from_its_file(fusion, tmp_path):
    io.save(tmp_path / "fusion.qindex", fusion)
    assert qindex.load(tmp_path / "fusion.qindex") == fusion


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interpolation(-1.0), "weight must be finite and at least 0, got -1.0"),
        (lambda: Interpolation(math.nan), "weight must be finite"),
        (lambda: Interpolation(1.0, math.nan), "ceiling must be finite, or None"),
        (lambda: ReciprocalRank(0), "k must be at least 1, got 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
