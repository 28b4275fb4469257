"""IVFIndex with a second list for each row: it finds more in as few lists, and every row once."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clustered_rows import clustered, recall
from numpy.typing import NDArray

import qindex
from qindex import io
from qindex.index import FlatIndex, IVFIndex
from qindex.index.ivf import IVFState
from qindex.index.lists import Lists
from qindex.index.metric import Metric
from qindex.index.spill import Second, lists_of
from qindex.quantize import Float16, Int4, Int8, RaBitQ
from qindex.types import Matches

N, NLIST = 1500, 32


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return clustered(2 * N, 32, 1)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return clustered(100, 32, 2)


@pytest.fixture
def index(rows: NDArray[np.float32]) -> IVFIndex:
    return spilled(rows[:N])


def spilled(rows: NDArray[np.float32], quantizer: Any = None, **options: Any) -> IVFIndex:
    return IVFIndex.build(rows, quantizer or RaBitQ(2), rescore=Float16(), nlist=NLIST, **{"spill": True} | options)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def assert_once(found: Matches) -> None:
    for ids in found.ids.tolist():
        there = [one for one in ids if one >= 0]
        assert len(set(there)) == len(there)


def second_of(index: IVFIndex) -> Second:
    second = index._state.second
    assert second is not None
    return second


def assert_in_two_lists(index: IVFIndex) -> None:
    """Every row has one copy, in another list than its own."""
    second, lists = second_of(index), index._state.lists
    np.testing.assert_array_equal(np.sort(second.rows), np.arange(len(index._state.stored)))
    assert (second.of_rows != lists.of_rows[second.rows]).all()


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("quantizer", [RaBitQ(1), RaBitQ(2), Int4(), Int8(), Int8("dim")], ids=repr)
def test_rows_are_found_once_and_alike_alone_in_batches_and_step_by_step(
    metric: Metric, quantizer: Any, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = spilled(rows[:N], quantizer, metric=metric)
    index.remove(np.arange(0, 300, 3))
    for nprobe in (1, 4, NLIST):
        whole = index.search(queries, 12, nprobe=nprobe)
        assert_once(whole)
        assert not np.isin(whole.ids, np.arange(0, 300, 3)).any()
        steps, _work = index.search(queries, 12, nprobe=nprobe, explain=True)
        assert_same(steps, whole)
        filtered = index.search(queries, 12, nprobe=nprobe, allow=np.ones(len(index), bool))
        assert_once(filtered)
        assert (filtered.scores >= whole.scores).all()
        for one in range(8):
            found = index.search(queries[one : one + 1], 12, nprobe=nprobe)
            assert_same(found, Matches(whole.ids[one : one + 1], whole.scores[one : one + 1]))


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_few_lists_find_more_than_without(
    metric: Metric, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    wanted = FlatIndex.build(rows, Float16(), metric=metric).search(queries, 10).ids
    plain, index = (spilled(rows, spill=spill, metric=metric) for spill in (False, True))
    for nprobe in (1, 2, 3, 6, 12, None):
        without, found = (recall(one.search(queries, 10, nprobe=nprobe).ids, wanted) for one in (plain, index))
        assert found >= without
        if nprobe == 1:
            assert 1 - found <= 0.7 * (1 - without)


def test_with_all_lists_probed_it_answers_as_a_flat_index(
    index: IVFIndex, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    wanted = FlatIndex.build(rows[:N], Float16()).search(queries, 10)
    assert_same(index.search(queries, 10, nprobe=NLIST, oversample=20), wanted)
    assert_same(index.search(queries, 2000, nprobe=1), FlatIndex.build(rows[:N], Float16()).search(queries, 2000))


def test_the_second_list_is_near_and_another(rows: NDArray[np.float32]) -> None:
    lists = Lists.trained(rows, NLIST, 0)
    first, squares, second = lists_of(lists, rows)
    np.testing.assert_array_equal(first, lists.nearest(rows)[0])
    np.testing.assert_array_equal(squares, lists.nearest(rows)[1])
    residual = rows - lists.decoded[first]
    others = rows[:, None] - lists.decoded
    distances = (others**2).sum(2)
    parallel = np.einsum("nld,nd->nl", others, residual) ** 2 / (residual**2).sum(1)[:, None]
    distances[np.arange(len(rows)), first] = np.inf
    losses = np.where(distances <= np.sort(distances, axis=1)[:, 14:15], distances + 1.5 * parallel, np.inf)
    best = losses.min(axis=1)
    np.testing.assert_allclose(losses[np.arange(len(rows)), second], best, rtol=1e-4)
    assert (second != distances.argmin(axis=1)).mean() > 0.1


def test_rows_at_their_centroids_have_a_second_list_too() -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    index = IVFIndex.build(rows, RaBitQ(1), rescore=Int8(), nlist=4, spill=True)
    assert_in_two_lists(index)
    assert_once(index.search(rows, 20, nprobe=2))


def test_what_changes_keeps_its_second_lists(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    index, flat = spilled(rows[:200]), FlatIndex.build(rows[:200], Float16())
    rng = np.random.default_rng(0)
    for start, stop in ((200, 201), (201, 205), (205, 900), (900, 920), (920, N)):
        index.add(rows[start:stop])
        flat.add(rows[start:stop])
        gone = rng.choice(flat.ids, len(flat) // 5, replace=False)
        index.remove(gone)
        flat.remove(gone)
        renewed = flat.ids[:5]
        index.update(rows[start : start + 5], renewed)
        flat.remove(renewed)
        flat.add(rows[start : start + 5], renewed)
        assert_in_two_lists(index)
        for some in (queries, queries[:1]):
            assert_same(index.search(some, 10, nprobe=NLIST, oversample=20), flat.search(some, 10))
            assert not np.isin(index.search(some, 30, nprobe=3).ids, gone).any()
    before = index.search(queries, 10, nprobe=3)
    index.compact()
    assert_in_two_lists(index)
    assert recall(index.search(queries, 10, nprobe=3).ids, before.ids) > 0.999
    assert len(second_of(index).rows) == len(index) == len(flat)
    index.remove(index.ids)
    assert (index.search(queries, 3, nprobe=2).ids == -1).all()
    index.add(rows[:9])
    assert_in_two_lists(index)
    assert (index.search(rows[:9], 1, nprobe=1).ids[:, 0] >= 0).all()


def test_an_index_that_was_changed_equals_a_search_of_a_state_before(
    index: IVFIndex, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    old = IVFIndex(index._state)
    before = old.search(queries, 10, nprobe=3)
    index.add(rows[N : N + 50])
    index.remove(np.arange(100))
    assert_same(old.search(queries, 10, nprobe=3), before)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_every_filter_gives_k_rows_where_there_are_k(
    share: float, index: IVFIndex, queries: NDArray[np.float32]
) -> None:
    rng = np.random.default_rng(0)
    filters = [np.flatnonzero(rng.random(N) < share) for _ in range(len(queries))]
    for allow in (filters[0], filters):
        for nprobe in (None, 1, 3):
            found = index.search(queries, 8, nprobe=nprobe, allow=allow)
            assert_once(found)
            for i, row in enumerate(found.ids):
                mine = allow[i] if isinstance(allow, list) else allow
                assert (row >= 0).sum() == min(8, len(mine))
                assert np.isin(row[row >= 0], mine).all()


def test_what_a_search_did_counts_rows_in_both_lists(index: IVFIndex, queries: NDArray[np.float32]) -> None:
    _found, work = index.search(queries, 5, nprobe=NLIST, explain=True)
    assert (work.scored == 2 * N).all()
    assert (work.rescored > 20).all()
    assert (work.rescored <= 40).all()


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_loaded_index_answers_as_the_saved_one(
    metric: Metric, tmp_path: Path, rows: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = spilled(rows[:N], metric=metric)
    index.add(rows[N : N + 50])
    index.remove(np.arange(10, 30))
    index.save(tmp_path / "a")
    for loaded in (IVFIndex.load(tmp_path / "a"), qindex.load(tmp_path / "a", verify=True)):
        for nprobe in (None, 3):
            assert_same(loaded.search(queries, 15, nprobe=nprobe), index.search(queries, 15, nprobe=nprobe))
        assert loaded.nbytes == index.nbytes
        assert repr(loaded) == repr(index)
        loaded.add(rows[N + 50 : N + 90])
        loaded.remove([0])
        assert_in_two_lists(loaded)
    spilled(rows[:N], metric=metric).save(tmp_path / "b")
    spilled(rows[:N], metric=metric).save(tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_files_whose_copies_leave_the_rows_are_refused(index: IVFIndex, tmp_path: Path) -> None:
    state, second = index._state, second_of(index)

    def changed(name: str, at: int, by: int) -> dict[str, Any]:
        array = getattr(second, name).copy()
        array[at] += by
        return {name: array}

    harms = [changed(name, at, by) for name in ("firsts", "counts") for at in (0, 3, -1) for by in (-1, 1, 1 << 40)]
    harms += [changed("starts", at, by) for at in (0, -1) for by in (-1, 1)]
    harms += [{"rows": second.rows + 1}, {"rows": second.rows - 1}, {"rows": second.rows.astype(np.int64)}]
    harms += [{"rows": second.rows[:9]}, {"codes": second.codes[:9]}, {"codes": state.stored.rescore_codes}]
    harms += [{"codes": Int8().quantize(np.zeros((N, 32), np.float32))}]
    for harm in harms:
        hostile = object.__new__(Second)  # past its checks
        for field in dataclasses.fields(Second):
            object.__setattr__(hostile, field.name, harm.get(field.name, getattr(second, field.name)))
        other = object.__new__(IVFState)
        for field in dataclasses.fields(IVFState):
            object.__setattr__(other, field.name, hostile if field.name == "second" else getattr(state, field.name))
        io.save(tmp_path / "hostile", other)
        with pytest.raises(io.FormatError):
            qindex.load(tmp_path / "hostile")


def test_bytes_of_copies_are_counted(rows: NDArray[np.float32]) -> None:
    plain, index = (spilled(rows[:N], spill=spill) for spill in (False, True))
    assert index.nbytes - plain.nbytes == second_of(index).nbytes
    assert second_of(index).nbytes >= N * (RaBitQ(2).bytes_per_vector(32) + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "spill=True needs rescore="),
        ({"rescore": Int8(), "nlist": 1}, "spill=True needs two lists or more, got nlist=1 for 1500 vectors"),
    ],
    ids=str,
)
def test_a_build_refuses(arguments: dict[str, Any], message: str, rows: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=message):
        IVFIndex.build(rows[:N], RaBitQ(1), spill=True, **arguments)
