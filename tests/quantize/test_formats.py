"""Levels and rounding of the number formats: against ml_dtypes, against numbers written by hand, and as laws."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qindex.formats import (
    E2M1,
    E2M3,
    E3M2,
    E3M4,
    E4M3,
    E5M2,
    E8M0,
    FLOAT16,
    FLOAT32,
    FORMATS,
    HALF2,
    HALF3,
    HALF4,
    INT2,
    INT3,
    INT4,
    INT8,
    NF4,
    SIGN,
    TABLE2,
    TERNARY,
    Format,
)
from qindex_kernels import reference

ORACLES: dict[Format, Any] = {
    E4M3: ml_dtypes.float8_e4m3fn,
    E5M2: ml_dtypes.float8_e5m2,
    E3M4: ml_dtypes.float8_e3m4,
    E2M3: ml_dtypes.float6_e2m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
    E2M1: ml_dtypes.float4_e2m1fn,
}


def each(formats: Any) -> Any:
    return pytest.mark.parametrize("format", formats, ids=lambda format: format.name)


# Formats whose codes are numbers that mean the same wherever they stand, and the levels that they round to.
FIXED = [format for format in FORMATS.values() if format.bits <= 8 and format.kind not in ("codebook", "one_hot")]
GRIDS = [format for format in FIXED if format.kind in ("integer", "half_integer", "ternary")]


def finite_levels(format: Format) -> NDArray[np.float32]:
    levels = format.levels[:3] if format is TERNARY else format.levels
    return levels[np.isfinite(levels)]


def codes_of(format: Format, values: Any) -> NDArray[np.uint8]:
    row = np.asarray(values, np.float32)[None]
    return format.unpack(format.encode(row), row.shape[1])[0]


def assert_encodes_like_the_oracle(format: Format, values: NDArray[np.float32]) -> None:
    """Within the format's range; beyond it, ml_dtypes may give NaN or infinity where qindex saturates."""
    clipped = np.clip(values, -format.max_value, format.max_value)
    if format is FLOAT16:
        np.testing.assert_array_equal(format.encode(values[None]).view(np.uint16)[0], clipped.astype("f2").view("u2"))
    else:
        np.testing.assert_array_equal(codes_of(format, values), clipped.astype(ORACLES[format]).view(np.uint8))


# --- levels ----------------------------------------------------------------------------------------------------------


@each(ORACLES)
def test_levels_of_small_floats_are_those_of_ml_dtypes(format: Format) -> None:
    wanted = np.arange(1 << format.bits, dtype=np.uint8).view(ORACLES[format]).astype(np.float32)
    np.testing.assert_array_equal(format.levels, wanted)
    np.testing.assert_array_equal(np.signbit(format.levels[[0, len(wanted) // 2]]), [False, True])


def test_levels_of_power_of_two_scales_are_those_of_ml_dtypes() -> None:
    wanted = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(E8M0.levels, wanted)
    assert np.isnan(E8M0.levels[255])


@pytest.mark.parametrize(("format", "oracle"), [(INT2, ml_dtypes.int2), (INT4, ml_dtypes.int4), (INT8, np.int8)])
def test_integers_reach_as_far_as_two_s_complement_does(format: Format, oracle: Any) -> None:
    info = ml_dtypes.iinfo(oracle)
    assert (format.levels.min(), format.levels.max()) == (info.min, info.max)
    assert format.max_value == info.max


def test_levels_written_by_hand() -> None:
    assert {f.name: f.levels.tolist() for f in (SIGN, TERNARY, INT2, INT3, HALF2, HALF3)} == {
        "sign": [-1, 1],
        "ternary": [-1, 0, 1, 0],
        "int2": [-2, -1, 0, 1],
        "int3": [-4, -3, -2, -1, 0, 1, 2, 3],
        "half2": [-1.5, -0.5, 0.5, 1.5],
        "half3": [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5],
    }
    np.testing.assert_array_equal(INT8.levels, [*range(128), *range(-128, 0)])
    np.testing.assert_array_equal(E2M1.levels[:8], [0, 0.5, 1, 1.5, 2, 3, 4, 6])


def test_nf4_has_a_zero_and_ends_at_one_with_half_of_the_codes_on_either_side() -> None:
    assert NF4.levels[[0, 7, 15]].tolist() == [-1, 0, 1]
    assert np.all(np.diff(NF4.levels) > 0)


@each(FIXED)
def test_the_largest_level_is_max_value(format: Format) -> None:
    assert finite_levels(format).max() == format.max_value


@each(FIXED)
def test_levels_are_those_of_the_kernels(format: Format) -> None:
    finite = np.isfinite(format.levels)
    np.testing.assert_array_equal(format.levels[finite], reference.LEVELS[format.name][finite])


def test_formats_without_fixed_levels_say_so() -> None:
    for format in (FLOAT16, FLOAT32):
        with pytest.raises(ValueError, match=f"{format.name} has too many codes"):
            _ = format.levels
    with pytest.raises(ValueError, match=r"the levels of table2 lie beside the codes, in Codes\.tables"):
        _ = TABLE2.levels
    with pytest.raises(ValueError, match="table2 rounds to levels of its own"):
        TABLE2.encode(np.zeros((1, 4), np.float32))


# --- rounding --------------------------------------------------------------------------------------------------------


@each(FIXED)
def test_every_level_encodes_to_its_own_code(format: Format) -> None:
    codes = np.flatnonzero(np.isfinite(format.levels))[: 3 if format is TERNARY else None]
    np.testing.assert_array_equal(codes_of(format, format.levels[codes]), codes)


@each([format for format in FIXED if format is not E8M0])
@given(values=hnp.arrays(np.float32, 20, elements=st.floats(-1.5, 1.5, width=32)))
@settings(deadline=None, max_examples=50)
def test_numbers_round_to_the_nearest_level(format: Format, values: NDArray[np.float32]) -> None:
    values = values * np.float32(format.max_value)
    found = format.decode(format.encode(values[None]), len(values))[0].astype(np.float64)
    nearest = np.abs(finite_levels(format) - values[:, None].astype(np.float64)).min(axis=1)
    rounding = np.spacing(np.abs(values)) + 1e-7 * (format.kind == "half_integer")  # of a difference in float32
    assert np.all(np.abs(found - values) <= nearest + rounding)


@each([format for format in FIXED if format is not E8M0])
@given(values=hnp.arrays(np.float32, 20, elements=st.floats(-1, 1, width=32) | st.sampled_from([0.0, -0.0, 0.5])))
@settings(deadline=None, max_examples=50)
def test_the_nearest_level_is_the_one_that_is_encoded(format: Format, values: NDArray[np.float32]) -> None:
    values = values * np.float32(format.max_value)
    np.testing.assert_array_equal(format.nearest(values), format.levels[codes_of(format, values)])
    np.testing.assert_array_equal(codes_of(format, format.nearest(values)), codes_of(format, values))


@each([format for format in (*ORACLES, *GRIDS) if format is not TERNARY])
def test_ties_go_to_the_even_code(format: Format) -> None:
    levels = np.unique(finite_levels(format)).astype(np.float64)
    halfway = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    codes = codes_of(format, halfway)
    assert not np.any(codes[halfway > 0] % 2)
    assert not np.any(codes[halfway < 0] % 2)
    if format in ORACLES:
        assert_encodes_like_the_oracle(format, halfway)


def test_ties_in_a_table_go_to_the_lower_level() -> None:
    halfway = (NF4.levels[1:] + NF4.levels[:-1]) / 2
    np.testing.assert_array_equal(codes_of(NF4, halfway), range(15))
    np.testing.assert_array_equal(codes_of(NF4, np.nextafter(halfway, np.float32(2))), range(1, 16))


@each([*ORACLES, FLOAT16])
def test_numbers_of_every_size_encode_like_ml_dtypes(format: Format) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(100_000) * 2.0 ** rng.uniform(-30, 20, 100_000)).astype(np.float32)
    assert_encodes_like_the_oracle(format, values)
    just_beside = np.concatenate([np.nextafter(values, np.float32(sign)) for sign in (-np.inf, np.inf)])
    assert_encodes_like_the_oracle(format, just_beside)


@each([*ORACLES, FLOAT16])
def test_subnormal_numbers_encode_like_ml_dtypes(format: Format) -> None:
    smallest = 2.0**-24 if format is FLOAT16 else float(format.levels[1])
    steps = np.arange(-40, 41, dtype=np.float32) / 4
    assert_encodes_like_the_oracle(format, steps * np.float32(smallest))
    assert_encodes_like_the_oracle(format, np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38], np.float32))


@each([*ORACLES, FLOAT16, *GRIDS, NF4, SIGN])
def test_numbers_beyond_the_range_saturate(format: Format) -> None:
    lowest = -format.max_value if format is FLOAT16 else float(finite_levels(format).min())
    values = np.array([[1.0001, 1.06, 2, 1e30]]) * [[format.max_value], [lowest]]
    decoded = format.decode(format.encode(np.clip(values, -3e38, 3e38).astype(np.float32)), 4)
    np.testing.assert_array_equal(decoded, [[format.max_value] * 4, [lowest] * 4])


def test_integers_round_half_to_even_and_saturate() -> None:
    values = np.array([[0.5, 1.5, -0.5, -1.5, 126.6, 127.5, 1e9, -128.4, -1e9]], np.float32)
    found = INT8.encode(values).view(np.int8)
    np.testing.assert_array_equal(found, [[0, 2, 0, -2, 127, 127, 127, -128, -128]])
    np.testing.assert_array_equal(INT4.decode(INT4.encode(values), 9), [[0, 2, 0, -2, 7, 7, 7, -8, -8]])
    halves = np.array([[0, 1, 2, -1, -2, 0.1, -0.1, 7.6, -99]], np.float32)
    np.testing.assert_array_equal(
        HALF4.decode(HALF4.encode(halves), 9), [[0.5, 0.5, 2.5, -1.5, -1.5, 0.5, -0.5, 7.5, -7.5]]
    )


def test_zero_counts_as_positive_in_signs_and_as_zero_in_ternary() -> None:
    values = [0.0, -0.0, 1e-45, -1e-45, 0.5, 0.51, -0.5, -0.51, 9, -9]
    np.testing.assert_array_equal(SIGN.levels[codes_of(SIGN, values)], [1, 1, 1, -1, 1, 1, -1, -1, 1, -1])
    np.testing.assert_array_equal(TERNARY.levels[codes_of(TERNARY, values)], [0, 0, 0, 0, 0, 1, 0, -1, 1, -1])


def test_scales_are_rounded_up_to_a_power_of_two_and_powers_of_two_stay() -> None:
    exponents = np.arange(-126, 128)
    powers = np.ldexp(np.float32(1), exponents)
    np.testing.assert_array_equal(codes_of(E8M0, powers), exponents + 127)
    np.testing.assert_array_equal(codes_of(E8M0, np.nextafter(powers, np.float32(0))), exponents + 127)
    above = np.nextafter(powers, np.float32(np.inf))
    np.testing.assert_array_equal(codes_of(E8M0, above), np.minimum(exponents + 128, 254))
    np.testing.assert_array_equal(codes_of(E8M0, [0, 1e-45, 2.0**-127, 3e38]), [0, 0, 0, 254])


@given(scale=st.floats(2.0**-100, 2.0**100, width=32))
@settings(deadline=None)
def test_a_rounded_scale_is_the_smallest_power_of_two_that_does_not_clip(scale: float) -> None:
    rounded = float(E8M0.levels[codes_of(E8M0, [scale])[0]])
    assert rounded / 2 < scale <= rounded
