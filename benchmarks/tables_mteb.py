"""The tables of results/mteb_tasks.json and results/tune.json."""

from typing import Any

import tables_quality
from table_text import code, measured, table


def bars(result: dict[str, Any]) -> str:
    return tables_quality.bars({section: found["bars"] for section, found in result.items() if "bars" in found})


def systems(result: dict[str, Any]) -> str:
    titles = result["settings"]["collections"]
    rows = [
        (_name(row["name"]), *(f"{row['parts'][title]:.4f}" for title in titles), f"{row['score']:.4f}",
         _loss(row["loss"]), f"{row['bytes_per_vector']:,.0f}",
         "" if row["index_bytes"] is None else f"{row['index_bytes'] / 1e6:.2f}",
         "" if row["latency_ms"] is None else f"{1e3 / row['latency_ms']:,.0f}")
        for row in sorted(result["rows"], key=lambda row: (row["bytes_per_vector"], -row["score"]))
    ]  # fmt: skip
    return table(
        ("system", *titles, "mean", "loss in points", "bytes per vector", "index MB", "queries a second"),
        rows,
        "nDCG@10 by mteb, all-MiniLM-L6-v2; the loss beside `Float32()` has its 95% interval over the queries. Index "
        "and queries a second, one at a time and on one thread, are of npl's 11,429 documents. "
        + measured(result["environment"]),
    )


def choices(result: dict[str, Any]) -> str:
    rows = [
        (_budget(row["budget"]), code(row["choice"]), f"{row['recall_at_10']:.4f}",
         f"{row['interval'][0]:.4f} to {row['interval'][1]:.4f}", f"{row['fresh_recall_at_10']:.4f}",
         f"{row['bytes']:,.0f}", f"{row['ms']:.3f}")
        for row in result["choices"][: len(result["choices"]) // 2] if row["choice"]
    ]  # fmt: skip
    settings, seconds = result["settings"], " and ".join(f"{s:.0f}" for s in result["seconds_of_each"])
    return table(
        ("budget", "choice", "recall@10", "interval", "on fresh queries", "bytes per vector", "ms a query"),
        rows,
        f"{settings['systems']} systems on {settings['rows']:,} rows of minilm-100k, {settings['queries']} queries to "
        f"choose by and as many fresh ones; {seconds} seconds a run. " + measured(result["environment"]),
    )


def _name(name: str) -> str:
    return name if name.startswith("mteb") else f"`{name}`"


def _loss(loss: dict[str, float]) -> str:
    mean, low, high = (100 * loss[name] + 0.0 for name in ("mean", "low", "high"))
    return "0" if mean == low == high == 0 else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _budget(budget: dict[str, float]) -> str:
    said = {"recall": "recall {:g}", "bytes_per_vector": "{:g} bytes", "latency_ms": "{:g} ms"}
    return ", ".join(said[name].format(value) for name, value in budget.items())
