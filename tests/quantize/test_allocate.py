"""Bits shared out: as good as the best of all choices, within the budget, and refusals that name the constraint."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qindex.formats import FORMATS, SIGN
from qindex.quantize.allocate import allocate, packed_bytes, water_fill
from qindex.quantize.gaussian import uniform_error

few = settings(deadline=None, max_examples=60, derandomize=True)
ERRORS = np.array([1.0, *(uniform_error(bits) for bits in range(1, 9))])
FALLING = 1 / np.arange(1.0, 401.0) ** 2


def row_bytes(bits: NDArray[np.int64]) -> int:
    return sum(packed_bytes(width, int((bits == width).sum())) for width in range(1, 9))


def test_packed_bytes_are_those_of_the_formats() -> None:
    formats = [SIGN, *(FORMATS[name] for name in ("half2", "half3", "half4", "int5", "int6", "int7", "int8"))]
    for count in range(20):
        assert [packed_bytes(f.bits, count) for f in formats] == [f.row_bytes(count) for f in formats]
    assert packed_bytes(0, 5) == 0


@given(
    energies=st.lists(st.floats(0, 1e3) | st.sampled_from([0.0, 1.0, 5e-324]), min_size=1, max_size=27),
    share=st.floats(0, 1),
)
@few
def test_no_bits_of_eights_leave_less_error(energies: list[float], share: float) -> None:
    energies.sort(reverse=True)
    dim = len(energies)
    budget = max(1, round(share * dim))
    bits = water_fill(energies, budget)
    assert bits.shape == (dim,)
    assert bits.min() >= 0
    assert bits.max() <= 8
    assert row_bytes(bits) == budget
    least = np.inf
    for chosen in itertools.product(range(9), repeat=-(-dim // 8)):
        each = np.repeat(chosen, 8)[:dim]
        if row_bytes(each) <= budget:
            least = min(least, float(np.dot(energies, ERRORS[each])))
    assert np.dot(energies, ERRORS[bits]) <= least * (1 + 1e-9)


@pytest.mark.parametrize("dim", [*range(1, 18), 100, 384])
def test_every_budget_is_met_exactly(dim: int) -> None:
    for energies in (np.sort(np.random.default_rng(dim).lognormal(0, 2, dim))[::-1], np.zeros(dim)):
        for budget in range(1, dim + 1):
            assert row_bytes(water_fill(energies, budget)) == budget
    np.testing.assert_array_equal(water_fill(FALLING[:dim], dim), 8)


def test_more_energy_gets_no_fewer_bits_and_a_larger_budget_takes_none_away() -> None:
    before = np.zeros(96, np.int64)
    for budget in range(1, 97):
        bits = water_fill(FALLING[:96], budget)
        assert np.all(np.diff(bits) <= 0)
        assert np.all(bits >= before)
        before = bits


def test_the_unit_of_energies_does_not_matter() -> None:
    for budget in (3, 17, 60):
        np.testing.assert_array_equal(water_fill(FALLING[:100], budget), water_fill(FALLING[:100] * 2.0**-40, budget))


@pytest.mark.parametrize("budget", [0, -1, 101])
def test_a_budget_that_axes_cannot_take_names_the_bound(budget: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 byte to 100, which is 8 bits for each of 100 axes, got {budget}"):
        water_fill(FALLING[:100], budget)


@pytest.mark.parametrize(
    ("energies", "message"),
    [
        ([], "finite"),
        ([[1.0]], "finite"),
        ([1.0, np.nan], "finite"),
        ([1.0, -1.0], "none of them negative"),
        ([1.0, 2.0], "descending"),
    ],
)
def test_energies_that_are_none_are_refused(energies: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        water_fill(energies, 1)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    items, choices = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    loss = st.floats(0, 100) | st.integers(0, 5).map(float) | st.just(np.inf)
    losses = np.array(draw(st.lists(loss, min_size=items * choices, max_size=items * choices)))
    costs = draw(st.lists(st.integers(0, 40), min_size=items * choices, max_size=items * choices))
    unit = draw(st.sampled_from([1, 1000, 4096 * 11]))
    return (
        losses.reshape(items, choices),
        np.array(costs).reshape(items, choices) * unit,
        draw(st.integers(0, 150)) * unit,
    )


@given(problem=problems())
@few
def test_no_choice_within_the_budget_loses_less(problem: tuple[NDArray[np.float64], NDArray[np.int64], int]) -> None:
    losses, costs, budget = problem
    rows = np.arange(len(losses))
    every = [np.array(choice) for choice in itertools.product(range(losses.shape[1]), repeat=len(losses))]
    possible = [
        losses[rows, c].sum() for c in every if costs[rows, c].sum() <= budget and np.isfinite(losses[rows, c]).all()
    ]
    if not possible:
        with pytest.raises(ValueError, match=r"budget must be at least|leave each item a choice"):
            allocate(losses, costs, budget)
        return
    chosen = allocate(losses, costs, budget)
    assert costs[rows, chosen].sum() <= budget
    assert losses[rows, chosen].sum() == pytest.approx(min(possible), rel=1e-6, abs=1e-6)


def test_the_layers_of_a_model_share_bytes_by_measured_loss() -> None:
    rng = np.random.default_rng(0)
    sizes, sensitivity = rng.integers(1, 200, 60) * 4096, rng.lognormal(0, 2, 60)
    losses, costs = sensitivity[:, None] * ERRORS[2:], sizes[:, None] * np.arange(2, 9)
    budget = int(4 * sizes.sum())
    chosen = allocate(losses, costs, budget)
    rows = np.arange(60)
    assert budget - costs[rows, chosen].sum() < sizes.max()
    assert losses[rows, chosen].sum() < losses[:, 2].sum()


def test_a_budget_below_the_cheapest_choices_says_which_item_binds() -> None:
    with pytest.raises(ValueError, match=r"budget must be at least 13, .* \(item 1 alone takes 10\), got 12"):
        allocate([[1.0, 0.0], [np.inf, 0.0]], [[3, 4], [1, 10]], 12)


@pytest.mark.parametrize(
    ("losses", "costs", "message"),
    [
        ([1.0], [1], "losses must be"),
        ([[np.nan]], [[1]], "losses must be"),
        ([[-np.inf]], [[1]], "losses must be"),
        (np.empty((0, 2)), np.empty((0, 2), int), "losses must be"),
        ([[1.0]], [[1, 2]], "costs must be integers"),
        ([[1.0]], [[1.5]], "costs must be integers"),
        ([[1.0]], [[-1]], "costs must be integers"),
        ([[1.0], [np.inf]], [[1], [1]], "item 1 are all infinite"),
    ],
)
def test_tables_that_make_no_sense_are_refused(losses: object, costs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocate(losses, costs, 100)  # type: ignore[arg-type]
