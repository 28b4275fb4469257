"""Reports as plain text."""

import dataclasses

from qindex.evaluate.metrics import Interval
from qindex.evaluate.report import Report, Row
from qindex.evaluate.table import table

LONG = 'Chain(Center(), PCA(192), Rotation(), Float8("e4m3")) + Int8(), graph(degree=16, ef_construction=200, ef=64)'
ROWS = [
    Row("Float32()", "flat", 0.7, 1536, index_bytes=154_400_000, latency_ms=14.38),
    Row("Binary()", "flat", 0.5, 48, loss=Interval(0.2, 0.1, 0.3), latency_ms=0.5),
    Row("Int8()", "flat", 0.69996, 388, "a = 1\nb = 2", (0.6, 0.8), Interval(-0.00001, -0.1, 0.1), latency_ms=120.4),
    Row('Int8("dim")', "flat", 0.71, 388),
    Row(LONG, "graph", 0.6, 584.5, interval=(-0.61, 0.612)),
]
REPORT = Report("A title", "nDCG@10", ROWS, "Float32()", "Int8()", notes=["A note. " * 30])


def lines_of(report: Report) -> dict[str, str]:
    """The lines of the table by the first word of the name."""
    lines = table(report).splitlines()[4:]
    return {line[5:].split()[0]: line for line in lines if line[5:].strip()}


def test_rows_go_from_few_bytes_to_many_and_the_best_of_equal_bytes_is_first() -> None:
    names = [line[5:].split()[0] for line in table(REPORT).splitlines()[4:] if line[3:5] == "  " and line[5:6].strip()]
    assert [name for name in names if name in ("Binary()", 'Int8("dim")', "Int8()", "Float32()")] == [
        "Binary()", 'Int8("dim")', "Int8()", "Float32()",
    ]  # fmt: skip


def test_the_choice_and_the_members_of_both_fronts_are_marked() -> None:
    marks = {name: line[:3] for name, line in lines_of(REPORT).items()}
    assert marks["Int8()"] == "*  "
    assert marks["Binary()"] == " BL"
    assert marks["Float32()"] == "  L"
    assert marks['Int8("dim")'] == " B "
    assert "*: the choice, Int8()\n     a = 1\n     b = 2\n" in table(REPORT)


def test_numbers_have_their_intervals_and_no_minus_before_a_zero() -> None:
    line = lines_of(REPORT)["Int8()"]
    assert line.split("  ", 3)[-1].split() == [
        "0.7000", "[0.6000,", "0.8000]", "0.0000", "[-0.1000,", "0.1000]", "388", "120", "8",
    ]  # fmt: skip
    assert lines_of(REPORT)["Float32()"].split()[-4:] == ["1,536", "154", "14.4", "70"]


def test_no_line_is_wider_than_the_terminal_and_a_long_name_is_whole() -> None:
    text = table(REPORT)
    assert max(map(len, text.splitlines())) <= 120
    words = [line[5:].split("  ")[0].strip() for line in text.splitlines()]
    assert LONG.replace(" ", "") in "".join(words).replace(" ", "")


def test_columns_that_no_row_has_are_left_out() -> None:
    head = table(Report("", "recall@10", [Row("Int8()", "flat", 0.9, 388)])).splitlines()
    assert head[2].split() == ["recall@10", "bytes"]
    assert head[3].split() == ["per", "vector"]


def test_percents_have_two_decimals() -> None:
    assert "63.79 " in table(Report("", "nDCG@10", [Row("Int8()", "flat", 63.791, 388)]))


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    rows = [dataclasses.replace(ROWS[0], name="\x1b[2J\u202e", code="\x07")]
    text = table(Report("\x1b]0;title\x07", "m\x9b", rows, choice=rows[0].name, notes=["\x1b[31m"]))
    assert text.replace("\n", "").isprintable()


def test_a_report_without_rows_is_a_head() -> None:
    assert table(Report("Nothing", "recall@10", [])).startswith("Nothing\n")
