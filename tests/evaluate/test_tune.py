"""Tuning on a sample: what is measured, what is chosen, and what is not measured again."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex.evaluate.grid import default_systems
from qindex.evaluate.metrics import recall
from qindex.evaluate.report import Report
from qindex.evaluate.systems import System
from qindex.evaluate.tuning import FILE, drawn, interval_of, tune

SYSTEMS = [
    System.parse(*words)
    for words in (["float32"], ["int8"], ["rabitq(1)"], ["rabitq1+int8"], ["int8", "ivf(nprobe=2)"],
                  ["int8", "ivf(nprobe=20)"], ["int4+int8", "graph(degree=8, ef=20)"])
]  # fmt: skip


def clustered(n: int, dim: int = 32) -> NDArray[np.float32]:
    """Rows of length 1 about 30 centres, one after the other."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, dim))[np.arange(n) % 30] + rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


VECTORS = clustered(1000)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_rows_hold_what_their_code_does(metric: Any) -> None:
    queries = 2 * VECTORS[:50]
    report = tune(VECTORS[50:], queries=queries, systems=SYSTEMS, metric=metric, k=5, progress=False).report
    truth = qindex.FlatIndex.build(VECTORS[50:], qindex.Float32(), metric=metric).search(queries, 5).ids
    assert [row.name for row in report.rows] == [system.name for system in SYSTEMS]
    assert (report.measure, report.reference) == ("recall@5", "Float32()")
    for row, system in zip(report.rows, SYSTEMS, strict=True):
        names: dict[str, Any] = {"qindex": qindex, "vectors": VECTORS[50:], "queries": queries}
        exec(row.code, names)
        assert row.score == pytest.approx(recall(names["ids"], truth))
        assert row.index_bytes == names["index"].nbytes
        assert row.bytes_per_vector == names["index"].nbytes / 950 - 8
        assert row.family == system.index
        assert row.interval is not None
        assert row.latency_ms is not None
        assert row.interval[0] <= row.score <= row.interval[1]
        assert row.latency_ms > 0


def test_a_copy_of_one_of_the_best_is_as_good_as_it() -> None:
    vectors, queries = np.repeat(VECTORS[:60], 20, axis=0), VECTORS[:60]
    system = System.parse("int8", "graph(degree=8, ef=20)")
    report = tune(vectors, queries=queries, systems=[system], metric="l2", k=5, progress=False).report
    ids = system.search(system.build(vectors, "l2"), queries, 5).ids
    assert report.rows[0].score == pytest.approx((ids // 20 == np.arange(60)[:, None]).mean())
    truth = qindex.FlatIndex.build(vectors, qindex.Float32(), metric="l2").search(queries, 5).ids
    assert recall(ids, truth) < report.rows[0].score


def test_links_and_lists_count_as_bytes_of_a_vector() -> None:
    report = tune(VECTORS, systems=SYSTEMS, progress=False).report
    found = {row.name: row.bytes_per_vector for row in report.rows}
    assert found["Int8()"] == 36
    assert found["RaBitQ(1) + Int8()"] == SYSTEMS[3].bytes_per_vector(32)
    assert found["Int8(), ivf(nprobe=2)"] > 36
    assert found["Int4() + Int8(), graph(degree=8, ef=20)"] >= SYSTEMS[6].bytes_per_vector(32) + 8 * 4


def test_a_choice_is_within_its_budget_and_has_lines_that_run() -> None:
    found = tune(VECTORS, recall=0.9, systems=SYSTEMS, progress=False)
    assert found.choice is not None
    assert found.report.choice == found.choice.name
    [row] = [row for row in found.report.rows if row.name == found.report.choice]
    assert row.interval is not None
    assert row.interval[0] >= 0.9
    assert found.unmet == ""
    assert row.code.splitlines() == list(found.choice.lines())


def test_a_budget_that_nothing_meets_still_gives_the_report() -> None:
    found = tune(VECTORS, bytes_per_vector=2, systems=SYSTEMS, progress=False)
    assert found.choice is None
    assert found.report.choice == ""
    assert len(found.report.rows) == len(SYSTEMS)
    assert re.fullmatch(r"no system is within 2 bytes: RaBitQ\(1\) takes 6 bytes", found.unmet)


def test_without_a_budget_there_are_fronts_and_no_choice() -> None:
    found = tune(VECTORS, systems=SYSTEMS, progress=False)
    assert found.choice is None
    assert found.unmet == ""
    assert found.report.storage_front()[-1].name == "Float32()"


def test_queries_that_are_held_out_are_no_rows_of_the_sample() -> None:
    rows, queries = drawn(1000, sample=500, n_queries=1000, seed=3)
    assert (len(rows), len(queries)) == (500, 100)
    assert not set(rows) & set(queries)
    np.testing.assert_array_equal(drawn(1000, 500, 1000, 3)[0], rows)
    assert set(drawn(1000, 500, 1000, 4)[0]) != set(rows)
    np.testing.assert_array_equal(drawn(1000, 2000, 7, hold_out=False)[0], np.arange(1000))


def test_a_sample_of_more_says_what_grows() -> None:
    systems = SYSTEMS[:1]
    assert not any("stand for" in note for note in tune(VECTORS, systems=systems, progress=False).report.notes)
    for found in (
        tune(VECTORS, systems=systems, sample=300, progress=False),
        tune(VECTORS[:400], systems=systems, sample=300, corpus=900, progress=False),
    ):
        [note] = [note for note in found.report.notes if "stand for" in note]
        assert note.startswith("The 300 vectors stand for 900, among which")
        assert "takes 3 times the milliseconds" in note


def test_half_precision_and_a_file_on_disk_are_measured_as_floats(tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", VECTORS.astype(np.float16))
    half = np.load(tmp_path / "half.npy", mmap_mode="r")
    [row] = tune(half, systems=SYSTEMS[1:2], progress=False).report.rows
    [other] = tune(half.astype(np.float32), systems=SYSTEMS[1:2], progress=False).report.rows
    assert (row.score, row.interval) == (other.score, other.interval)


def test_an_interrupted_run_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    whole = tune(VECTORS, systems=SYSTEMS, progress=False).report
    broken = [*SYSTEMS[:5], System.parse("int8", "ivf(nprobe=999)")]  # more lists than there are
    with pytest.raises(ValueError, match="nprobe must be at most"):
        tune(VECTORS, systems=broken, folder=tmp_path / "new", progress=False)
    stopped = Report.load(tmp_path / "new" / FILE).rows
    assert [row.name for row in stopped] == [system.name for system in SYSTEMS[:5]]

    report = tune(VECTORS, recall=0.9, systems=SYSTEMS, folder=tmp_path / "new", progress=False).report
    assert report.rows[:5] == stopped  # with their times, which would not come again
    assert [(row.name, row.score, row.interval) for row in report.rows] == [
        (row.name, row.score, row.interval) for row in whole.rows
    ]
    saved = Report.load(tmp_path / "new" / FILE)
    assert (saved.rows, saved.choice) == (report.rows, report.choice)

    # Another budget, and some of the systems.
    found = tune(VECTORS, bytes_per_vector=10, systems=SYSTEMS[:3], folder=tmp_path / "new", progress=False)
    assert found.report.choice == "RaBitQ(1)"
    assert found.report.rows == report.rows


@pytest.mark.parametrize("change", [{"k": 3}, {"seed": 1}, {"metric": "l2"}, {"sample": 300}, {"queries": VECTORS[:9]}])
def test_a_folder_of_another_run_is_refused_and_stays(tmp_path: Path, change: dict[str, Any]) -> None:
    tune(VECTORS, systems=SYSTEMS[:2], folder=tmp_path, progress=False)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ValueError, match=r"folder holds a run that cannot go on: .* has inputs"):
        tune(VECTORS, systems=SYSTEMS[:2], folder=tmp_path, progress=False, **change)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_folder_of_another_machine_is_refused_by_what_differs(tmp_path: Path) -> None:
    tune(VECTORS, systems=SYSTEMS[:2], folder=tmp_path, progress=False)
    content = json.loads((tmp_path / FILE).read_text())
    content["environment"] |= {"date": "2001-01-01", "numpy": "1.0"}
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has numpy '1\.0', and now it is"):
        tune(VECTORS, systems=SYSTEMS[:2], folder=tmp_path, progress=False)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"vectors": VECTORS[:99]}, "vectors must be at least 100 for a tenth of them"),
    "too few asked": ({"n_queries": 9}, "n_queries at least 10"),
    "one vector": ({"vectors": VECTORS[0]}, "vectors must be"),
    "nothing": ({"vectors": VECTORS[:0], "queries": VECTORS}, "vectors must have at least one row"),
    "another dim": ({"queries": VECTORS[:, :5]}, "queries must"),
    "no queries": ({"queries": VECTORS[:0]}, "queries must have at least one row"),
    "recall": ({"recall": 1.5}, "recall must be a share"),
    "bytes": ({"bytes_per_vector": -1}, "bytes_per_vector must be a positive number"),
    "ms": ({"latency_ms": 0}, "latency_ms must be a positive number"),
    "k": ({"k": 901}, "k must be at most the rows of the sample, 900, got 901"),
    "k of none": ({"k": 0}, "k must be at least 1"),
    "twice": ({"systems": [*SYSTEMS, System.parse("int8")]}, r"systems must differ, got Int8\(\) more than once"),
    "no systems": ({"systems": []}, "systems must be at least one"),
    "too wide": ({"systems": [System.parse("pca(64), int8")]}, "does not suit vectors of 32 numbers"),
    "metric": ({"metric": "dot"}, "metric must be"),
    "seed": ({"seed": -1}, "seed must be"),
    "corpus": ({"corpus": 0}, "corpus must be at least 1"),
    "NaN": ({"vectors": np.full((200, 4), np.nan)}, "vectors must be finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    change, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        tune(**{"vectors": VECTORS, "systems": SYSTEMS, "folder": tmp_path / "new", "progress": False} | change)
    assert not (tmp_path / "new").exists()


def test_intervals_hold_the_mean_of_as_many_other_queries() -> None:
    rng = np.random.default_rng(0)
    for rate in (0.6, 0.95, 0.999):
        outside = 0
        for _ in range(30):
            shares, others = rng.binomial(10, rate, (2, 200)) / 10
            low, high = interval_of(shares, 10)
            outside += not low <= others.mean() <= high
        assert outside <= 2  # 0.3 in the mean


def test_a_recall_without_a_miss_is_not_certain() -> None:
    low, high = interval_of(np.ones(100), 10)
    assert 0.99 < low < high == 1


@pytest.mark.parametrize("dim", [1, 2, 8, 100, 384])
def test_the_default_systems_suit_any_dim(dim: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((200, dim)).astype(np.float32)
    for system in default_systems(dim, 200):
        assert len(system.search(system.build(vectors), vectors[:2], 3).ids) == 2
    names = [system.name for system in default_systems(dim, 10_000)]
    assert len(set(names)) == len(names)
    assert {system.index for system in default_systems(dim, 10_000)} == {"flat", "ivf", "graph"}
    assert {system.index for system in default_systems(dim, 9_999)} == {"flat"}


def test_real_vectors_are_told_what_they_need() -> None:
    folder = os.environ.get("QINDEX_DATA")
    if not folder:
        pytest.skip("QINDEX_DATA does not name a folder with minilm-100k")
    base = np.load(Path(folder) / "minilm-100k" / "base.npy", mmap_mode="r")
    queries = np.load(Path(folder) / "minilm-100k" / "queries.npy")
    systems = [System.parse(f"spectral({n})") for n in (50, 98, 194, 290)]
    found = tune(base, queries=queries, recall=0.95, systems=systems, sample=5000, progress=False)
    assert found.report.choice == "Spectral(194)"
    assert [row.name for row in found.report.storage_front()] == [system.name for system in systems]
