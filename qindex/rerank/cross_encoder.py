"""Cross-encoders: a network that reads query and document as one text and gives a number."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from qindex import lowbit
from qindex.lowbit.fingerprint import add_weights
from qindex.lowbit.packed import Packs
from qindex.rerank.fusion import Fusion, Interpolation
from qindex.rerank.order import Reranked, rerank, score_nonempty
from qindex.types import Hit, as_texts

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

# Documents that run at once, those of like length together.
_BATCH = 32

# Where a network that was trained here keeps how its scores meet those of the first stage.
_FUSION = "qindex_fusion"


class CrossEncoderReranker:
    """Scores documents by a cross-encoder, in floats or in few bits.

    `model` is a name on the Hugging Face hub or a local folder (of a sentence-transformers `CrossEncoder`, or any model
    for sequence classification with one label, or two: irrelevant and relevant), a file of `save`, a loaded
    `CrossEncoder`, or a network with its `tokenizer`. Scores are logits: larger is better, nothing else is meant.

    With a `plan` (`lowbit.Plan.default(bits)`) it runs in few bits, and a document has the same score, to the bit,
    alone and among any others. In floats, torch computes, and the last bits depend on the batch.

    A document is cut at `max_length` tokens, together with its query and the marks between them; a query takes half of
    them at most. `fuse` says what its scores and those of a first stage make in `rerank`, if that is not told; models
    that were trained here bring it along.

    Raises ValueError for a model with other labels; code that comes with a model is never run.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | CrossEncoder,
        *,
        plan: lowbit.Plan | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        device: str | None = None,
        fuse: Fusion | None = None,
    ) -> None:
        network, tokenizer = _loaded(model, tokenizer)
        labels = network.config.num_labels
        if labels not in (1, 2):
            raise ValueError(f"model must have one label, or two, to score with, got {labels}: it is a classifier")
        if plan is not None:
            network = lowbit.quantize(network, plan, tokenizer=tokenizer)
        network.eval()
        self._network: Any = network
        self._tokenizer = tokenizer
        self._two_labels = labels == 2
        self._max_length = _max_length(network, tokenizer, max_length)
        if device is not None:
            self._network.to(device)
        saved = getattr(network.config, _FUSION, None)
        self.fuse: Fusion | None = Interpolation(**saved) if fuse is None and saved else fuse

    @property
    def network(self) -> PreTrainedModel:
        """The network that scores: for `lowbit.report`."""
        network: PreTrainedModel = self._network
        return network

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def identity(self) -> str:
        """Names the scores by what they depend on: weights, length and fusion. It tells kept results apart."""
        digest = hashlib.sha256(f"{self._max_length} {self._two_labels} {self.fuse!r}".encode())
        add_weights(digest, self._network)
        return f"cross-encoder {digest.hexdigest()[:32]}"

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """(n,) float32 logits, larger is better; -inf for a document without text.

        Raises ValueError for a query without text, TypeError for one string as documents.
        """
        return score_nonempty(self._score, query, as_texts(documents, "documents"))

    def rerank(
        self,
        query: str,
        hits: Sequence[Hit],
        k: int = 10,
        *,
        budget_ms: float | None = None,
        fuse: Fusion | None = None,
        progress: bool | None = None,
    ) -> Reranked:
        """The k best of `hits`: see `qindex.rerank.rerank`. `fuse` is that of the reranker, unless one is told."""
        return rerank(self, query, hits, k, budget_ms=budget_ms, fuse=fuse, progress=progress)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a quantized reranker to one file, one in floats to a folder. Either can be opened by its path."""
        if isinstance(self.fuse, Interpolation):
            setattr(self._network.config, _FUSION, {"weight": self.fuse.weight, "ceiling": self.fuse.ceiling})
        if isinstance(self._network.base_model, Packs):
            lowbit.save(self._network, path, self._tokenizer)
        else:
            self._network.save_pretrained(path)
            self._tokenizer.save_pretrained(path)

    @torch.no_grad()
    def _score(self, query: str, documents: list[str]) -> NDArray[np.float32]:
        query = _shortened(query, self._tokenizer, self._max_length // 2)
        pairs = self._tokenizer(
            [query] * len(documents), documents, truncation="only_second", max_length=self._max_length
        )
        scores = np.empty(len(documents), np.float32)
        for rows in _batches([len(tokens) for tokens in pairs["input_ids"]]):
            some = {name: [values[row] for row in rows] for name, values in pairs.items()}
            batch = self._tokenizer.pad(some, return_tensors="pt").to(self._network.device)
            logits = self._network(**batch).logits.to("cpu", torch.float32)
            scores[rows] = logits[:, 1] - logits[:, 0] if self._two_labels else logits[:, 0]
        return scores


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    order = np.argsort(lengths, kind="stable").tolist()
    yield from (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))


def _shortened(query: str, tokenizer: Any, most: int) -> str:
    """A query of at most so many tokens."""
    places = tokenizer(query, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return query if len(places) <= most else query[: places[most - 1][1]]


def _max_length(network: PreTrainedModel, tokenizer: Any, wanted: int | None) -> int:
    known = (getattr(network.config, "max_position_embeddings", None), tokenizer.model_max_length)
    most = min((int(n) for n in known if n), default=512)
    if wanted is None:
        return most
    least = tokenizer.num_special_tokens_to_add(pair=True) + 4
    if not least <= wanted <= most:
        raise ValueError(f"max_length must be from {least} to {most}, what the model was made for, got {wanted}")
    return wanted


def _loaded(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    found: Any
    if isinstance(model, str | os.PathLike):
        if os.path.isfile(model):
            network: Any = lowbit.load(Path(model))
            found = network.tokenizer if isinstance(network, PreTrainedModel) else None
        else:
            try:
                network = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
                found = AutoTokenizer.from_pretrained(model)
            except OSError as error:
                raise ValueError(
                    f"model must be a file of a reranker, a folder with a model or a name on the hub, got {model!r}: "
                    f"{error}"
                ) from error
    else:  # a CrossEncoder holds both
        network, found = model, getattr(model, "tokenizer", None)
        if not isinstance(model, PreTrainedModel):
            network = getattr(model, "model", model)
    if not isinstance(network, PreTrainedModel) or not type(network).__name__.endswith("ForSequenceClassification"):
        raise TypeError(f"model must be a cross-encoder, got {type(network).__name__}")
    tokenizer = found if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ValueError("tokenizer must come with a network: pass tokenizer=AutoTokenizer.from_pretrained(...)")
    return network, tokenizer
