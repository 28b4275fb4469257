"""Norms and activations through the library's kernels: a token's result has the same bits wherever it stands.

torch works on whatever fills a register, and what is left over at the end it computes by other instructions, so the
last bit of a number depends on its place in the batch. These modules take the place of torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qindex import layers

_Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class LayerNorm(nn.Module):
    """As `torch.nn.LayerNorm` over the last axis, float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight = _fixed(weight)
        self.bias = None if bias is None else _fixed(bias)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        weight, bias = self.weight.numpy(), None if self.bias is None else self.bias.numpy()
        return _by_rows(lambda rows: layers.layer_norm(rows, weight, bias, self.eps), x)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x ** 2) + eps) * (weight + added) over the last axis, float32 (arXiv 1910.07467)."""

    def __init__(self, weight: torch.Tensor, eps: float, added: float = 0.0) -> None:
        super().__init__()
        self.weight = _fixed(weight)
        self.eps = eps
        self.added = added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu":
            return nn.functional.rms_norm(x, x.shape[-1:], self.weight + self.added, self.eps)
        weight = self.weight.numpy()
        if self.added:
            weight = weight + np.float32(self.added)
        return _by_rows(lambda rows: layers.rms_norm(rows, weight, self.eps), x)


class Activation(nn.Module):
    """A function of each number: `instead` of a module of torch, which works where there are no kernels."""

    def __init__(self, function: _Function, instead: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.instead = instead

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.instead(x) if x.device.type != "cpu" else _by_rows(self.function, x)


def _by_rows(function: _Function, x: torch.Tensor) -> torch.Tensor:
    rows = np.ascontiguousarray(x.to(torch.float32).numpy(force=True)).reshape(-1, x.shape[-1])
    return torch.from_numpy(function(rows).reshape(x.shape))


def _fixed(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().to(torch.float32).contiguous(), requires_grad=False)


def _gelu_tanh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return layers.gelu(x, "tanh")


# The modules of torch and transformers that compute them, by the names of their classes.
_ACTIVATIONS: dict[str, _Function] = {
    "GELUActivation": layers.gelu,
    "GELUTanh": _gelu_tanh,
    "NewGELUActivation": _gelu_tanh,
    "FastGELUActivation": _gelu_tanh,
    "AccurateGELUActivation": _gelu_tanh,
    "SiLU": layers.silu,
    "SiLUActivation": layers.silu,
    "Tanh": layers.tanh,
}


def replacement(module: nn.Module) -> nn.Module | None:
    """A module of this file that does what `module` does; None if there is none."""
    name = type(module).__name__
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        weight = torch.ones(module.normalized_shape) if module.weight is None else module.weight
        return LayerNorm(weight, module.bias, module.eps)
    if type(module) is nn.GELU:
        return Activation(_gelu_tanh if module.approximate == "tanh" else layers.gelu, module)
    if name in _ACTIVATIONS:
        return Activation(_ACTIVATIONS[name], module)
    return _rms_norm(module) if name.endswith("RMSNorm") else None


@torch.no_grad()
def _rms_norm(module: nn.Module) -> RMSNorm | None:
    """Each model has an RMSNorm of its own, and some add 1 to the weight: which it is, a trial tells."""
    weight = getattr(module, "weight", None)
    eps = next(
        (value for name in ("variance_epsilon", "eps") if (value := getattr(module, name, None)) is not None), None
    )
    if weight is None or weight.dim() != 1 or not isinstance(eps, float):
        return None
    trial = torch.linspace(-3, 2, 2 * len(weight), dtype=weight.dtype).view(2, -1)
    wanted = module(trial).to(torch.float32)
    for candidate in (RMSNorm(weight, eps), RMSNorm(weight, eps, added=1.0)):
        if torch.allclose(candidate(trial), wanted, rtol=1e-2 if weight.dtype != torch.float32 else 1e-5, atol=1e-6):
            return candidate
    return None
