"""IVFIndex changes as FlatIndex does, filters without losing rows, comes back from disk, and refuses what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex import io
from qindex.index import FlatIndex, IVFIndex
from qindex.index.ivf import IVFState
from qindex.index.lists import Lists
from qindex.index.metric import Metric
from qindex.quantize import Float16, Int4, Int8, RaBitQ
from qindex.types import Matches


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((20, 24))[rng.integers(20, size=900)] + rng.standard_normal((900, 24)) / 2).astype("f4")


@pytest.fixture
def index(vectors: NDArray[np.float32]) -> IVFIndex:
    return IVFIndex.build(vectors[:400], nlist=16)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("rescored", [False, True])
def test_a_changed_index_holds_what_a_flat_one_holds(
    metric: Metric, rescored: bool, vectors: NDArray[np.float32]
) -> None:
    options: Any = {"rescore": Float16()} if rescored else {}
    index = IVFIndex.build(vectors[:100], nlist=10, metric=metric, **options)
    flat = FlatIndex.build(vectors[:100], metric=metric, **options)
    rng = np.random.default_rng(0)
    for start, stop in ((100, 101), (101, 104), (104, 500), (500, 520), (520, 900)):
        np.testing.assert_array_equal(index.add(vectors[start:stop]), flat.add(vectors[start:stop]))
        gone = rng.choice(flat.ids, len(flat) // 4, replace=False)
        index.remove(gone)
        flat.remove(gone)
        renewed = flat.ids[:5]
        index.update(vectors[start : start + 1].repeat(5, axis=0), renewed)
        flat.remove(renewed)
        flat.add(vectors[start : start + 1].repeat(5, axis=0), renewed)
        np.testing.assert_array_equal(np.sort(index.ids), np.sort(flat.ids))
        assert len(index) == len(flat)
        for queries in (vectors[:40], vectors[:1]):
            found, wanted = index.search(queries, 30, nprobe=10), flat.search(queries, 30)
            assert_same(found, wanted)
            assert not np.isin(found.ids, gone).any()
    index.compact()
    assert_same(index.search(vectors[:40], 30, nprobe=10), flat.search(vectors[:40], 30))
    assert index._state.stored.nbytes == flat.nbytes


def test_recall_after_half_has_changed_is_that_of_a_fresh_build(vectors: NDArray[np.float32]) -> None:
    def recall(some: IVFIndex, wanted: Matches) -> float:
        found = some.search(vectors[800:], 10, nprobe=4)
        return sum(len(np.intersect1d(a, b)) for a, b in zip(found.ids, wanted.ids, strict=True)) / 1000

    index = IVFIndex.build(vectors[:400], nlist=16)
    index.remove(np.arange(0, 400, 2))
    index.add(vectors[400:800])
    kept = np.concatenate([np.arange(1, 400, 2), np.arange(400, 800)])
    wanted = FlatIndex.build(vectors[kept], Float16(), ids=kept).search(vectors[800:], 10)
    assert recall(index, wanted) >= recall(IVFIndex.build(vectors[kept], ids=kept, nlist=16), wanted) - 0.01


def test_removing_half_gives_space_back(index: IVFIndex) -> None:
    before = index.nbytes
    index.remove(np.arange(199))
    assert index.nbytes == before
    index.remove([199])
    assert index.nbytes < 0.6 * before
    index.remove(index.ids)
    assert len(index) == 0


def test_an_emptied_index_answers_and_fills_again(index: IVFIndex, vectors: NDArray[np.float32]) -> None:
    index.remove(index.ids)
    for nprobe in (None, 1, 16):
        found = index.search(vectors[:3], 4, nprobe=nprobe)
        assert (found.ids == -1).all()
        assert np.isneginf(found.scores).all()
    assert index.add(vectors[:2]).tolist() == [400, 401]
    assert set(index.search(vectors[:1], 4, nprobe=1).ids[0].tolist()) == {400, 401, -1}


def test_a_mask_follows_ids_whatever_was_changed(index: IVFIndex, vectors: NDArray[np.float32]) -> None:
    index.add(vectors[400:450])
    index.remove(np.arange(0, 300, 3))
    even = index.ids % 2 == 0
    assert_same(index.search(vectors, 9, allow=even), index.search(vectors, 9, allow=index.ids[even]))


@pytest.mark.parametrize("options", [{}, {"rescore": Float16()}, {"residual": True, "quantizer": Int4()}], ids=str)
@pytest.mark.parametrize("share", [0.5, 0.2, 0.05, 0.01])
def test_every_filter_gives_k_rows_where_there_are_k(
    options: dict[str, Any], share: float, vectors: NDArray[np.float32]
) -> None:
    index = IVFIndex.build(vectors, nlist=30, **options)
    rng = np.random.default_rng(0)
    filters = [np.flatnonzero(rng.random(900) < share) for _ in range(40)]
    for allow in (filters[0], filters):
        for nprobe in (None, 1, 3):
            found = index.search(vectors[:40], 8, nprobe=nprobe, allow=allow)
            for i, row in enumerate(found.ids):
                mine = allow[i] if isinstance(allow, list) else allow
                assert (row >= 0).sum() == min(8, len(mine))
                assert np.isin(row[row >= 0], mine).all()
                assert len(set(row[row >= 0].tolist())) == (row >= 0).sum()


def test_a_filter_that_allows_nothing_finds_nothing(index: IVFIndex, vectors: NDArray[np.float32]) -> None:
    for allow in ([], np.zeros(400, bool), [5000]):
        assert (index.search(vectors[:3], 2, allow=allow).ids == -1).all()


def test_few_allowed_rows_are_all_scored(index: IVFIndex, vectors: NDArray[np.float32]) -> None:
    allow = np.arange(0, 400, 40)
    flat = FlatIndex.build(vectors[:400])
    assert_same(index.search(vectors, 5, nprobe=1, allow=allow), flat.search(vectors, 5, allow=allow))


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_loaded_index_answers_as_the_saved_one(
    residual: bool, metric: Metric, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    index = IVFIndex.build(vectors[:400], RaBitQ(2), rescore=Int8(), nlist=16, metric=metric, residual=residual)
    index.add(vectors[400:450])
    index.remove(np.arange(10, 30))
    index.save(tmp_path / "a")
    for loaded in (IVFIndex.load(tmp_path / "a"), qindex.load(tmp_path / "a", verify=True)):
        for nprobe in (None, 3):
            assert_same(loaded.search(vectors, 15, nprobe=nprobe), index.search(vectors, 15, nprobe=nprobe))
        assert repr(loaded) == repr(index)
        np.testing.assert_array_equal(loaded.ids, index.ids)
        loaded.add(vectors[450:500])
        loaded.remove([0])
    with pytest.raises(io.FormatError, match="IVFIndex, not a FlatIndex"):
        FlatIndex.load(tmp_path / "a")


def test_files_whose_lists_leave_the_rows_are_refused(
    index: IVFIndex, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    index.add(vectors[400:420])
    state = index._state

    def changed(name: str, at: int, by: int) -> dict[str, Any]:
        array = getattr(state.lists, name).copy()
        array[at] += by
        return {name: array}

    harms = [changed(name, at, by) for name in ("firsts", "counts") for at in (0, 3, -1) for by in (-1, 1)]
    harms += [changed("starts", at, by) for at in (0, -1) for by in (-1, 1)]
    harms += [changed("counts", 1, 1 << 62), changed("firsts", 2, 1 << 62), changed("starts", 2, 1 << 40)]
    harms += [{"radii": state.lists.radii * np.nan}, {"centroids": state.lists.centroids[:5]}, {"spread": -1.0}]
    for harm in harms:
        hostile = object.__new__(Lists)  # past its checks
        for field in dataclasses.fields(Lists):
            object.__setattr__(hostile, field.name, harm.get(field.name, getattr(state.lists, field.name)))
        other = object.__new__(IVFState)
        for field in dataclasses.fields(IVFState):
            object.__setattr__(other, field.name, hostile if field.name == "lists" else getattr(state, field.name))
        io.save(tmp_path / "hostile", other)
        with pytest.raises(io.FormatError):
            qindex.load(tmp_path / "hostile")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i, v: i.search(v, nprobe=0), ValueError, "nprobe must be at least 1, got 0"),
        (lambda i, v: i.search(v, nprobe=17), ValueError, "nprobe must be at most nlist=16, got nprobe=17"),
        (lambda i, v: i.search(v, 0), ValueError, "k must be at least 1"),
        (lambda i, v: i.search(v, oversample=2), ValueError, "oversample needs an index built with rescore"),
        (lambda i, v: i.search(v[:, :5]), ValueError, "queries must"),
        (lambda i, v: i.add(v[:, :5]), ValueError, "vectors must"),
        (lambda i, v: i.add(v[:1], ids=[3]), ValueError, "ids must be new, but the index holds 3"),
        (lambda i, v: i.add(v[:2], ids=[500, 500]), ValueError, "ids must be distinct"),
        (lambda i, v: i.add(v[:2], ids=[500]), ValueError, "ids must be one for each of 2"),
        (lambda i, v: i.remove([400]), ValueError, "does not hold 400"),
        (lambda i, v: i.update(v[:2], [3, 400]), ValueError, "does not hold 400"),
        (lambda i, v: i.update(v[:2], [3, 3]), ValueError, "ids must be distinct"),
        (lambda i, v: i.update(v[:2] * np.nan, [3, 4]), ValueError, "vectors must be finite"),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(
    call: Any, error: type[Exception], message: str, index: IVFIndex, vectors: NDArray[np.float32]
) -> None:
    before = index.search(vectors[:20], 5)
    with pytest.raises(error, match=message):
        call(index, vectors)
    assert_same(index.search(vectors[:20], 5), before)
    assert index.add(vectors[:1]).tolist() == [400]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nlist": 0}, ValueError, "nlist must be at least 1"),
        ({"nlist": 401}, ValueError, "nlist must be at most the number of vectors, 400, got nlist=401"),
        ({"quantizer": Int8}, TypeError, "quantizer must be a quantizer"),
        ({"quantizer": RaBitQ(), "metric": "dot"}, ValueError, "metric must be"),
        ({"ids": [1, 2]}, ValueError, "ids must be one for each of 400"),
        ({"memory_budget": 0}, ValueError, "memory_budget must be at least 1"),
    ],
)
def test_a_build_refuses(
    arguments: dict[str, Any], error: type[Exception], message: str, vectors: NDArray[np.float32]
) -> None:
    with pytest.raises(error, match=message):
        IVFIndex.build(vectors[:400], **arguments)


def test_a_build_refuses_what_flat_indexes_refuse(vectors: NDArray[np.float32]) -> None:
    for bad in (vectors[0], vectors[:0], vectors * np.nan, vectors.astype(int), "texts", None):
        with pytest.raises((ValueError, TypeError), match="vectors must"):
            IVFIndex.build(bad)
    with pytest.raises(ValueError, match="residual=True needs a quantizer that is not fitted yet"):
        IVFIndex.build(vectors, RaBitQ(2).fit(vectors), residual=True)


def test_fewer_rows_than_dimensions_and_one_row_will_do() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    for n in (1, 2, 3):
        assert IVFIndex.build(rows[:n]).search(rows[:n], 1).ids[:, 0].tolist() == [*range(n)]
