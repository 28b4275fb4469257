"""The bits of packed rows: literal bytes for every width, and pack and unpack as inverses."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qindex.formats import E4M3, FLOAT16, FLOAT32, FORMATS, INT3, INT5, INT8, NF4, PLANES, SIGN, TABLE3, Format
from qindex_kernels import reference


def each(formats: Any) -> Any:
    return pytest.mark.parametrize("format", formats, ids=lambda format: format.name)


PACKED = [format for format in FORMATS.values() if format.bits <= 8]
ONE_OF_EACH_WIDTH = list({format.bits: format for format in PACKED if format.span == 1}.values())

# Codes in binary, and the bytes of their planes: the lowest bits first, each plane filled up to whole bytes.
LITERAL = [
    ("sign", "1 0 0 0 0 0 0 1 1", "81 01"),
    ("int2", "00 01 10 11 01", "e4 01"),
    ("int3", "000 001 010 011 100 101 110 111 101", "e4 e4 01 | f0 01"),
    ("int4", "0001 1111 1000", "f1 08"),
    ("int5", "1_0001 0_1111 1_1000", "f1 08 | 05"),
    ("int6", "10_0001 01_1111 11_1000", "f1 08 | 36"),
    ("int7", "1_10_0001 0_01_1111 1_11_1000", "f1 08 | 36 | 05"),
    ("int8", "00000001 11111110", "01 fe"),
]


@pytest.mark.parametrize(("name", "codes", "packed"), LITERAL, ids=lambda part: str(part).split()[0])
def test_codes_lie_in_planes_with_the_first_in_the_lowest_bits(name: str, codes: str, packed: str) -> None:
    row = np.array([[int(code, 2) for code in codes.split()]], np.uint8)
    wanted = bytes.fromhex(re.sub("[ |]", "", packed))
    assert FORMATS[name].pack(row).tobytes() == wanted
    np.testing.assert_array_equal(FORMATS[name].unpack(np.frombuffer(wanted, np.uint8)[None], row.shape[1]), row)


def test_every_width_has_literal_bytes() -> None:
    assert {FORMATS[name].bits for name, _, _ in LITERAL} == set(range(1, 9))


def test_planes_make_up_the_bits() -> None:
    assert all(sum(planes) == bits for bits, planes in PLANES.items())
    assert {format.bits for format in FORMATS.values()} <= PLANES.keys()


def test_rows_begin_at_whole_bytes() -> None:
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
    row = np.array([[1.0, -1.0]], np.float32)
    formats = {format.name: format for format in FORMATS.values() if format.span == 1}
    formats = {name: format for name, format in formats.items() if format.kind not in ("codebook", "exponent")}
    assert {name: format.encode(row).tobytes().hex() for name, format in formats.items()} == {
        "float32": "0000803f000080bf",
        "float16": "003c00bc",
        "e4m3": "38b8",
        "e5m2": "3cbc",
        "e3m4": "30b0",
        "e2m3": "8808",  # 0b001000 and 0b101000
        "e3m2": "cc08",  # 0b001100 and 0b101100
        "e2m1": "a2",  # 0b0010 and 0b1010
        "sign": "01",
        "ternary": "02",
        "int2": "07",
        "int3": "0d01",  # 0b101 and 0b011
        "int4": "79",
        "int5": "f101",  # 0b10001 and 0b01111
        "int6": "f106",  # 0b100001 and 0b011111
        "int7": "f10c01",  # 0b1000001 and 0b0111111
        "int8": "01ff",
        "half2": "02",  # 0.5 (a tie between 0.5 and 1.5 goes to the even code) and -1.5
        "half3": "0801",  # 0.5 and -1.5
        "half4": "68",  # 0.5 and -1.5
        "nf4": "0f",
    }


@each(PACKED)
@given(codes=hnp.arrays(np.uint8, st.tuples(st.integers(0, 4), st.integers(1, 70))))
@settings(deadline=None, max_examples=30)
def test_unpacking_gives_back_what_was_packed(format: Format, codes: NDArray[np.uint8]) -> None:
    codes = codes & np.uint8((1 << format.bits) - 1)
    n, dim = codes.shape[0], codes.shape[1] * format.span
    packed = format.pack(codes)
    assert packed.dtype == np.uint8
    assert packed.flags.c_contiguous
    assert packed.shape == (n, format.row_bytes(dim))
    np.testing.assert_array_equal(format.unpack(packed, dim), codes)
    np.testing.assert_array_equal(reference.unpack(format.name, packed, dim), codes)


@each(ONE_OF_EACH_WIDTH)
def test_bits_beyond_the_last_number_are_zero_and_are_not_read(format: Format) -> None:
    dim = 3
    ones = np.full((1, format.row_bytes(dim)), 255, np.uint8)
    packed = format.pack(format.unpack(ones, dim))
    assert np.unpackbits(packed).sum() == dim * format.bits
    np.testing.assert_array_equal(format.unpack(packed, dim), format.unpack(ones, dim))


@each(ONE_OF_EACH_WIDTH)
def test_packing_leaves_the_codes_alone(format: Format) -> None:
    codes = np.arange(200, dtype=np.uint8).reshape(4, 50) & np.uint8((1 << format.bits) - 1)
    before = codes.copy()
    format.unpack(format.pack(codes), 50)
    np.testing.assert_array_equal(codes, before)


@each([INT3, INT5, E4M3, NF4, SIGN])
def test_rows_may_be_strided(format: Format) -> None:
    values = np.random.default_rng(0).standard_normal((6, 42)).astype(np.float32)
    wanted = format.encode(np.ascontiguousarray(values[::2, ::3]))
    np.testing.assert_array_equal(format.encode(values[::2, ::3]), wanted)
    spread = np.repeat(wanted, 2, axis=0)[::2]
    np.testing.assert_array_equal(format.decode(spread, 14), format.decode(wanted, 14))


def random_rows(format: Format, dim: int) -> NDArray[np.uint8]:
    """Five rows with every kind of code but those of NaN and infinity, which the kernels leave undefined."""
    rng = np.random.default_rng(dim)
    if format.bits > 8:
        return format.encode(rng.standard_normal((5, dim)).astype(np.float32) * 5)
    if format.kind == "one_hot":
        return format.pack(rng.integers(0, format.span, (5, dim // format.span), np.uint8))
    return format.pack(rng.choice(np.flatnonzero(np.isfinite(format.levels)).astype(np.uint8), (5, dim)))


@each([format for format in FORMATS.values() if format.kind != "codebook"])
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 384])
def test_rows_decode_as_the_kernels_read_them(format: Format, dim: int) -> None:
    dim *= format.span
    packed = random_rows(format, dim)
    decoded = format.decode(packed, dim)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, reference.decode(format.name, packed, dim))


def test_codes_of_a_codebook_are_packed_as_other_codes_are() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (5, 13), np.uint8)
    np.testing.assert_array_equal(TABLE3.pack(codes), INT3.pack(codes))
    np.testing.assert_array_equal(reference.unpack("table3", TABLE3.pack(codes), 13), codes)


@each(FORMATS.values())
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 63, 384])
def test_a_row_takes_whole_bytes_of_each_plane(format: Format, dim: int) -> None:
    assert format.row_bytes(dim * format.span) == sum(-(-dim * width // 8) for width in PLANES[format.bits])
    if dim % 8 == 0:
        assert format.row_bytes(dim * format.span) * 8 == dim * format.bits
    assert INT8.row_bytes(dim) == dim
