"""Attention of each sequence by itself, as transformers asks for it: the function that it knows as "qindex".

A batch comes in one of two ways. Packed: all sequences lie one behind the other in one row of tokens, and
`cu_seq_lens_q` says where each begins (as for flash attention). Padded: (b, t) tokens, of which a mask (b, s) tells
which keys are there. Either way a token sees the keys of its own sequence and nothing else enters its result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from qindex import layers

NAME = "qindex"

# What a model may ask of attention that changes its result, and that is not here.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "alibi", "head_mask", "block_mask")


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (b, heads, t, d), key and value (b, key heads, s, d) -> (b, t, heads, d), and no weights."""
    unknown = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if unknown or dropout:
        raise ValueError(
            f"attention must be plain (no {', '.join(unknown) or 'dropout'}), asked for by {type(module).__name__}: "
            f"load this model without lowbit{'' if unknown else ', or call model.eval()'}"
        )
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    width = -1 if sliding_window is None else sliding_window - 1
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    segments = _segments(query, key, attention_mask, cu_seq_lens_q, cu_seq_lens_k)
    b, _heads, t, _d = query.shape
    # (tokens, heads, d): of a projection seen by heads, without copying.
    q, k, v = (x.detach().transpose(1, 2).flatten(0, 1).to(torch.float32) for x in (query, key, value))
    right = 0 if causal else width
    if query.device.type == "cpu":
        arrays = q.numpy(), k.numpy(), v.numpy()
        out = torch.from_numpy(layers.attend(*arrays, segments, scaling=float(scaling), left=width, right=right))
    else:
        out = _attend_there(q, k, v, segments, float(scaling), width, right)
    return out.view(b, t, *out.shape[1:]), None


def _segments(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    starts_q: torch.Tensor | None,
    starts_k: torch.Tensor | None,
) -> NDArray[np.int64]:
    """int64 (n, 4): the first query of each sequence, how many it has, and the same of its keys."""
    (b, _, t, _), s = query.shape, key.shape[2]
    if starts_q is not None:
        q = starts_q.numpy(force=True).astype(np.int64)
        k = q if starts_k is None else starts_k.numpy(force=True).astype(np.int64)
        return np.stack([q[:-1], np.diff(q), k[:-1], np.diff(k)], axis=1)
    if mask is None:
        return np.array([(row * t, t, row * s, s) for row in range(b)], np.int64)
    if mask.dim() != 2 or mask.shape[0] != b:
        raise ValueError(f"attention_mask must be ({b}, {s}), got {tuple(mask.shape)}: pass one number a token")
    mask = mask.to("cpu", torch.bool)
    seen = mask.shape[1]  # a static cache has room for more keys
    count = mask.sum(1)
    first = mask.to(torch.int8).argmax(1)
    last = seen - mask.flip(1).to(torch.int8).argmax(1)
    if not torch.equal((last - first) * (count > 0), count):
        raise ValueError("attention_mask must hide tokens before or behind a sequence, got one with gaps")
    # Queries are the last t of the tokens of a row.
    begin = (first - (seen - t)).clamp(min=0)
    queries = (last - (seen - t) - begin).clamp(min=0)
    row = torch.arange(b)
    return torch.stack([row * t + begin, queries, row * s + first, count], dim=1).numpy()


def _attend_there(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segments: NDArray[np.int64],
    scaling: float,
    left: int,
    right: int,
) -> torch.Tensor:
    """The same on another device, sequence by sequence, so that none depends on another."""
    out = torch.zeros_like(queries)
    repeats = queries.shape[1] // keys.shape[1]
    for q, n_q, k, n_k in segments.tolist():
        if not n_q or not n_k:
            continue
        one = queries[q : q + n_q].transpose(0, 1)
        own_keys, own_values = (x[k : k + n_k].repeat_interleave(repeats, 1).transpose(0, 1) for x in (keys, values))
        ahead = torch.arange(n_k, device=out.device) - torch.arange(n_k - n_q, n_k, device=out.device)[:, None]
        hidden = (ahead > right if right >= 0 else ahead > n_k) | (ahead < -left if left >= 0 else ahead < -n_k)
        scores = (one @ own_keys.transpose(1, 2) * scaling).masked_fill(hidden, float("-inf"))
        out[q : q + n_q] = (scores.softmax(-1) @ own_values).transpose(0, 1)
    return out


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Which keys there are, (b, at most kv_length), or None for all; `attend` knows causal masks and windows itself."""
    if use_vmap or (local_size is not None and _in_chunks(mask_function, local_size, q_length)):
        raise ValueError("attention must be causal, bidirectional or in a window: load this model without lowbit")
    seen = int(q_offset) + q_length - kv_offset
    if attention_mask is None:
        return None if kv_length <= seen else torch.ones(batch_size, seen, dtype=torch.bool)
    mask = attention_mask[:, -kv_length:]
    return None if mask.shape[1] == kv_length and bool(mask.all()) else mask


def _in_chunks(mask_function: Any, size: int, length: int) -> bool:
    """Whether tokens do not see the one before them, where a chunk begins."""
    if length <= size:
        return False
    zero, place = torch.tensor(0), torch.tensor(size)
    return not bool(mask_function(zero, zero, place, place - 1))


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
