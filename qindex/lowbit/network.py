"""What a network is made of, to whoever quantizes it: layers with weights, by name, and its backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with a weight of two axes. Layers that are tied have the same weight."""

    name: str
    module: nn.Module
    is_table: bool  # of tokens: its rows are looked up

    @property
    def tensor(self) -> torch.Tensor:
        found = self.module.weight
        assert isinstance(found, torch.Tensor)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Of `weight`."""
        rows, columns = self.tensor.shape
        return (columns, rows) if isinstance(self.module, Conv1D) else (rows, columns)

    @property
    def weight(self) -> NDArray[np.float32]:
        """(out, in) float32, or a row for each token."""
        tensor = self.tensor.detach().to("cpu", torch.float32)
        return (tensor.T if isinstance(self.module, Conv1D) else tensor).contiguous().numpy()

    @property
    def bias(self) -> NDArray[np.float32] | None:
        found = getattr(self.module, "bias", None)
        return None if found is None else found.detach().to("cpu", torch.float32).contiguous().numpy()


def layers_of(network: PreTrainedModel) -> list[Layer]:
    """All linear layers, and the table of tokens, in the order of the network.

    Subclasses of `torch.nn.Linear` and of `torch.nn.Embedding` do something else with their weights and are left out.
    """
    table = network.get_input_embeddings()
    return [
        Layer(name, module, module is table)
        for name, module in network.named_modules()
        if type(module) in (nn.Linear, Conv1D) or (module is table and type(module) is nn.Embedding)
    ]


def network_of(model: Any) -> PreTrainedModel:
    """The network itself, or that within a SentenceTransformer. TypeError for another model."""
    first = next(model.children(), None) if isinstance(model, nn.Sequential) else None
    found = model if first is None else getattr(first, "auto_model", None)
    if not isinstance(found, PreTrainedModel):
        raise TypeError(
            f"model must be a PreTrainedModel of transformers or a SentenceTransformer around one, got {type(model)!r}"
        )
    return found


def backbone_of(network: PreTrainedModel) -> PreTrainedModel:
    """The part of a network that gives hidden states: all of it, where it has no head."""
    found = network.base_model
    assert isinstance(found, PreTrainedModel)
    return found


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where another of that name was."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
