"""add and remove: the result is that of a fresh build, ids are never reused, and a failure changes nothing."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from qindex.index import FlatIndex
from qindex.index.flat import Metric
from qindex.quantize import Binary, Float16, Int8
from qindex.types import Matches

BIGGEST = 2**63 - 1


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("rescored", [False, True])
def test_a_changed_index_answers_as_one_built_afresh(
    metric: Metric, rescored: bool, vectors: NDArray[np.float32]
) -> None:
    def build(vectors: NDArray[np.float32], ids: ArrayLike | None = None) -> FlatIndex:
        options: Any = {"rescore": Float16()} if rescored else {}
        return FlatIndex.build(vectors, Int8(), ids=ids, metric=metric, **options)

    index, kept = build(vectors[:100]), np.arange(100)
    for start, stop in ((100, 101), (101, 180), (180, 300)):
        np.testing.assert_array_equal(index.add(vectors[start:stop]), np.arange(start, stop))
        kept = np.concatenate([kept, np.arange(start, stop)])
        gone = np.random.default_rng(start).choice(kept, 30, replace=False)
        index.remove(gone)
        kept = np.setdiff1d(kept, gone)
        np.testing.assert_array_equal(index.ids, kept)
        assert len(index) == len(kept)
        found, fresh = index.search(vectors[:9], 40), build(vectors[kept], kept)
        assert_same(found, fresh.search(vectors[:9], 40))
        assert not np.any(np.isin(found.ids, gone))
        assert index.nbytes == fresh.nbytes


def test_many_small_additions_equal_one(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:1], Int8(), metric="l2")
    for row in vectors[1:]:
        index.add(row[None])
    assert_same(index.search(vectors, 10), FlatIndex.build(vectors, Int8(), metric="l2").search(vectors, 10))


def test_longer_vectors_can_be_added_later(vectors: NDArray[np.float32]) -> None:
    """The error bound of fast scans grows with the longest row."""
    index = FlatIndex.build(vectors[:50] / 1000, Int8())
    index.add(vectors[50:])
    both = np.concatenate([vectors[:50] / 1000, vectors[50:]])
    assert_same(index.search(vectors, 10), FlatIndex.build(both, Int8()).search(vectors, 10))


def test_ids_are_never_reused(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:3])
    index.remove([2])
    assert index.add(vectors[:1]).tolist() == [3]
    index.remove(index.ids)
    assert len(index) == 0
    assert index.add(vectors[:2]).tolist() == [4, 5]
    assert index.add(vectors[:1], ids=[100]).tolist() == [100]
    index.remove([100])
    assert index.add(vectors[:1]).tolist() == [101]


def test_an_emptied_index_answers_and_fills_again(vectors: NDArray[np.float32]) -> None:
    for rescore in (None, Float16()):
        index = FlatIndex.build(vectors[:5], Binary(), rescore=rescore)
        index.remove(np.arange(5))
        for allow in (None, [], [1]):
            ids, scores = index.search(vectors[:2], 3, allow=allow)
            assert np.all(ids == -1)
            assert np.all(np.isneginf(scores))
        index.add(vectors[:5])
        assert set(index.search(vectors[:1], 5).ids[0]) == {5, 6, 7, 8, 9}


def test_adding_or_removing_nothing_changes_nothing(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:5])
    assert index.add(vectors[:0]).tolist() == []
    assert index.add(vectors[:0], ids=[]).tolist() == []
    index.remove([])
    assert index.ids.tolist() == [0, 1, 2, 3, 4]


def test_an_earlier_view_of_the_ids_stays_as_it_was(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:5])
    before = index.ids
    index.add(vectors[:2])
    now = index.ids
    index.remove([0])
    assert (before.tolist(), now.tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6])


def test_the_index_keeps_no_reference_to_what_it_was_given(vectors: NDArray[np.float32]) -> None:
    mine, ids = vectors[:9].copy(), np.arange(9)
    index = FlatIndex.build(mine, Float16(), ids=ids)
    before = index.search(vectors[:3], 9)
    returned = index.add(mine[:1], ids=np.array([50]))
    mine[:], ids[:], returned[:] = 0, 0, 0
    after = index.search(vectors[:3], 9, allow=np.arange(9))
    assert_same(after, before)
    assert index.ids[-1] == 50


bad_additions = pytest.mark.parametrize(
    ("change", "ids", "message"),
    [
        (lambda v: v, [7, 3], r"ids must be new, but the index holds 3; remove them first"),
        (lambda v: v, [7, 7], r"ids must be distinct, but 7 come more than once"),
        (lambda v: v, [-1, 7], r"ids must not be negative, got -1"),
        (lambda v: v, [7], r"ids must be one for each of 2 vectors, got 1"),
        (lambda v: v * np.float32(np.nan), None, r"vectors must be finite .* row 0 has NaN or infinity"),
        (lambda v: v * np.float32(1e30), None, r"vectors must be finite with norms up to 1e\+18.*row 0"),
        (lambda v: v[:, :5], None, r"vectors must be \(n, 20\), got \(2, 5\)"),
        (lambda v: v[0], None, r"vectors must be \(n, 20\), got \(20,\); a single vector is vectors\[None\]"),
        (lambda v: v * np.float32(1e6), None, r"up to 65504 for Float16"),
    ],
)


@bad_additions
def test_a_failing_add_changes_nothing(change: Any, ids: Any, message: str, vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:5], Int8(), rescore=Float16())
    index.add(vectors[5:6])
    before, known = index.search(vectors[:4], 9), index.ids.tolist()
    with pytest.raises(ValueError, match=message):
        index.add(change(vectors[:2]), ids)
    assert index.ids.tolist() == known
    assert_same(index.search(vectors[:4], 9), before)
    assert index.add(vectors[:1]).tolist() == [6]


def test_ids_that_run_out_are_an_error_that_changes_nothing(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:3], ids=[BIGGEST, 3, 4])
    assert index.search(vectors[:1], 3, allow=[BIGGEST]).ids.tolist() == [[BIGGEST, -1, -1]]
    index.remove([BIGGEST])
    with pytest.raises(ValueError, match="ids"):
        index.add(vectors[:1])
    assert index.add(vectors[:1], ids=[5]).tolist() == [5]
    assert index.ids.tolist() == [3, 4, 5]


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_an_updated_index_answers_as_one_built_of_the_new_vectors(metric: Metric, vectors: NDArray[np.float32]) -> None:
    quantizer = Int8().fit(vectors)
    index = FlatIndex.build(vectors[:90], quantizer, rescore=Float16(), metric=metric)
    changed, new = np.array([7, 80, 3]), vectors.copy()
    new[changed] = vectors[200:203]
    index.update(new[changed], changed)
    wanted = FlatIndex.build(new[:90], quantizer, rescore=Float16(), metric=metric)
    assert_same(index.search(vectors[:9], 90), wanted.search(vectors[:9], 90))
    assert index.ids[-3:].tolist() == [7, 80, 3]
    assert index.add(vectors[:1]).tolist() == [90]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([3, 99], ValueError, "ids must be held by the index, but it does not hold 99"),
        ([3, 3], ValueError, "ids must be distinct, but 3 come more than once"),
        ([3], ValueError, "ids must be one for each of 2 vectors, got 1"),
        (None, TypeError, "ids must be a one-dimensional array of integers"),
    ],
)
def test_a_failing_update_changes_nothing(
    ids: Any, error: type[Exception], message: str, vectors: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors[:5])
    before = index.search(vectors[:4], 5)
    with pytest.raises(error, match=message):
        index.update(vectors[5:7], ids)
    assert_same(index.search(vectors[:4], 5), before)


def test_removing_an_unknown_id_names_it_and_changes_nothing(vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.build(vectors[:5])
    with pytest.raises(ValueError, match="ids must be held by the index, but it does not hold 9, 11"):
        index.remove([1, 9, 11])
    with pytest.raises(TypeError, match=r"ids must be a one-dimensional array of integers, got float64 \(1,\)"):
        index.remove([1.0])
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    index.remove([1, 1])
    assert index.ids.tolist() == [0, 2, 3, 4]
