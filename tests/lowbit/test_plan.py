"""Plans: which layer follows which rule, and what is refused."""

import pytest

from qindex import lowbit
from qindex.lowbit import Plan

NAMES = ["embeddings.word_embeddings", "encoder.layer.0.attention.self.query", "encoder.layer.0.output.dense", "score"]


def test_the_first_rule_that_matches_a_layer_holds() -> None:
    plan = Plan.of({"*.query": "int2", "encoder.*": "int4", "*": "int8"})
    found = plan.recipes(NAMES)
    wanted = [lowbit.RECIPES[name] for name in ("int8", "int2", "int4", "int8")]
    assert [found[name] for name in NAMES] == wanted


def test_layers_that_no_rule_matches_have_no_recipe() -> None:
    assert list(Plan.of({"*.dense": "int4"}).recipes(NAMES)) == ["encoder.layer.0.output.dense"]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_the_default_keeps_tables_and_heads_in_8_bits(bits: int) -> None:
    found = Plan.default(bits).recipes(NAMES)
    wanted = [lowbit.RECIPES[name] for name in ("int8", f"int{bits}", f"int{bits}", "int8")]
    assert [found[name] for name in NAMES] == wanted


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a rule at least, got none"):
        Plan(())


def test_a_plan_that_matches_nothing_names_the_nearest_layers() -> None:
    with pytest.raises(ValueError, match=r"'encoder.layer.0.output.dens' match none.*'encoder.layer.0.output.dense'"):
        Plan.of({"encoder.layer.0.output.dens": "int4"}).recipes(NAMES)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"got 'int44'; near are int4"):
        Plan.of({"*": "int44"})


@pytest.mark.parametrize("bits", [5, 16, "4"])
def test_other_bits_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match="bits must be 8, 4, 3 or 2"):
        Plan.default(bits)  # type: ignore[arg-type]


def test_a_share_of_the_weights_goes_to_4_bits_the_least_sensitive_first() -> None:
    errors = {"a": (0.3, 100), "b": (0.1, 50), "c": (0.2, 50), "d[0]": (0.05, 200)}
    found = Plan.ratio(errors, 0.75).recipes(errors)
    assert [name for name, recipe in found.items() if recipe == lowbit.RECIPES["int4"]] == ["b", "c", "d[0]"]
    everything = Plan.ratio(errors, 1.0).recipes(errors)
    assert set(everything.values()) == {lowbit.RECIPES["int4"]}
    assert set(Plan.ratio(errors, 0.0).recipes(errors).values()) == {lowbit.RECIPES["int8"]}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be from 0 to 1"):
        Plan.ratio({"a": (0.1, 10)}, share)


def test_equal_plans_are_equal_and_unequal_ones_are_not() -> None:
    assert Plan.default(4) == Plan.default(4) != Plan.default(8)
    assert repr(Plan.default(4)) == repr(Plan.default(4)) != repr(Plan.default(8))
