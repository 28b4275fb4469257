"""Spectral: exactly as many bytes as asked for, the bits where the variance is, and rows as long as they were."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import qindex
from qindex import FlatIndex, RaBitQ, Spectral, kernels
from qindex.index.flat import Metric
from qindex.quantize.gaussian import uniform_error
from qindex.quantize.spectrum import Spectrum
from qindex.types import Codes

few = settings(deadline=None, max_examples=30, derandomize=True)
numbers = st.floats(-100, 100, width=32, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-20])


def normal_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def falling_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows whose deviation falls with the axis, about a mean, their axes turned."""
    turned = np.linalg.qr(normal_rows(dim, dim, 99))[0]
    return (normal_rows(n, dim, seed) / np.arange(1, dim + 1) ** 0.7 @ turned + 0.3).astype(np.float32)


@pytest.mark.parametrize(
    ("dim", "bytes"), [(14, 16), (17, 19), (100, 16), (100, 77), (100, 102), (384, 98), (384, 386), (384, 388)]
)
def test_codes_take_the_bytes_that_were_asked_for(dim: int, bytes: int) -> None:
    vectors = falling_rows(60, dim)
    fitted = Spectral(bytes).fit(vectors)
    codes = fitted.quantize(vectors)
    assert codes.nbytes == 60 * bytes
    assert fitted.bytes_per_vector(dim) == Spectral(bytes).bytes_per_vector(dim) == bytes
    assert len(fitted.quantize(vectors[:0])) == 0


@given(data=st.data(), bytes=st.integers(16, 22))
@few
def test_scores_are_those_of_the_decoded_vectors(data: st.DataObject, bytes: int) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(20, 34)))
    vectors = data.draw(hnp.arrays(np.float32, shape, elements=numbers))
    queries = data.draw(hnp.arrays(np.float32, (2, shape[1]), elements=numbers))
    fitted = Spectral(bytes).fit(vectors)
    codes = fitted.quantize(vectors)
    wanted = queries.astype(np.float64) @ fitted.dequantize(codes).astype(np.float64).T
    reach = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * (np.abs(vectors).max() * shape[1] ** 0.5)
    assert np.all(np.abs(kernels.scores(fitted.prepare(queries), codes) - wanted) <= 1e-5 * reach + 1e-30)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize(("dim", "bytes"), [(14, 16), (23, 20), (100, 50), (384, 98), (384, 386), (100, 104)])
def test_an_index_ranks_by_the_decoded_vectors_also_when_added_to_and_loaded(
    dim: int, bytes: int, metric: Metric, tmp_path: Path
) -> None:
    vectors, queries = falling_rows(70, dim), falling_rows(5, dim, 1)
    index = FlatIndex.build(vectors[:50], Spectral(bytes), metric=metric)
    index.add(vectors[50:])
    index.save(tmp_path / "index")
    found = index.search(queries, 70)
    for other in (
        qindex.load(tmp_path / "index").search(queries, 70),
        FlatIndex.build(vectors, index.quantizer, metric=metric).search(queries, 70),
    ):
        np.testing.assert_array_equal(found.ids, other.ids)
        np.testing.assert_array_equal(found.scores, other.scores)
    if metric != "ip":
        return
    decoded = index.quantizer.dequantize(index.quantizer.quantize(vectors)).astype(np.float64)
    wanted = np.take_along_axis(queries.astype(np.float64) @ decoded.T, found.ids, 1)
    reach = np.linalg.norm(queries, axis=1).max() * np.linalg.norm(decoded, axis=1).max()
    np.testing.assert_allclose(found.scores, wanted, atol=1e-5 * reach)


@pytest.mark.parametrize("bytes", [16, 50, 98, 200, 386, 388])
def test_compiled_kernels_score_the_codes_as_numpy_does(bytes: int) -> None:
    vectors = falling_rows(200, 384)
    fitted = Spectral(bytes).fit(vectors)
    for m in (1, 9):
        assert kernels.agree(fitted.prepare(falling_rows(m, 384, 2)), fitted.quantize(vectors))


@pytest.mark.parametrize("bytes", [16, 40, 98])
def test_decoded_rows_lie_as_far_from_the_mean_as_the_rows(bytes: int) -> None:
    vectors = falling_rows(300, 96)
    fitted = Spectral(bytes).fit(vectors)
    decoded = fitted.dequantize(fitted.quantize(vectors))
    mean = vectors.mean(axis=0)
    ratio = np.linalg.norm(decoded - mean, axis=1) / np.linalg.norm(vectors - mean, axis=1)
    np.testing.assert_allclose(ratio, 1, atol=1e-3)  # float16


def test_bits_follow_the_variance_and_axes_are_orthonormal() -> None:
    spectrum = Spectral(20).fit(falling_rows(2000, 96)).spectrum
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.axes @ spectrum.axes.T, np.eye(len(spectrum.bits)), atol=1e-5)
    assert len(spectrum.bits) < 96  # the last axes are left out
    assert len(spectrum.parts) >= 3
    spread = [spectrum.spread[spectrum.bits == bits].mean() for bits in np.unique(spectrum.bits)]
    assert np.all(np.diff(spread) > 0)


def test_each_axis_decodes_to_the_spread_that_fit_has_seen() -> None:
    vectors = falling_rows(4000, 96)
    fitted = Spectral(50).fit(vectors)
    spectrum = fitted.spectrum
    assert spectrum is not None
    spread = np.sqrt(np.square(fitted.quantize(vectors).levels * spectrum.units).mean(axis=0))
    few_bits = spectrum.bits <= 3  # the axes of many bits are too few to look normal
    np.testing.assert_allclose(spread[few_bits], spectrum.spread[few_bits], rtol=0.1)
    assert uniform_error(1) == pytest.approx(1 - 2 / np.pi)


@pytest.mark.parametrize("bytes", [16, 28, 52])
def test_a_falling_spectrum_is_coded_nearer_than_by_evenly_spread_bits(bytes: int) -> None:
    vectors, queries = falling_rows(3000, 100), falling_rows(100, 100, 1)
    exact = queries @ vectors.T

    def kept(quantizer: Any) -> float:
        found = FlatIndex.build(vectors, quantizer).search(queries, 10).ids
        true = np.argsort(-exact, axis=1)[:, :10]
        return float(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)]))

    even = RaBitQ(max(1, (bytes - 2) * 8 // 100))
    assert even.bytes_per_vector(100) >= bytes - 1
    assert kept(Spectral(bytes)) > kept(even) + 0.05


def test_a_shorter_row_has_the_same_levels_and_a_smaller_factor() -> None:
    vectors = falling_rows(200, 64)
    fitted = Spectral(40).fit(np.concatenate([vectors, -vectors]))  # the mean is zero
    whole, small = fitted.quantize(vectors), fitted.quantize(vectors * np.float32(2.0**-9))
    np.testing.assert_array_equal(whole.levels, small.levels)
    np.testing.assert_array_equal(whole.scales[0].values, small.scales[0].values * 2**9)


def test_one_seed_gives_one_quantizer_and_another_gives_another() -> None:
    vectors = falling_rows(100, 40)
    codes = [Spectral(30, seed).fit(vectors).quantize(vectors) for seed in (0, 0, 1)]
    assert all(map(np.array_equal, codes[0].rowwise, codes[1].rowwise))
    assert not all(map(np.array_equal, codes[0].rowwise, codes[2].rowwise))


@pytest.mark.parametrize("bytes", [15, 0, -1, 20.0, True, None, "98"])
def test_bytes_that_no_row_can_take_are_refused(bytes: Any) -> None:
    with pytest.raises(ValueError, match=f"bytes must be an integer of at least 16, got {bytes!r}"):
        Spectral(bytes)


def test_more_bytes_than_all_axes_can_take_name_the_bound() -> None:
    for act in (lambda: Spectral(67).fit(normal_rows(10, 64)), lambda: Spectral(67).bytes_per_vector(64)):
        with pytest.raises(ValueError, match=r"bytes must be at most 66 for vectors of dim 64 \(8 bits .* got 67"):
            act()
    for bytes in (66, 68):
        Spectral(bytes).fit(normal_rows(10, 64))


def test_a_vector_far_outside_is_refused_by_row() -> None:
    fitted = Spectral(16).fit(normal_rows(30, 20))
    with pytest.raises(ValueError, match="row 1 lies"):
        fitted.quantize(normal_rows(3, 20) * np.array([[1], [1e6], [1]], np.float32))


def test_use_before_fit_and_codes_of_another_are_refused() -> None:
    vectors = falling_rows(50, 40)
    for act in (Spectral(30).quantize, Spectral(30).prepare):
        with pytest.raises(ValueError, match="Spectral must be fitted"):
            act(vectors)
    fitted = Spectral(30).fit(vectors)
    others = [Spectral(31).fit(vectors).quantize(vectors), RaBitQ(4).fit(vectors).quantize(vectors)]
    for codes in others:
        with pytest.raises(ValueError, match="another made them"):
            fitted.dequantize(codes)


def test_a_spectrum_that_fits_nothing_is_refused() -> None:
    spectrum = Spectral(30).fit(falling_rows(50, 40)).spectrum
    assert isinstance(spectrum, Spectrum)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"axes": spectrum.axes[:, :5]}, "axes must be finite float32"),
        ({"axes": np.full_like(spectrum.axes, np.nan)}, "axes must be finite"),
        ({"bits": spectrum.bits[::-1].copy()}, "descending"),
        ({"bits": spectrum.bits + np.uint8(8)}, "from 8 to 1"),
        ({"bits": spectrum.bits.astype(np.int64)}, "bits must be finite uint8"),
        ({"spread": -spectrum.spread}, "not be negative"),
        ({"origin": None}, "origin must be"),
        ({"feedback": np.zeros((40, 40), np.float32)}, "feedback must be given where"),
    ]
    for fields, message in wrong:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(spectrum, **fields)
    with pytest.raises(ValueError, match="spectrum must be learnt by fit for 31 bytes"):
        Spectral(31, 0, spectrum)


def test_codes_of_parts_are_sliced_and_joined() -> None:
    vectors = falling_rows(50, 40)
    codes = Spectral(30).fit(vectors).quantize(vectors)
    joined = Codes.concatenate([codes[:20], codes[20:]])
    assert all(map(np.array_equal, joined.rowwise, codes.rowwise))
