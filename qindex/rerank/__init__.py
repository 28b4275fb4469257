"""Put the hits of a search in a better order, by a model that reads query and document together.

    from qindex.rerank import CrossEncoderReranker, reranker_plan

    reranker = CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2", plan=reranker_plan(8))
    hits = reranker.rerank(query, hits, k=10, budget_ms=200)

Names are resolved when they are first used: fusion and the loop itself need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qindex.rerank.causal import CausalReranker
    from qindex.rerank.cross_encoder import CrossEncoderReranker
    from qindex.rerank.fusion import Fusion, Interpolation, ReciprocalRank
    from qindex.rerank.judgements import Example, Judgements
    from qindex.rerank.order import Reranked, rerank
    from qindex.rerank.templates import TEMPLATES, Template
    from qindex.rerank.training import fit_fusion, reranker_plan, train_cross_encoder, train_reranker

_HOMES = {
    "CausalReranker": "causal",
    "CrossEncoderReranker": "cross_encoder",
    "Example": "judgements",
    "Fusion": "fusion",
    "Interpolation": "fusion",
    "Judgements": "judgements",
    "ReciprocalRank": "fusion",
    "Reranked": "order",
    "TEMPLATES": "templates",
    "Template": "templates",
    "fit_fusion": "training",
    "rerank": "order",
    "reranker_plan": "training",
    "train_cross_encoder": "training",
    "train_reranker": "training",
}

__all__ = [
    "TEMPLATES",
    "CausalReranker",
    "CrossEncoderReranker",
    "Example",
    "Fusion",
    "Interpolation",
    "Judgements",
    "ReciprocalRank",
    "Reranked",
    "Template",
    "fit_fusion",
    "rerank",
    "reranker_plan",
    "train_cross_encoder",
    "train_reranker",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qindex.rerank' has no attribute {name!r}")
    try:
        home = importlib.import_module(f"qindex.rerank.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        raise ImportError(f"rerank.{name} needs torch and transformers: pip install 'qindex[rerank]'") from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
