"""Seconds of one chain and of six over one encoding: section `once` of mteb_tasks.py."""

import tempfile
import time
from typing import Any

from bars import bar
from lowbit_models import sentence_transformer
from qindex.evaluate import System, folder_task, measure
from quality_data import folder
from timing import shown

CHAINS = ("float32", "int8", "float8-e3m4", "rabitq(2)", "spectral(98)", "binary + int8")
TITLES = ("cran", "npl")
MOST = 1.3


def measured(quick: bool) -> dict[str, Any]:
    model, rows = sentence_transformer(), []
    seconds(model, ("float32",), "med")  # compiles, and brings the model into the caches
    seconds(model, CHAINS, "med")
    for title in ("med",) if quick else TITLES:
        one, six = (seconds(model, chains, title) for chains in (CHAINS[:1], CHAINS))
        rows.append(shown({"collection": title, "one_s": round(one, 2), "six_s": round(six, 2),
                           "ratio": round(six / one, 3)}))  # fmt: skip
    found = ", ".join(f"{row['ratio']:.2f} on {row['collection']}" for row in rows)
    reached = all(row["ratio"] <= MOST for row in rows)
    once = bar("time of six flat chains beside that of one, encoding counted", f"at most {MOST}", found, reached)
    return {"settings": {"chains": list(CHAINS)}, "rows": rows, "bars": [] if quick else [once]}


def seconds(model: Any, chains: tuple[str, ...], title: str) -> float:
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        measure(model, [System.parse(chain) for chain in chains], [folder_task(folder() / title)], place)
        return time.perf_counter() - started
