"""The best quantizers of a normal number, against published constants and against their own neighbourhood."""

import numpy as np
import pytest

from qindex.quantize.gaussian import lloyd_max, uniform_step

SAMPLE = np.random.default_rng(0).standard_normal(400_000)


def squared_error(levels: np.ndarray) -> float:
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, SAMPLE)]
    return float(((SAMPLE - nearest) ** 2).mean())


@pytest.mark.parametrize(
    ("bits", "positive"),
    [(1, [0.7979]), (2, [0.4528, 1.5104]), (3, [0.2451, 0.7560, 1.3439, 2.1520])],
)
def test_the_levels_are_those_of_lloyd_and_max(bits: int, positive: list[float]) -> None:
    levels = lloyd_max(bits)
    np.testing.assert_allclose(levels[1 << bits - 1 :], positive, atol=1e-4)
    np.testing.assert_array_equal(levels, -levels[::-1])


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_the_levels_leave_the_known_squared_error(bits: int, error: float) -> None:
    assert squared_error(lloyd_max(bits)) == pytest.approx(error, rel=0.01)
    assert lloyd_max(4)[-1] == pytest.approx(2.7326, abs=1e-4)


# Half the range of the optimal uniform quantizer: the starting grid of OSQ.
@pytest.mark.parametrize(
    ("bits", "reach"),
    [(1, 0.798), (2, 1.493), (3, 2.051), (4, 2.514), (5, 2.916), (6, 3.278), (7, 3.611), (8, 3.922)],
)
def test_the_uniform_step_gives_the_grid_constants_of_osq(bits: int, reach: float) -> None:
    assert uniform_step(bits) * (2**bits - 1) / 2 == pytest.approx(reach, abs=2e-3)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_other_step_leaves_less_error(bits: int) -> None:
    codes = np.arange(2**bits) - (2**bits - 1) / 2
    best = squared_error(codes * uniform_step(bits))
    assert best < squared_error(codes * uniform_step(bits) * 1.02)
    assert best < squared_error(codes * uniform_step(bits) * 0.98)
