"""LloydMax: its levels, its two factors, and what rounding the levels to int8 costs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import kernels
from qindex.quantize import LloydMax, RaBitQ
from qindex.quantize.gaussian import lloyd_max
from qindex.quantize.lloyd_max import table

every_bits = pytest.mark.parametrize("bits", [1, 2, 3, 4])


def normal_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def relative_error(quantizer: LloydMax, vectors: NDArray[np.float32]) -> float:
    decoded = quantizer.dequantize(quantizer.quantize(vectors))
    return float(((decoded - vectors) ** 2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_the_least_error_is_that_of_a_normal_number(bits: int, error: float) -> None:
    vectors = normal_rows(400, 768)
    assert relative_error(LloydMax(bits, scale="least-error").fit(vectors), vectors) == pytest.approx(error, rel=0.02)


@every_bits
def test_the_least_error_scale_leaves_less_error_than_the_unbiased_one(bits: int) -> None:
    vectors = normal_rows(200, 100)
    least = relative_error(LloydMax(bits, scale="least-error").fit(vectors), vectors)
    assert least < relative_error(LloydMax(bits).fit(vectors), vectors)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_int8_levels_cost_at_most_half_a_percent_of_the_error(bits: int) -> None:
    sample = np.random.default_rng(0).standard_normal(1_000_000)

    def squared_error(levels: NDArray[np.float64]) -> float:
        return float(((levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, sample)] - sample) ** 2).mean())

    stored = table(bits) * (lloyd_max(bits)[-1] / 127)
    assert squared_error(stored) <= 1.005 * squared_error(lloyd_max(bits))


@every_bits
def test_unbiased_scores_are_right_in_the_mean_over_rotations_and_least_error_ones_too_small(bits: int) -> None:
    vectors = normal_rows(1, 100)
    pair = np.concatenate([vectors, -vectors])  # about zero
    true = float((vectors.astype(np.float64) ** 2).sum())

    def mean_error(scale: str) -> tuple[float, float]:
        found = []
        for seed in range(200):
            fitted = LloydMax(bits, seed, scale).fit(pair)  # type: ignore[arg-type]
            query = vectors + normal_rows(1, 100, seed=1)
            score = kernels.scores(fitted.prepare(query), fitted.quantize(vectors))[0, 0]
            found.append(score / true - float(query[0] @ vectors[0]) / true)
        return float(np.mean(found)), float(np.std(found) / np.sqrt(len(found)))

    mean, deviation = mean_error("unbiased")
    assert abs(mean) < 4 * deviation + 3e-4
    assert mean_error("least-error")[0] < -3 * deviation


def test_one_bit_is_rabitq_s() -> None:
    vectors = normal_rows(40, 50)
    ours, theirs = LloydMax(1).fit(vectors).quantize(vectors), RaBitQ(1).fit(vectors).quantize(vectors)
    np.testing.assert_array_equal(ours.data, theirs.data)
    np.testing.assert_array_equal(ours.scales[0].data, theirs.scales[0].data)


@pytest.mark.parametrize(("bits", "size"), [(1, 50), (2, 98), (3, 146), (4, 194)])
def test_a_row_takes_its_codes_and_two_bytes_and_all_rows_one_table(bits: int, size: int) -> None:
    quantizer = LloydMax(bits).fit(normal_rows(20, 384))
    codes = quantizer.quantize(normal_rows(20, 384))
    assert quantizer.bytes_per_vector(384) == size
    assert codes.nbytes == 20 * size + (2**bits if bits > 1 else 0)


def test_settings_that_cannot_be_are_refused() -> None:
    for bits in (0, 5):
        with pytest.raises(ValueError, match=r"bits must be an integer from 1 to 4, got .*; for more, use RaBitQ"):
            LloydMax(bits)
    with pytest.raises(ValueError, match='scale must be "unbiased" or "least-error", got \'mse\''):
        LloydMax(scale="mse")  # type: ignore[arg-type]
