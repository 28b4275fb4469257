"""What each quantizer learns, keeps and refuses. The laws that all of them obey are in tests/laws."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import E4M3, INT8
from qindex.index import FlatIndex
from qindex.quantize import Binary, Float8, Float16, Float32, Int4, Int8, LloydMax, Microscaling, RaBitQ
from qindex.types import Codes, Quantizer

UNFITTED = [
    *(Float8("e4m3"), Float8("e5m2"), Float8("e3m4"), Int8("dim"), Binary(), Binary(center=True)),
    *(RaBitQ(1), RaBitQ(4), RaBitQ(8), LloydMax(1), LloydMax(2), LloydMax(4, scale="least-error")),
    *(Int4("range"), Int4("optimal"), Microscaling("nvfp4"), Microscaling("nvint4", rotate=True)),
]
ALL = [Float32(), Float16(), Int8(), Microscaling("mxint4"), Microscaling("mxfp6", rotate=True), *UNFITTED]


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32)


@pytest.mark.parametrize("quantizer", UNFITTED, ids=repr)
def test_use_before_fit_says_how_to_fit(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    assert not quantizer.fitted
    for use in (quantizer.quantize, quantizer.prepare):
        with pytest.raises(ValueError, match=r"must be fitted before use: call fitted = quantizer\.fit"):
            use(vectors)
    assert not quantizer.fitted


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_fit_returns_a_fitted_quantizer_of_the_protocol(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors)
    assert fitted.fitted
    assert isinstance(fitted, Quantizer)
    assert type(fitted) is type(quantizer)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_one_row_can_be_fitted_and_scored(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors[:1])
    found = kernels.scores(fitted.prepare(vectors[1:3]), fitted.quantize(vectors[:1]))
    decoded = fitted.dequantize(fitted.quantize(vectors[:1]))
    np.testing.assert_allclose(found, vectors[1:3] @ decoded.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_zeros_can_be_fitted_and_score_zero(quantizer: Quantizer) -> None:
    zeros = np.zeros((3, 5), np.float32)
    fitted = quantizer.fit(zeros)
    np.testing.assert_array_equal(fitted.dequantize(fitted.quantize(zeros)), 0)
    np.testing.assert_array_equal(kernels.scores(fitted.prepare(zeros + 1), fitted.quantize(zeros)), 0)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_no_rows_are_quantized_to_no_codes(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors)
    assert len(fitted.quantize(vectors[:0])) == 0
    assert fitted.dequantize(fitted.quantize(vectors[:0])).shape == (0, 24)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_fitting_to_no_rows_is_refused(quantizer: Quantizer) -> None:
    with pytest.raises(ValueError, match=r"vectors must have at least one row, got \(0, 4\)"):
        quantizer.fit(np.empty((0, 4), np.float32))


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(
    quantizer: Quantizer, bad: float, vectors: NDArray[np.float32]
) -> None:
    fitted = quantizer.fit(vectors)
    vectors[7, 3] = bad
    for use, name in ((quantizer.fit, "vectors"), (fitted.quantize, "vectors"), (fitted.prepare, "queries")):
        with pytest.raises(ValueError, match=f"{name} must be finite .* row 7 has NaN or infinity"):
            use(vectors)


@pytest.mark.parametrize("quantizer", [Int8("dim"), Binary(), RaBitQ(), LloydMax(), Int4()], ids=repr)
def test_another_dim_than_the_fitted_one_says_both(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors)
    with pytest.raises(ValueError, match=r"vectors must be \(n, 24\), got \(300, 5\)"):
        fitted.quantize(vectors[:, :5])
    with pytest.raises(ValueError, match=r"queries must be \(n, 24\), got \(300, 5\)"):
        fitted.prepare(vectors[:, :5])
    with pytest.raises(ValueError, match=r"dim must be 24 for .*, got 5"):
        fitted.bytes_per_vector(5)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_a_dim_of_zero_takes_no_bytes_but_an_error(quantizer: Quantizer) -> None:
    with pytest.raises(ValueError, match="dim must be positive"):
        quantizer.bytes_per_vector(0)


@pytest.mark.parametrize("quantizer", ALL, ids=repr)
def test_codes_of_another_format_are_refused(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    other = Float16() if isinstance(quantizer, Float32) else Float32()
    with pytest.raises(ValueError, match=r"codes must be .*, got float"):
        quantizer.fit(vectors).dequantize(other.quantize(vectors))


def test_codes_of_the_other_int8_scale_are_refused(vectors: NDArray[np.float32]) -> None:
    by_vector, by_dim = Int8(), Int8("dim").fit(vectors)
    with pytest.raises(ValueError, match="codes must have row scales"):
        by_vector.dequantize(by_dim.quantize(vectors))
    with pytest.raises(ValueError, match="codes must not have row scales"):
        by_dim.dequantize(by_vector.quantize(vectors))
    with pytest.raises(ValueError, match="codes must have row scales"):
        FlatIndex.from_codes(by_vector, by_dim.quantize(vectors))


def test_int8_by_vector_stores_the_largest_number_as_127() -> None:
    codes = Int8().quantize(np.array([[0.5, -2.0, 1.0], [0, 0, 0]], np.float32))
    np.testing.assert_array_equal(codes.data.view(np.int8), [[32, -127, 64], [0, 0, 0]])
    np.testing.assert_allclose(codes.scale, [2 / 127, 0])  # type: ignore[arg-type]


def test_int8_by_dim_clips_to_the_range_it_saw_and_keeps_constants() -> None:
    quantizer = Int8("dim").fit(np.array([[0.0, 5.0], [255.0, 5.0]], np.float32))
    codes = quantizer.quantize(np.array([[-9.0, 5.0], [300.0, 5.0], [7.0, 5.0]], np.float32))
    np.testing.assert_array_equal(codes.data.view(np.int8)[:, 0], [-128, 127, -121])
    np.testing.assert_array_equal(quantizer.dequantize(codes), [[0, 5], [255, 5], [7, 5]])


@pytest.mark.parametrize("format", ["e4m3", "e5m2", "e3m4"])
@pytest.mark.parametrize("largest", [1e-30, 0.25, 1.0, 1.75, 448.0, 449.0, 1e17])
def test_float8_brings_the_largest_number_just_under_the_format_s(format: str, largest: float) -> None:
    quantizer = Float8(format).fit(np.array([[largest, -largest / 3]], np.float32))  # type: ignore[arg-type]
    assert quantizer.exponent is not None
    limit = {"e4m3": 448, "e5m2": 57344, "e3m4": 15.5}[format]
    assert limit / 2 < np.float32(largest) * 2.0**quantizer.exponent <= limit


def test_binary_learns_the_mean_distance_and_the_mean() -> None:
    vectors = np.array([[1.0, 10.0], [3.0, 14.0]], np.float32)
    plain, centred = Binary().fit(vectors), Binary(center=True).fit(vectors)
    assert (plain.level, centred.level) == (7.0, 1.5)
    np.testing.assert_array_equal(plain.mean, [0, 0])  # type: ignore[arg-type]
    np.testing.assert_array_equal(centred.dequantize(centred.quantize(vectors)), [[0.5, 10.5], [3.5, 13.5]])


def test_float16_refuses_what_it_cannot_hold(vectors: NDArray[np.float32]) -> None:
    for use in (Float16().fit, Float16().quantize):
        with pytest.raises(ValueError, match="up to 65504 for Float16, got 100000"):
            use(np.full((1, 2), 1e5, np.float32))


def test_unknown_settings_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match='format must be "e4m3", "e5m2" or "e3m4", got \'e8m0\''):
        Float8("e8m0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='scale must be "vector" or "dim", got \'row\''):
        Int8("row")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="center must be True or False, got 1"):
        Binary(center=1)  # type: ignore[arg-type]


def test_quantizing_leaves_the_vectors_alone(vectors: NDArray[np.float32]) -> None:
    before = vectors.copy()
    for quantizer in ALL:
        fitted = quantizer.fit(vectors)
        codes = fitted.quantize(vectors)
        fitted.prepare(vectors)
        codes.data[:] = 0
    np.testing.assert_array_equal(vectors, before)


# --- Codes -----------------------------------------------------------------------------------------------------------


def test_codes_refuse_arrays_that_a_kernel_would_misread() -> None:
    data = np.zeros((4, 6), np.uint8)
    with pytest.raises(ValueError, match=r"data must be uint8 \(n, 7\) for 7 numbers in int8, got uint8 \(4, 6\)"):
        Codes(data, INT8, 7, 1.0)
    with pytest.raises(ValueError, match="data must be uint8"):
        Codes(data.view(np.int8), INT8, 6, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data must be C-contiguous"):
        Codes(np.zeros((6, 4), np.uint8).T, INT8, 6, 1.0)
    with pytest.raises(ValueError, match=r"scale must be contiguous float32 \(4,\), got float64 \(4,\)"):
        Codes(data, INT8, 6, 1.0, scale=np.ones(4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"offset must be contiguous float32 \(4,\), got float32 \(3,\)"):
        Codes(data, INT8, 6, 1.0, offset=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="dim must be an integer from 1 to 65536, got 65537"):
        Codes(np.zeros((1, 65_537), np.uint8), INT8, 65_537, 1.0)
    for norm in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="max_norm must be finite and not negative"):
            Codes(data, INT8, 6, norm)


def test_rows_of_codes_keep_their_scales(vectors: NDArray[np.float32]) -> None:
    codes, decoded = Int8().quantize(vectors), Int8().dequantize(Int8().quantize(vectors))
    for rows in (slice(5, 20), np.array([7, 7, 2]), np.arange(300) % 3 == 0):
        np.testing.assert_array_equal(Int8().dequantize(codes[rows]), decoded[rows])
    assert np.shares_memory(codes[5:20].data, codes.data)
    with pytest.raises(TypeError, match=r"a single row is codes\[3:3\+1\]"):
        codes[3]  # type: ignore[index]


def test_concatenated_codes_are_those_of_all_rows(vectors: NDArray[np.float32]) -> None:
    whole, parts = Int8().quantize(vectors), [Int8().quantize(vectors[:100]), Int8().quantize(vectors[100:])]
    joined = Codes.concatenate(parts)
    np.testing.assert_array_equal(joined.data, whole.data)
    np.testing.assert_array_equal(joined.scale, whole.scale)  # type: ignore[arg-type]
    assert joined.max_norm == whole.max_norm
    with pytest.raises(ValueError, match="cannot concatenate int8 codes of dim 24 with e4m3 codes of dim 24"):
        Codes.concatenate([whole, Float8("e4m3").fit(vectors).quantize(vectors)])


def test_max_norm_bounds_every_decoded_row(vectors: NDArray[np.float32]) -> None:
    vectors[3] *= 100
    for quantizer in (Float32(), Float16(), Int8()):
        codes = quantizer.quantize(vectors)
        norms = np.linalg.norm(quantizer.dequantize(codes).astype(np.float64), axis=1)
        assert norms.max() <= codes.max_norm <= norms.max() * 1.00001
    float8 = Float8("e4m3").fit(vectors)
    norms = np.linalg.norm(E4M3.decode(float8.quantize(vectors).data, 24).astype(np.float64), axis=1)
    assert norms.max() <= float8.quantize(vectors).max_norm <= norms.max() * 1.00001
