"""A report as plain text, and the columns that all its tables have."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qindex.evaluate.report import Report, Row

WIDTH, LEAST_NAME = 118, 24


@dataclass(frozen=True)
class Column:
    """A number of each row: what it is called, in which unit, and how it reads."""

    key: str
    title: str
    unit: str
    value: Callable[[Row], float | None]
    text: Callable[[Row], str]
    bounds: Callable[[Row], str] = lambda row: ""  # the interval, where there is one


def columns(report: Report) -> list[Column]:
    """What the rows of a report have; columns that none of them has are left out."""
    digits = score_digits(report)

    def between(low: float, high: float) -> str:
        return f"[{number(low, digits)}, {number(high, digits)}]"

    found = [
        Column(
            "score", report.measure, "",
            lambda row: row.score,
            lambda row: number(row.score, digits),
            lambda row: between(*row.interval) if row.interval else "",
        ),
        Column(
            "loss", "loss", "to the reference",
            lambda row: row.loss.mean if row.loss else None,
            lambda row: number(row.loss.mean, digits) if row.loss else "",
            lambda row: between(row.loss.low, row.loss.high) if row.loss else "",
        ),
        Column(
            "bytes", "bytes", "per vector",
            lambda row: row.bytes_per_vector,
            lambda row: size(row.bytes_per_vector),
        ),
        Column(
            "index", "index", "MB",
            lambda row: row.index_bytes,
            lambda row: "" if row.index_bytes is None else _short(row.index_bytes / 1e6),
        ),
        Column(
            "latency", "latency", "ms",
            lambda row: row.latency_ms,
            lambda row: "" if row.latency_ms is None else _short(row.latency_ms),
        ),
        Column(
            "speed", "queries", "per s",
            lambda row: 1e3 / row.latency_ms if row.latency_ms else None,
            lambda row: f"{1e3 / row.latency_ms:,.0f}" if row.latency_ms else "",
        ),
    ]  # fmt: skip
    return [one for one in found if any(one.value(row) is not None for row in report.rows)]


def ordered(report: Report) -> list[Row]:
    """The rows from few bytes to many, and the best of equal bytes first: read downwards, it is the curve."""
    return sorted(report.rows, key=lambda row: (row.bytes_per_vector, -row.score))


def score_digits(report: Report) -> int:
    """Decimals of scores: four from 0 to 1, two for percents."""
    return 4 if all(abs(row.score) <= 1 for row in report.rows) else 2


def number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # a zero has no minus


def size(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 or value >= 1000 else f"{value:,.1f}"


def table(report: Report) -> str:
    """The report for a terminal of 120 columns; a name that is longer than what is left goes on in the next line."""
    rows, shown = ordered(report), columns(report)
    storage = {row.name for row in report.storage_front()}
    latency = {row.name for row in report.latency_front()}
    cells = [[_cell(one, row, rows) for one in shown] for row in rows]
    heads = [(one.title, one.unit) for one in shown]
    widths = [max(map(len, (*heads[i], *(line[i] for line in cells)))) for i in range(len(shown))]
    left = max(WIDTH - sum(widths) - 2 * len(widths) - 5, LEAST_NAME)

    def line(marks: str, name: str, numbers: Sequence[str]) -> str:
        padded = "".join(f"  {text:>{width}}" for text, width in zip(numbers, widths, strict=True))
        return f"{marks:<3}  {name:<{longest}}{padded}".rstrip()

    names = [textwrap.wrap(row.name, left) or [""] for row in rows]
    longest = max((len(part) for parts in names for part in parts), default=0)
    lines = [report.title, "", *(line("", "", [head[i] for head in heads]) for i in range(2))]
    for row, parts, numbers in zip(rows, names, cells, strict=True):
        marks = (
            ("*" if row.name == report.choice else " ")
            + ("B" if row.name in storage else " ")
            + ("L" if row.name in latency else " ")
        )
        lines += [line(marks, parts[0], numbers), *(f"     {part}" for part in parts[1:])]
    lines += ["", "B: nothing scores more in fewer bytes." + " L: nothing scores more in less time." * bool(latency)]
    if report.reference:
        lines.append(f"The reference is {report.reference}.")
    for row in rows:
        if row.name == report.choice:
            lines += [f"*: the choice, {row.name}", *(f"     {part}" for part in row.code.splitlines())]
    for note in report.notes:
        lines += textwrap.wrap(note, WIDTH)
    # A file may come from anywhere: what would steer the terminal is not printed.
    return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)


def _cell(column: Column, row: Row, rows: Sequence[Row]) -> str:
    """A number and its interval, the intervals of a column one below the other."""
    room = max(len(column.bounds(one)) for one in rows)
    return f"{column.text(row)}{' ' * bool(room)}{column.bounds(row):>{room}}" if column.text(row) else ""


def _short(value: float) -> str:
    """Three digits that count, and no fewer than there are before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
