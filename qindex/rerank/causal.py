"""Rerank with a causal language model, which reads the query and a document in one prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from qindex import lowbit
from qindex.io import PathLike
from qindex.lowbit.cache import check_format
from qindex.lowbit.fingerprint import add_weights
from qindex.lowbit.network import backbone_of, network_of
from qindex.lowbit.packed import Packs
from qindex.rerank import heads, listwise, order
from qindex.rerank.continuations import Continuations
from qindex.rerank.fusion import Fusion
from qindex.rerank.prompts import Asked, Prompts
from qindex.rerank.templates import TEMPLATES, Template
from qindex.types import Hit, as_texts

Scores = NDArray[np.float32]

# The longest prompt, unless the caller wants longer ones.
_MAX_LENGTH = 2048


class CausalReranker:
    """Scores documents by what a causal language model says behind a prompt (`Template`).

        reranker = CausalReranker("Qwen/Qwen3-Reranker-0.6B", "qwen3", plan=lowbit.Plan.default(8))
        hits = reranker.rerank(query, hits, k=10)

    `model` is a causal network of transformers with its `tokenizer`, the name of one or its folder (where a .gguf file
    may be, or that file), or a file of `lowbit.save`. `plan` quantizes it; without one it stays in float32. Either way,
    on the CPU, a document has the same bits alone and beside any others. A listwise template is the exception: there,
    documents compete.

    What comes before the document in a prompt is read once for all documents of a query; `cache` is how its keys and
    values are kept, "int8" in a quarter of the memory. Prompts of more than `max_length` tokens lose the ends of their
    documents; the default is 2048, or what the model can read if that is less. `instruction` takes the place of that
    of the template. `network` is what runs, for `lowbit.report` and `lowbit.save`.

    Raises ValueError for a template that does not fit the tokenizer or `max_length`, and for a plan where the model is
    quantized already.
    """

    def __init__(
        self,
        model: PreTrainedModel | PathLike,
        template: str | Template = "likelihood",
        *,
        plan: lowbit.Plan | None = None,
        tokenizer: Any = None,
        instruction: str | None = None,
        max_length: int | None = None,
        device: str | None = None,
        cache: Literal["float32", "int8"] = "float32",
    ) -> None:
        check_format("cache", cache)
        self.template = _template(template)
        network, tokenizer = _loaded(model, tokenizer)
        # Before weights are quantized, which takes long.
        length = _length(network, max_length)
        self._prompts = Prompts(self.template, tokenizer, length, instruction)
        self._settings = f"{self.template!r} {instruction!r} {length} {cache}"
        self.network = _quantized(network, plan, tokenizer)
        self._head = heads.head_of(self.network)
        self._continuations = Continuations(backbone_of(self.network), cache)
        if device is not None:
            nn.Module.to(self.network, device)
        if self._prompts.answers:
            self._weights, self._biases = heads.rows(self._head, self._prompts.answers)

    @property
    def identity(self) -> str:
        """Names the scores by what they depend on: weights, prompt, length, cache. It tells kept results apart."""
        digest = hashlib.sha256(self._settings.encode())
        add_weights(digest, self.network)
        return f"causal {digest.hexdigest()[:32]}"

    @property
    def compares(self) -> bool:
        """Whether documents compete, so that all must be scored at once."""
        return self.template.kind == "listwise"

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """(n,) float32, larger is better; -inf for documents without text.

        Of "yes_no" the logit of yes, less that of no if the template has one; of "likelihood" the mean log probability
        of the query's tokens; of "listwise" places, n for the best of n documents and 1 for the last.

        Raises ValueError for an empty query.
        """
        return order.score_nonempty(self._score, query, as_texts(documents, "documents"))

    def rerank(
        self,
        query: str,
        hits: Sequence[Hit],
        k: int = 10,
        *,
        budget_ms: float | None = None,
        fuse: Fusion | None = None,
        progress: bool | None = None,
    ) -> order.Reranked:
        """The k best of `hits`: see `qindex.rerank.rerank`. A listwise template has no budget and no bounded `fuse`."""
        return order.rerank(self, query, hits, k, budget_ms=budget_ms, fuse=fuse, progress=progress)

    def _score(self, query: str, documents: Sequence[str]) -> Scores:
        asked = self._prompts.ask(query)
        tokens = [self._prompts.document(document)[: asked.room] for document in documents]
        if self.template.kind == "listwise":
            return self._places(asked, tokens)
        found = np.empty(len(documents), np.float32)
        if self.template.kind == "likelihood":
            # The last token of the query predicts nothing that is asked for.
            sequences = [(*document, *asked.after[:-1]) for document in tokens]
            for row, states in self._continuations.hidden(asked.before, sequences, len(asked.query)):
                found[row] = heads.log_likelihoods(self._head, states, asked.query).mean()
            return found
        weight, bias = self._weights[0], self._biases[0]
        if len(self._weights) > 1:
            weight, bias = weight - self._weights[1], bias - self._biases[1]
        sequences = [(*document, *asked.after) for document in tokens]
        for row, states in self._continuations.hidden(asked.before, sequences, 1):
            found[row] = heads.dot(states[0], weight) + bias
        return found

    def _places(self, asked: Asked, documents: Sequence[Sequence[int]]) -> Scores:
        def scored(some: Sequence[int]) -> NDArray[np.float64]:
            prompt = (*self._prompts.lines([tuple(documents[i]) for i in some]), *asked.after)
            ((_row, states),) = self._continuations.hidden(asked.before, [prompt], 1)
            logits = [heads.dot(states[0], weight) for weight in self._weights[: len(some)]]
            return np.array(logits) + self._biases[: len(some)]

        best_first = listwise.slide(len(documents), len(self._prompts.answers), self.template.step, scored)
        found = np.empty(len(documents), np.float32)
        found[best_first] = np.arange(len(documents), 0, -1)
        return found


def _template(template: str | Template) -> Template:
    if isinstance(template, Template):
        return template
    if template not in TEMPLATES:
        raise ValueError(f"template must be a Template, or one of {', '.join(TEMPLATES)}, got {template!r}")
    return TEMPLATES[template]


def _loaded(model: PreTrainedModel | PathLike, tokenizer: Any) -> tuple[PreTrainedModel, Any]:
    if isinstance(model, PreTrainedModel):
        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        if tokenizer is None:
            raise ValueError(f"tokenizer must be given with a {type(model).__name__} that brings none, got None")
        return model, tokenizer
    path = Path(model)
    if path.is_file() and path.suffix != ".gguf":
        network = network_of(lowbit.load(model))
        return _loaded(network, tokenizer)
    options: dict[str, str] = {}
    if weights := [path] if path.is_file() else sorted(path.glob("*.gguf")):
        if len(weights) > 1:
            raise ValueError(f"model must be a folder with one .gguf file, or one of its {len(weights)}, got {model}")
        model = path.parent if path.is_file() else path
        options["gguf_file"] = weights[0].name
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
    return AutoModelForCausalLM.from_pretrained(model, dtype="float32", **options), tokenizer


def _length(network: PreTrainedModel, max_length: int | None) -> int:
    most = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if max_length is None:
        return _MAX_LENGTH if most is None else min(most, _MAX_LENGTH)
    if max_length < 1 or (most is not None and max_length > most):
        raise ValueError(f"max_length must be from 1 to {most}, which the model can read, got {max_length}")
    return max_length


def _quantized(network: PreTrainedModel, plan: lowbit.Plan | None, tokenizer: Any) -> PreTrainedModel:
    if not isinstance(backbone_of(network), Packs):
        made: PreTrainedModel = lowbit.quantize(network, plan or lowbit.Plan.of({"*": "float32"}), tokenizer=tokenizer)
        return made
    if plan is not None:
        raise ValueError("plan must be None for a model that is quantized already, got one: pass the model in floats")
    return network
