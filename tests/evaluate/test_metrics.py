import sys
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qindex.evaluate.metrics import evaluate, judged, paired_bootstrap, recall

QRELS = {"q2": {"d": 1}, "q1": {"a": 2, "b": 0, "c": 1}}


def test_ndcg_is_that_of_the_hand():
    run = {"q1": ["b", "a", "x", "c"], "q2": ["x", "y", "d"]}
    ndcg = evaluate(run, QRELS, ["nDCG@10"])["nDCG@10"]
    q1 = (2 / log2(3) + 1 / log2(5)) / (2 / log2(2) + 1 / log2(3))
    assert ndcg == pytest.approx([q1, 1 / log2(4)])


def test_ndcg_cuts_the_ideal_ranking_too():
    assert evaluate({"q1": ["a", "c"]}, QRELS, ["nDCG@1"])["nDCG@1"].tolist() == [1, 0]


def test_recall_and_reciprocal_rank_count_grades_from_one():
    run = {"q1": ["b", "x", "c"], "q2": ["d"]}
    result = evaluate(run, QRELS, ["R@2", "R@3", "RR@3", "RR@2"])
    assert {measure: values.tolist() for measure, values in result.items()} == {
        "R@2": [0, 1],
        "R@3": [0.5, 1],
        "RR@3": [pytest.approx(1 / 3), 1],
        "RR@2": [0, 1],
    }


def test_results_follow_the_sorted_judged_queries():
    qrels = {"z": {"d": 1}, "a": {"d": 1}, "unjudged": {}}
    assert judged(qrels) == ["a", "z"]
    assert evaluate({"a": ["d"], "z": ["x", "d"]}, qrels, ["RR@10"])["RR@10"].tolist() == [1, 0.5]


def test_queries_without_judgements_do_not_count():
    run = {"q1": ["a"], "q2": ["d"], "q3": ["d"], "q4": ["d"]}
    assert len(evaluate(run, {**QRELS, "q3": {}})["RR@10"]) == 2


def test_queries_that_found_nothing_count_zero():
    assert evaluate({"q2": []}, QRELS, ["nDCG@10"])["nDCG@10"].tolist() == [0, 0]
    assert evaluate({}, QRELS, ["R@5"])["R@5"].tolist() == [0, 0]


def test_the_order_counts_and_ids_break_no_tie():
    for documents in (["a", "z"], ["z", "a"]):
        [value] = evaluate({"q": documents}, {"q": {"a": 1}}, ["RR@2"])["RR@2"]
        assert value == 1 / (1 + documents.index("a"))


@given(st.permutations(list("abcdefghijkl")), st.integers(1, 12))
def test_measures_lie_between_zero_and_one_and_moving_an_answer_up_never_hurts(documents, k):
    qrels = {"q": {"a": 3, "b": 1, "c": 1, "d": 0}}
    measures = [f"nDCG@{k}", f"R@{k}", f"RR@{k}"]
    before = evaluate({"q": documents}, qrels, measures)
    better = [*documents]
    place = better.index("a")
    better.insert(max(place - 1, 0), better.pop(place))
    after = evaluate({"q": better}, qrels, measures)
    for measure in measures:
        assert 0 <= before[measure][0] <= after[measure][0] + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize("measure", ["nDCG@0", "nDCG", "MRR@10", "R@-1", "R@1.5", "", "nDCG@10 "])
def test_another_measure_says_which_there_are(measure):
    with pytest.raises(ValueError, match='measures must be "nDCG@k"'):
        evaluate({}, QRELS, [measure])


def test_a_document_listed_twice_is_refused():
    with pytest.raises(ValueError, match=r"run\['q1'\] must list each document once"):
        evaluate({"q1": ["a", "b", "a"]}, QRELS)


def test_a_string_is_not_a_ranking():
    with pytest.raises(TypeError, match=r"run\['q1'\] must be a sequence of document ids"):
        evaluate({"q1": "abc"}, QRELS)


def test_no_judgements_are_refused():
    with pytest.raises(ValueError, match="qrels must judge at least one query"):
        evaluate({"q": ["a"]}, {"q": {}})


def test_missing_ir_measures_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ImportError, match=r"pip install 'qindex\[evaluate\]'"):
        evaluate({}, QRELS)


def test_recall_of_ids_is_that_of_the_hand():
    assert recall([[1, 2, 3], [4, 5, 6]], [[3, 2, 9], [6, 5, 4]]) == pytest.approx((2 / 3 + 1) / 2)
    assert recall([[7, 7, 7]], [[7, 8]]) == 0.5


def test_no_id_is_never_found_and_never_wanted():
    assert recall([[1, -1, -1]], [[1, 2, -1]]) == 0.5
    assert recall([[1, -1], [3, 4]], [[-1, -1], [4, 3]]) == 1


def test_recall_needs_matching_queries_with_something_to_find():
    with pytest.raises(ValueError, match=r"for the same m, got \(1, 2\) and \(2, 1\)"):
        recall([[1, 2]], [[1], [2]])
    for ids in (np.empty((0, 3), np.int64), [[-1, -1]]):
        with pytest.raises(ValueError, match="at least one query"):
            recall(ids, ids)


def test_the_interval_of_equal_differences_is_a_point():
    assert paired_bootstrap([[0.25] * 7]) == (0.25, 0.25, 0.25)


def test_the_interval_is_that_of_the_normal_distribution_for_many_queries():
    rng = np.random.default_rng(1)
    differences = rng.normal(0.3, 2, 5000)
    mean, low, high = paired_bootstrap([differences], samples=2000)
    error = 1.96 * differences.std() / np.sqrt(differences.size)
    assert mean == pytest.approx(differences.mean())
    # The quantiles of 2,000 resamples are themselves known to about 5 % of the half-width.
    assert low == pytest.approx(mean - error, abs=0.15 * error)
    assert high == pytest.approx(mean + error, abs=0.15 * error)


def test_collections_weigh_the_same_whatever_their_size():
    mean, low, high = paired_bootstrap([[1.0], [0.0] * 999], samples=10)
    assert (mean, low, high) == (0.5, 0.5, 0.5)


def test_a_seed_decides_the_interval():
    differences = [np.random.default_rng(2).normal(size=40)]
    assert paired_bootstrap(differences, samples=200) == paired_bootstrap(differences, samples=200)
    assert paired_bootstrap(differences, samples=200) != paired_bootstrap(differences, samples=200, seed=1)


def test_more_confidence_is_a_wider_interval():
    differences = [np.random.default_rng(3).normal(size=40)]
    narrow = paired_bootstrap(differences, samples=500, confidence=0.5)
    wide = paired_bootstrap(differences, samples=500, confidence=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("differences", [[], [[]], [[1.0, np.nan]], [[[1.0]]], [1.0, 2.0]])
def test_differences_must_be_numbers_by_collection(differences):
    with pytest.raises(ValueError, match="differences must be finite"):
        paired_bootstrap(differences)


def test_settings_of_the_interval_are_checked():
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
        paired_bootstrap([[1.0]], confidence=95)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        paired_bootstrap([[1.0]], samples=0)
