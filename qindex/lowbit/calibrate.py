"""Statistics of what enters each layer, from calibration texts that stream through the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from qindex.lowbit.network import layers_of
from qindex.lowbit.statistics import Collector, Statistics

_MOST_TOKENS = 2048  # of a text


@torch.no_grad()
def collect(
    network: PreTrainedModel,
    texts: Iterable[str | Sequence[int]],
    tokenizer: Any = None,
    *,
    max_dim: int = 8192,
    progress: bool | None = None,
) -> Statistics:
    """Run texts, or lists of token numbers, through a network, and sum up what enters its linear layers.

    One text runs at a time, so memory is bounded by the largest text and the statistics themselves: float64 (dim, dim)
    for a layer of up to `max_dim` inputs. Layers that run one after another on one input, as queries, keys and values
    do, share its statistics.

    Raises ValueError for texts without a tokenizer, for none at all, and for inputs that are not finite.
    """
    collector = Collector(max_dim)
    # The last input and the first layer that it met. It is held until the next comes: only as long as it lives is its
    # address its own.
    last: tuple[torch.Tensor, str] | None = None
    leaders: dict[str, str] = {}

    def hook(name: str) -> Any:
        def before(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            nonlocal last
            x = arguments[0]
            if last is None or (last[0].data_ptr(), last[0].shape) != (x.data_ptr(), x.shape):
                last = x, name
            leader = leaders.setdefault(name, last[1])
            if leader == name:
                collector.add(name, x.reshape(-1, x.shape[-1]).to("cpu", torch.float32).numpy())

        return before

    handles = [
        layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers_of(network) if not layer.is_table
    ]
    was_training = network.training
    network.eval()
    try:
        for text in tqdm(texts, desc="calibrate", unit="text", disable=None if progress is None else not progress):
            tokens = _tokens(text, tokenizer)
            if tokens:
                network(input_ids=torch.tensor([tokens], device=network.device))
            last = None
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
    taken = collector.take()
    if not taken:
        raise ValueError("calibration must have a text at least, got none")
    return Statistics(tuple(leaders), tuple(taken[leader] for leader in leaders.values()))


def _tokens(text: str | Sequence[int], tokenizer: Any) -> list[int]:
    if not isinstance(text, str):
        return list(text)
    if tokenizer is None:
        raise ValueError("tokenizer must be given for calibration with texts; or pass lists of token numbers")
    most = min(_MOST_TOKENS, tokenizer.model_max_length)
    found: list[int] = tokenizer(text, truncation=True, max_length=most)["input_ids"]
    return found
