"""What mteb finds through the adapter, what it finds itself, and what qindex's evaluator finds: section `equal`."""

import tempfile
from typing import Any

import mteb
import numpy as np

from bars import bar
from lowbit_models import sentence_transformer
from mteb_tasks_table import titles
from qindex.evaluate import QuantizedModel, System, folder_task
from qindex.evaluate.beir import load_beir
from qindex.evaluate.encoding import StoredEncoder
from qindex.evaluate.metrics import evaluate
from quality_data import folder
from quality_measures import MEASURE
from timing import shown

CHAINS = ("float32", "int8", "rabitq(2)")


def measured(quick: bool) -> dict[str, Any]:
    model, rows = sentence_transformer(), []
    for title in titles(quick):
        qrels = load_beir(folder() / title).qrels
        with tempfile.TemporaryDirectory() as place:
            own = scored(StoredEncoder(model, place), title)
            for chain in CHAINS:
                runs: dict[str, list[str]] = {}
                asked = QuantizedModel(model, System.parse(chain), folder=place)
                asked.watch = lambda searched, runs=runs: runs.update({q: list(d) for q, d in searched.run.items()})
                found = scored(asked, title)
                ours = round(float(np.mean(evaluate(runs, qrels, [MEASURE])[MEASURE])), 5)
                exact = own if chain == "float32" else None
                rows.append(shown({"collection": title, "chain": chain, "mteb": found, "qindex": ours, "exact": exact}))
    return {"settings": {"chains": list(CHAINS)}, "rows": rows, "bars": [] if quick else bars(rows)}


def scored(model: Any, title: str) -> float:
    """nDCG@10 as mteb rounds it."""
    [result] = mteb.evaluate(model, folder_task(folder() / title), cache=None).task_results
    return float(result.scores["test"][0]["ndcg_at_10"])


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    same = [row["mteb"] == row["qindex"] for row in rows]
    exact = [row["mteb"] == row["exact"] for row in rows if row["exact"] is not None]
    return [
        bar("nDCG@10 by mteb's evaluation and by qindex's, of the same rankings, 5 decimals", "equal for all",
            f"equal for {sum(same)} of {len(same)}", all(same)),
        bar("nDCG@10 of a float32 FlatIndex and of mteb's own exact search", "equal for all",
            f"equal for {sum(exact)} of {len(exact)}", all(exact)),
    ]  # fmt: skip
