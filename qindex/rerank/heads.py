"""Logits of few tokens, and likelihoods of many, from hidden states: each row by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qindex.lowbit.linear import QuantLinear
from qindex.lowbit.network import backbone_of
from qindex.quantize import blocks

# Rows of logits at once, each as long as the vocabulary.
_MOST_ROWS = 64


def head_of(network: PreTrainedModel) -> QuantLinear:
    """What makes logits of hidden states, in codes.

    Raises ValueError for a network without one, or one that makes something else of what its head gives.
    """
    head = network.get_output_embeddings()
    if not isinstance(head, QuantLinear):
        raise ValueError(f"model must be a causal language model with a linear head, got {type(network).__name__}")
    backbone = backbone_of(network)
    tokens = torch.tensor([[0, 1]], device=network.device)
    with torch.no_grad():
        wanted = network(input_ids=tokens).logits
        found = head(backbone(input_ids=tokens).last_hidden_state)
    if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
        raise ValueError(f"model must give the logits of its head as they are, got a {type(network).__name__}")
    return head


def rows(head: QuantLinear, tokens: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (n, d) and biases (n,) of some tokens."""
    codes = head.codes[np.array(tokens)]
    return blocks.decode(codes), np.zeros(len(tokens), np.float32) if codes.offset is None else codes.offset


def dot(state: torch.Tensor, weight: NDArray[np.float32]) -> float:
    """A state (d,) times a row of a head, added up in float64."""
    return float((state.numpy(force=True).astype(np.float64) * weight).sum())


def log_likelihoods(head: QuantLinear, states: torch.Tensor, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Of each of tokens (n,) behind a state (n, d): log softmax(logits)[token], (n,)."""
    found = np.empty(len(tokens), np.float64)
    for start in range(0, len(tokens), _MOST_ROWS):
        some = slice(start, start + _MOST_ROWS)
        for i, logits in enumerate(head(states[some]).numpy(force=True), start):
            highest = logits.max()
            total = np.exp(logits - highest).sum(dtype=np.float64)
            found[i] = float(logits[tokens[i]]) - float(highest) - np.log(total)
    return found
