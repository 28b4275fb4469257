"""Training of codes: `RecurrentBinary`, and the axes of `Spectral`, by gradient descent. Needs torch.

from qindex.quantize.learning import train

codes = train(qindex.RecurrentBinary(bits=2, dim=192), vectors)
codes = train(qindex.Spectral(50), vectors)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qindex.quantize.learning.recipes import Contrastive, Neighbours
    from qindex.quantize.learning.training import Check, train

_HOMES = {"Check": "training", "Contrastive": "recipes", "Neighbours": "recipes", "train": "training"}

__all__ = ["Check", "Contrastive", "Neighbours", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qindex.quantize.learning' has no attribute {name!r}")
    try:
        home = importlib.import_module(f"qindex.quantize.learning.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("training needs torch: pip install 'qindex[train]'") from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
