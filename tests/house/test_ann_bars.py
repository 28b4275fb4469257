import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ann(monkeypatch):
    """Imports a module of benchmarks/ann, which is part of a script and not of a package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield lambda name: importlib.import_module(f"ann.{name}")
    for name in set(sys.modules) - before:
        if name.startswith(("ann", "quality_")):
            del sys.modules[name]


def points(*pairs):
    return [{"recall": recall, "batch_qps": qps, "single_qps": qps / 2} for recall, qps in pairs]


def row(library, name, n_bytes, qps, build_s=10.0):
    """An index that is as fast at every recall, or reaches none."""
    at = {level: {"batch": qps, "single": qps} for level in ("0.90", "0.95", "0.99")}
    return {"library": library, "name": name, "bytes_per_vector": n_bytes, "at": at, "build": {"cpu_s": build_s}}


def test_the_frontier_leaves_out_what_another_beats_in_both(ann):
    found = ann("curves").frontier(points((0.9, 100), (0.92, 120), (0.95, 80), (0.95, 90), (0.8, 110)), "batch")
    assert found == [(0.92, 120), (0.95, 90)]


def test_a_recall_between_two_settings_lies_between_them_on_a_log_scale(ann):
    at_recall = ann("curves").at_recall
    assert at_recall(points((0.9, 400), (1.0, 100)), 0.95, "batch") == pytest.approx(200)
    assert at_recall(points((0.9, 400), (1.0, 100)), 0.95, "single") == pytest.approx(100)


def test_a_recall_below_all_settings_is_had_by_the_fastest_and_one_above_all_by_none(ann):
    at_recall = ann("curves").at_recall
    assert at_recall(points((0.96, 400), (0.98, 100)), 0.95, "batch") == 400
    assert at_recall(points((0.9, 400), (0.94, 100)), 0.95, "batch") is None


def test_a_graph_is_compared_at_no_more_bytes_than_hnswlib_and_lean_at_those_of_the_leanest(ann):
    rows = [
        row("hnswlib", "M=16", 1_685, 100.0),
        row("faiss", "HNSW", 528, 50.0),
        row("usearch", "i8", 400, None),
        row("qindex", "fat", 1_700, 900.0),
        row("qindex", "default", 700, 350.0),
        row("qindex", "lean", 520, 150.0),
    ]
    batch, single, lean = ann("bars").graph_bars(rows, "x")[:3]
    assert batch["passed"]
    assert "350 by default" in batch["found"]
    assert single["passed"]
    assert not lean["passed"]  # 1.5 times, where 2 were wanted
    assert "1.50 times: 150 by lean" in lean["found"]


def test_lists_are_compared_at_no_more_bytes_than_the_best_peer(ann):
    rows = [row("faiss", "PQ", 466, 100.0), row("ScaNN", "SOAR", 600, 90.0), row("qindex", "large", 500, 900.0)]
    assert [bar["passed"] for bar in ann("bars").list_bars(rows, "x")] == [False, False]
    rows.append(row("qindex", "small", 460, 131.0))
    assert [bar["passed"] for bar in ann("bars").list_bars(rows, "x")] == [True, True]


@pytest.mark.parametrize(("seconds", "gained", "passed"), [(4.4, 1.7, [True, True]), (4.6, 1.6, [False, False])])
def test_a_build_is_compared_with_the_fastest_peer_that_reaches_the_recall(ann, seconds, gained, passed):
    rows = [
        row("hnswlib", "M=16", 1_685, 100.0),
        row("usearch", "i8", 533, None, build_s=1.0),
        row("qindex", "graph", 700, 300.0, build_s=seconds),
    ]
    scaling = {"threads": 2, "build": gained, "registers": 1.98}
    assert [bar["passed"] for bar in ann("bars").build_bars(rows, "graph", scaling)] == passed


def test_threads_are_not_judged_while_others_have_the_cores(ann):
    rows = [row("hnswlib", "M=16", 1_685, 100.0), row("qindex", "graph", 700, 300.0, build_s=1.0)]
    _, threads = ann("bars").build_bars(rows, "graph", {"threads": 2, "build": 1.0, "registers": 1.01})
    assert not threads["passed"]
    assert "cores were not free" in threads["found"]


@pytest.mark.parametrize(("ratio", "passed"), [(1.19, True), (0.81, True), (1.21, False), (0.79, False)])
def test_an_estimate_may_be_off_by_a_fifth(ann, ratio, passed):
    pair = {"measured": ratio, "estimated": 1.0}
    found = ann("bars").scale_bars(
        [{"index": "x", "rows": 9, "bytes": pair, "build_s": pair, "open_s": pair, "cold_s": 0.4}]
    )
    assert [bar["passed"] for bar in found] == [passed] * 3 + [True]
