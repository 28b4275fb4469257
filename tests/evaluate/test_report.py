"""Reports as they are saved and read."""

import json
from pathlib import Path
from typing import Any

import pytest

from qindex.evaluate.metrics import Interval
from qindex.evaluate.report import Report, Row, environment
from qindex.io import FormatError

ROWS = [
    Row("Float32()", "flat", 0.7, 1536, parts={"cran": 0.7}, index_bytes=1544, latency_ms=3.0),
    Row("Int8()", "flat", 0.7, 388, "index = ...", (0.6, 0.8), Interval(0.0, -0.1, 0.1), {"cran": 0.7}, 396, 1.0),
    Row("Binary()", "flat", 0.5, 48, loss=Interval(0.2, 0.1, 0.3), latency_ms=0.5),
    Row("Int8(), ivf(nprobe=4)", "ivf", 0.6, 388, latency_ms=0.2),
    Row("mteb int8", "mteb", 0.65, 384),
]
REPORT = Report(
    "Sky & <sea>", "nDCG@10", ROWS, "Float32()", "Int8()", ["qindex mteb"], ["One sentence."], environment()
)


def test_a_report_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == REPORT


def test_fronts_hold_what_nothing_beats_without_costing_more() -> None:
    assert [row.name for row in REPORT.storage_front()] == ["Binary()", "mteb int8", "Int8()"]
    assert [row.name for row in REPORT.latency_front()] == ["Int8(), ivf(nprobe=4)", "Int8()"]


def test_rows_of_one_name_and_names_of_no_row_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        Report("", "", [ROWS[0], ROWS[0]])
    with pytest.raises(ValueError, match="names of their own"):
        Report("", "", [Row("", "flat", 0.5, 9)])  # which would be the choice of a report without one
    with pytest.raises(ValueError, match="choice must be the name of a row"):
        Report("", "", ROWS, choice="Int4()")


CHANGES: dict[str, tuple[Any, str]] = {
    "format": ("other", "result of qindex mteb or qindex tune"),
    "version": (2, "must have version 1"),
    "rows": ({}, "rows must be a list"),
    "title": (3, "title must be a string"),
    "choice": ("Int4()", "choice must be the name of a row"),
    "notes": ("one", "notes must be a list"),
    "environment": ({"python": 3}, "environment must be a string"),
    "more": (1, "unknown field 'more'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    value, said = CHANGES[name]
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(FormatError, match=said):
        Report.load(path)


ROW_CHANGES: dict[str, tuple[Any, str]] = {
    "score": (float("nan"), "score must be a finite number"),
    "bytes_per_vector": (True, "bytes_per_vector must be a finite number"),
    "index_bytes": (1.5, "index_bytes must be a whole number"),
    "interval": ([1], "interval must be two numbers"),
    "loss": ({"mean": 1}, "loss must be an object of mean, low and high"),
    "parts": ([1], "parts must be an object"),
}


@pytest.mark.parametrize("name", ROW_CHANGES)
def test_a_row_of_another_form_is_refused_by_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    content = json.loads(path.read_text())
    content["rows"][1][name], said = ROW_CHANGES[name]
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=rf"rows\[1\]\.{said}"):
        Report.load(path)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            Report.load(path)
