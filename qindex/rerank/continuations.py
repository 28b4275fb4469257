"""Hidden states of many continuations of one beginning, which a causal network reads once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from qindex.lowbit.cache import LAYERS, CacheFormat, GrowingLayer
from qindex.lowbit.packed import PACK_TOKENS

Tokens = Sequence[int]

# Tokens of a beginning from which on it takes longer to read it than to bring its keys to each continuation.
_LEAST = 16

# Keys that attention has before it at once: those of the beginning are there for each continuation.
_PACK_KEYS = 16 * PACK_TOKENS


class Continuations:
    """A quantized backbone that runs continuations packed, and keeps the keys and values of the last long beginning.

    A continuation has the same bits alone and beside any others. Networks that cannot be packed, or do other than
    attend to what was before, read every beginning again, one continuation after the other.
    """

    def __init__(self, backbone: PreTrainedModel, format: CacheFormat = "float32") -> None:
        self._backbone: Any = backbone
        self._format: CacheFormat = "float32"  # with which a trial can tell
        self._begun: tuple[tuple[int, ...], list[GrowingLayer]] = ((), [])
        self._packs = self._backbone.first_position is not None
        self._shares = self._packs and self._tried()
        self._format = format
        self._begun = ((), [])

    @torch.no_grad()
    def hidden(self, beginning: Tokens, sequences: Sequence[Tokens], last: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The number of each sequence, and the states (last, d) of its last tokens: those of like lengths together.

        Sequences are continuations of `beginning`, and have `last` tokens at least.
        """
        begun: list[GrowingLayer] = []
        if self._shares and len(beginning) >= _LEAST:
            begun = self._begin(tuple(beginning))
        elif beginning:
            sequences = [(*beginning, *sequence) for sequence in sequences]
        for rows in self._split(sequences, len(beginning) if begun else 0):
            states = self._run(begun, [sequences[row] for row in rows])
            stop = 0
            for row in rows:
                stop += len(sequences[row])
                yield row, states[stop - last : stop]

    def _split(self, sequences: Sequence[Tokens], before: int) -> Iterator[list[int]]:
        """Numbers of sequences that run at once."""
        pack: list[int] = []
        tokens = 0
        for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
            new = len(sequences[row])
            keys = tokens + new + before * (len(pack) + 1)
            if pack and (not self._packs or tokens + new > PACK_TOKENS or keys > _PACK_KEYS):
                yield pack
                pack, tokens = [], 0
            pack.append(row)
            tokens += new
        if pack:
            yield pack

    def _begin(self, beginning: tuple[int, ...]) -> list[GrowingLayer]:
        known, layers = self._begun
        if known != beginning:
            cache: Any = Cache(layer_class_to_replicate=LAYERS[self._format])
            self._call([beginning], 0, cache)
            layers = cache.layers
            self._begun = beginning, layers
        return layers

    def _run(self, begun: list[GrowingLayer], sequences: Sequence[Tokens]) -> torch.Tensor:
        """States of all tokens, (T, d)."""
        if not self._packs:
            tokens = torch.tensor([sequences[0]], device=self._backbone.device)
            states: torch.Tensor = self._backbone(input_ids=tokens).last_hidden_state[0]
            return states
        before = begun[0].get_seq_length() if begun else 0
        if not begun:
            return self._call(sequences, 0, None)
        places = _places(before, [len(sequence) for sequence in sequences]).to(self._backbone.device)
        return self._call(sequences, before, Cache(layers=[_Behind(layer, places) for layer in begun]))

    def _call(self, sequences: Sequence[Tokens], before: int, cache: Cache | None) -> torch.Tensor:
        lengths = [len(sequence) for sequence in sequences]
        first = self._backbone.first_position + before
        options: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache}
        tokens = [token for sequence in sequences for token in sequence]
        positions = [first + i for length in lengths for i in range(length)]
        device = self._backbone.device
        states: torch.Tensor = self._backbone(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            # A mask of ones tells transformers not to look for sequences in the positions.
            attention_mask=torch.ones(1, before + len(tokens), dtype=torch.int64, device=device),
            cu_seq_lens_q=_starts(lengths),
            cu_seq_lens_k=_starts([before + length for length in lengths]),
            max_length_q=max(lengths),
            max_length_k=before + max(lengths),
            **options,
        ).last_hidden_state[0]
        return states

    @torch.no_grad()
    def _tried(self) -> bool:
        """Whether continuations have the bits of whole sequences."""
        beginning, sequences = [3, 1, 4], [[1, 5], [9, 2, 6, 5]]
        vocabulary = int(self._backbone.config.get_text_config().vocab_size)
        beginning, *sequences = ([token % vocabulary for token in some] for some in (beginning, *sequences))
        whole = self._run([], [[*beginning, *sequence] for sequence in sequences])
        found = self._run(self._begin(tuple(beginning)), sequences)
        wanted = torch.cat([whole[3:5], whole[8:]])
        return torch.equal(found, wanted) if found.device.type == "cpu" else torch.allclose(found, wanted, 1e-3, 1e-4)


class _Behind(DynamicLayer):
    """Gives attention, for each of packed continuations, the keys and values of the beginning and then its own."""

    def __init__(self, begun: GrowingLayer, places: torch.Tensor) -> None:
        super().__init__()
        self._begun, self._places = begun, places

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        old, new = self._begun.read(), (key_states, value_states)
        keys, values = (
            # The heads of a token lie side by side, as attention reads them.
            torch.cat([a.transpose(1, 2), b.transpose(1, 2)], 1).index_select(1, self._places).transpose(1, 2)
            for a, b in zip(old, new, strict=True)
        )
        return keys, values

    def get_seq_length(self) -> int:
        return self._begun.get_seq_length()


def _places(before: int, lengths: list[int]) -> torch.Tensor:
    """Where keys lie among those of the beginning and those of all continuations: for each, `before` and its own."""
    stops = np.cumsum(lengths) + before
    parts: list[NDArray[np.int64]] = []
    for stop, length in zip(stops.tolist(), lengths, strict=True):
        parts += [np.arange(before), np.arange(stop - length, stop)]
    return torch.from_numpy(np.concatenate(parts))


def _starts(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32)
