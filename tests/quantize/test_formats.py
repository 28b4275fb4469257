"""Levels, rounding and packing of the number formats, against ml_dtypes and against bytes written by hand."""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.formats import E3M4, E4M3, E5M2, FLOAT16, FLOAT32, FORMATS, INT8, SIGN, Format
from qindex_kernels import reference

ORACLES = {E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2, E3M4: ml_dtypes.float8_e3m4, FLOAT16: np.float16}
small_floats = pytest.mark.parametrize("format", [E4M3, E5M2, E3M4], ids=lambda format: format.name)
floats_of_fewer_bits = pytest.mark.parametrize("format", ORACLES, ids=lambda format: format.name)


def assert_encodes_like_the_oracle(format: Format, values: NDArray[np.float32]) -> None:
    """Within the format's range; beyond it, ml_dtypes gives NaN or infinity where qindex saturates."""
    clipped = np.clip(values, -format.max_value, format.max_value)
    wanted = clipped.astype(ORACLES[format]).view(np.uint8).reshape(1, -1)
    np.testing.assert_array_equal(format.encode(values[None]), wanted)


@small_floats
def test_levels_are_those_of_ml_dtypes(format: Format) -> None:
    wanted = np.arange(256, dtype=np.uint8).view(ORACLES[format]).astype(np.float32)
    np.testing.assert_array_equal(format.levels, wanted)
    np.testing.assert_array_equal(np.signbit(format.levels[[0, 128]]), [False, True])


@small_floats
def test_the_largest_level_is_max_value(format: Format) -> None:
    assert format.levels[np.isfinite(format.levels)].max() == format.max_value


@small_floats
def test_every_level_encodes_to_its_own_code(format: Format) -> None:
    codes = np.flatnonzero(np.isfinite(format.levels)).astype(np.uint8)
    np.testing.assert_array_equal(format.encode(format.levels[codes][None])[0], codes)


@small_floats
def test_ties_go_to_the_even_code(format: Format) -> None:
    levels = np.sort(np.unique(format.levels[np.isfinite(format.levels)])).astype(np.float64)
    halfway = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    assert_encodes_like_the_oracle(format, halfway)
    positive = halfway[halfway > 0]
    assert not np.any(format.encode(positive[None]) % 2)


@floats_of_fewer_bits
def test_numbers_of_every_size_encode_like_ml_dtypes(format: Format) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(100_000) * 2.0 ** rng.uniform(-30, 20, 100_000)).astype(np.float32)
    assert_encodes_like_the_oracle(format, values)
    just_beside = np.concatenate([np.nextafter(values, np.float32(sign)) for sign in (-np.inf, np.inf)])
    assert_encodes_like_the_oracle(format, just_beside)


@floats_of_fewer_bits
def test_subnormal_numbers_encode_like_ml_dtypes(format: Format) -> None:
    smallest = 2.0**-24 if format is FLOAT16 else float(format.levels[1])
    steps = np.arange(-40, 41, dtype=np.float32) / 4
    assert_encodes_like_the_oracle(format, steps * np.float32(smallest))
    assert_encodes_like_the_oracle(format, np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38], np.float32))


@floats_of_fewer_bits
def test_numbers_beyond_the_range_saturate(format: Format) -> None:
    values = np.array([[1.0001, 1.06, 2, 1e30], [-1.0001, -1.06, -2, -1e30]]) * format.max_value
    decoded = format.decode(format.encode(np.clip(values, -3e38, 3e38).astype(np.float32)), 4)
    np.testing.assert_array_equal(decoded, [[format.max_value] * 4, [-format.max_value] * 4])


def test_int8_rounds_half_to_even_and_saturates() -> None:
    values = np.array([[0.5, 1.5, -0.5, -1.5, 126.6, 127.5, 1e9, -128.4, -1e9]], np.float32)
    found = INT8.encode(values).view(np.int8)
    np.testing.assert_array_equal(found, [[0, 2, 0, -2, 127, 127, 127, -128, -128]])


def test_signs_fill_bytes_from_the_lowest_bit() -> None:
    values = np.array([[1, -1, -1, -1, -1, -1, -1, -1, -1, 3], [0, -0.0, 2, -3, -3, -3, -3, 1e-45, -1, -1]], np.float32)
    np.testing.assert_array_equal(SIGN.encode(values), [[0b0000_0001, 0b10], [0b1000_0111, 0b00]])
    np.testing.assert_array_equal(
        SIGN.decode(np.array([[0b0000_0101, 0b10]], np.uint8), 10), [[1, -1, 1, -1, -1, -1, -1, -1, -1, 1]]
    )


def test_floats_are_little_endian() -> None:
    values = np.array([[1.0, -2.5]], np.float32)
    assert FLOAT32.encode(values).tobytes().hex() == "0000803f000020c0"
    assert FLOAT16.encode(values).tobytes().hex() == "003c00c1"


def test_known_numbers_have_known_bytes() -> None:
    one = np.array([[1.0, -1.0]], np.float32)
    assert {name: FORMATS[name].encode(one).tobytes().hex() for name in ("e4m3", "e5m2", "e3m4", "int8")} == {
        "e4m3": "38b8",
        "e5m2": "3cbc",
        "e3m4": "30b0",
        "int8": "01ff",
    }


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384])
def test_rows_take_whole_bytes_and_decode_as_the_kernels_read_them(format: Format, dim: int) -> None:
    values = np.random.default_rng(dim).standard_normal((5, dim)).astype(np.float32) * 5
    packed = format.encode(values)
    assert packed.shape == (5, -(-dim * format.bits // 8)) == (5, format.row_bytes(dim))
    np.testing.assert_array_equal(format.decode(packed, dim), reference.decode(format.name, packed, dim))


def test_wide_formats_have_no_table_of_levels() -> None:
    with pytest.raises(ValueError, match="float16 has too many codes"):
        _ = FLOAT16.levels
