"""GraphIndex against FlatIndex: what a walk finds, filters, threads, and what is refused."""

import numpy as np
import pytest
from clustered_rows import clustered, recall

import qindex
from qindex import FlatIndex, GraphIndex, Int4, Int8, RaBitQ, kernels
from qindex.index.metric import Metric
from qindex.index.rescore import Work

VECTORS, QUERIES = clustered(6000, 48, 0), clustered(60, 48, 1)


@pytest.fixture(scope="module")
def graph() -> GraphIndex:
    return GraphIndex.build(VECTORS, progress=False)


@pytest.fixture(scope="module")
def flat() -> FlatIndex:
    return FlatIndex.build(VECTORS, Int8())


def test_a_search_finds_nearly_all_of_what_a_scan_finds_and_more_ef_finds_more(
    graph: GraphIndex, flat: FlatIndex
) -> None:
    wanted = flat.search(QUERIES, 10).ids
    found = [recall(graph.search(QUERIES, 10, ef=ef).ids, wanted) for ef in (16, 64, 200)]
    assert found[0] >= 0.75
    assert found[1] >= 0.95
    assert found[2] >= 0.985


def test_a_walk_that_keeps_all_rows_finds_what_a_scan_finds(graph: GraphIndex, flat: FlatIndex) -> None:
    found, wanted = graph.search(QUERIES, 10, ef=len(VECTORS)), flat.search(QUERIES, 10)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_every_metric_and_codes_of_every_kind_find_their_rows(metric: str) -> None:
    vectors = VECTORS[:1500] * np.random.default_rng(2).uniform(0.5, 1.5, (1500, 1)).astype(np.float32)
    for quantizer, fine in ((Int8(), None), (qindex.Float16(), None), (RaBitQ(2), Int8()), (Int4(), Int4())):
        options = {"metric": metric, "rescore": fine}
        index = GraphIndex.build(vectors, quantizer, progress=False, **options)  # type: ignore[arg-type]
        oracle = FlatIndex.build(vectors, quantizer if fine is None else fine, metric=metric)  # type: ignore[arg-type]
        assert recall(index.search(QUERIES, 10, ef=128).ids, oracle.search(QUERIES, 10).ids) >= 0.93


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_a_graph_on_signs_that_the_finer_codes_share_finds_its_rows(metric: Metric) -> None:
    index = GraphIndex.build(VECTORS[:600], RaBitQ(1), rescore=RaBitQ(4), metric=metric, progress=False)
    added = index.add(VECTORS[600:700])
    found = index.search(VECTORS[:700], 1, ef=128).ids[:, 0]
    assert np.mean(found == np.concatenate([np.arange(600), added])) >= 0.98


def test_scores_are_exact_and_ties_go_to_the_smaller_id() -> None:
    vectors = np.repeat(VECTORS[:100], 3, axis=0)
    ids = np.random.default_rng(0).permutation(300)
    index = GraphIndex.build(vectors, Int8(), ids=ids, progress=False)
    found, wanted = index.search(QUERIES, 9, ef=300), FlatIndex.build(vectors, Int8(), ids=ids).search(QUERIES, 9)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.ids, wanted.ids)


def test_equal_inputs_give_equal_bytes_whatever_the_threads() -> None:
    before = kernels.threads.count
    built = []
    try:
        for count in (1, 3):
            kernels.set_threads(count)
            index = GraphIndex.build(VECTORS[:5000], degree=12, ef_construction=40, progress=False)
            index.add(VECTORS[5000:5600])
            built.append((index._state.neighbours.tobytes(), index.search(QUERIES, 10, ef=30)))
    finally:
        kernels.set_threads(before)
    assert built[0][0] == built[1][0]
    np.testing.assert_array_equal(built[0][1].ids, built[1][1].ids)


def test_results_do_not_depend_on_the_batch(graph: GraphIndex) -> None:
    together = graph.search(QUERIES, 10, ef=30)
    alone = [graph.search(query[None], 10, ef=30) for query in QUERIES]
    np.testing.assert_array_equal(together.ids, np.concatenate([one.ids for one in alone]))
    np.testing.assert_array_equal(together.scores, np.concatenate([one.scores for one in alone]))


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01, 0.001])
def test_filters_find_what_is_allowed_and_no_less_of_it(graph: GraphIndex, flat: FlatIndex, share: float) -> None:
    mask = np.random.default_rng(3).random(len(VECTORS)) < share
    found, wanted = graph.search(QUERIES, 10, allow=mask), flat.search(QUERIES, 10, allow=mask)
    assert ((found.ids >= 0) == (wanted.ids >= 0)).all()
    assert mask[found.ids[found.ids >= 0]].all()
    assert recall(found.ids, wanted.ids) >= recall(graph.search(QUERIES, 10).ids, flat.search(QUERIES, 10).ids) - 0.01


def test_filters_far_from_the_query_still_give_k_rows(graph: GraphIndex, flat: FlatIndex) -> None:
    rank = np.empty(len(VECTORS), np.int64)
    rank[flat.search(QUERIES[:1], len(VECTORS)).ids[0]] = np.arange(len(VECTORS))
    for first in (3000, 4200, 5990):  # the farthest half, third, and ten
        found = graph.search(QUERIES[:1], 10, ef=16, allow=rank >= first)
        assert (found.ids >= 0).all()
        assert (rank[found.ids] >= first).all()


def test_every_query_may_have_a_filter_of_its_own(graph: GraphIndex) -> None:
    allow = [np.array([3, 4, 5]), np.arange(3000), np.array([], np.int64)]
    found = graph.search(QUERIES[:3], 5, allow=allow)
    assert sorted(found.ids[0][:3].tolist()) == [3, 4, 5]
    assert found.ids[0][3:].tolist() == [-1, -1]
    assert (found.ids[1] < 3000).all()
    assert (found.ids[1] >= 0).all()
    assert (found.ids[2] == -1).all()
    assert np.isneginf(found.scores[2]).all()


def test_explain_says_what_a_search_did(graph: GraphIndex) -> None:
    _found, steps = graph.search(QUERIES, 10, ef=40, oversample=2, explain=True)
    assert isinstance(steps, Work)
    assert (steps.hops >= 40).all()
    assert (steps.hops < steps.scored).all()
    assert (steps.scored < len(VECTORS)).all()
    assert (steps.rescored == 20).all()
    _found, steps = graph.search(QUERIES, 10, allow=np.arange(20), explain=True)
    assert (steps.hops == 0).all()
    assert (steps.rescored == 20).all()


def test_more_equal_rows_than_a_beam_holds_neither_stall_a_build_nor_hide_others() -> None:
    vectors = np.concatenate([np.tile(VECTORS[:1], (3000, 1)), VECTORS[1:1000]])
    index = GraphIndex.build(vectors, progress=False)
    found = index.search(QUERIES, 10, ef=64).ids
    wanted = FlatIndex.build(vectors, Int8()).search(QUERIES, 10).ids
    far = (wanted >= 3000).all(axis=1)
    assert far.sum() > 20
    assert recall(found[far], wanted[far]) >= 0.95
    assert len(set(index.search(VECTORS[:1], 100).ids[0].tolist()) - {-1}) == 100
    alike = GraphIndex.build(np.ones((500, 16), np.float32), Int8(), progress=False)
    assert alike.search(np.ones((1, 16), np.float32), 20).ids[0].tolist() == list(range(20))


def test_one_row_and_fewer_rows_than_neighbours() -> None:
    for n in (1, 2, 20):
        index = GraphIndex.build(VECTORS[:n], progress=False)
        found = index.search(QUERIES, 30)
        assert ((found.ids >= 0).sum(axis=1) == n).all()


def test_zero_vectors_and_constant_dimensions_are_found() -> None:
    vectors = VECTORS[:300].copy()
    vectors[:, 7], vectors[5] = 0.25, 0
    for metric in ("ip", "cosine", "l2"):
        index = GraphIndex.build(vectors, metric=metric, progress=False)  # type: ignore[arg-type]
        wanted = FlatIndex.build(vectors, Int8(), metric=metric).search(QUERIES, 5).ids  # type: ignore[arg-type]
        assert recall(index.search(QUERIES, 5, ef=300).ids, wanted) >= 0.99


def test_bad_input_is_refused_with_the_way_out(graph: GraphIndex) -> None:
    with pytest.raises(ValueError, match="ef must be at least k, got ef=5 and k=10"):
        graph.search(QUERIES, 10, ef=5)
    with pytest.raises(ValueError, match="ef must be at least 1, got 0"):
        graph.search(QUERIES, 10, ef=0)
    with pytest.raises(TypeError, match="ef must be an integer"):
        graph.search(QUERIES, 10, ef=1.5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="queries must be"):
        graph.search(QUERIES[:, :5])
    with pytest.raises(ValueError, match="oversample needs an index built with rescore"):
        GraphIndex.build(VECTORS[:50], Int8(), progress=False).search(QUERIES, oversample=2)
    with pytest.raises(ValueError, match="degree must be at most 512, got 1000"):
        GraphIndex.build(VECTORS[:50], degree=1000)
    with pytest.raises(ValueError, match="seed must be an integer from 0 on, got -1"):
        GraphIndex.build(VECTORS[:50], seed=-1)
    with pytest.raises(ValueError, match="at least one row"):
        GraphIndex.build(VECTORS[:0])
    with pytest.raises(ValueError, match="distinct"):
        GraphIndex.build(VECTORS[:2], ids=[3, 3])


def test_no_queries_give_no_matches(graph: GraphIndex) -> None:
    found = graph.search(QUERIES[:0], 7)
    assert found.ids.shape == found.scores.shape == (0, 7)
