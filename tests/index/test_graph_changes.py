"""GraphIndex: rows come, go and change; the index is saved and opened."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clustered_rows import clustered, recall

import qindex
from qindex import FlatIndex, FormatError, GraphIndex, Int4, Int8
from qindex.index.graph import GraphState

VECTORS, QUERIES = clustered(6000, 48, 0), clustered(60, 48, 1)


def wanted(index: GraphIndex, vectors: dict[int, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What a scan of the rows that the index should hold finds."""
    assert sorted(index.ids.tolist()) == sorted(vectors)
    ids = np.array(sorted(vectors))
    return FlatIndex.build(np.stack([vectors[i] for i in ids]), Int8(), ids=ids).search(QUERIES, 10).ids


def test_a_churned_index_finds_as_much_as_a_fresh_one() -> None:
    rng, others = np.random.default_rng(0), clustered(2000, 48, 7)
    index = GraphIndex.build(VECTORS[:4000], progress=False)
    held = dict(enumerate(VECTORS[:4000]))
    for step in range(4):
        gone = rng.choice(sorted(held), 500, replace=False)
        index.remove(gone)
        added = index.add(others[500 * step : 500 * step + 500])
        for one in gone.tolist():
            del held[one]
        held.update(zip(added.tolist(), others[500 * step : 500 * step + 500], strict=True))
    truth = wanted(index, held)
    fresh = GraphIndex.build(np.stack(list(held.values())), ids=np.array(list(held)), progress=False)
    floor = recall(fresh.search(QUERIES, 10).ids, truth) - 0.01
    assert recall(index.search(QUERIES, 10).ids, truth) >= floor
    size = index.nbytes
    index.compact()
    assert len(index._stored) == len(index) == 4000
    assert index.nbytes < size
    assert recall(index.search(QUERIES, 10).ids, truth) >= floor


def test_removed_rows_never_return_and_half_of_them_are_compacted() -> None:
    index = GraphIndex.build(VECTORS[:1000], progress=False)
    index.remove(np.arange(0, 900, 2))
    assert len(index) == 550
    assert len(index._stored) == 1000
    found = index.search(QUERIES, 550, ef=1000).ids
    assert (np.sort(found, axis=1) == np.sort(index.ids)).all()
    index.remove(np.arange(1, 900, 2))
    assert len(index) == len(index._stored) == 100
    assert (index.search(QUERIES, 10).ids >= 900).all()


def test_an_index_may_lose_all_its_rows_and_gain_others() -> None:
    index = GraphIndex.build(VECTORS[:300], progress=False)
    index.remove(index.ids)
    assert len(index) == 0
    assert (index.search(QUERIES, 3).ids == -1).all()
    assert index.add(VECTORS[300:900]).tolist() == list(range(300, 900))
    held = dict(zip(range(300, 900), VECTORS[300:900], strict=True))
    assert recall(index.search(QUERIES, 10).ids, wanted(index, held)) >= 0.98


def test_rows_added_one_by_one_are_found() -> None:
    for quantizer, fine in ((None, None), (Int4(), None)):
        index = GraphIndex.build(VECTORS[:400], quantizer, rescore=fine, progress=False)
        for i in range(400, 450):
            assert index.add(VECTORS[i : i + 1]).tolist() == [i]
        found = index.search(VECTORS[400:450], 1).ids[:, 0]
        assert (found == np.arange(400, 450)).mean() >= 0.96


def test_updated_rows_lie_where_their_new_vectors_are() -> None:
    index = GraphIndex.build(VECTORS[:1000], progress=False)
    changed = np.arange(100, 200)
    index.update(VECTORS[1000:1100], changed)
    assert len(index) == 1000
    assert index.search(VECTORS[1000:1100], 1).ids[:, 0].tolist() == changed.tolist()
    assert (index.search(VECTORS[100:200], 1, ef=200).scores < 0.95).all()


def test_a_change_that_is_refused_changes_nothing() -> None:
    index = GraphIndex.build(VECTORS[:200], progress=False)
    before = index._state
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: index.add(VECTORS[:2], ids=[5, 1000]), "ids must be new, but the index holds 5"),
        (lambda: index.add(VECTORS[:1, :7]), "vectors must be"),
        (lambda: index.remove([3, 777]), "it does not hold 777"),
        (lambda: index.update(VECTORS[:2], [3, 777]), "it does not hold 777"),
        (lambda: index.update(VECTORS[:2], [3, 3]), "ids must be distinct"),
        (lambda: index.update(VECTORS[:2], [3]), "ids must be one for each of 2 vectors"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
        assert index._state is before
    index.remove([3])
    assert index.add(VECTORS[:1], ids=[3]).tolist() == [3]


def test_a_search_goes_on_in_a_state_that_rows_were_added_to() -> None:
    index = GraphIndex.build(VECTORS[:500], progress=False)
    index.add(VECTORS[500:600])
    old = GraphIndex(index._state)
    index.add(VECTORS[600:3000])
    found = old.search(QUERIES, 10).ids
    assert (found < 600).all()
    assert (found >= 0).all()
    truth = FlatIndex.build(VECTORS[:600], Int8()).search(QUERIES, 10).ids
    assert recall(found, truth) >= 0.5


def test_a_saved_index_is_opened_as_it_was_and_may_grow(tmp_path: Path) -> None:
    index = GraphIndex.build(VECTORS[:800], progress=False)
    index.remove(np.arange(10))
    index.save(tmp_path / "graph.qindex")
    opened = qindex.load(tmp_path / "graph.qindex")
    assert isinstance(opened, GraphIndex)
    assert repr(opened) == repr(index)
    for mine, theirs in zip(opened.search(QUERIES, 10), index.search(QUERIES, 10), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    opened.save(tmp_path / "again.qindex")
    assert (tmp_path / "again.qindex").read_bytes() == (tmp_path / "graph.qindex").read_bytes()
    assert opened.add(VECTORS[800:900]).tolist() == list(range(800, 900))
    assert len(opened) == 890
    assert len(index) == 790
    with pytest.raises(FormatError, match="not a FlatIndex"):
        FlatIndex.load(tmp_path / "graph.qindex")


def test_numbers_out_of_range_in_a_file_do_no_harm() -> None:
    state = GraphIndex.build(VECTORS[:300], progress=False)._state
    rng = np.random.default_rng(0)
    wild = rng.integers(-(1 << 31), 1 << 31, state.neighbours.shape).astype(np.int32)
    entries = np.array([-1, 1 << 30, 299], np.int32)
    index = GraphIndex(GraphState(state.stored, wild, entries, 50))
    assert (index.search(QUERIES, 10).ids >= 0).all()
    index.add(VECTORS[300:400])
    index.remove(np.arange(100))
    index.compact()
    assert index.search(VECTORS[350:360], 1).ids[:, 0].tolist() == list(range(350, 360))


def test_a_state_of_another_shape_is_refused() -> None:
    state = GraphIndex.build(VECTORS[:50], progress=False)._state
    lists = state.neighbours
    for neighbours, entries, ef, message in (
        (lists[:-1], state.entries, 50, "neighbours must be"),
        (lists.astype(np.int64), state.entries, 50, "neighbours must be"),
        (np.zeros((50, 513), np.int32), state.entries, 50, "neighbours must be"),
        (lists, state.entries[:0], 50, "entries must be int32, 1 to 512"),
        (lists, state.entries[None], 50, "entries must be"),
        (lists, state.entries, 0, "ef_construction must be"),
    ):
        with pytest.raises(ValueError, match=message):
            GraphState(state.stored, neighbours, entries, ef)
