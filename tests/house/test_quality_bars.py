import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bars(monkeypatch):
    """benchmarks/quality_bars.py, which is part of a script and not of a package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module("quality_bars")
    for name in set(sys.modules) - before:
        if name.startswith("quality_"):
            del sys.modules[name]


@pytest.fixture
def found(bars):
    """Makes what a system found: `found("faiss", "SQ8", 384, 0.9)` for 0.9 of each of 200 queries' best ten."""
    import quality_systems
    from quality_measures import Found

    def make(family, name, n_bytes, share, **settings):
        noise = np.random.default_rng(len(name)).uniform(-0.01, 0.01, 200)
        return Found(quality_systems.System(family, "", name, None, **settings), n_bytes, share + noise)

    return make


def test_budgets_follow_the_dimensions(bars):
    assert bars.budgets(384) == [50, 98, 150, 194, 290, 390]
    assert bars.budgets(256) == [34, 66, 100, 130, 194, 260]


def test_the_best_takes_no_more_bytes_and_ranks_by_its_own_codes(bars, found):
    all_found = [
        found("qindex", "small", 50, 0.7),
        found("qindex", "large", 51, 0.9),
        found("qindex", "rescored", 50, 0.8, compared=False),
        found("faiss", "theirs", 50, 0.85),
    ]
    assert bars.best(all_found, ["qindex"], 50).system.name == "small"
    assert bars.best(all_found, ["faiss", "turbovec"], 50).system.name == "theirs"
    assert bars.best(all_found, ["qindex"], 49) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "reached"),
    [(0.78, 0.75, True), (0.76, 0.70, False), (0.78, 0.7799, False), (0.78, 0.80, False)],
    ids=["above both", "below the floor", "within the interval of the peer", "below the peer"],
)
def test_a_recall_bar_wants_the_floor_and_more_than_the_peer(bars, found, ours, theirs, reached):
    first = bars.recall_bars(
        [found("qindex", "mine", 50, ours), found("faiss", "its", 48, theirs)], 384, "x", floors=True
    )[0]
    assert first["passed"] is reached
    assert first["wanted"].startswith("at least 0.77; above faiss its")
    assert "by mine" in first["found"]


def test_keeping_must_hold_on_every_set(bars):
    half = bars.half_the_axes(384)
    good = {
        "Int8()": np.full(9, 0.99),
        'Float8("e4m3")': np.full(9, 0.98),
        "sentence-transformers int8": np.full(9, 0.9),
    }
    good[half] = np.full(9, 0.95)
    worse = good | {half: np.full(9, 0.85)}
    assert [bar["passed"] for bar in bars.keeping_bars({"a": good, "b": good}, 384)] == [True, True, True]
    assert [bar["passed"] for bar in bars.keeping_bars({"a": good, "b": worse}, 384)] == [True, True, False]


def test_shares_count_ids_wherever_they_stand(bars):
    from quality_measures import shares

    truth, ids = np.array([[1, 2], [3, 4]]), np.array([[2, 1], [4, 9]])
    assert shares(ids, truth).tolist() == [1.0, 0.5]
