"""Any network of transformers runs as before, and a sequence gives the same bits alone and in any batch."""

import inspect

import pytest
import torch
from networks import DECODERS, ENCODERS, batch, made

from qindex import lowbit

ALL = {**ENCODERS, **DECODERS}
LENGTHS = [5, 1, 17, 30, 9, 2]
PACKED = set(ALL) - {"MPNet"}  # whose attention has a code of its own


@pytest.mark.parametrize("name", ALL)
def test_in_float32_the_network_gives_what_it_gave(name: str) -> None:
    network = made(*ALL[name])
    quantized = lowbit.quantize(network, lowbit.Plan.of({"*": "float32"}))
    tokens = batch(LENGTHS, pad=network.config.pad_token_id or 0)
    there = tokens["attention_mask"].bool()
    wanted, found = network(**tokens).last_hidden_state, quantized(**tokens).last_hidden_state
    assert torch.allclose(found[there], wanted[there], rtol=1e-3, atol=1e-4)
    assert torch.all(found[~there] == 0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_sequence_gives_the_same_bits_alone_and_in_any_batch(name: str, recipe: str) -> None:
    network = made(*ALL[name])
    pad = network.config.pad_token_id or 0
    quantized = lowbit.quantize(network, lowbit.Plan.of({"*": recipe}))
    tokens = batch(LENGTHS, pad=pad)
    together = quantized(**tokens).last_hidden_state
    order = [3, 0, 5, 2, 4, 1]
    shuffled = quantized(**{key: value[order] for key, value in tokens.items()}).last_hidden_state
    assert torch.equal(shuffled, together[order])
    for row, length in enumerate(LENGTHS):
        alone = quantized(input_ids=tokens["input_ids"][row : row + 1, :length]).last_hidden_state
        assert torch.equal(alone[0], together[row, :length]), row


@pytest.mark.parametrize("name", ALL)
def test_networks_that_can_are_packed(name: str) -> None:
    quantized = lowbit.quantize(made(*ALL[name]), lowbit.Plan.of({"*": "int8"}))
    assert (quantized.first_position is not None) == (name in PACKED)


@pytest.mark.parametrize("name", DECODERS)
def test_padding_on_either_side_changes_nothing(name: str) -> None:
    quantized = lowbit.quantize(made(*DECODERS[name]), lowbit.Plan.of({"*": "int8"}))
    right, left = (batch(LENGTHS, side) for side in ("right", "left"))
    found = [quantized(**tokens).last_hidden_state[tokens["attention_mask"].bool()] for tokens in (right, left)]
    assert torch.equal(*found)


def test_all_hidden_states_are_spread_out_again() -> None:
    network = made(*ENCODERS["Bert"])
    quantized = lowbit.quantize(network, lowbit.Plan.of({"*": "float32"}))
    tokens = batch(LENGTHS)
    there = tokens["attention_mask"].bool()
    wanted, found = (one(**tokens, output_hidden_states=True).hidden_states for one in (network, quantized))
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a[there], b[there], rtol=1e-3, atol=1e-4)


def test_a_cross_encoder_gives_the_logits_that_it_gave() -> None:
    _kind, settings = ENCODERS["Bert"]
    network = made("BertForSequenceClassification", {**settings, "num_labels": 1})
    quantized = lowbit.quantize(network, lowbit.Plan.of({"*": "float32"}))
    tokens = batch(LENGTHS)
    tokens["token_type_ids"] = (torch.arange(30) > 4).long().expand(6, 30).clone()
    found = quantized(**tokens).logits
    assert torch.allclose(found, network(**tokens).logits, rtol=1e-3, atol=1e-4)
    alone = quantized(**{key: value[2:3, :17] for key, value in tokens.items()}).logits
    assert torch.equal(alone[0], found[2])


def test_a_quantized_network_is_of_its_class_and_has_its_arguments() -> None:
    networks = [made(*ALL[name]) for name in ("Bert", "Llama")]
    quantized = [lowbit.quantize(network, lowbit.Plan.of({"*": "int8"})) for network in networks]
    for one, other in zip(quantized, networks, strict=True):
        assert isinstance(one, type(other))
        assert inspect.signature(one.forward) == inspect.signature(other.forward)


def test_attention_weights_are_refused() -> None:
    quantized = lowbit.quantize(made(*ENCODERS["Bert"]), lowbit.Plan.of({"*": "int8"}))
    with pytest.raises(ValueError, match="output_attentions must be False"):
        quantized(**batch(LENGTHS), output_attentions=True)


def test_the_original_stays_as_it_is() -> None:
    network = made(*ENCODERS["Bert"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lowbit.quantize(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert network.config._attn_implementation != "qindex"
