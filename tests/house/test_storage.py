import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch):
    """benchmarks/tables_storage.py, which is part of a script and not of a package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("tables_storage")
    for name in ("tables_storage", "rag_storage_picture", "table_text"):
        sys.modules.pop(name, None)


def row(n_bytes, mean):
    return {"bytes": n_bytes, "mean": mean}


def test_the_front_is_what_nothing_beats_without_more_bytes(tables):
    beaten, tied = row(96, 0.5), row(192, 0.7)
    best = [row(48, 0.6), row(96, 0.7), row(384, 0.8)]
    assert tables.front([tied, best[2], beaten, best[1], best[0]]) == best


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [
        ([(0.1, 0.2, 0.3), (0.2, 0.3, 0.4)], "holds"),
        ([(0.1, 0.2, 0.3), (-0.1, 0.3, 0.4)], "holds, but the interval leaves it open"),
        ([(0.1, 0.2, 0.3), (-0.3, -0.2, 0.1)], "does not hold, but the interval leaves it open"),
        ([(-0.1, 0.2, 0.3), (-0.3, -0.2, -0.1)], "does not hold"),
    ],
)
def test_a_conclusion_is_sure_only_where_the_intervals_leave_no_doubt(tables, margins, verdict):
    named = [{"low": low, "mean": mean, "high": high} for low, mean, high in margins]
    assert tables._verdict(named) == verdict
