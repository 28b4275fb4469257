"""Pages of a search are its full ranking cut up, and a range is the start of it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.index import FlatIndex, GraphIndex, IVFIndex
from qindex.quantize import Binary, Float32, Int8
from qindex.types import Matches

N = 500


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((N, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)


@pytest.fixture(scope="module", params=["ip", "cosine", "l2"])
def index(request: pytest.FixtureRequest, vectors: NDArray[np.float32]) -> FlatIndex:
    return FlatIndex.build(vectors, Int8(), metric=request.param)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("page", [1, 7, 250, N, N + 1])
def test_pages_one_behind_the_other_are_the_full_ranking(
    page: int, index: FlatIndex, queries: NDArray[np.float32]
) -> None:
    pages = list(index.search_iter(queries, page))
    assert len(pages) == -(-N // page)
    joined = Matches(*(np.hstack(arrays) for arrays in zip(*pages, strict=True)))
    assert_same(joined, index.search(queries, page * len(pages)))


def test_pages_come_only_as_far_as_they_are_asked_for(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    first = next(index.search_iter(queries))
    assert_same(first, index.search(queries, 10))


def test_pages_keep_to_the_filter_of_each_query(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    filters = [np.arange(5), np.arange(100), np.arange(0)]
    pages = list(index.search_iter(queries, 30, allow=filters))
    assert len(pages) == 4
    joined = Matches(*(np.hstack(arrays) for arrays in zip(*pages, strict=True)))
    assert_same(joined, index.search(queries, 120, allow=filters))
    assert [(row >= 0).sum() for row in joined.ids] == [5, 100, 0]


def test_pages_of_a_coarse_search_repeat_nothing_and_miss_nothing(
    vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, Binary(), rescore=Float32())
    assert_whole_ranking(list(index.search_iter(queries, 13, oversample=1)))


@pytest.mark.parametrize("settings", [{}, {"ef": 20}])
def test_pages_of_a_walk_repeat_nothing_and_miss_nothing(
    settings: dict[str, int], vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = GraphIndex.build(vectors, degree=16)
    assert_whole_ranking(list(index.search_iter(queries, 13, **settings)))


@pytest.mark.parametrize("settings", [{}, {"nprobe": 2}])
def test_pages_of_probed_lists_repeat_nothing_and_miss_nothing(
    settings: dict[str, int], vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = IVFIndex.build(vectors, nlist=20)
    assert_whole_ranking(list(index.search_iter(queries, 13, **settings)))


def assert_whole_ranking(pages: list[Matches]) -> None:
    for ids in np.hstack([page.ids for page in pages]):
        np.testing.assert_array_equal(np.sort(ids[ids >= 0]), np.arange(N))


def test_changes_do_not_reach_pages_that_were_begun(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors, Int8())
    pages = index.search_iter(queries, 100)
    first = next(pages)
    index.remove(index.ids[:400])
    joined = np.hstack([first.ids, *(page.ids for page in pages)])
    np.testing.assert_array_equal(np.sort(joined), np.tile(np.arange(N), (3, 1)))


def test_an_emptied_index_and_no_queries_have_no_pages(
    vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors, Int8())
    assert list(index.search_iter(queries[:0])) == []
    index.remove(index.ids)
    assert list(index.search_iter(queries)) == []
    assert [len(one.ids) for one in index.search_range(queries, -100.0)] == [0, 0, 0]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_a_range_is_the_ranking_down_to_its_radius(
    share: float, index: FlatIndex, queries: NDArray[np.float32]
) -> None:
    ranking = index.search(queries, N)
    least = float(np.quantile(ranking.scores[0], 1 - share)) if share else float(ranking.scores.max()) + 1
    radius = max(-least, 0.0) ** 0.5 if index.metric == "l2" else least
    least = -(radius**2) if index.metric == "l2" else radius
    found = index.search_range(queries, radius)
    assert len(found) == len(queries)
    for one, ids, scores in zip(found, *ranking, strict=True):
        inside = scores >= least
        assert_same(one, Matches(ids[inside], scores[inside]))


def test_a_range_keeps_to_the_filter_of_each_query(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    filters = [np.arange(5), np.arange(100), np.arange(0)]
    found = index.search_range(queries, 1e6 if index.metric == "l2" else -1e6, allow=filters)
    assert [sorted(one.ids) for one in found] == [list(range(5)), list(range(100)), []]


@pytest.mark.parametrize(
    ("radius", "error", "message"),
    [
        ("0.5", TypeError, "radius must be a number, got '0.5'"),
        (True, TypeError, "radius must be a number, got True"),
        (float("nan"), ValueError, "radius must be"),
    ],
)
def test_a_radius_is_a_number(
    radius: Any, error: type[Exception], message: str, index: FlatIndex, queries: NDArray[np.float32]
) -> None:
    with pytest.raises(error, match=message):
        index.search_range(queries, radius)


def test_a_distance_is_not_negative(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r'radius must be a distance from 0 on with metric "l2", got -1\.0'):
        FlatIndex.build(vectors, Int8(), metric="l2").search_range(queries, -1.0)


def test_a_setting_that_search_has_not_is_refused(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    with pytest.raises(TypeError, match="explain is for search alone"):
        index.search_range(queries, 0.5, explain=True)
    with pytest.raises(TypeError, match="nprobe"):
        index.search_range(queries, 0.5, nprobe=3)
    with pytest.raises(ValueError, match="oversample needs an index built with rescore"):
        next(index.search_iter(queries, oversample=2))
