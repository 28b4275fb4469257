"""Keys and values of the tokens that a causal network has seen, in buffers that grow by doubling."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_FIRST_ROOM = 64  # tokens


class KeyValueCache(DynamicCache):
    """A cache to pass as `past_key_values`: transformers' DynamicCache, which does not copy itself at each step."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config=config)
        self.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]


class _GrowingLayer(DynamicLayer):
    """`keys` and `values` are the used parts of buffers (b, heads, room, d)."""

    keys: torch.Tensor
    values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._buffers = [_buffer(new, 0) for new in (key_states, value_states)]
        self.keys, self.values = (buffer[:, :, :0] for buffer in self._buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, new = self.get_seq_length(), (key_states, value_states)
        stop = used + key_states.shape[-2]
        # Elsewhere, once rows were reordered (beam search); of a cropped cache, the beginning stays where it was.
        moved = self.keys.data_ptr() != self._buffers[0].data_ptr()
        if moved or stop > self._buffers[0].shape[-2]:
            grown = [_buffer(states, stop) for states in new]
            for buffer, old in zip(grown, (self.keys, self.values), strict=True):
                buffer[:, :, :used] = old
            self._buffers = grown
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[:, :, used:stop] = states
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] if self.is_initialized else 0


def _buffer(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Room for twice as many tokens; the heads of a token lie side by side, as attention reads them."""
    b, heads, _, d = like.shape
    return like.new_zeros(b, max(_FIRST_ROOM, 2 * tokens), heads, d).transpose(1, 2)
