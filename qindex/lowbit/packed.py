"""How a quantized network runs: on the tokens of many sequences packed one behind the other, without padding.

Everything in such a network works token by token (`QuantLinear`, norms, activations) but for attention, which keeps to
each sequence (`attention.py`). So the result of a sequence has the same bits alone and in any batch.

The network is called as ever, with padded (b, t) tokens and a mask. Its class is exchanged for one that packs them,
and spreads the hidden states out again. A call that wants a cache, as `generate` does, is not packed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

# Tokens that run at once: few enough for what is between two layers to stay in the cache, enough to unpack weights for.
PACK_TOKENS = 1024

# What makes a call one that is not packed: it adds to a cache, or is packed already.
_AS_IS = ("past_key_values", "cu_seq_lens_q", "encoder_hidden_states", "encoder_attention_mask")


class Packs:
    """What `packing` mixes into the class of a backbone: the part of a network that gives hidden states."""

    # The position of the first token where sequences may be packed; None: they run one by one.
    first_position: int | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]
        given = _named(plain, args, kwargs)
        tokens, mask = given.get("input_ids", given.get("inputs_embeds")), given.get("attention_mask")
        as_is = given.get("use_cache") or any(name in given for name in _AS_IS)
        if tokens is None or as_is or (mask is not None and mask.dim() != 2):
            return plain(**given)
        if given.get("output_attentions"):
            raise ValueError("output_attentions must be False, a quantized network keeps no attention weights")
        return _run(self, plain, given, tokens)


def packing(backbone: Any) -> None:
    """Let a backbone pack what it is called with, once it has a `first_position`."""
    kind: Any = type(backbone)
    if not issubclass(kind, Packs):
        backbone.__class__ = _packing_class(kind)


@functools.cache
def _packing_class(kind: Any) -> Any:
    @functools.wraps(kind.forward)  # callers look at the names of its arguments
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return Packs.forward(self, *args, **kwargs)

    about = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Packs, kind), about)


def _named(forward: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, but for those that are None."""
    bound = dict(inspect.signature(forward).bind(*args, **kwargs).arguments)
    bound |= bound.pop("kwargs", {})
    return {name: value for name, value in bound.items() if value is not None}


def _run(backbone: Any, plain: Any, given: dict[str, Any], tokens: torch.Tensor) -> Any:
    """What `plain` gives for padded tokens, computed without the padding."""
    b, t = tokens.shape[:2]
    mask = given.pop("attention_mask", None)
    as_dict = given.pop("return_dict", True)
    there = torch.ones(b, t, dtype=torch.bool) if mask is None else mask.to("cpu", torch.bool)
    lengths = there.sum(1)
    options = {name: given.pop(name) for name in list(given) if not _is_tokenwise(given[name], b, t)}
    options |= {"use_cache": False, "return_dict": True}
    if not lengths.any():
        raise ValueError(f"attention_mask must leave a token at least, got {b} sequences without any")
    alone = backbone.first_position is None
    if not alone and "position_ids" not in given:
        positions = torch.arange(t) - there.to(torch.int8).argmax(1, keepdim=True) + backbone.first_position
        given["position_ids"] = positions.to(tokens.device)
    hidden: list[torch.Tensor] = []
    outputs: Any = None
    for rows in _packs(lengths, alone):
        places = torch.cat([row * t + there[row].nonzero()[:, 0] for row in rows]).to(tokens.device)
        packed = {name: value.expand(b, *value.shape[1:]).flatten(0, 1)[places][None] for name, value in given.items()}
        # A mask of ones tells transformers not to look for sequences in the positions.
        packed["attention_mask"] = torch.ones(1, len(places), dtype=torch.int64, device=tokens.device)
        outputs = plain(**packed, **options, **({} if alone else _bounds(lengths[rows])))
        states = outputs.hidden_states if getattr(outputs, "hidden_states", None) is not None else ()
        found = [outputs.last_hidden_state, *states]
        if not hidden:
            hidden = [x.new_zeros(b * t, x.shape[-1]) for x in found]
        for all_rows, some in zip(hidden, found, strict=True):
            all_rows[places] = some[0]
    padded = [x.view(b, t, -1) for x in hidden]
    outputs.last_hidden_state = padded[0]
    if len(padded) > 1:
        outputs.hidden_states = tuple(padded[1:])
    if getattr(outputs, "pooler_output", None) is not None:
        outputs.pooler_output = backbone.pooler(padded[0])
    return outputs if as_dict else outputs.to_tuple()


def _is_tokenwise(value: Any, b: int, t: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape[0] in (1, b) and value.shape[1] == t


def _packs(lengths: torch.Tensor, alone: bool) -> Iterator[list[int]]:
    """Rows that run at once, those of like lengths together; rows without tokens do not run."""
    pack: list[int] = []
    n = 0
    for row in lengths.argsort(stable=True).tolist():
        length = int(lengths[row])
        if not length:
            continue
        if pack and (alone or n + length > PACK_TOKENS):
            yield pack
            pack, n = [], 0
        pack.append(row)
        n += length
    if pack:
        yield pack


def _bounds(lengths: torch.Tensor) -> dict[str, Any]:
    """Where sequences begin and end, as flash attention's callers say it."""
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32)
    longest = int(lengths.max())
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


@torch.no_grad()
def find_first_position(backbone: PreTrainedModel) -> int | None:
    """Try whether sequences may be packed: the first position with which they give the bits that they give alone.

    Most networks count positions from 0, those in the line of RoBERTa from behind the number of the padding. None: the
    network mixes what is packed (it counts positions by itself, or its attention does not go by `attention.py`).
    """
    if not backbone.is_backend_compatible():
        return None
    config = backbone.config.get_text_config()
    vocabulary = int(config.vocab_size)
    used = {getattr(config, "pad_token_id", None)}
    some = [token for token in range(min(vocabulary, 64)) if token not in used]
    sequences = [[some[(3 * i + j) % len(some)] for i in range(n)] for j, n in ((0, 5), (1, 9), (2, 2))]
    width = max(map(len, sequences))
    padded = torch.tensor([one + [some[0]] * (width - len(one)) for one in sequences])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in sequences])
    padding = getattr(config, "pad_token_id", None)

    def hidden(first_position: int | None) -> torch.Tensor:
        backbone.first_position = first_position  # type: ignore[assignment]
        found: torch.Tensor = backbone(input_ids=padded, attention_mask=mask).last_hidden_state
        return found

    alone = hidden(None)
    for candidate in (0, *([padding + 1] if isinstance(padding, int) else [])):
        if torch.equal(hidden(candidate), alone):
            return candidate
    return None


class OneByOne(nn.Module):
    """The modules of a sentence-transformers model behind its network, for each text by itself.

    Pooling sums over padded batches in an order that depends on the longest text in them.
    """

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        tokens, mask = features["token_embeddings"], features["attention_mask"].to(torch.bool)
        found = []
        for row in range(len(tokens)):
            one = {name: value[row : row + 1] if _is_rowwise(value, len(tokens)) else value
                   for name, value in features.items()}  # fmt: skip
            one["token_embeddings"] = tokens[row : row + 1, mask[row]]
            one["attention_mask"] = features["attention_mask"][row : row + 1, mask[row]]
            for step in self.steps:
                one = step(one, **kwargs)
            found.append(one["sentence_embedding"])
        features["sentence_embedding"] = torch.cat(found)
        return features


def _is_rowwise(value: Any, n: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == n
