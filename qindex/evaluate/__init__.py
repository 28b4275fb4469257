"""Judging: measures of rankings, judged collections, systems side by side, and reports of what was found.

`folder_task`, `measure`, `QuantizedModel` and `RerankerModel` need `pip install 'qindex[mteb]'`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qindex.evaluate.mteb import QuantizedModel, RerankerModel
    from qindex.evaluate.report import Report
    from qindex.evaluate.runs import measure
    from qindex.evaluate.systems import System
    from qindex.evaluate.tasks import folder_task
    from qindex.evaluate.tuning import Tuned, tune

_HOMES = {
    "QuantizedModel": "mteb",
    "Report": "report",
    "RerankerModel": "mteb",
    "System": "systems",
    "Tuned": "tuning",
    "folder_task": "tasks",
    "measure": "runs",
    "tune": "tuning",
}

__all__ = ["QuantizedModel", "Report", "RerankerModel", "System", "Tuned", "folder_task", "measure", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        if error.name in ("mteb", "datasets", "sentence_transformers", "torch"):
            raise ImportError(f"{name} needs mteb: pip install 'qindex[mteb]'") from error
        raise
