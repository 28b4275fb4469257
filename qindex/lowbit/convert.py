"""`quantize`: a network, or a sentence-transformers model, whose weights are codes."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from qindex.lowbit import attention, packed, tokenwise
from qindex.lowbit.calibrate import collect
from qindex.lowbit.linear import QuantEmbedding, QuantLinear
from qindex.lowbit.network import Layer, backbone_of, layers_of, network_of, replace
from qindex.lowbit.plan import Plan
from qindex.lowbit.recipes import RECIPES, Recipe
from qindex.lowbit.solvers import GPTQ, HQQ, Scaled, error
from qindex.lowbit.statistics import Statistics
from qindex.types import Codes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="PreTrainedModel | SentenceTransformer")

Calibration = Statistics | Iterable[str | Sequence[int]]


def quantize(
    model: M,
    plan: Plan | None = None,
    calibration: Calibration | None = None,
    *,
    tokenizer: Any = None,
    progress: bool | None = None,
) -> M:
    """A copy of `model` that is called as before, with the weights of its layers in codes as `plan` says.

    `model` is any network of transformers (an encoder, a cross-encoder, a causal language model) or a
    `SentenceTransformer`; it stays as it is. `plan` is `Plan.default()` if none is given: 8 bits. `calibration` is
    texts, lists of token numbers, or what `collect` made of them; recipes that need none ignore it. `tokenizer` turns
    texts into tokens, and stays with the network as `model.tokenizer`.

    The copy runs on packed tokens and through the kernels of the library (`packed.py`), in float32 where nothing is
    quantized; the same text has the same bits alone, in any batch, and with any number of threads. It has no gradients.

    Raises ValueError for an encoder-decoder, for a plan that matches no layer, for tied layers with different recipes,
    for a recipe that needs calibration without any, and for weights that are not finite; TypeError for another model.
    """
    network = network_of(model)
    tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    made: Any = _quantized(network, plan or Plan.default(), calibration, tokenizer, progress)
    if network is not model:
        return cast(M, _around(model, network, made))
    made.tokenizer = tokenizer
    return cast(M, made)


def sensitivities(
    network: PreTrainedModel, statistics: Statistics | None = None, *, bits: int = 4, progress: bool | None = None
) -> dict[str, tuple[float, int]]:
    """For each layer, its relative output error in so many bits (of the weights, without statistics), and its weights.

    `Plan.ratio` takes them.
    """
    recipe = RECIPES[f"int{bits}"]
    found = {}
    for layer in tqdm(
        _distinct(layers_of(network)), desc="try", unit="layer", disable=None if progress is None else not progress
    ):
        weight, known = layer.weight, None if statistics is None else statistics.get(layer.name)
        found[layer.name] = error(weight, recipe.quantize(weight, known), known), weight.size
    return found


def _quantized(
    network: PreTrainedModel, plan: Plan, calibration: Calibration | None, tokenizer: Any, progress: bool | None
) -> PreTrainedModel:
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"model must be an encoder or a causal network, got {type(network).__name__}, which is both: quantize its "
            "encoder by itself (model.get_encoder())"
        )
    layers = layers_of(network)
    recipes = _recipes(layers, plan)
    if calibration is not None and not isinstance(calibration, Statistics):
        calibration = collect(network, calibration, tokenizer, progress=progress)
    codes: dict[int, tuple[Codes, Recipe]] = {}
    for layer in tqdm(
        _distinct(layers), desc="quantize", unit="layer", disable=None if progress is None else not progress
    ):
        recipe = recipes.get(layer.name, RECIPES["float32"])
        codes[id(layer.tensor)] = _solved(layer, recipe, calibration), recipe

    # Weights that are replaced are not copied with the rest.
    made = copy.deepcopy(network, {id(layer.tensor): layer.tensor for layer in layers})
    for layer in layers:
        found, recipe = codes[id(layer.tensor)]
        replace(made, layer.name, _module(layer, found, recipe))
    backbone = prepare(made)
    backbone.first_position = packed.find_first_position(backbone)
    if backbone.first_position is None:
        logger.info("%s cannot run packed: its sequences run one by one", type(backbone).__name__)
    return made


def prepare(network: PreTrainedModel) -> Any:
    """Let a network whose layers are in codes run through the kernels: its norms, activations and attention, too.

    Gives its backbone, whose sequences run one by one as long as its `first_position` is None.
    """
    nn.Module.float(network)  # transformers refuses it for what came from a file of codes
    network.eval().requires_grad_(False)
    for name, module in list(network.named_modules()):
        instead = tokenwise.replacement(module)
        if instead is not None:
            replace(network, name, instead)
    backbone = backbone_of(network)
    if backbone.is_backend_compatible():
        network.set_attn_implementation(attention.NAME)
    packed.packing(backbone)
    return backbone


def _recipes(layers: list[Layer], plan: Plan) -> dict[str, Recipe]:
    """The recipe of each layer that the plan names."""
    recipes = plan.recipes(layer.name for layer in layers)
    first: dict[int, str] = {}
    for layer in layers:
        other = first.setdefault(id(layer.tensor), layer.name)
        if recipes.get(layer.name) != recipes.get(other):
            raise ValueError(
                f"tied layers must have one recipe, but {other!r} and {layer.name!r} have the same weight and the plan "
                "names different ones: give both the same"
            )
    return recipes


def _distinct(layers: list[Layer]) -> list[Layer]:
    """One layer for each weight."""
    return list({id(layer.tensor): layer for layer in reversed(layers)}.values())[::-1]


def _solved(layer: Layer, recipe: Recipe, statistics: Statistics | None) -> Codes:
    weight = layer.weight
    if not np.isfinite(weight).all():
        raise ValueError(f"weights must be finite, but those of {layer.name!r} hold NaN or infinity")
    known = None if statistics is None else statistics.get(layer.name)
    needed = isinstance(recipe.solver, GPTQ | Scaled)
    if needed and statistics is not None and (known is None or not known.count):
        logger.warning("calibration did not reach %s: its codes are chosen without, by HQQ", layer.name)
        return dataclasses.replace(recipe, solver=HQQ()).quantize(weight)
    return recipe.quantize(weight, known)


def _module(layer: Layer, codes: Codes, recipe: Recipe) -> nn.Module:
    if layer.is_table:
        return QuantEmbedding(codes)
    bias = layer.bias
    return QuantLinear(codes if bias is None else dataclasses.replace(codes, offset=bias), recipe.activations)


def _around(model: Any, network: PreTrainedModel, made: PreTrainedModel) -> Any:
    """A copy of a SentenceTransformer around another network, whose other modules take each text by itself."""
    memo: dict[int, Any] = {id(network): made}
    copied = copy.deepcopy(model, memo)
    first, *others = list(copied.children())
    copied._modules.clear()
    copied.add_module("0", first)
    if others:
        copied.add_module("1", packed.OneByOne(others))
    return copied.eval()
