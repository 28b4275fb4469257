"""FlatIndex built from disk: the same index as from an array, in bounded memory."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clustered_rows import clustered

from qindex import PCA, Chain, FlatIndex, Int8, RaBitQ
from qindex.index.metric import Metric


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(
    ("quantizer", "rescore"),
    [(None, None), (RaBitQ(1), RaBitQ(4)), (Chain(PCA(16), Int8("dim")), None)],
    ids=["default", "signs", "chain"],
)
def test_what_is_on_disk_gives_the_index_of_the_array(
    quantizer: Any, rescore: Any, metric: Metric, tmp_path: Path
) -> None:
    if metric == "l2" and rescore is not None:
        pytest.skip("unbiased codes and l2 are for a single quantizer")
    np.save(tmp_path / "rows.npy", clustered(900, 40, 0))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for name, vectors in (("mapped", mapped), ("array", np.array(mapped))):
        FlatIndex.build(vectors, quantizer, rescore=rescore, metric=metric, progress=False).save(tmp_path / name)
    assert (tmp_path / "mapped").read_bytes() == (tmp_path / "array").read_bytes()


def test_a_build_takes_the_memory_that_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BLOCK", "_SMALLEST_SAMPLE"):
        monkeypatch.setattr(f"qindex.index.reading.{name}", 256)
    n, dim, budget = 8000, 256, 1 << 20
    np.save(tmp_path / "rows.npy", clustered(n, dim, 0))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    FlatIndex.build(mapped[:600], Int8("dim"), metric="cosine", progress=False)
    tracemalloc.start()
    try:
        index = FlatIndex.build(mapped, Int8("dim"), metric="cosine", memory_budget=budget, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= index.nbytes + budget + 24 * n  # and ids while they are checked
    assert peak < 4 * n * dim
