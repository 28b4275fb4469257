"""A filtered search is the full ranking without the rows that are not allowed."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.index import FlatIndex
from qindex.quantize import Binary, Float32, Int8
from qindex.types import Matches

N = 600


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)


@pytest.fixture(scope="module", params=["plain", "l2", "rescored"])
def index(request: pytest.FixtureRequest) -> FlatIndex:
    vectors = np.random.default_rng(0).standard_normal((N, 16)).astype(np.float32)
    vectors[N // 2 :] = vectors[: N // 2]  # ties
    ids = np.random.default_rng(3).permutation(10 * N)[:N]
    if request.param == "rescored":  # every allowed row is rescored, so the ranking is exact
        return FlatIndex.build(vectors, Binary(), rescore=Float32(), ids=ids)
    return FlatIndex.build(vectors, Int8(), ids=ids, metric="l2" if request.param == "l2" else "ip")


def search(index: FlatIndex, queries: NDArray[np.float32], k: int, allow: Any = None) -> Matches:
    rescored = "rescore" in repr(index)
    return index.search(queries, k, allow=allow, oversample=N if rescored else None)


def filtered(full: Matches, allowed: NDArray[np.int64], k: int) -> Matches:
    """The k first of each row of a full ranking whose id is allowed."""
    ids, scores = np.full((len(full.ids), k), -1), np.full((len(full.ids), k), -np.inf, np.float32)
    for i, row in enumerate(full.ids):
        places = np.flatnonzero(np.isin(row, allowed))[:k]
        ids[i, : len(places)], scores[i, : len(places)] = row[places], full.scores[i, places]
    return Matches(ids, scores)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


# Below a tenth of the rows these are copied and searched, above it they are masked.
@pytest.mark.parametrize("n_allowed", [0, 1, 10, 59, 60, 61, 400, N])
def test_masks_and_ids_filter_the_full_ranking(n_allowed: int, index: FlatIndex, queries: NDArray[np.float32]) -> None:
    mask = np.zeros(N, bool)
    mask[np.random.default_rng(n_allowed).permutation(N)[:n_allowed]] = True
    allowed = index.ids[mask]
    wanted = filtered(search(index, queries, N), allowed, 12)
    for allow in (mask, mask.tolist(), allowed, allowed[::-1], allowed.tolist(), allowed.astype(np.uint64)):
        assert_same(search(index, queries, 12, allow), wanted)


def test_each_query_may_have_its_own_filter(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    some, none, most = index.ids[5:9], np.empty(0, np.int64), np.arange(N) > 40
    full = search(index, queries, N)
    allow = [some, none, most, index.ids[:1].tolist()]
    allowed = [some, none, index.ids[most], index.ids[:1]]
    wanted = [filtered(Matches(*(a[i : i + 1] for a in full)), one, 6) for i, one in enumerate(allowed)]
    found = search(index, queries, 6, allow)
    assert_same(found, Matches(np.vstack([w.ids for w in wanted]), np.vstack([w.scores for w in wanted])))
    assert_same(search(index, queries, 6, tuple(allow)), found)


def test_a_list_of_one_filter_serves_one_query(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    assert_same(search(index, queries[:1], 3, [index.ids[:9]]), search(index, queries[:1], 3, index.ids[:9]))


def test_unknown_ids_are_passed_over(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    unknown = np.setdiff1d(np.arange(-5, 10 * N), index.ids)
    both = np.concatenate([unknown, index.ids[:3]])
    assert_same(search(index, queries, 5, both), search(index, queries, 5, index.ids[:3]))
    assert np.all(search(index, queries, 5, unknown).ids == -1)


def test_nothing_allowed_gives_nothing(index: FlatIndex, queries: NDArray[np.float32]) -> None:
    for allow in ([], np.zeros(N, bool), np.empty(0), [[], [], [], []]):
        ids, scores = search(index, queries, 3, allow)
        assert np.all(ids == -1)
        assert np.all(np.isneginf(scores))


def test_large_unsigned_ids_are_told_apart() -> None:
    ids = 2**53 + np.arange(40)
    index = FlatIndex.build(np.ones((40, 2), np.float32), ids=ids)
    found = index.search(np.ones((1, 2), np.float32), 3, allow=np.array([2**53 + 1, 2**53 + 7], np.uint64))
    np.testing.assert_array_equal(found.ids, [[2**53 + 1, 2**53 + 7, -1]])
