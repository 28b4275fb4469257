"""Weights that are rounded while a network is trained."""

import numpy as np
import pytest
import torch
from networks import DECODERS, ENCODERS, batch, made

from qindex import lowbit
from qindex.lowbit.network import layers_of

ENCODER = ("BertModel", ENCODERS["Bert"][1])


def _weights(network):
    return {layer.name: layer.weight.copy() for layer in layers_of(network)}


@pytest.mark.parametrize("recipe", [name for name in lowbit.RECIPES if not name.startswith("float")])
def test_within_a_network_computes_with_what_its_plan_makes_of_its_weights(recipe):
    network, tokens = made(*ENCODER), batch([7, 9])
    plan = lowbit.Plan.of({"*query": recipe, "*embed*": "int8"})
    rounded = made(*ENCODER)
    for layer in layers_of(rounded):
        found = plan.recipes([layer.name]) if "query" in layer.name or "word_embed" in layer.name else {}
        for one in found.values():
            codes = one.with_solver(lowbit.Nearest()).quantize(layer.weight)
            layer.module.weight.data = torch.from_numpy(lowbit.QuantLinear(codes).weight.numpy())
    with lowbit.rounded_weights(network, plan):
        assert torch.equal(network(**tokens).last_hidden_state, rounded(**tokens).last_hidden_state)
    assert all(np.array_equal(weight, _weights(rounded)[name]) for name, weight in _weights(network).items())


@pytest.mark.parametrize("kind", [ENCODER, DECODERS["GPT2"]], ids=["Bert", "GPT2"])
def test_what_was_rounded_in_training_is_quantized_without_a_further_change(kind):
    network = made(*kind)
    plan = lowbit.Plan.default(4)
    with lowbit.rounded_weights(network, plan):
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            network(**batch([7, 9])).last_hidden_state.square().mean().backward()
            optimizer.step()
    quantized = lowbit.quantize(network, plan.with_solver(lowbit.Nearest()))
    layers = {layer.name: layer.weight for layer in layers_of(network)}
    found = {n: m.weight for n, m in quantized.named_modules() if isinstance(m, lowbit.QuantLinear)}
    assert found
    assert all(np.array_equal(weight.numpy(), layers[name]) for name, weight in found.items())


def test_gradients_pass_the_rounding():
    network, tokens = made(*ENCODER), batch([7, 9])
    with lowbit.rounded_weights(network, lowbit.Plan.of({"*query": "int4"})):
        network(**tokens).last_hidden_state.square().mean().backward()
        behind = network.encoder.layer[0].attention.self.query.parametrizations.weight.original
        assert behind.grad.abs().max() > 0


def test_after_an_error_the_weights_are_those_behind_the_rounding():
    network = made(*ENCODER)
    before = _weights(network)
    with pytest.raises(RuntimeError, match="stopped"), lowbit.rounded_weights(network, lowbit.Plan.default(4)):
        raise RuntimeError("stopped")
    assert all(np.array_equal(weight, before[name]) for name, weight in _weights(network).items())


def test_a_plan_that_matches_nothing_changes_nothing():
    network = made(*ENCODER)
    nothing = lowbit.Plan.of({"nothing": "int4"})
    with pytest.raises(ValueError, match="the plan must match a layer"), lowbit.rounded_weights(network, nothing):
        pass
    assert len(layers_of(network)) == 14
