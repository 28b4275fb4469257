"""A report as a picture: scores against bytes, and against latency where rows have it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from qindex.evaluate.report import Report, Row
from qindex.io import PathLike, replacing

COLOURS = ("#2468b0", "#c2560c", "#2f7d46", "#7048b6", "#b3336f", "#0b7a86", "#866a00", "#5b6169")
MARKERS = "os^D"
TICKS = (1.0, 2.0, 5.0)  # of each decade
PLACES = ((7, -11), (-7, 6), (8, -3), (-8, -3), (7, 6), (-7, -11))  # of a label beside its point, in points


def draw(report: Report, path: PathLike) -> None:
    """Write a PNG, as a whole or not at all.

    Both axes of costs are logarithmic, so a row that costs nothing is left out. Raises ImportError without matplotlib,
    and ValueError for a report of which nothing can be drawn.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")  # without pyplot, which would choose a window system
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install 'qindex[plot]'") from error
    panels: list[tuple[str, Callable[[Row], float | None], list[Row]]] = [
        ("bytes per vector", lambda row: row.bytes_per_vector, report.storage_front()),
        ("latency, ms", lambda row: row.latency_ms, report.latency_front()),
    ]
    panels = [one for one in panels if any((one[1](row) or 0) > 0 for row in report.rows)]
    if not panels:
        raise ValueError("report must have a row with bytes or a latency above 0 to be drawn, got none")
    figure = figures.Figure(figsize=(7.2 * len(panels), 5), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for one, (title, cost, front) in zip(axes, panels, strict=True):
        _panel(one, report, title, cost)
        _front(one, [(float(cost(row) or 0), row.score) for row in front])
    axes[0].set_ylabel(_plain(report.measure))
    axes[0].legend(loc="lower right", frameon=False, fontsize=9)
    figure.suptitle(_plain(report.title), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.draw_without_rendering()  # which gives everything its place
    for one, (_, cost, front) in zip(axes, panels, strict=True):
        _label(one, [row for row in front if (cost(row) or 0) > 0], report, cost)
    with replacing(path) as file:
        figure.savefig(file, format="png")


def _panel(axes: Any, report: Report, title: str, cost: Callable[[Row], float | None]) -> None:
    axes.set_xscale("log")
    costs = [one for row in report.rows if (one := cost(row) or 0) > 0]
    low, high = min(costs), max(costs)
    room = (high / low) ** 0.05 if high > low else 2.0
    axes.set_xlim(low / room, high * room)  # matplotlib finds none, and warns, while it has drawn a single point
    for i, family in enumerate(dict.fromkeys(row.family for row in report.rows)):
        rows = [row for row in report.rows if row.family == family and (cost(row) or 0) > 0]
        colour = COLOURS[i % len(COLOURS)]
        for row in rows:
            if row.interval:
                axes.vlines(cost(row), *row.interval, color=colour, linewidth=1, alpha=0.55, zorder=2)
        look = {"marker": MARKERS[i % len(MARKERS)], "s": 34, "color": colour, "edgecolors": "white", "linewidths": 0.8}
        axes.scatter([cost(row) for row in rows], [row.score for row in rows], label=_plain(family), zorder=3, **look)
    for row in report.rows:
        if row.name == report.choice and (cost(row) or 0) > 0:
            axes.scatter([cost(row)], [row.score], s=150, facecolors="none", edgecolors="#1c1e21", label="the choice")
    ticker = importlib.import_module("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=TICKS, numticks=12))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,g}" if x < 1e6 else f"{x:.0e}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(title)


def _front(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """The best score that a cost buys: a step at each member, and on to the edge."""
    points = [point for point in points if point[0] > 0]
    if points:
        right = axes.get_xlim()[1]
        x, y = zip(*points, (right, points[-1][1]), strict=True)
        axes.step(x, y, where="post", color="#5b6169", linewidth=1.2, zorder=1)
        axes.set_xlim(right=right)


def _label(axes: Any, front: Sequence[Row], report: Report, cost: Callable[[Row], float | None]) -> None:
    """Names of the front, that of the choice first, each where it covers no point and no other name, or nowhere."""
    boxes = importlib.import_module("matplotlib.transforms").Bbox
    frame, reach = axes.get_window_extent(), 4.5 * axes.figure.dpi / 72
    taken = [legend.get_window_extent()] if (legend := axes.get_legend()) else []
    for row in report.rows:
        if (cost(row) or 0) > 0:
            x, y = axes.transData.transform((cost(row), row.score))
            taken.append(boxes.from_extents(x - reach, y - reach, x + reach, y + reach))
    for row in sorted(front, key=lambda one: one.name != report.choice):
        for dx, dy in PLACES:
            text = axes.annotate(
                _plain(row.name), (cost(row), row.score), (dx, dy), textcoords="offset points", fontsize=8,
                ha="left" if dx > 0 else "right", annotation_clip=False,
            )  # fmt: skip
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _plain(text: str) -> str:
    """Without what matplotlib takes for a formula."""
    return text.replace("$", r"\$")
