import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch):
    """benchmarks/tables.py, which is a script and not of a package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("tables")
    for name in ("tables", "environment"):
        sys.modules.pop(name, None)


ENVIRONMENT = {"date": "2026-01-31", "cpu": "A CPU", "cores": 2}
SCAN = {
    "environment": ENVIRONMENT,
    "settings": {"rows": 3_000_000, "dim": 384},
    "ceiling_gb_per_s": 10.0,
    "rows": [
        {
            "name": "Int8()", "library": "qindex", "bytes_per_vector": 388, "ms": 145.5, "gb_per_s": 8.0,
            "share_of_ceiling": 0.8, "recall_at_10": 0.997,
        }
    ],
}  # fmt: skip


def test_the_tables_of_the_documents_are_those_of_the_results(tables):
    for document in tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert tables.rewritten(text, tables.RESULTS) == text, "run python benchmarks/tables.py"


def test_a_table_replaces_what_stood_between_its_marks_and_nothing_else(tables, tmp_path):
    (tmp_path / "scan.json").write_text(json.dumps(SCAN))
    readme = tables.rewritten("before\n<!-- table: scan -->\nold\n<!-- end -->\nafter <!-- end -->\n", tmp_path)
    start, row = "before\n<!-- table: scan -->\n| codes |", "| `Int8()` | qindex | 388 | 145.5 | 8.0 | 80% | 0.997 |"
    assert readme.startswith(start)
    assert row in readme.splitlines()
    assert readme.endswith("Measured 2026-01-31 on 2 cores of A CPU.\n<!-- end -->\nafter <!-- end -->\n")
    assert "old" not in readme
    assert tables.rewritten(readme, tmp_path) == readme


def test_an_unknown_table_and_a_missing_result_are_named(tables, tmp_path):
    with pytest.raises(ValueError, match=r"asks for the table 'speed', but there are ann, ann\.bars"):
        tables.rewritten("<!-- table: speed -->\n<!-- end -->", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"quality\.json is missing: run benchmarks/quality\.py first"):
        tables.rewritten("<!-- table: quality -->\n<!-- end -->", tmp_path)
