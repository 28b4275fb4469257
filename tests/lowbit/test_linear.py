"""Layers in codes: what they compute, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from qindex import kernels, lowbit
from qindex.quantize import blocks


def layer(recipe: str, n: int = 40, dim: int = 96, bias: bool = True) -> lowbit.QuantLinear:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n, dim)).astype(np.float32)
    chosen = lowbit.RECIPES[recipe]
    codes = chosen.quantize(weight)
    if bias:
        codes = dataclasses.replace(codes, offset=rng.standard_normal(n).astype(np.float32))
    return lowbit.QuantLinear(codes, chosen.activations)


def tokens(m: int, dim: int = 96) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((m, dim)).astype(np.float32))


@pytest.mark.parametrize("recipe", lowbit.RECIPES)
def test_the_layer_multiplies_with_the_decoded_weight(recipe: str) -> None:
    linear, x = layer(recipe), tokens(7)
    wanted = nn.functional.linear(x, linear.weight, linear.bias)
    # Rounding a token to int8 moves each number by half a step at most.
    step = x.abs().amax(1, keepdim=True) / 127
    slack = step / 2 * linear.weight.abs().sum(1) if linear.activations != "float32" else 0
    assert torch.all((linear(x) - wanted).abs() <= slack + 1e-3)


def test_the_layer_is_the_product_that_an_index_scans_with() -> None:
    linear, x = layer("int4"), tokens(5)
    assert np.array_equal(linear(x).numpy(), kernels.matmul(x.numpy(), linear.codes, activations=linear.activations))


@pytest.mark.parametrize("recipe", lowbit.RECIPES)
def test_a_token_gives_the_same_bits_whatever_stands_beside_it(recipe: str) -> None:
    linear, x = layer(recipe), tokens(67)
    together = linear(x)
    for rows in (slice(0, 1), slice(3, 5), slice(60, 67), slice(1, 50)):
        assert torch.equal(linear(x[rows]), together[rows])
    assert torch.equal(linear(x.view(1, 67, 96))[0], together)


def test_no_tokens_give_no_rows() -> None:
    assert layer("int8")(torch.zeros(2, 0, 96)).shape == (2, 0, 40)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_not_finite_are_refused(value: float) -> None:
    x = tokens(3)
    x[1, 2] = value
    with pytest.raises(ValueError, match="x must be finite"):
        layer("int8")(x)


def test_there_is_no_state_dict() -> None:
    with pytest.raises(ValueError, match=r"use lowbit.save"):
        nn.Sequential(layer("int8")).state_dict()


def test_halves_are_computed_in_float32() -> None:
    linear, x = layer("int8"), tokens(3)
    assert torch.equal(linear(x.to(torch.bfloat16)), linear(x.to(torch.bfloat16).float()))


def test_the_layer_says_what_it_holds() -> None:
    assert "96 -> 40, int4" in repr(layer("int4"))


def test_an_embedding_gives_the_decoded_rows() -> None:
    codes = blocks.encode(np.random.default_rng(0).standard_normal((30, 48)).astype(np.float32), blocks.SCHEMES["int8"])
    table, chosen = lowbit.QuantEmbedding(codes), torch.tensor([[3, 3, 0], [29, 1, 2]])
    assert torch.equal(table(chosen), table.weight[chosen])
    assert table(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 48)


@pytest.mark.parametrize("token", [-1, 30])
def test_tokens_outside_the_table_are_refused(token: int) -> None:
    codes = blocks.encode(np.ones((30, 48), np.float32), blocks.SCHEMES["int8"])
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 30\)"):
        lowbit.QuantEmbedding(codes)(torch.tensor([1, token]))
