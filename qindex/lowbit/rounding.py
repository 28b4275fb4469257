"""Training with weights as a plan will round them, so that rounding them afterwards loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qindex.lowbit.network import layers_of
from qindex.lowbit.plan import Plan
from qindex.lowbit.recipes import Recipe
from qindex.lowbit.solvers import Nearest
from qindex.quantize.blocks import decode


@contextmanager
def rounded_weights(network: PreTrainedModel, plan: Plan) -> Iterator[None]:
    """Within, `network` computes with its weights as `plan` rounds them to nearest; a step changes those behind them.

    Gradients pass the rounding as if it were not there (straight-through: Bengio et al., arXiv 1308.3432). Afterwards
    the network has the rounded weights, and `quantize(network, plan.with_solver(Nearest()))` keeps them as they are.
    Make the optimizer within. Raises ValueError for a plan that matches no layer.
    """
    layers = layers_of(network)
    recipes = plan.with_solver(Nearest()).recipes(layer.name for layer in layers)
    rounded = [layer.module for layer in layers if layer.name in recipes]
    for layer in layers:
        if layer.name in recipes:
            rounding = _Rounded(recipes[layer.name], isinstance(layer.module, Conv1D))
            parametrize.register_parametrization(layer.module, "weight", rounding)
    settled = False
    try:
        yield
        settled = True
    finally:  # weights that training has spoilt are left to whoever handles the error
        for module in rounded:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=settled)


class _Rounded(nn.Module):
    def __init__(self, recipe: Recipe, transposed: bool) -> None:
        super().__init__()
        self.recipe = recipe
        self.transposed = transposed

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows = weight.detach().to("cpu", torch.float32)
        rows = (rows.T if self.transposed else rows).contiguous()
        rounded = torch.from_numpy(decode(self.recipe.quantize(rows.numpy())))
        passed: torch.Tensor = _Passed.apply(weight, (rounded.T if self.transposed else rounded).to(weight))
        return passed


class _Passed(torch.autograd.Function):
    """The second of two tensors, whose gradient is that of the first."""

    @staticmethod
    def forward(_: Any, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None
