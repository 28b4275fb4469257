"""Causal networks with a cache: step by step they give the bits that they give at once."""

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


def test_a_cropped_cache_goes_on_from_there() -> None:
    network = causal("Llama")
    tokens = batch([20])["input_ids"]
    cache = lowbit.KeyValueCache(network.config)
    network(input_ids=tokens, past_key_values=cache, use_cache=True)
    cache.crop(-8)
    again = network(input_ids=tokens[:, 12:], past_key_values=cache, use_cache=True).logits
    assert torch.equal(again, network(input_ids=tokens).logits[:, 12:])


def test_reordered_rows_of_a_cache_go_on_as_their_own_sequences() -> None:
    network = causal("Llama")
    tokens = batch([9, 9])["input_ids"]
    cache = lowbit.KeyValueCache(network.config)
    network(input_ids=tokens, past_key_values=cache, use_cache=True)
    cache.reorder_cache(torch.tensor([1, 1]))
    found = network(input_ids=torch.tensor([[5], [6]]), past_key_values=cache, use_cache=True).logits
    for row, last in enumerate([5, 6]):
        alone = torch.cat([tokens[1], torch.tensor([last])])[None]
        assert torch.equal(network(input_ids=alone).logits[0, -1], found[row, 0])


def test_tied_embeddings_share_their_codes() -> None:
    network = causal("Llama")
    assert network.lm_head.codes.data is network.model.embed_tokens.codes.data
