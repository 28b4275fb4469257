"""Layers whose weights are `Codes`: a linear layer, and the embedding of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from qindex import kernels
from qindex.device import Activations, DeviceCodes
from qindex.quantize import blocks
from qindex.types import Codes


class QuantLinear(nn.Module):
    """`x @ weight.T + bias`, where the rows of the weight are codes and the bias is their offsets.

    An index scores its rows against queries; this scores output channels against tokens, by the same
    `kernels.matmul`. `activations` says what it rounds tokens to. A row of the result depends on that row of `x` alone:
    not on the others, nor on how many there are, nor on the number of threads.

    x: float (..., codes.dim) -> float32 (..., len(codes)). There are no gradients.
    """

    def __init__(self, codes: Codes, activations: Activations = "int8") -> None:
        super().__init__()
        self.codes = codes
        self.activations: Activations = activations
        self._placed: Codes | DeviceCodes | torch.Tensor = codes  # a weight in floats, on another device

    @property
    def in_features(self) -> int:
        return self.codes.dim

    @property
    def out_features(self) -> int:
        return len(self.codes)

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight, (out_features, in_features) float32, made anew at each call."""
        return torch.from_numpy(blocks.decode(self.codes))

    @property
    def bias(self) -> torch.Tensor | None:
        return None if self.codes.offset is None else torch.from_numpy(self.codes.offset.copy())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:-1], len(self.codes))
        if isinstance(self._placed, Codes):
            numbers = x.to(torch.float32).numpy(force=True).reshape(-1, x.shape[-1])
            product = kernels.matmul(numbers, self._placed, activations=self.activations)
            return torch.from_numpy(product.reshape(shape))
        rows = x.detach().to(torch.float32).reshape(-1, x.shape[-1])
        if isinstance(self._placed, torch.Tensor):
            bias = self.bias
            out = nn.functional.linear(rows, self._placed, None if bias is None else bias.to(rows.device))
        else:
            out = kernels.matmul(rows, self._placed, activations=self.activations)
        return out.view(shape)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantLinear:
        """What `to`, `cuda` and `cpu` call: codes follow to another device, and stay what they are otherwise."""
        super()._apply(fn, recurse)
        device = fn(torch.empty(0)).device
        if device.type == "cpu":
            self._placed = self.codes
        elif self.codes.format.kind == "float":
            self._placed = self.weight.to(device)
        else:
            self._placed = kernels.to_device(self.codes, device)
        return self

    def _save_to_state_dict(self, *args: object, **kwargs: object) -> None:
        raise ValueError("a quantized model has no state dict, its weights are codes: use lowbit.save(model, path)")

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {describe(self.codes)}, {self.activations} activations"


class QuantEmbedding(nn.Module):
    """The rows of a table of tokens, decoded when they are asked for: int64 (...) -> float32 (..., dim)."""

    def __init__(self, codes: Codes) -> None:
        super().__init__()
        self.codes = codes

    @property
    def num_embeddings(self) -> int:
        return len(self.codes)

    @property
    def embedding_dim(self) -> int:
        return self.codes.dim

    @property
    def weight(self) -> torch.Tensor:
        """The decoded table, (num_embeddings, embedding_dim) float32, made anew at each call."""
        return torch.from_numpy(blocks.decode(self.codes))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        chosen, places = np.unique(tokens.numpy(force=True), return_inverse=True)
        if chosen.size and not 0 <= chosen[0] <= chosen[-1] < len(self.codes):
            raise ValueError(f"tokens must lie in [0, {len(self.codes)}), got {chosen[0]} to {chosen[-1]}")
        rows = torch.from_numpy(blocks.decode(self.codes[chosen]))
        return rows[torch.from_numpy(places.reshape(tokens.shape))].to(tokens.device)

    _save_to_state_dict = QuantLinear._save_to_state_dict

    def extra_repr(self) -> str:
        return f"{self.num_embeddings} x {self.embedding_dim}, {describe(self.codes)}"


def describe(codes: Codes) -> str:
    """The format of codes, and their true bits a number."""
    block = f" in blocks of {codes.block}" if codes.block else ""
    return f"{codes.format.name}{block}, {blocks.bits_per_number(codes):.3g} bits"
