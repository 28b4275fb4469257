"""Indexes built from disk: the same as from an array, in bounded memory."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clustered_rows import clustered, recall
from numpy.typing import NDArray

from qindex import PCA, Chain, FlatIndex, GraphIndex, Int4, Int8, RaBitQ
from qindex.index.metric import Metric

VECTORS = clustered(900, 40, 0)


def on_disk(vectors: NDArray[np.float32], path: Path, dtype: Any = np.float16) -> Any:
    np.save(path / "rows.npy", vectors.astype(dtype))
    return np.load(path / "rows.npy", mmap_mode="r")


@pytest.mark.parametrize(("index", "settings"), [(GraphIndex, {"degree": 8}), (FlatIndex, {})], ids=["graph", "flat"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(
    ("quantizer", "rescore"),
    [(None, None), (RaBitQ(1), RaBitQ(4)), (Chain(PCA(16), Int8("dim")), None)],
    ids=["default", "signs", "chain"],
)
def test_what_is_on_disk_gives_the_index_of_the_array(
    quantizer: Any, rescore: Any, metric: Metric, index: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    for dtype in (np.float16, np.float32):
        mapped = on_disk(VECTORS, tmp_path, dtype)
        for name, vectors in (("mapped", mapped), ("array", np.asarray(mapped, np.float32))):
            built = index.build(vectors, quantizer, rescore=rescore, metric=metric, progress=False, **settings)
            built.save(tmp_path / name)
        assert (tmp_path / "mapped").read_bytes() == (tmp_path / "array").read_bytes()


def small_parts(patch: pytest.MonkeyPatch) -> None:
    """What is read and linked at a time is small beside a few thousand rows."""
    for name in ("reading._BLOCK", "reading._SMALLEST_SAMPLE", "linking.BATCH", "linking._AT_ONCE"):
        patch.setattr(f"qindex.index.{name}", 256)
    patch.setattr("qindex.index.linking.ENTRY_SAMPLE", 256)
    patch.setattr("qindex.index.metric._AT_ONCE", 256)


def test_quantizers_are_fitted_to_a_sample_and_lose_little(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    rows, queries = clustered(2000, 40, 0), clustered(50, 40, 1)
    wanted = FlatIndex.build(rows, Int8()).search(queries, 10).ids
    whole = GraphIndex.build(rows, progress=False)
    sampled = GraphIndex.build(rows, memory_budget=1, progress=False)
    assert isinstance(whole.quantizer, Int4)
    assert isinstance(sampled.quantizer, Int4)
    assert whole.quantizer.origin is not None
    assert sampled.quantizer.origin is not None
    assert not np.array_equal(whole.quantizer.origin.mean, sampled.quantizer.origin.mean)
    assert recall(sampled.search(queries, 10).ids, wanted) >= recall(whole.search(queries, 10).ids, wanted) - 0.02


@pytest.mark.parametrize(("quantizer", "metric"), [(RaBitQ(2), "ip"), (RaBitQ(1), "cosine"), (Int8(), "l2")])
def test_a_graph_takes_the_memory_that_it_says(
    quantizer: Any, metric: Metric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    n, dim, degree, budget = 8000, 256, 4, 1 << 20
    mapped = on_disk(clustered(n, dim, 0), tmp_path)
    options: dict[str, Any] = {"metric": metric, "degree": degree, "ef_construction": 8, "progress": False}
    GraphIndex.build(mapped[:600], quantizer, **options)  # compiles
    tracemalloc.start()
    try:
        index = GraphIndex.build(mapped, quantizer, memory_budget=budget, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    linking = n * (6 * degree + 12 + 2 + (0 if isinstance(quantizer, Int8) else dim + 4)) + 40 * dim * 256
    assert peak <= index.nbytes + linking + budget
    assert peak < 4 * n * dim


def test_rows_that_are_wrong_are_named_by_their_numbers(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32):
        vectors = VECTORS.copy()
        vectors[700, 3] = np.nan
        for quantizer in (Int8(), Int4(), Int4().fit(VECTORS)):
            with pytest.raises(ValueError, match=r"vectors must be finite .* row 700 has NaN"):
                GraphIndex.build(on_disk(vectors, tmp_path, dtype), quantizer, memory_budget=1, progress=False)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (0, ValueError, "memory_budget must be at least 1, got 0"),
        (-5, ValueError, "memory_budget must be at least 1, got -5"),
        (1.5, TypeError, "memory_budget must be an integer, got 1.5"),
        ("1 GB", TypeError, "memory_budget must be an integer, got '1 GB'"),
    ],
)
def test_a_budget_is_a_positive_integer(bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GraphIndex.build(VECTORS, memory_budget=bad)


def test_what_is_no_matrix_of_floats_is_refused(tmp_path: Path) -> None:
    for bad in (VECTORS[0], VECTORS[:0], VECTORS[None], VECTORS[:, :0], "texts", None, VECTORS.tolist()[0]):
        with pytest.raises((ValueError, TypeError), match="vectors must"):
            GraphIndex.build(bad)
    with pytest.raises(TypeError, match="vectors must hold floats, got int8"):
        GraphIndex.build(on_disk(VECTORS, tmp_path, np.int8))


def test_a_flat_build_takes_the_memory_that_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    n, dim, budget = 8000, 256, 1 << 20
    mapped = on_disk(clustered(n, dim, 0), tmp_path, np.float32)
    FlatIndex.build(mapped[:600], Int8("dim"), metric="cosine", progress=False)
    tracemalloc.start()
    try:
        index = FlatIndex.build(mapped, Int8("dim"), metric="cosine", memory_budget=budget, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= index.nbytes + budget + 24 * n  # and ids while they are checked
    assert peak < 4 * n * dim
