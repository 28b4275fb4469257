"""Systems on judged collections: section `table` of mteb_tasks.py, and what the other sections run."""

import dataclasses
import tempfile
from typing import Any

from lowbit_models import sentence_transformer
from qindex.evaluate import System, folder_task, measure
from quality_data import COLLECTIONS, folder
from timing import shown

SYSTEMS = [
    System.parse(chain, index)
    for chain, index in (
        *((chain, "flat") for chain in (
            "float16", "int8", "float8-e3m4", "pca(192), int8", "spectral(194)", "rabitq(4)", "spectral(98)",
            "rabitq(2)", "spectral(50)", "rabitq(1)", "binary", "rabitq(1) + int8",
        )),
        ("int8", "ivf(nprobe=16)"),
        ("int4 + int8", "graph(ef=64)"),
    )
]  # fmt: skip


def titles(quick: bool) -> tuple[str, ...]:
    return ("med",) if quick else COLLECTIONS


def measured(quick: bool) -> dict[str, Any]:
    tasks = [folder_task(folder() / title) for title in titles(quick)]
    with tempfile.TemporaryDirectory() as place:
        report = measure(sentence_transformer(), SYSTEMS, tasks, place, raw=True)
    rows = [
        shown({**dataclasses.asdict(row), "loss": None if row.loss is None else row.loss._asdict()})
        for row in report.rows
    ]
    return {"settings": {"collections": list(titles(quick)), "measure": report.measure}, "rows": rows}
