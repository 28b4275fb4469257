"""IVFIndex: with all lists probed it is FlatIndex; with few, it finds nearly all; and it says what it did."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qindex.index import FlatIndex, IVFIndex
from qindex.index.metric import Metric
from qindex.quantize import Binary, Chain, Float16, Int4, Int8, LloydMax, Microscaling, RaBitQ
from qindex.transform import PCA
from qindex.types import Matches


def clustered(n: int, dim: int, n_clusters: int = 30, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_clusters, dim))
    return (centres[rng.integers(n_clusters, size=n)] + 0.4 * rng.standard_normal((n, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(3000, 48)


def recall(found: Matches, wanted: Matches) -> float:
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found.ids, wanted.ids, strict=True)]
    return sum(shared) / wanted.ids.size


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


QUANTIZERS = [Int8(), Int8("dim"), Int4(), RaBitQ(1), LloydMax(3), Float16(), Binary(), Microscaling("mxfp4")]


@pytest.mark.parametrize("quantizer", [*QUANTIZERS, Chain(PCA(16), Int8())], ids=repr)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_with_all_lists_probed_it_answers_as_a_flat_index(
    quantizer: Any, metric: Metric, vectors: NDArray[np.float32]
) -> None:
    rows, queries = vectors[:600], vectors[600:640]
    fitted = quantizer.fit(rows)
    ids = np.random.default_rng(1).permutation(2000)[:600]
    index = IVFIndex.build(rows, fitted, ids=ids, nlist=20, metric=metric)
    flat = FlatIndex.build(rows, fitted, ids=ids, metric=metric)
    for some in (queries, queries[:1]):
        assert_same(index.search(some, 7, nprobe=20), flat.search(some, 7))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 80),
    dim=st.integers(1, 40),
    nlist=st.integers(1, 20),
    k=st.integers(1, 90),
    seed=st.integers(0, 1000),
    share=st.sampled_from([None, 0.0, 0.02, 0.5]),
    rescored=st.booleans(),
)
def test_any_shape_and_filter_gives_what_a_flat_index_gives(
    n: int, dim: int, nlist: int, k: int, seed: int, share: float | None, rescored: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.round(rng.standard_normal((n, dim)) * 2).astype(np.float32)  # with ties
    nlist, rescore = min(nlist, n), Float16() if rescored else None
    index = IVFIndex.build(rows, nlist=nlist, rescore=rescore)
    flat = FlatIndex.build(rows, rescore=rescore)
    allow = None if share is None else np.flatnonzero(rng.random(n) < share)
    queries = rng.standard_normal((3, dim)).astype(np.float32)
    assert_same(index.search(queries, k, nprobe=nlist, allow=allow), flat.search(queries, k, allow=allow))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_few_lists_hold_nearly_all_that_is_near(metric: Metric, residual: bool, vectors: NDArray[np.float32]) -> None:
    rows, queries = vectors[:2900], vectors[2900:]
    index = IVFIndex.build(rows, Int8("dim") if residual else Int8(), nlist=40, metric=metric, residual=residual)
    wanted = FlatIndex.build(rows, Float16(), metric=metric).search(queries, 10)
    found, work = index.search(queries, 10, nprobe=8, explain=True)
    assert recall(found, wanted) >= 0.95
    assert work.lists is not None
    assert (work.lists == 8).all()
    assert work.scored.mean() < 0.5 * len(rows)
    np.testing.assert_array_equal(work.rescored, 0)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_without_nprobe_lists_are_probed_as_long_as_they_promise_something(
    metric: Metric, vectors: NDArray[np.float32]
) -> None:
    rows, queries = vectors[:2900], vectors[2900:]
    index = IVFIndex.build(rows, nlist=60, metric=metric)
    wanted = FlatIndex.build(rows, Float16(), metric=metric).search(queries, 10)
    found, work = index.search(queries, explain=True)
    assert recall(found, wanted) >= 0.96
    assert work.lists is not None
    assert work.lists.min() >= 16
    assert work.lists.mean() < 50


@pytest.mark.parametrize("quantizer", [RaBitQ(2), LloydMax(2), Int4()], ids=repr)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_codes_of_residuals_find_more(quantizer: Any, metric: Metric, vectors: NDArray[np.float32]) -> None:
    rows, queries = vectors[:2900], vectors[2900:]
    wanted = FlatIndex.build(rows, Float16(), metric=metric).search(queries, 10)

    def of(residual: bool) -> float:
        index = IVFIndex.build(rows, quantizer, nlist=40, metric=metric, residual=residual)
        return recall(index.search(queries, 10, nprobe=40), wanted)

    assert of(True) > of(False)


def test_rescoring_finds_what_coarse_codes_rank_wrongly(vectors: NDArray[np.float32]) -> None:
    rows, queries = vectors[:2900], vectors[2900:]
    index = IVFIndex.build(rows, RaBitQ(1), rescore=Int8(), nlist=40)
    wanted = FlatIndex.build(rows, Float16()).search(queries, 10)
    coarse = index.search(queries, 10, nprobe=40, oversample=1)
    found, work = index.search(queries, 10, nprobe=40, oversample=6, explain=True)
    assert recall(found, wanted) >= max(0.9, recall(coarse, wanted) + 0.05)
    np.testing.assert_array_equal(work.rescored, 60)


def test_equal_vectors_give_equal_indexes(vectors: NDArray[np.float32], tmp_path: Any) -> None:
    for name in ("a", "b"):
        IVFIndex.build(vectors[:500], nlist=13).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_build_reads_blocks_of_what_is_on_disk(vectors: NDArray[np.float32], tmp_path: Any) -> None:
    np.save(tmp_path / "rows.npy", vectors.astype(np.float16))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    index = IVFIndex.build(mapped, nlist=20, memory_budget=1 << 20)
    whole = IVFIndex.build(np.asarray(mapped), nlist=20, memory_budget=1 << 20)
    assert_same(index.search(vectors[:9]), whole.search(vectors[:9]))


def test_many_identical_rows_do_not_hide_the_others() -> None:
    rows = np.ones((20_000, 8), np.float32)
    rows[-20:] = np.random.default_rng(0).standard_normal((20, 8))
    index = IVFIndex.build(rows, nlist=64)
    queries, flat = 100 * rows[-20:], FlatIndex.build(rows)
    assert_same(index.search(queries, 20, nprobe=64), flat.search(queries, 20))
    assert recall(index.search(queries, 1), flat.search(queries, 1)) >= 0.9


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("rescore", [None, Int8()], ids=repr)
def test_a_query_finds_alone_what_it_finds_in_a_batch(
    metric: Metric, rescore: Any, vectors: NDArray[np.float32]
) -> None:
    for quantizer in (Int8(), Int8("dim"), Int4(), RaBitQ(1)):
        index = IVFIndex.build(vectors[:1500], quantizer, rescore=rescore, nlist=30, metric=metric)
        for nprobe in (1, 5, 30):
            whole, work = index.search(vectors[1500:1700], 5, nprobe=nprobe, explain=True)
            for few in (1, 3):
                found, own = index.search(vectors[1500 : 1500 + few], 5, nprobe=nprobe, explain=True)
                assert_same(found, Matches(whole.ids[:few], whole.scores[:few]))
                np.testing.assert_array_equal(own.scored, work.scored[:few])


@pytest.mark.parametrize("share", [0.5, 0.2, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("rescore", [None, Int8()], ids=repr)
def test_a_filter_gives_k_results_and_loses_no_recall(share: float, rescore: Any) -> None:
    rows, queries = np.split(clustered(12_000, 32, n_clusters=100, seed=3), [11_960])
    index = IVFIndex.build(rows, Int4() if rescore else Int8(), rescore=rescore, nlist=120)
    exact = FlatIndex.build(rows, Float16())
    plain, work = index.search(queries, 10, nprobe=6, explain=True)
    allowed = np.sort(np.random.default_rng(0).permutation(len(rows))[: int(share * len(rows))])
    found, filtered = index.search(queries, 10, nprobe=6, allow=allowed, explain=True)
    assert (found.ids >= 0).all()
    assert np.isin(found.ids, allowed).all()
    wanted = exact.search(queries, 10, allow=allowed)
    assert recall(found, wanted) >= recall(plain, exact.search(queries, 10)) - 0.01
    assert work.lists is not None
    assert filtered.lists is not None
    assert ((filtered.lists >= work.lists) | (filtered.lists == 0)).all()  # 0 where all those allowed were scored
