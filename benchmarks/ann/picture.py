"""The picture of recall against queries per second."""

from pathlib import Path
from typing import Any

from ann.curves import frontier

LOWEST = 0.8
TITLES = {"graphs": "graphs", "lists": "inverted lists", "second": "graphs, 640 numbers"}

# qindex in colours and drawn through; others in greys and dashed.
OWN = {"linewidth": 2.2, "marker": "o", "markersize": 4}
COLOURS = ("#d62728", "#ff7f0e", "#9467bd")
OTHERS = {"linewidth": 1.2, "linestyle": "--", "markersize": 4}
GREYS, MARKERS = ("#000000", "#444444", "#666666", "#888888", "#aaaaaa"), ("v", "^", "s", "D", "x", "P")


def draw(result: dict[str, Any], file: Path) -> None:
    """Write the picture of those sections that there are, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    shown = [name for name in TITLES if name in result]
    figure, all_axes = pyplot.subplots(
        1, len(shown), figsize=(6 * len(shown), 5), dpi=160, layout="constrained", squeeze=False
    )
    for name, axes in zip(shown, all_axes[0], strict=True):
        section = result[name]
        for label, look, points in _lines(section["rows"]):
            axes.plot([recall for recall, _ in points], [qps for _, qps in points], label=label, **look)
        axes.set_yscale("log")
        axes.set_xlim(LOWEST, 1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.minorticks_off()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        settings = section["settings"]
        axes.set_title(f"{TITLES[name]}: {settings['vectors']:,} x {settings['dim']}", fontsize=10)
        axes.set_xlabel("recall@10 of float32's best ten")
        axes.set_ylabel("queries a second, one thread, in a batch")
        axes.legend(loc="lower left", fontsize=8)
    figure.savefig(file)
    pyplot.close(figure)


def _lines(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], list[tuple[float, float]]]]:
    """A line for each that rows name: its label, its look, and the best points of all its rows."""
    ours = list(dict.fromkeys(row["line"] for row in rows if row["library"] == "qindex"))
    others = list(dict.fromkeys(row["line"] for row in rows if row["library"] != "qindex"))
    found = []
    for line in (*others, *ours):  # ours on top
        points = [point for row in rows if row["line"] == line for point in row["points"]]
        if line in ours:
            label, look = f"qindex {line}", OWN | {"color": COLOURS[ours.index(line) % len(COLOURS)]}
        else:
            i = others.index(line)
            label, look = line, OTHERS | {"color": GREYS[i % len(GREYS)], "marker": MARKERS[i % len(MARKERS)]}
        found.append((label, look, [one for one in frontier(points, "batch") if one[0] >= LOWEST]))
    return found
