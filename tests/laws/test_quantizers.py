"""Laws that hold for every quantizer, whatever the vectors."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS
from qindex.quantize import (
    Binary,
    Float8,
    Float16,
    Float32,
    Int4,
    Int8,
    LloydMax,
    Microscaling,
    ProductQuantizer,
    RaBitQ,
)
from qindex.types import Codes, Quantizer

ROUNDING = [
    *(Float32(), Float16(), Float8("e4m3"), Float8("e5m2"), Float8("e3m4")),
    *(Int8(), Int8("dim"), Binary(), Binary(center=True)),
]
ALL = [
    *ROUNDING,
    *(RaBitQ(1), RaBitQ(3), RaBitQ(4), RaBitQ(7), LloydMax(1), LloydMax(4), LloydMax(3, scale="least-error")),
    *(Int4("range"), Int4(), Microscaling("mxint8"), Microscaling("nvfp4"), Microscaling("mxfp4", rotate=True)),
    *(ProductQuantizer(1), ProductQuantizer(1, bits=4)),
]
every_quantizer = pytest.mark.parametrize("quantizer", ALL, ids=repr)
few = settings(deadline=None, max_examples=40, derandomize=True)

numbers = st.floats(-100, 100, width=32, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-20])
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=numbers)


def exact_scores(quantizer: Any, queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    decoded = quantizer.dequantize(quantizer.quantize(vectors))
    return np.einsum("id,jd->ij", queries.astype(np.float64), decoded.astype(np.float64))


@every_quantizer
@given(vectors=matrices, data=st.data())
@few
def test_scores_are_those_of_the_decoded_vectors(
    quantizer: Quantizer, vectors: NDArray[np.float32], data: st.DataObject
) -> None:
    dim = vectors.shape[1]
    queries = data.draw(hnp.arrays(np.float32, (2, dim), elements=numbers))
    fitted = quantizer.fit(vectors)
    found = kernels.scores(fitted.prepare(queries), fitted.quantize(vectors))
    # Decoding and preparing round to float32, relative to the largest numbers that meet.
    reach = np.linalg.norm(queries.astype(np.float64), axis=1)[:, None] * (np.abs(vectors).max() * dim**0.5 + 1e-30)
    assert np.all(np.abs(found - exact_scores(fitted, queries, vectors)) <= 1e-5 * reach + 1e-30)


def shared_bytes(codes: Codes) -> int:
    """What all rows share: a table of levels, or the scale of the matrix."""
    tree = sum(level.data.nbytes for level in codes.scales if level.data.ndim == 1)
    return tree + (0 if codes.tables is None or codes.tables.ndim == 3 else codes.tables.nbytes)


@every_quantizer
@given(vectors=matrices)
@few
def test_bytes_per_vector_is_what_codes_take(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors)
    codes = fitted.quantize(vectors)
    assert fitted.bytes_per_vector(vectors.shape[1]) * len(codes) == codes.nbytes - shared_bytes(codes)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384, 1023])
@every_quantizer
def test_bytes_per_vector_is_exact_for_dims_that_fill_no_byte(quantizer: Quantizer, dim: int) -> None:
    codes = quantizer.fit(np.ones((3, dim), np.float32)).quantize(np.ones((3, dim), np.float32))
    assert quantizer.bytes_per_vector(dim) == (codes.nbytes - shared_bytes(codes)) / len(codes)


# Without centring: a mean so large that mean + level rounds back to the mean loses the signs.
@pytest.mark.parametrize("quantizer", ROUNDING[:-1], ids=repr)
@given(vectors=matrices)
@few
def test_quantizing_what_was_decoded_gives_the_same_codes(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors)
    codes = fitted.quantize(vectors)
    decoded = fitted.dequantize(codes)
    if isinstance(fitted, Binary) and fitted.level == 0:
        return  # every vector was zero, and zero has one sign
    if isinstance(fitted, Int8) and fitted.scale == "dim":
        # A step finer than float32 numbers of that size are apart cannot be told from its neighbours.
        assert fitted.step is not None
        told_apart = fitted.step >= 4 * np.spacing(np.abs(vectors).max(axis=0))
        again = fitted.quantize(decoded)
        np.testing.assert_array_equal(again.data[:, told_apart], codes.data[:, told_apart])
        return
    again = fitted.quantize(decoded)
    np.testing.assert_array_equal(again.data, codes.data)
    if codes.scale is not None and again.scale is not None:  # (127 * s) / 127 rounds twice
        np.testing.assert_array_max_ulp(again.scale, codes.scale, 1)


@every_quantizer
@given(vectors=matrices, seed=st.integers(0, 1000))
@few
def test_a_row_is_quantized_alike_in_any_company(quantizer: Quantizer, vectors: NDArray[np.float32], seed: int) -> None:
    fitted = quantizer.fit(vectors)
    codes, order = fitted.quantize(vectors), np.random.default_rng(seed).permutation(len(vectors))
    permuted = fitted.quantize(vectors[order])
    np.testing.assert_array_equal(permuted.data, codes[order].data)
    np.testing.assert_array_equal(fitted.quantize(vectors[:1]).data, codes[:1].data)
    if codes.scale is not None and permuted.scale is not None:
        np.testing.assert_array_equal(permuted.scale, codes.scale[order])


@given(vectors=matrices)
@few
def test_int8_by_vector_errs_by_half_a_step(vectors: NDArray[np.float32]) -> None:
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    error = np.abs(Int8().dequantize(Int8().quantize(vectors)) - vectors)
    assert np.all(error <= step / 2 * (1 + 1e-5))


@given(vectors=matrices)
@few
def test_int8_by_dim_errs_by_half_a_step_within_the_range_seen(vectors: NDArray[np.float32]) -> None:
    quantizer = Int8("dim").fit(vectors)
    step = (vectors.max(axis=0) - vectors.min(axis=0).astype(np.float64)) / 255
    rounding = 4 * np.spacing(np.abs(vectors).max(axis=0) * 2)
    error = np.abs(quantizer.dequantize(quantizer.quantize(vectors)) - vectors)
    assert np.all(error <= step / 2 * (1 + 1e-5) + rounding)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e3m4"])
@given(vectors=matrices)
@few
def test_float8_errs_by_half_a_unit_in_the_last_place(name: Any, vectors: NDArray[np.float32]) -> None:
    format, quantizer = FORMATS[name], Float8(name).fit(vectors)
    assert quantizer.exponent is not None
    smallest_unit = 2.0 ** (format.min_exponent - format.mantissa_bits - quantizer.exponent)
    error = np.abs(quantizer.dequantize(quantizer.quantize(vectors)) - vectors)
    assert np.all(error <= np.maximum(np.abs(vectors) * 2.0 ** -(format.mantissa_bits + 1), smallest_unit / 2))


@given(vectors=matrices)
@few
def test_float16_errs_by_half_a_unit_and_float32_not_at_all(vectors: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(Float32().dequantize(Float32().quantize(vectors)), vectors)
    error = np.abs(Float16().dequantize(Float16().quantize(vectors)) - vectors)
    assert np.all(error <= np.maximum(np.abs(vectors) * 2.0**-11, 2.0**-25))


@pytest.mark.parametrize("center", [False, True])
@given(vectors=matrices)
@few
def test_binary_chooses_the_level_of_least_squares(center: bool, vectors: NDArray[np.float32]) -> None:
    quantizer = Binary(center).fit(vectors)
    assert quantizer.level is not None
    assert quantizer.mean is not None

    def squared_error(level: float) -> float:
        decoded = Binary(center, level, quantizer.mean)
        return float(((decoded.dequantize(decoded.quantize(vectors)).astype(np.float64) - vectors) ** 2).sum())

    best = squared_error(quantizer.level)
    slack = 1e-4 * float((np.abs(vectors).astype(np.float64) ** 2).sum()) + 1e-12
    assert best <= squared_error(quantizer.level * 1.1) + slack
    assert best <= squared_error(quantizer.level * 0.9) + slack
