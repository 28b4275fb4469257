"""What tells the weights of a network in memory from others'."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from qindex.types import Codes

_ENDS = 4096  # numbers of a weight


def add_weights(digest: Any, network: nn.Module, *, unread: str | None = None) -> None:
    """Add the shapes, and the beginning and end, of each weight and of the codes of quantized layers to a hash.

    Weights whose names hold `unread` are left out.
    """
    for name, weight in network.named_parameters():
        if unread is not None and unread in name:
            continue
        flat = weight.detach().reshape(-1)
        ends = torch.cat([flat[:_ENDS], flat[-_ENDS:]]).cpu().contiguous().view(torch.uint8)
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        digest.update(ends.numpy().tobytes())
    for name, module in network.named_modules():
        codes = getattr(module, "codes", None)  # of a quantized layer
        if isinstance(codes, Codes):
            for array in codes.rowwise:
                content = array.reshape(-1).view(np.uint8)
                digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
                digest.update(content[: 4 * _ENDS].tobytes() + content[-4 * _ENDS :].tobytes())
