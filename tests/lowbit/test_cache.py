"""Causal networks with a cache: step by step they give the bits that they give at once."""

from typing import Any

import pytest
import torch
from networks import DECODERS, batch, made

from qindex import lowbit

CAUSAL = {"Llama": "LlamaForCausalLM", "Mistral": "MistralForCausalLM", "Qwen3": "Qwen3ForCausalLM",
          "Gemma": "GemmaForCausalLM", "GPT2": "GPT2LMHeadModel"}  # fmt: skip


def causal(name: str, recipe: str = "int8") -> torch.nn.Module:
    network = made(CAUSAL[name], {**DECODERS[name][1], "tie_word_embeddings": True})
    return lowbit.quantize(network, lowbit.Plan.of({"*": recipe}))


@pytest.mark.parametrize("name", CAUSAL)
def test_token_by_token_gives_the_bits_of_the_whole(name: str) -> None:
    network = causal(name)
    tokens = batch([21])["input_ids"]
    whole = network(input_ids=tokens).logits
    cache = lowbit.KeyValueCache(network.config)
    parts = [tokens[:, :7], *(tokens[:, i : i + 1] for i in range(7, 21))]
    steps = [network(input_ids=part, past_key_values=cache, use_cache=True).logits for part in parts]
    assert torch.equal(torch.cat(steps, 1), whole)


@pytest.mark.parametrize("name", sorted(set(CAUSAL) - {"Mistral"}))  # whose layers with a window keep floats
def test_token_by_token_in_int8_gives_the_bits_of_the_whole_in_int8(name: str) -> None:
    network = causal(name)
    tokens = batch([21])["input_ids"]
    caches = [lowbit.KeyValueCache(network.config, "int8") for _ in range(2)]
    whole = network(input_ids=tokens, past_key_values=caches[0], use_cache=True).logits
    parts = [tokens[:, :7], *(tokens[:, i : i + 1] for i in range(7, 21))]
    steps = [network(input_ids=part, past_key_values=caches[1], use_cache=True).logits for part in parts]
    assert torch.equal(torch.cat(steps, 1), whole)
    exact = network(input_ids=tokens).logits
    assert not torch.equal(whole, exact)
    assert (whole - exact).norm() < 0.05 * exact.norm()


def test_keys_in_int8_are_half_a_step_off_at_most() -> None:
    keys, values = torch.randn(2, 1, 2, 100, 16)
    keys[0, 0, 3] = 0
    layer = lowbit.KeyValueCache(causal("Llama").config, "int8").layers[0]
    for found, given in zip(layer.update(keys, values), (keys, values), strict=True):
        assert torch.all((found - given).abs() <= given.abs().amax(-1, keepdim=True) / 253)


def test_int8_takes_little_more_than_a_quarter_of_the_bytes() -> None:
    network = causal("Llama")
    caches = {format: lowbit.KeyValueCache(network.config, format) for format in ("float32", "int8")}
    for cache in caches.values():
        assert cache.nbytes == 0
        network(input_ids=batch([70])["input_ids"], past_key_values=cache, use_cache=True)
    numbers = 2 * 2 * 2 * 16 * 70  # layers, keys and values, heads, dim, tokens
    assert caches["float32"].nbytes == 4 * numbers
    assert caches["int8"].nbytes == numbers + 4 * numbers // 16


def test_an_unknown_format_of_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="format must be one of float32, int8, got 'int4'"):
        lowbit.KeyValueCache(causal("Llama").config, "int4")  # type: ignore[arg-type]


def test_a_padded_batch_with_a_cache_gives_the_bits_of_each_row_alone() -> None:
    network = causal("Llama")
    tokens = batch([4, 11, 7], "left")
    cache = lowbit.KeyValueCache(network.config)
    positions = (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)
    network(**tokens, position_ids=positions, past_key_values=cache, use_cache=True)
    more = torch.tensor([[9], [8], [7]])
    mask = torch.cat([tokens["attention_mask"], torch.ones(3, 1, dtype=torch.int64)], 1)
    found = network(
        input_ids=more, attention_mask=mask, position_ids=positions[:, -1:] + 1, past_key_values=cache, use_cache=True
    ).logits
    for row, length in enumerate([4, 11, 7]):
        alone = torch.cat([tokens["input_ids"][row, -length:], more[row]])[None]
        assert torch.equal(network(input_ids=alone).logits[0, -1], found[row, 0])


def test_generation_with_either_cache_gives_the_same_tokens() -> None:
    network = causal("Llama")
    tokens = batch([6, 3], "left")
    options = {"max_new_tokens": 80, "min_new_tokens": 80, "do_sample": False, "pad_token_id": 0}
    network.generation_config.eos_token_id = None
    grown = network.generate(**tokens, **options, past_key_values=lowbit.KeyValueCache(network.config))
    assert torch.equal(grown, network.generate(**tokens, **options))


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_a_cropped_cache_goes_on_from_there(format: Any) -> None:
    network = causal("Llama")
    tokens = batch([20])["input_ids"]
    cache = lowbit.KeyValueCache(network.config, format)
    network(input_ids=tokens, past_key_values=cache, use_cache=True)
    cache.crop(-8)
    again = network(input_ids=tokens[:, 12:], past_key_values=cache, use_cache=True).logits
    whole = network(input_ids=tokens, past_key_values=lowbit.KeyValueCache(network.config, format)).logits
    assert torch.equal(again, whole[:, 12:])


@pytest.mark.parametrize("format", ["float32", "int8"])
def test_reordered_rows_of_a_cache_go_on_as_their_own_sequences(format: Any) -> None:
    network = causal("Llama")
    tokens = batch([9, 9])["input_ids"]
    cache = lowbit.KeyValueCache(network.config, format)
    network(input_ids=tokens, past_key_values=cache, use_cache=True)
    cache.reorder_cache(torch.tensor([1, 1]))
    found = network(input_ids=torch.tensor([[5], [6]]), past_key_values=cache, use_cache=True).logits
    for row, last in enumerate([5, 6]):
        alone = torch.cat([tokens[1], torch.tensor([last])])[None]
        cache = lowbit.KeyValueCache(network.config, format)
        assert torch.equal(network(input_ids=alone, past_key_values=cache).logits[0, -1], found[row, 0])


def test_tied_embeddings_share_their_codes() -> None:
    network = causal("Llama")
    assert network.lm_head.codes.data is network.model.embed_tokens.codes.data
