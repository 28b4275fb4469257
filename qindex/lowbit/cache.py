"""Keys and values of the tokens that a causal network has seen, in buffers that grow by doubling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_FIRST_ROOM = 64  # tokens

CacheFormat = Literal["float32", "int8"]


class KeyValueCache(DynamicCache):
    """A cache to pass as `past_key_values`: transformers' DynamicCache, which does not copy itself at each step.

    In "int8", the keys and the values of each token and head are bytes with a step of their own, which are decoded
    whenever attention asks for them: about a quarter of the memory. Layers with a sliding window keep their few tokens
    as they are.
    """

    def __init__(self, config: PreTrainedConfig, format: CacheFormat = "float32") -> None:
        check_format("format", format)
        super().__init__(config=config)
        self.layers = [LAYERS[format]() if type(layer) is DynamicLayer else layer for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens seen; buffers have room for up to twice as many, or for a first few."""
        used = [layer for layer in self.layers if getattr(layer, "is_initialized", False)]
        parts = (getattr(layer, name, None) for layer in used for name in Int8Layer.names)
        return sum(part.nbytes for part in parts if part is not None)


def check_format(name: str, format: str) -> None:
    if format not in get_args(CacheFormat):
        raise ValueError(f"{name} must be one of {', '.join(get_args(CacheFormat))}, got {format!r}")


class GrowingLayer(DynamicLayer):
    """`keys` and `values` are the used parts of buffers (b, heads, room, d)."""

    names: tuple[str, ...] = ("keys", "values")
    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._append(self._stored(key_states, value_states))
        return self.read()

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all tokens, (b, heads, tokens, d)."""
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] if self.is_initialized else 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        stored = self._stored(key_states, value_states)
        self._buffers = [_buffer(new, 0) for new in stored]
        for name, buffer in zip(self.names, self._buffers, strict=True):
            setattr(self, name, buffer[:, :, :0])

    def _stored(self, keys: torch.Tensor, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """What is kept of them, as `names` says."""
        return keys, values

    def _append(self, new: Sequence[torch.Tensor]) -> None:
        used = self.get_seq_length()
        stop = used + new[0].shape[-2]
        # Elsewhere, once rows were reordered (beam search); of a cropped cache, the beginning stays where it was.
        moved = self.keys.data_ptr() != self._buffers[0].data_ptr()
        if moved or stop > self._buffers[0].shape[-2]:
            grown = [_buffer(states, stop) for states in new]
            for buffer, name in zip(grown, self.names, strict=True):
                buffer[:, :, :used] = getattr(self, name)
            self._buffers = grown
        for buffer, states, name in zip(self._buffers, new, self.names, strict=True):
            buffer[:, :, used:stop] = states
            setattr(self, name, buffer[:, :, :stop])


class Int8Layer(GrowingLayer):
    """`keys` and `values` are int8, and `key_steps` and `value_steps` (b, heads, tokens, 1) what 1 of them stands for.

    A token has the same codes whenever it comes, so a network gives the same bits step by step and at once.
    """

    names = ("keys", "values", "key_steps", "value_steps")
    key_steps: torch.Tensor
    value_steps: torch.Tensor

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys * self.key_steps, self.values * self.value_steps

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if self.is_initialized:
            self._each_step(lambda steps: steps[:, :, : self.get_seq_length()])

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._choose_steps(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._choose_steps(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.is_initialized:
            self._each_step(lambda steps: steps.repeat_interleave(repeats, dim=0))

    def _stored(self, keys: torch.Tensor, values: torch.Tensor) -> Sequence[torch.Tensor]:
        (key_codes, key_steps), (value_codes, value_steps) = _rounded(keys), _rounded(values)
        return key_codes, value_codes, key_steps, value_steps

    def _choose_steps(self, rows: torch.Tensor) -> None:
        if self.is_initialized:
            self._each_step(lambda steps: steps[rows.to(steps.device)])

    def _each_step(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.key_steps, self.value_steps = change(self.key_steps), change(self.value_steps)


LAYERS: dict[str, type[GrowingLayer]] = {"float32": GrowingLayer, "int8": Int8Layer}


def _rounded(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (b, heads, t, d) int8, and steps (b, heads, t, 1) float32."""
    states = states.to(torch.float32)
    steps = states.abs().amax(-1, keepdim=True) / 127
    codes = (states / steps.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-127, 127)
    return codes.to(torch.int8), steps


def _buffer(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Room for twice as many tokens; the heads of a token lie side by side, as attention reads them."""
    b, heads, _, d = like.shape
    return like.new_zeros(b, max(_FIRST_ROOM, 2 * tokens), heads, d).transpose(1, 2)
