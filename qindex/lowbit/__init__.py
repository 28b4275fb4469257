"""Language models in few bits: transformers whose weights are `Codes`, run by the kernels that indexes scan with.

    from qindex import lowbit

    model = lowbit.quantize(model, lowbit.Plan.default(bits=4))
    print(lowbit.report(model))
    lowbit.save(model, "model.qindex"); model = lowbit.load("model.qindex")

Names are resolved when they are first used: plans, recipes and solvers need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qindex.lowbit.cache import KeyValueCache
    from qindex.lowbit.calibrate import collect
    from qindex.lowbit.checkpoint import load, save
    from qindex.lowbit.convert import quantize, sensitivities
    from qindex.lowbit.linear import QuantEmbedding, QuantLinear
    from qindex.lowbit.plan import Plan, Rule
    from qindex.lowbit.recipes import RECIPES, Recipe
    from qindex.lowbit.rounding import rounded_weights
    from qindex.lowbit.solvers import GPTQ, HQQ, Nearest, Scaled
    from qindex.lowbit.statistics import LayerStatistics, Statistics
    from qindex.lowbit.summary import Report, report

_HOMES = {
    "GPTQ": "solvers",
    "HQQ": "solvers",
    "KeyValueCache": "cache",
    "LayerStatistics": "statistics",
    "Nearest": "solvers",
    "Plan": "plan",
    "QuantEmbedding": "linear",
    "QuantLinear": "linear",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "Report": "summary",
    "Rule": "plan",
    "Scaled": "solvers",
    "Statistics": "statistics",
    "collect": "calibrate",
    "load": "checkpoint",
    "quantize": "convert",
    "report": "summary",
    "rounded_weights": "rounding",
    "save": "checkpoint",
    "sensitivities": "convert",
}

__all__ = [
    "GPTQ",
    "HQQ",
    "RECIPES",
    "KeyValueCache",
    "LayerStatistics",
    "Nearest",
    "Plan",
    "QuantEmbedding",
    "QuantLinear",
    "Recipe",
    "Report",
    "Rule",
    "Scaled",
    "Statistics",
    "collect",
    "load",
    "quantize",
    "report",
    "rounded_weights",
    "save",
    "sensitivities",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qindex.lowbit' has no attribute {name!r}")
    try:
        home = importlib.import_module(f"qindex.lowbit.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise ImportError(f"lowbit.{name} needs torch and transformers: pip install 'qindex[lowbit]'") from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
