"""What `quantize` makes of a network, and what it refuses."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import DECODERS, ENCODERS, batch, made
from torch import nn

import qindex
from qindex import lowbit
from qindex.lowbit.network import layers_of

LENGTHS = [5, 1, 17, 30]


@pytest.fixture
def two_threads() -> Iterator[None]:
    yield
    qindex.set_threads(2)
    torch.set_num_threads(2)


def test_the_number_of_threads_changes_no_bit(two_threads: None) -> None:
    network = lowbit.quantize(made(*DECODERS["Llama"]), lowbit.Plan.of({"*": "int4"}))
    tokens = batch([60, 71, 12] * 20, vocabulary=120)
    found = []
    for threads in (1, 2):
        qindex.set_threads(threads)
        torch.set_num_threads(threads)
        found.append(network(**tokens).last_hidden_state)
    assert torch.equal(*found)


def test_equal_inputs_give_equal_codes() -> None:
    a, b = (lowbit.quantize(made(*ENCODERS["Bert"]), lowbit.Plan.default(4)) for _ in range(2))
    for one, other in zip(a.modules(), b.modules(), strict=True):
        if isinstance(one, lowbit.QuantLinear | lowbit.QuantEmbedding):
            assert all(map(np.array_equal, one.codes.rowwise, other.codes.rowwise))


def test_a_layer_that_no_rule_matches_stays_in_float32() -> None:
    original = made(*ENCODERS["Bert"])
    network = lowbit.quantize(original, lowbit.Plan.of({"*.query": "int4"}))
    assert torch.equal(network.pooler.dense.weight, original.pooler.dense.weight)
    assert network.encoder.layer[0].attention.self.query.codes.format.bits == 4


def test_calibration_makes_gptq_better_than_rounding() -> None:
    original = made(*DECODERS["Llama"])
    texts = [batch([40])["input_ids"][0].tolist(), *batch([50, 50, 50])["input_ids"].tolist()]
    statistics = lowbit.collect(original, texts)
    scheme = lowbit.RECIPES["int3"].scheme
    found = {}
    for solver in (lowbit.Nearest(), lowbit.GPTQ()):
        plan = lowbit.Plan.of({"*": lowbit.Recipe(scheme, solver, "float32")})
        report = lowbit.report(lowbit.quantize(original, plan, texts), original, statistics)
        found[type(solver).__name__] = np.mean([layer.error for layer in report.layers if layer.name in statistics])
    assert found["GPTQ"] < found["Nearest"]


def test_layers_with_one_input_share_its_statistics() -> None:
    statistics = lowbit.collect(made(*DECODERS["Llama"]), [[5, 6, 7], [8, 9]])
    names = [f"layers.0.self_attn.{name}_proj" for name in "qkv"]
    assert statistics[names[0]] is statistics[names[1]] is statistics[names[2]]
    assert statistics["layers.0.mlp.down_proj"] is not statistics[names[0]]
    assert statistics[names[0]].count == 5


@pytest.mark.parametrize("kind", ["Llama", "Gemma", "GPT2"])
def test_the_statistics_of_a_layer_are_those_of_its_own_inputs(kind: str) -> None:
    original = made(*DECODERS[kind])
    texts = [batch([40 + i])["input_ids"][0].tolist() for i in range(6)]
    wanted: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def before(_module: Any, arguments: Any) -> None:
            rows = arguments[0].reshape(-1, arguments[0].shape[-1]).double()
            wanted[name] = wanted.get(name, 0) + (rows.T @ rows).detach().numpy()

        return before

    layers = [layer for layer in layers_of(original) if not layer.is_table]
    handles = [layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers]
    for text in texts:
        original(input_ids=torch.tensor([text]))
    for handle in handles:
        handle.remove()
    statistics = lowbit.collect(original, texts)
    for name, hessian in wanted.items():
        np.testing.assert_allclose(statistics[name].hessian, hessian, rtol=1e-4, atol=1e-4 * np.abs(hessian).max())


def test_layers_that_calibration_did_not_reach_are_rounded_without(caplog: pytest.LogCaptureFixture) -> None:
    original = made(*DECODERS["Llama"])
    everything = lowbit.collect(original, [[5, 6, 7] * 10])
    kept = [name for name in everything if "down_proj" not in name]
    partial = lowbit.Statistics(tuple(kept), tuple(everything[name] for name in kept))
    plan = lowbit.Plan.of({"*_proj": lowbit.Recipe(lowbit.RECIPES["int4"].scheme, lowbit.GPTQ(), "int8")})
    with caplog.at_level(logging.WARNING):
        lowbit.quantize(original, plan, partial)
    assert "layers.0.mlp.down_proj" in caplog.text


def test_a_recipe_that_needs_calibration_says_so() -> None:
    plan = lowbit.Plan.of({"*": lowbit.Recipe(lowbit.RECIPES["int4"].scheme, lowbit.GPTQ(), "int8")})
    with pytest.raises(ValueError, match="calibrate with text"):
        lowbit.quantize(made(*ENCODERS["Bert"]), plan)


def test_calibration_without_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration must have a text at least"):
        lowbit.collect(made(*ENCODERS["Bert"]), [])


def test_texts_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer must be given"):
        lowbit.collect(made(*ENCODERS["Bert"]), ["a text"])


def test_tied_layers_with_two_recipes_are_refused() -> None:
    network = made("LlamaForCausalLM", {**DECODERS["Llama"][1], "tie_word_embeddings": True})
    with pytest.raises(ValueError, match=r"'model.embed_tokens' and 'lm_head' have the same weight"):
        lowbit.quantize(network, lowbit.Plan.of({"lm_head": "int4", "*": "int8"}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    network = made(*ENCODERS["Bert"])
    network.encoder.layer[1].output.dense.weight.data[3, 4] = value
    with pytest.raises(ValueError, match=r"those of 'encoder.layer.1.output.dense' hold NaN"):
        lowbit.quantize(network)


def test_another_model_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a PreTrainedModel"):
        lowbit.quantize(nn.Linear(3, 4))  # type: ignore[type-var]


def test_an_encoder_decoder_is_refused() -> None:
    settings = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
    with pytest.raises(ValueError, match="must be an encoder or a causal network, got T5Model"):
        lowbit.quantize(made("T5Model", settings))


def test_a_batch_without_tokens_is_refused() -> None:
    network = lowbit.quantize(made(*ENCODERS["Bert"]))
    tokens = batch(LENGTHS)
    with pytest.raises(ValueError, match="attention_mask must leave a token at least, got 4 sequences"):
        network(input_ids=tokens["input_ids"], attention_mask=torch.zeros(4, 30, dtype=torch.int64))


def test_a_sequence_without_tokens_changes_no_other() -> None:
    network = lowbit.quantize(made(*ENCODERS["Bert"]))
    tokens = batch(LENGTHS)
    wanted = network(**tokens).last_hidden_state
    tokens["attention_mask"][1] = 0
    found = network(**tokens).last_hidden_state
    assert torch.equal(found[[0, 2, 3]], wanted[[0, 2, 3]])
    assert torch.all(found[1] == 0)


def test_inputs_that_fit_no_group_have_a_short_last_one() -> None:
    network = made("BertModel", {**ENCODERS["Bert"][1], "hidden_size": 72, "intermediate_size": 100})
    quantized = lowbit.quantize(network, lowbit.Plan.of({"*": "int4"}))
    tokens = batch(LENGTHS)
    there = tokens["attention_mask"].bool()
    wanted, found = (one(**tokens).last_hidden_state[there] for one in (network, quantized))
    assert torch.cosine_similarity(wanted, found, dim=1).min() > 0.8


def test_the_report_counts_every_byte() -> None:
    original = made("LlamaForCausalLM", {**DECODERS["Llama"][1], "tie_word_embeddings": True})
    network = lowbit.quantize(original, lowbit.Plan.default(4))
    report = lowbit.report(network, original)
    codes = {id(m.codes.data): m.codes for m in network.modules() if hasattr(m, "codes")}
    floats = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    assert report.nbytes == sum(one.nbytes for one in codes.values()) + floats
    assert 4 < report.bits < 8.6
    assert all(layer.error is not None and 0 < layer.error < 0.05 for layer in report.layers)
    assert "layers.0.mlp.down_proj" in str(report)


def test_a_report_of_a_model_in_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one that lowbit\.quantize made"):
        lowbit.report(made(*ENCODERS["Bert"]))


def test_sensitivities_make_a_plan() -> None:
    original = made(*ENCODERS["Bert"])
    plan = lowbit.Plan.ratio(lowbit.sensitivities(original), 0.5)
    report = lowbit.report(lowbit.quantize(original, plan))
    four = sum(layer.weights for layer in report.layers if layer.bits < 6)
    assert 0.3 < four / sum(layer.weights for layer in report.layers) <= 0.5
