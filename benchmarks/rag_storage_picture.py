"""The picture of nDCG@10 against bytes, and the fronts of those systems that no other beats in both."""

from pathlib import Path
from typing import Any

Row = dict[str, Any]

GREY = "#9a9a9a"
FRONTS = {
    "study": {"label": "best of the study: codes as they lie", "color": GREY, "linestyle": "--", "linewidth": 1.6},
    "decoded": {"label": "best of the same types, decoded", "color": "#1f3b63", "linewidth": 1.8},
    "qindex": {"label": "best of qindex", "color": "#d62728", "linewidth": 1.8},
}
# What names of types begin with, decoded or of qindex; the study's points are grey.
COLORS = {
    "Float": "#1f77b4", "float": "#1f77b4", "Int": "#ff7f0e", "int8": "#ff7f0e", "Binary": "#2ca02c",
    "binary": "#2ca02c", "RaBitQ": "#9467bd", "Spectral": "#d62728",
}  # fmt: skip
NAMED = ("floats", "integers", "signs", "RaBitQ", "Spectral")
ASIDE = {"study": 0.96, "decoded": 1.0, "qindex": 1.04}  # points of equal bytes would cover each other
MARKERS = {"": "o", "PCA": "s", "random projection": "^"}
LEAST_BYTES, MOST_BYTES = 11, 1700
LOWEST, HIGHEST = 84, 101.2  # percent; a few of 12 and 24 bytes lie below


def front(rows: list[Row]) -> list[Row]:
    """The rows that no other beats in nDCG without more bytes, smallest first."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], -row["mean"])):
        if not kept or row["mean"] > kept[-1]["mean"]:
            kept.append(row)
    return kept


def draw(result: dict[str, Any], file: Path) -> None:
    """Write the picture of the section `collections`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    figure, axes = pyplot.subplots(figsize=(9, 5.8), dpi=160, layout="constrained")
    for way, look in FRONTS.items():
        rows = [row for row in result["rows"] if row["way"] == way]
        for row in rows:
            color = GREY if way == "study" else _color(row)
            axes.plot(*_place(row), MARKERS[row["reducer"]], color=color, markersize=5.5, alpha=0.8, markeredgewidth=0)
        best = front(rows)
        axes.step([*(row["bytes"] for row in best), MOST_BYTES], [*map(_kept, best), _kept(best[-1])], where="post",
                  zorder=3, **look)  # fmt: skip
    int8 = {row["way"]: row for row in result["rows"] if row["type"] == "int8" and not row["reducer"]}
    start, end = (_place(int8[way]) for way in ("study", "decoded"))
    axes.annotate("int8 as it lies,\nand decoded", start, (440, 97.5), fontsize=9, color="#c05f00",
                  arrowprops={"arrowstyle": "-", "color": "#c05f00", "linewidth": 0.6})  # fmt: skip
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#c05f00", "linewidth": 1.4}, zorder=5)

    axes.set_xscale("log")
    axes.set_xlim(LEAST_BYTES, MOST_BYTES)
    axes.set_ylim(LOWEST, HIGHEST)
    axes.set_xticks([12, 24, 48, 96, 192, 384, 768, 1536])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    axes.minorticks_off()
    axes.grid(color="#e6e6e6", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("bytes per vector of 384 numbers, everything counted")
    settings = result["settings"]
    axes.set_ylabel(f"{settings['measure']} of float32's, mean of {', '.join(settings['collections'])}")
    fronts = axes.legend(loc="lower right", frameon=True, fontsize=9)
    axes.add_artist(fronts)
    dot = {"linestyle": "none", "markersize": 6}
    colors = [Line2D([], [], marker="o", color=color, **dot) for color in (*dict.fromkeys(COLORS.values()), GREY)]
    shapes = [Line2D([], [], marker=marker, color="#555555", **dot) for marker in MARKERS.values()]
    axes.legend([*colors, *shapes], [*NAMED, "the study", *(reducer or "all dimensions" for reducer in MARKERS)],
                ncols=3, loc="lower right", bbox_to_anchor=(1, 0.18), frameon=True, fontsize=9,
                title="left to right: the study, decoded, qindex", title_fontsize=9)  # fmt: skip
    figure.savefig(file)
    pyplot.close(figure)


def _place(row: Row) -> tuple[float, float]:
    return row["bytes"] * ASIDE[row["way"]], _kept(row)


def _kept(row: Row) -> float:
    """Percent of float32's."""
    return 100 - float(row["loss"]["mean"])


def _color(row: Row) -> str:
    return next(color for start, color in COLORS.items() if row["type"].startswith(start))
