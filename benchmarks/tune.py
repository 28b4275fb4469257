"""Tuning 100,000 real vectors: how long the default grid takes, and whether fresh queries find what was predicted.

    python benchmarks/tune.py [--quick]

The 1,000 queries of minilm-100k are halved. Each half tunes, as a user with two threads would, and the other is fresh:
the systems chosen for several budgets, and all others, are to have the recall there that their intervals say.

QINDEX_DATA must name the folder with minilm-100k. Writes benchmarks/results/tune.json.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import sections
from bars import bar
from qindex.evaluate.budget import Budget
from qindex.evaluate.report import Report
from qindex.evaluate.tuning import tune
from timing import shown

MOST_SECONDS = 600
STARTED_WITH = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
BUDGETS = [
    *(Budget(recall=recall) for recall in (0.8, 0.9, 0.95, 0.98, 0.99)),
    *(Budget(bytes_per_vector=most) for most in (50, 100, 200, 400)),
    *(Budget(latency_ms=most) for most in (0.05, 0.1, 0.5)),
    Budget(recall=0.95, bytes_per_vector=400),
    Budget(recall=0.95, latency_ms=0.1),
    Budget(recall=0.9, bytes_per_vector=250, latency_ms=0.2),
]


def measured(_section: str, quick: bool) -> dict[str, Any]:
    if "QINDEX_DATA" not in os.environ:
        raise SystemExit("QINDEX_DATA must name the folder with minilm-100k")
    folder = Path(os.environ["QINDEX_DATA"]) / "minilm-100k"
    base, queries = np.load(folder / "base.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    order = np.random.default_rng(0).permutation(len(queries))
    reports, seconds = [], []
    for half in (order[::2], order[1::2]):
        started = time.perf_counter()
        reports.append(tune(base, queries=queries[half], sample=5000 if quick else 100_000).report)
        seconds.append(round(time.perf_counter() - started, 1))
    print(f"  tuned in {seconds} s", flush=True)

    choices = [shown(row) for half in (0, 1) for row in _choices(reports[half], reports[1 - half])]
    inside = [_is_inside(reports[half], reports[1 - half], row.name) for half in (0, 1) for row in reports[half].rows]
    n_kept = sum(row["inside"] for row in choices if row["choice"])
    n_made = sum(row["choice"] is not None for row in choices)
    return {
        "settings": {"rows": len(base), "queries": len(order) // 2, "systems": len(reports[0].rows)},
        "seconds_of_each": seconds,
        "rows": [
            {
                "name": row.name,
                "recall_at_10": round(row.score, 4),
                "interval": [round(bound, 4) for bound in row.interval or ()],
                "bytes": round(row.bytes_per_vector, 1),
                "ms": round(row.latency_ms or 0.0, 4),
            }
            for row in reports[0].rows
        ],
        "choices": choices,
        "bars": [
            bar("seconds of the default grid", f"under {MOST_SECONDS}", str(max(seconds)), max(seconds) < MOST_SECONDS),
            bar("choices whose fresh recall is in its interval", "all", f"{n_kept} of {n_made}", n_kept == n_made),
            bar(
                "systems whose fresh recall is in its interval",
                "95 % or more",
                f"{sum(inside)} of {len(inside)}",
                sum(inside) >= 0.95 * len(inside),
            ),
        ],
    }


def _choices(report: Report, fresh: Report) -> list[dict[str, Any]]:
    """What is chosen within each budget, and what it finds for the other half of the queries."""
    found = []
    for budget in BUDGETS:
        given = {name: value for name, value in vars(budget).items() if value is not None}
        row = budget.choose(report.rows)
        if row is None:
            found.append({"budget": given, "choice": None, "unmet": budget.unmet(report.rows, report.measure)})
            continue
        low, high = row.interval or (row.score, row.score)
        found.append(
            {
                "budget": given,
                "choice": row.name,
                "bytes": round(row.bytes_per_vector, 1),
                "ms": round(row.latency_ms or 0.0, 4),
                "recall_at_10": round(row.score, 4),
                "interval": [round(low, 4), round(high, 4)],
                "fresh_recall_at_10": round(_score(fresh, row.name), 4),
                "inside": _is_inside(report, fresh, row.name),
            }
        )
    return found


def _score(report: Report, name: str) -> float:
    return next(row.score for row in report.rows if row.name == name)


def _is_inside(report: Report, fresh: Report, name: str) -> bool:
    low, high = next(row.interval for row in report.rows if row.name == name) or (0.0, 1.0)
    return low <= _score(fresh, name) <= high


if __name__ == "__main__":
    sections.run("tune", __doc__, {"minilm": 2}, lambda _: ["numpy", "numba"], STARTED_WITH, measured)
