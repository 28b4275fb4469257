"""The picture of quality against bytes."""

from pathlib import Path
from typing import Any

LEAST_BYTES, MOST_BYTES = 40, 560
LOWEST, HIGHEST = 0.55, 0.9985

# qindex in colours and drawn through; others in greys and dashed. Points of one line are joined.
LINES: dict[str, dict[str, Any]] = {
    "Spectral": {"color": "#d62728", "marker": "o", "linewidth": 2.2},
    "RecurrentBinary": {"color": "#e377c2", "marker": "o", "linewidth": 1.8},
    "RaBitQ": {"color": "#1f77b4", "marker": "o", "linewidth": 1.8},
    "LloydMax": {"color": "#2ca02c", "marker": "o", "linewidth": 1.4},
    "integers": {"color": "#ff7f0e", "marker": "s", "linestyle": "none"},
    "floats": {"color": "#9467bd", "marker": "s", "linestyle": "none"},
    "product codes": {"color": "#8c564b", "marker": "P", "linestyle": "none"},
    "turbovec": {"color": "#000000", "marker": "v"},
    "faiss RaBitQ": {"color": "#555555", "marker": "^"},
    "faiss EDEN": {"color": "#777777", "marker": "x"},
    "faiss SQ": {"color": "#999999", "marker": "D"},
    "faiss PQ": {"color": "#999999", "marker": "P", "linestyle": "none"},
    "scalable-vs LVQ": {"color": "#333333", "marker": "*", "linestyle": "none", "markersize": 10},
    "raw codes": {"color": "#bbbbbb", "marker": "X", "linestyle": "none"},
}
OF_OTHERS = {"linestyle": "--", "linewidth": 1.0, "markersize": 5.5}


def draw(vectors: dict[str, Any], trained: list[dict[str, Any]], file: Path) -> None:
    """Write the picture of the section `vectors`, and of rows of recurrent.json."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    rows = vectors["rows"] + [
        {"line": row["line"], "family": "qindex", "bytes_per_vector": row["bytes"],
         "recall_at_10": {"mean": row["recall"]}}
        for row in trained if row["line"] == "RecurrentBinary"
    ]  # fmt: skip
    figure, axes = pyplot.subplots(figsize=(9, 5.6), dpi=160, layout="constrained")
    for line, look in LINES.items():
        points = sorted((row["bytes_per_vector"], row["recall_at_10"]["mean"]) for row in rows if row["line"] == line)
        points = [point for point in points if LEAST_BYTES <= point[0] <= MOST_BYTES]
        if not points:
            continue
        own = any(row["line"] == line and row["family"] == "qindex" for row in rows)
        label = f"qindex {line}" if own else line
        missed = [1 - recall for _, recall in points]
        axes.plot([x for x, _ in points], missed, label=label, **({} if own else OF_OTHERS) | look)

    # Equal steps upwards halve what is missed: near 1 the recall itself would show nothing.
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LEAST_BYTES, MOST_BYTES)
    axes.set_ylim(1 - LOWEST, 1 - HIGHEST)
    axes.set_xticks([48, 64, 96, 128, 192, 256, 384, 512])
    axes.set_yticks([1 - recall for recall in (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{1 - y:.4g}"))
    axes.minorticks_off()
    axes.grid(color="#e6e6e6", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(f"bytes per vector of {vectors['settings']['dim']} numbers, everything counted")
    axes.set_ylabel("recall@10 of float32's best ten, no rescore")
    axes.legend(loc="upper left", frameon=True, fontsize=9)
    figure.savefig(file)
    pyplot.close(figure)
