"""The loop of reranking: which documents are scored, when it ends, and in what order hits leave it."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qindex.rerank import Interpolation, ReciprocalRank, rerank
from qindex.types import Hit


class ByTable:
    """Scores documents by a table, and remembers which it was asked for."""

    def __init__(self, table, seconds=0.0):
        self.table, self.seconds, self.asked = table, seconds, []

    def score(self, query, documents):
        self.asked.append(list(documents))
        end = time.perf_counter() + self.seconds * len(documents)
        while time.perf_counter() < end:
            pass
        return np.array([self.table[document] for document in documents], np.float32)


def hits_of(scores):
    return [Hit(i, score, f"text {i}", {"n": i}, {"index": score}) for i, score in enumerate(scores)]


TABLE = {f"text {i}": float(score) for i, score in enumerate([1, 5, 3, 4, 2, 0, -1, 7, 6, -3])}
HITS = hits_of(np.linspace(0.9, 0.1, 10).tolist())


def test_hits_leave_in_the_order_of_the_reranker_with_both_scores():
    found = rerank(ByTable(TABLE), "question", HITS, 3)
    assert [hit.id for hit in found] == [7, 8, 1]
    assert found[0].score == 7.0
    assert found[0].stages == {"index": HITS[7].score, "reranker": 7.0}
    assert found[0].metadata == {"n": 7}
    assert not found.partial


def test_equal_scores_keep_the_order_of_the_first_stage():
    found = rerank(ByTable(dict.fromkeys(TABLE, 0.0)), "question", HITS, 10)
    assert [hit.id for hit in found] == list(range(10))


def test_more_than_there_are_gives_all_and_no_hits_give_none():
    assert len(rerank(ByTable(TABLE), "question", HITS, 100)) == 10
    reranker = ByTable(TABLE)
    assert rerank(reranker, "question", [], 5) == []
    assert reranker.asked == []


def test_the_fusion_of_the_reranker_holds_unless_another_is_told():
    reranker = ByTable(TABLE)
    reranker.fuse = Interpolation(0.0)
    assert [hit.id for hit in rerank(reranker, "question", HITS, 3)] == [0, 1, 2]
    assert [hit.id for hit in rerank(reranker, "question", HITS, 2, fuse=Interpolation(100.0))] == [7, 8]


def test_scoring_ends_where_no_other_hit_can_come_among_the_best():
    first = [10.0, 9.9, 9.8, *[1.0] * 37]
    table = {f"text {i}": 0.5 for i in range(40)}
    reranker = ByTable(table)
    found = rerank(reranker, "question", hits_of(first), 3, fuse=Interpolation(1.0, ceiling=1.0))
    assert sum(map(len, reranker.asked)) == 8
    assert [hit.id for hit in found] == [0, 1, 2]
    assert not found.partial


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 3), st.data())
def test_an_early_end_changes_none_of_the_best(scores, k, weight, data):
    first = sorted((data.draw(st.integers(-30, 30)) / 8 for _ in scores), reverse=True)
    table = {f"text {i}": float(score) for i, score in enumerate(scores)}
    fuse = Interpolation(float(weight), ceiling=float(max(scores)))
    found = rerank(ByTable(table), "question", hits_of(first), k, fuse=fuse)
    fused = fuse.fuse(np.array(first, np.float32), np.array(scores, np.float32))
    assert [hit.id for hit in found] == np.argsort(-fused, kind="stable")[:k].tolist()
    assert not found.partial


def test_within_a_budget_the_hits_that_were_scored_come_first_and_the_others_as_they_were():
    many = hits_of(np.linspace(1, 0, 400).tolist())
    reranker = ByTable({hit.text: float(hit.id) for hit in many}, seconds=1e-3)
    started = time.perf_counter()
    found = rerank(reranker, "question", many, 400, budget_ms=60)
    assert time.perf_counter() - started < 1.0
    n = sum("reranker" in hit.stages for hit in found)
    assert 0 < n < 400
    assert [hit.id for hit in found] == [*range(n - 1, -1, -1), *range(n, 400)]
    assert found[n].score == many[n].score
    assert found.partial


def test_a_budget_too_small_for_one_document_leaves_hits_as_they_are():
    reranker = ByTable(TABLE, seconds=0.03)
    rerank(reranker, "question", HITS[:1], 1)  # by which its pace is known
    found = rerank(reranker, "question", HITS, 4, budget_ms=5)
    assert found == HITS[:4]
    assert found.partial
    assert len(reranker.asked) == 1


def test_reciprocal_ranks_put_first_what_both_stages_like():
    found = rerank(ByTable(TABLE), "question", HITS, 1, fuse=ReciprocalRank())
    assert found[0].id == 1  # second and third; the reranker's best is eighth in the first stage


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "  "}, "query must hold some text, got '  '"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"budget_ms": 0}, "budget_ms must be larger than 0, or None for no limit, got 0"),
        ({"hits": HITS[::-1]}, "hits must come best first"),
    ],
)
def test_what_cannot_be_reranked_is_refused_before_anything_is_scored(change, message):
    reranker = ByTable(TABLE)
    arguments = {"query": "question", "hits": HITS, "k": 3} | change
    with pytest.raises(ValueError, match=message):
        rerank(reranker, **arguments)
    assert reranker.asked == []


def test_a_reranker_that_gives_another_number_of_scores_is_named():
    class Short:
        def score(self, query, documents):
            return np.zeros(1, np.float32)

    with pytest.raises(ValueError, match=r"score must give \(10,\) numbers, got \(1,\) by Short"):
        rerank(Short(), "question", HITS)
