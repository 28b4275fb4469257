"""Reports as one page of HTML that needs nothing else: a curve to point at, tables to sort, and how to reproduce them.

Style and script are page.css and page.js, copied into the page. Its policy lets these two run, by their hashes, and
nothing else run or be fetched, whatever stands in a report.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from urllib.parse import quote

from qindex.evaluate.report import Report, Row
from qindex.evaluate.table import Column, columns, number, ordered, score_digits, size
from qindex.io import PathLike, replacing

SHAPES = ("M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", "M-4.5-4.5h9v9h-9z", "M0-6L6,4.5H-6z", "M0-6L6,0L0,6L-6,0z")
COLOURS = 8  # of page.css


def page(reports: Sequence[Report]) -> str:
    """One document with a section for each report. Raises ValueError for no report."""
    if not reports:
        raise ValueError("reports must hold at least one report, got none")
    style, script = (files("qindex.evaluate").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = reports[0].title if len(reports) == 1 else f"{len(reports)} reports"
    links = "".join(f'<li><a href="#r{i}">{escape(one.title)}</a></li>' for i, one in enumerate(reports))
    shapes = "".join(f'<path id="shape{i}" d="{path}"/>' for i, path in enumerate(SHAPES))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<svg hidden><defs>{shapes}</defs></svg>
{f"<nav><ul>{links}</ul></nav>" if len(reports) > 1 else ""}
{"".join(_section(one, i) for i, one in enumerate(reports))}
<script>{script}</script>
</body>
</html>
"""


def write_page(reports: Sequence[Report], path: PathLike) -> None:
    """Write `page(reports)`, as a whole or not at all."""
    text = page(reports).encode("utf-8", "xmlcharrefreplace")  # half of a surrogate pair is no character
    with replacing(path) as file:
        file.write(text)


def _section(report: Report, place: int) -> str:
    rows, shown = ordered(report), columns(report)
    families = list(dict.fromkeys(row.family for row in report.rows))
    date = report.environment.get("date", "")
    count = "1 system" if len(rows) == 1 else f"{len(rows)} systems"
    return f"""
<section class="report" aria-labelledby="r{place}">
<h1 id="r{place}">{escape(report.title)}</h1>
<p class="quiet">{escape(report.measure)} of {count}{f", {escape(date)}" if date else ""}</p>
{_code(report, rows, shown)}
{_figure(report, families)}
{_rows_table(report, rows, shown, families, place)}
{_parts_table(report, rows, families, place)}
{_under("Notes", "".join(f"<p>{escape(note)}</p>" for note in report.notes))}
{_under("To reproduce", _block(escape(chr(10).join(report.commands))) if report.commands else "")}
{_under("Environment", _environment(report.environment))}
<script type="application/json">{_data(report, rows, shown, families)}</script>
</section>"""


def _code(report: Report, rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """The code of the choice; the script shows that of another row in its place."""
    chosen = next((row for row in rows if row.name == report.choice), None)
    if not any(row.code for row in rows):
        return ""
    name, *numbers = _tip(chosen, shown) if chosen else [""]
    above = f"<p><b>The choice: {escape(name)}</b><span>{escape(' · '.join(numbers))}</span></p>"
    return _block(escape(chosen.code if chosen else ""), above, hidden=chosen is None)


def _block(code: str, above: str = "", hidden: bool = False) -> str:
    return f'<div class="code"{" hidden" * hidden}>{above}<pre tabindex="0"><code>{code}</code></pre></div>'


def _figure(report: Report, families: Sequence[str]) -> str:
    bars = ", bars their intervals" if any(row.interval for row in report.rows) else ""
    kinds = "".join(f"<li>{_sign(family, families)}{escape(family)}</li>" for family in families)
    return f"""<figure>
<div class="over"><ul>{kinds}</ul></div>
<div class="plot"><noscript>The curve is drawn by JavaScript; all its numbers are in the table.</noscript></div>
<figcaption>Points are systems{bars}. The line is the front: no system scores more at that cost.</figcaption>
</figure>"""


def _rows_table(
    report: Report, rows: Sequence[Row], shown: Sequence[Column], families: Sequence[str], place: int
) -> str:
    fronts = {"storage": report.storage_front(), "latency": report.latency_front()}
    on = {name: {row.name for row in front} for name, front in fronts.items()}
    wide = {one.key: any(one.bounds(row) for row in rows) for one in shown}  # intervals have cells of their own
    heads = "".join(_head(one.key, one.title, one.unit, one.key == "score", wide[one.key]) for one in shown)
    lines = []
    for i, row in enumerate(rows):
        tags = [f'<span class="tag">{name}</span>' for name, names in on.items() if row.name in names]
        tags += ['<span class="tag chosen">the choice</span>'] * (row.name == report.choice)
        tags += ['<span class="tag">reference</span>'] * (row.name == report.reference)
        cells = "".join(
            _cell(one.value(row), one.text(row))
            + (f'<td class="between">{one.bounds(row)}</td>' if wide[one.key] else "")
            for one in shown
        )
        lines.append(_line(report, row, i, families, place, "".join(tags), cells))
    front = "<em>storage</em>: on the front of bytes"
    if on["latency"]:
        front += ", <em>latency</em>: on the front of latency"
    return _table(f"Systems. {front}.", heads, lines)


def _parts_table(report: Report, rows: Sequence[Row], families: Sequence[str], place: int) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row.parts))
    if not tasks:
        return ""
    digits = score_digits(report)
    heads = "".join(_head(f"task:{task}", task, "", first_down=True) for task in tasks)
    lines = []
    for i, row in enumerate(rows):
        scores = [row.parts.get(task) for task in tasks]
        cells = "".join(_cell(score, "" if score is None else number(score, digits)) for score in scores)
        lines.append(_line(report, row, i, families, place, "", cells))
    several = f"{len(tasks)} tasks" if len(tasks) > 1 else "the task"
    body = _table(f"{escape(report.measure)} on each task.", heads, lines)
    return f"<details open><summary><h2>Scores on {several}</h2></summary>{body}</details>"


def _table(caption: str, heads: str, lines: Iterable[str]) -> str:
    return f"""<div class="wide" tabindex="0" role="region" aria-label="Table">
<table class="rows"><caption>{caption}</caption>
<thead><tr>{_head("name", "system", "", first_down=False)}{heads}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody></table></div>"""


def _head(key: str, title: str, unit: str, first_down: bool, wide: bool = False) -> str:
    """A head to sort by; numbers of which more is better are sorted downwards first."""
    under = f"<small>{escape(unit)}</small>" if unit else ""
    what = " data-down" * first_down + ' colspan="2"' * wide
    return f'<th scope="col" data-key="{escape(key)}"{what}>{escape(title)}{under}</th>'


def _line(report: Report, row: Row, i: int, families: Sequence[str], place: int, tags: str, cells: str) -> str:
    """A line of a table: the sign and the name of a row, which is a link to it, and its cells."""
    name, link = escape(row.name), f"#row{place + 1 if place else ''}={quote(row.name, errors='replace')}"
    head = f'<th scope="row" class="name" data-value="{name}">{_sign(row.family, families)}<a href="{link}">{name}</a>'
    return f'<tr data-row="{i}"{_class(row.name == report.choice, "choice")}>{head}{tags}</th>{cells}</tr>'


def _class(has: bool, name: str) -> str:
    return f' class="{name}"' if has else ""


def _cell(value: float | None, text: str) -> str:
    return f'<td data-value="{"" if value is None else value}">{text}</td>'


def _sign(family: str, families: Sequence[str]) -> str:
    """What a family is drawn as; a screen reader reads its name."""
    i = families.index(family)
    shape = f'<use href="#shape{i % len(SHAPES)}"/>'
    return (
        f'<svg class="sign f{i % COLOURS}" viewBox="-7 -7 14 14" role="img" aria-label="{escape(family)}">{shape}</svg>'
    )


def _environment(environment: Mapping[str, str]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in environment.items()
    )
    return f'<table class="plain"><tbody>{lines}</tbody></table>' if lines else ""


def _under(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}" if content else ""


def _tip(row: Row, shown: Sequence[Column]) -> list[str]:
    """What is told about a row: its name, and a line for each number that it has."""
    lines = {
        one.key: f"{one.title} {one.text(row)} {one.bounds(row) or one.unit}".strip() for one in shown if one.text(row)
    }
    lines["bytes"] = f"{size(row.bytes_per_vector)} bytes per vector"
    return [row.name, *lines.values()]


def _data(report: Report, rows: Sequence[Row], shown: Sequence[Column], families: Sequence[str]) -> str:
    """What the script reads. No `<` is left in it, so nothing in it ends the element that it stands in."""
    places = {row.name: i for i, row in enumerate(rows)}
    content = {
        "measure": report.measure,
        "choice": places.get(report.choice, -1),
        "fronts": {
            "bytes": [places[row.name] for row in report.storage_front()],
            "latency": [places[row.name] for row in report.latency_front()],
        },
        "rows": [
            {
                "name": row.name,
                "family": families.index(row.family),
                "score": row.score,
                "interval": row.interval,
                "bytes": row.bytes_per_vector,
                "latency": row.latency_ms,
                "code": row.code,
                "tip": _tip(row, shown),
            }
            for row in rows
        ],
    }
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
