"""RaBitQ's estimates: their bias, their variance, their bound; its codes against an exact search."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS, SIGN
from qindex.quantize import RaBitQ
from qindex.quantize.origin import Origin
from qindex.quantize.rabitq import nearest_direction
from qindex.transform import Rotation

DIM = 768
# Cosine between a random vector and its code; variance of the score of a unit query, times the dim.
TABLE = {
    1: (0.7977, 0.562), 2: (0.9383, 0.135), 3: (0.9809, 0.0391), 4: (0.9942, 0.01154),
    5: (0.99832, 0.00337), 6: (0.99955, 0.00091), 7: (0.999884, 0.0154**2), 8: (0.999971, 0.0076**2),
}  # fmt: skip
every_bits = pytest.mark.parametrize("bits", range(1, 9))


def unit_vectors(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def about_zero(bits: int, dim: int, seed: int = 0) -> RaBitQ:
    """Fitted to unit vectors whose mean is zero."""
    half = unit_vectors(50, dim)
    exponent = Origin.of(np.concatenate([half, -half])).exponent
    return RaBitQ(bits, seed, Origin(np.zeros(dim, np.float32), exponent, seed))


def errors(quantizer: RaBitQ, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.float64]:
    found = kernels.scores(quantizer.prepare(queries), quantizer.quantize(vectors))
    return found - queries.astype(np.float64) @ vectors.T.astype(np.float64)


@every_bits
def test_the_variance_of_scores_is_that_of_the_paper(bits: int) -> None:
    error = errors(about_zero(bits, DIM), unit_vectors(300, DIM, 1), unit_vectors(200, DIM, 2))
    assert error.var() * DIM == pytest.approx(TABLE[bits][1], rel=0.05)
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(error.size)


@every_bits
def test_codes_point_as_nearly_as_the_paper_says(bits: int) -> None:
    rows = unit_vectors(100, DIM, 3)
    format = SIGN if bits == 1 else FORMATS[f"{'half' if bits <= 4 else 'int'}{bits}"]
    levels = nearest_direction(rows, format)
    cosine = (rows * levels).sum(axis=1) / np.linalg.norm(levels, axis=1)
    assert 1 - cosine.mean() == pytest.approx(1 - TABLE[bits][0], rel=0.06)


def exact_cosines(rows: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """The best cosine over all steps: every number is moved up one level at a time, in order."""
    tops = np.arange(1, 2 ** (bits - 1))
    best = []
    for row in np.abs(rows):
        when = tops[:, None] / row
        order = np.argsort(when, axis=None, kind="stable")
        products = row.sum() / 2 + np.cumsum(np.r_[0, np.broadcast_to(row, when.shape).ravel()[order]])
        squares = len(row) / 4 + np.cumsum(np.r_[0, np.broadcast_to(2.0 * tops[:, None], when.shape).ravel()[order]])
        best.append((products / np.sqrt(squares)).max() / np.linalg.norm(row))
    return np.array(best)


@pytest.mark.parametrize("dim", [16, 100, 384])
@pytest.mark.parametrize("bits", range(2, 9))
def test_few_steps_lose_less_than_a_thousandth_against_all_of_them(bits: int, dim: int) -> None:
    rows = unit_vectors(40, dim, 4)
    levels = nearest_direction(rows, FORMATS[f"{'half' if bits <= 4 else 'int'}{bits}"]).astype(np.float64)
    cosine = (rows * levels).sum(axis=1) / np.linalg.norm(levels, axis=1) / np.linalg.norm(rows, axis=1)
    lost = exact_cosines(rows.astype(np.float64), bits) - cosine
    assert lost.mean() < (1e-3 if dim > 16 else 3e-3)


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_level_lies_beyond_the_grid(bits: int) -> None:
    rows = np.random.default_rng(0).standard_cauchy((50, 40)).astype(np.float32)
    format = FORMATS[f"{'half' if bits <= 4 else 'int'}{bits}"]
    levels = nearest_direction(rows, format)
    assert set(np.unique(levels)) <= set(format.levels.tolist())
    np.testing.assert_array_equal(format.decode(format.encode(levels), 40), levels)


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_scores_are_right_in_the_mean_over_rotations(bits: int) -> None:
    vector = unit_vectors(1, 100, 5)
    query = vector + 0.5 * unit_vectors(1, 100, 6)
    found = np.array([errors(about_zero(bits, 100, seed), vector, query)[0, 0] for seed in range(300)])
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(len(found)) + 3e-5  # the factor is rounded to float16


@every_bits
def test_the_half_width_covers_nineteen_of_twenty_scores(bits: int) -> None:
    quantizer = about_zero(bits, DIM)
    vectors, queries = unit_vectors(300, DIM, 7) * np.float32(3), unit_vectors(200, DIM, 8)
    covered = np.abs(errors(quantizer, vectors, queries)) <= quantizer.half_width(quantizer.quantize(vectors))
    assert 0.93 <= covered.mean() <= 0.955


def test_the_half_width_takes_what_a_query_s_length_multiplies() -> None:
    quantizer = about_zero(4, 100)
    codes = quantizer.quantize(np.concatenate([unit_vectors(2, 100, 9), np.zeros((1, 100), np.float32)]))
    np.testing.assert_allclose(quantizer.half_width(codes, 3.8), 2 * quantizer.half_width(codes), rtol=1e-6)
    assert quantizer.half_width(codes)[2] == 0
    assert quantizer.half_width(codes[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("bits", "size"), [(1, 50), (2, 98), (3, 146), (4, 194), (5, 242), (6, 290), (7, 338), (8, 386)]
)
def test_a_row_takes_its_codes_and_two_bytes(bits: int, size: int) -> None:
    quantizer = RaBitQ(bits).fit(unit_vectors(20, 384))
    codes = quantizer.quantize(unit_vectors(20, 384))
    assert quantizer.bytes_per_vector(384) == size == codes.nbytes / len(codes)


def test_the_stored_factor_is_that_of_the_formula() -> None:
    vectors = unit_vectors(30, 60, 10)
    quantizer = RaBitQ(4).fit(vectors)
    assert quantizer.origin is not None
    codes, rows = quantizer.quantize(vectors), Rotation().apply(vectors - quantizer.origin.mean).astype(np.float64)
    levels = codes.format.decode(codes.data, 60)
    wanted = (rows**2).sum(axis=1) / (rows * levels).sum(axis=1) * 2.0**quantizer.origin.exponent
    np.testing.assert_allclose(codes.scales[0].values[:, 0], wanted, rtol=2.0**-11 + 1e-6)
    assert codes.scale is None
    assert codes.zero is None


def test_vectors_far_beyond_those_seen_are_refused_and_those_just_beyond_are_not() -> None:
    vectors = unit_vectors(50, 32)
    quantizer = RaBitQ(1).fit(vectors)
    quantizer.quantize(vectors * 50)
    with pytest.raises(ValueError, match=r"100 times the distance .* that fit has seen, but row 7 lies 1e\+05 from it"):
        quantizer.quantize(np.concatenate([vectors[:7], vectors[:1] * np.float32(1e5)]))


@pytest.mark.filterwarnings("error")
@every_bits
def test_vectors_so_far_out_that_they_overflow_are_refused_with_their_row(bits: int) -> None:
    vectors = unit_vectors(700, 32)
    quantizer = RaBitQ(bits).fit(vectors * np.float32(1e-25))
    vectors[:600] *= np.float32(1e-25)
    vectors[600:] *= np.float32(1e17)
    with pytest.raises(ValueError, match=r"fit has seen, but row 600 lies 1e\+17 from it"):
        quantizer.quantize(vectors)


def test_settings_that_cannot_be_are_refused() -> None:
    for bits in (0, 9, 2.0, True):
        with pytest.raises(ValueError, match="bits must be an integer from 1 to 8, got"):
            RaBitQ(bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 to .*, got -1"):
        RaBitQ(seed=-1)
    with pytest.raises(ValueError, match="origin must be learnt by fit with seed 2"):
        RaBitQ(4, 2, Origin(np.zeros(3, np.float32), 0, 1))


def test_codes_of_other_bits_are_refused() -> None:
    vectors = unit_vectors(5, 12)
    with pytest.raises(ValueError, match=r"codes must be half3 codes of dim 12 .*, got half4 codes of dim 12"):
        RaBitQ(3).fit(vectors).dequantize(RaBitQ(4).fit(vectors).quantize(vectors))
    with pytest.raises(ValueError, match="codes must be half4 codes of dim 12"):
        RaBitQ(4).fit(vectors).half_width(RaBitQ(3).fit(vectors).quantize(vectors))
