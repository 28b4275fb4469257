"""Files made to harm, with valid checksums: each is refused before an array or an object exists."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qindex import io
from qindex.formats import INT8
from qindex.io import FormatError
from qindex.types import Codes


@io.register("test-hostile")
@dataclass(frozen=True, eq=False)
class Thing:
    a: Any
    b: Any


ABOUT = {
    "format_version": 1,
    "kind": "test-hostile",
    "config": {"a": {"tensor": "a"}, "b": {"tensor": "b"}},
    "blocks": {"a": [0], "b": [0]},
}
TENSORS = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "U8", "shape": [8], "data_offsets": [24, 32]},
}


def write(path: Path, about: Any = ABOUT, tensors: Any = TENSORS, payload: int = 32, align: int = 64) -> Path:
    """Write a signed file. `about` and `tensors` are JSON values or JSON texts; `payload` counts zero bytes."""
    about = about if isinstance(about, str) else json.dumps(about)
    tensors = tensors if isinstance(tensors, str) else json.dumps(tensors)
    meta = '"__metadata__":{"crc32":"00000000","qindex":' + json.dumps(about) + "}"
    text = ("{" + meta + ("," + tensors[1:-1] if tensors[1:-1] else "") + "}").encode()
    text += b" " * (-(8 + len(text)) % align)
    raw = len(text).to_bytes(8, "little") + text
    path.write_bytes(raw[:34] + b"%08x" % zlib.crc32(raw) + raw[42:] + bytes(payload))
    return path


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        io.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_the_builder_of_these_tests_makes_files_that_load(tmp_path):
    thing = io.load(write(tmp_path / "f"))
    assert (thing.a.shape, thing.b.dtype) == ((2, 3), np.uint8)


def a_tensor(**changes: Any) -> Any:
    return {**TENSORS, "a": {**TENSORS["a"], **changes}}


@pytest.mark.parametrize(
    "tensors",
    [
        a_tensor(data_offsets=[0, 32]),
        a_tensor(data_offsets=[4, 28]),
        a_tensor(data_offsets=[-24, 0]),
        a_tensor(data_offsets=[24, 0]),
        a_tensor(data_offsets=[0, 24, 24]),
        a_tensor(data_offsets=[0.0, 24.0]),
        a_tensor(data_offsets=[False, 24]),
        a_tensor(data_offsets="ab"),
        a_tensor(data_offsets=None),
        a_tensor(shape=[3, 3]),
        a_tensor(shape=[-2, -3]),
        a_tensor(shape=[2, -3]),
        a_tensor(shape=[2.0, 3]),
        a_tensor(shape=[True, 6]),
        a_tensor(shape={"2": 3}),
        a_tensor(shape=""),
        a_tensor(shape=[2**62, 8, 3]),
        a_tensor(shape=[2**64 + 6]),
        a_tensor(shape=[10**4000, 10**4000]),
        a_tensor(shape=[6] + [1] * 64),
        a_tensor(dtype="F33"),
        a_tensor(dtype="BF16"),
        a_tensor(dtype="BOOL"),
        a_tensor(dtype=["F32"]),
        a_tensor(dtype=None),
        a_tensor(extra=1),
        {**TENSORS, "a": {"dtype": "F32", "shape": [2, 3]}},
        {**TENSORS, "a": 5},
        {**TENSORS, "b": {"dtype": "U8", "shape": [16], "data_offsets": [16, 32]}},
        {**TENSORS, "b": {"dtype": "U8", "shape": [7], "data_offsets": [25, 32]}},
    ],
)
def test_a_tensor_that_is_not_where_and_what_it_must_be_is_refused_by_name(tmp_path, tensors):
    refused(write(tmp_path / "f", tensors=tensors), "tensor '[ab]' must")


def test_tensors_out_of_the_order_of_the_payload_are_refused(tmp_path):
    refused(write(tmp_path / "f", tensors=dict(reversed(TENSORS.items()))), "tensor 'b' must be aligned")


def test_a_misaligned_tensor_is_refused(tmp_path):
    tensors = {
        "b": {"dtype": "U8", "shape": [8 - 1], "data_offsets": [0, 7]},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [7, 31]},
    }
    refused(write(tmp_path / "f", tensors=tensors, payload=31), "tensor 'a' must be aligned")


def test_a_misaligned_payload_is_refused(tmp_path):
    path = tmp_path / "f"
    write(path, align=1)
    assert (path.stat().st_size - 32) % 64
    refused(path, "aligned payload")


def test_a_payload_of_another_size_is_refused(tmp_path):
    refused(write(tmp_path / "f", payload=31), "truncated")
    refused(write(tmp_path / "f", payload=33), "longer")


def test_a_shape_that_numpy_refuses_is_refused_though_it_has_no_bytes(tmp_path):
    tensors = {"a": {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}
    about = {**ABOUT, "config": {"a": {"tensor": "a"}, "b": 1}, "blocks": {"a": []}}
    refused(write(tmp_path / "f", about, tensors, 0))


@pytest.mark.parametrize(
    "blocks",
    [[], {}, {"a": [0]}, {"a": [0], "b": [0], "c": [0]}]
    + [{"a": wrong, "b": [0]} for wrong in ([], [0, 0], 0, "0", None)],
)
def test_blocks_that_do_not_cover_the_tensors_are_refused(tmp_path, blocks):
    refused(write(tmp_path / "f", {**ABOUT, "blocks": blocks}), "blocks for each tensor|a checksum for each")


@pytest.mark.parametrize("crc", [-1, True, 0.5, "0", None, 2**40])
def test_a_block_checksum_that_is_no_checksum_is_refused_by_verify(tmp_path, crc):
    path = write(tmp_path / "f", {**ABOUT, "blocks": {"a": [crc], "b": [0]}})
    with pytest.raises(FormatError):
        io.verify(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"a": {"tensor": "a"}, "b": {"tensor": "c"}}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": {"tensor": "a"}}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": 1}, r"no field of test-hostile holds the tensors \['b'\]"),
        ({"a": {"tensor": "a"}, "b": {"tensor": "b", "x": 1}}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": {"tensor": ["b"]}}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": {"format": "int9"}}, "field 'b' must be .*int9"),
        ({"a": {"tensor": "a"}, "b": {}}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": [0, [{"x": 1}]]}, r"field 'b\.1\.0' must be"),
        ({"a": {"tensor": "a"}, "b": {"kind": "nobody", "config": {}}}, "unknown kind 'nobody'; known are .*'Codes'"),
        ({"a": {"tensor": "a"}, "b": {"kind": "Codes", "config": {}}}, "fields of Codes: missing .*'data'"),
        ({"a": {"tensor": "a"}}, r"missing \['b'\], unknown \[\]"),
        ({"a": {"tensor": "a"}, "b": {"tensor": "b"}, "__class__": 1}, r"missing \[\], unknown \['__class__'\]"),
        ({"a": {"tensor": "a"}, "b": float("nan")}, "field 'b' must be"),
        ({"a": {"tensor": "a"}, "b": float("inf")}, "field 'b' must be"),
    ],
)
def test_a_config_that_does_not_describe_the_object_is_refused(tmp_path, config, message):
    refused(write(tmp_path / "f", {**ABOUT, "config": config}), message)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({**ABOUT, "kind": "nobody"}, "unknown kind 'nobody'; known are .*'test-hostile'"),
        ({**ABOUT, "kind": None}, "must describe a kind"),
        ({**ABOUT, "config": []}, "must describe a kind"),
        ({**ABOUT, "extra": 1}, "must describe a kind"),
        ({**ABOUT, "format_version": 0}, "must be a positive integer, got 0"),
        ({**ABOUT, "format_version": True}, "must be a positive integer, got True"),
        ({**ABOUT, "format_version": "1"}, "must be a positive integer, got '1'"),
        ({**ABOUT, "format_version": 10**1000}, "upgrade qindex"),
        ({"kind": "test-hostile"}, "format_version"),
        ([], "header: "),
        ("", "header: Expecting value"),
        ("{", "header: Expecting property name"),
        (json.dumps(ABOUT)[:-1] + ',"kind":"Codes"}', "repeats"),
        (
            json.dumps(ABOUT).replace('"format_version": 1', '"format_version": ' + "9" * 5000),
            "header: Exceeds the limit",
        ),
        (json.dumps({**ABOUT, "config": {"a": {"tensor": "a"}, "b": 1}}).replace('"b": 1', '"b": 1e999'), "field 'b'"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(tmp_path, about, message):
    refused(write(tmp_path / "f", about), message)


def test_a_repeated_tensor_name_is_refused(tmp_path):
    entry = json.dumps(TENSORS["a"])
    refused(write(tmp_path / "f", tensors=f'{{"a":{entry},"a":{entry}}}'), "repeats")


@pytest.mark.parametrize("depth", [900, 5_000, 1_000_000])
def test_deep_nesting_is_refused(tmp_path, depth):
    bomb = "[" * depth + "]" * depth
    about = json.dumps({**ABOUT, "config": {"a": {"tensor": "a"}, "b": 0}})
    refused(write(tmp_path / "f", about.replace('"b": 0', f'"b": {bomb}')), "nested too deeply")
    refused(write(tmp_path / "f", tensors=f'{{"a":{bomb},"b":1}}'), "nested too deeply|must have a known dtype")


def test_a_header_that_claims_to_be_enormous_is_refused_without_being_read(tmp_path):
    path = write(tmp_path / "f")
    raw = path.read_bytes()
    for length in (2**64 - 1, 2**63, 100_000_001, len(raw) - 7):
        path.write_bytes(length.to_bytes(8, "little") + raw[8:])
        refused(path, "its header would take")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "int8", "e4m3", "data", "Codes", "test-hostile", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tensor", "format", "kind", "config", "dim", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    changes=st.dictionaries(
        st.sampled_from(["data", "format", "dim", "max_norm", "scale", "offset", "scales", "zero", "tables"]),
        json_values,
        min_size=1,
    )
)
@settings(deadline=None, max_examples=300)
def test_codes_with_any_other_fields_are_sound_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "codes"
    config = {
        "data": {"tensor": "data"},
        "format": {"format": "int8"},
        "dim": 4,
        "max_norm": 1.5,
        "scale": {"tensor": "scale"},
        "offset": None,
    }
    about = {
        "format_version": 1,
        "kind": "Codes",
        "config": {**config, **changes},
        "blocks": {"scale": [0], "data": [0]},
    }
    tensors = {
        "scale": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
        "data": {"dtype": "U8", "shape": [3, 4], "data_offsets": [12, 24]},
    }
    write(path, about, tensors, 24)
    try:
        codes = io.load(path)
    except FormatError:
        return
    assert isinstance(codes, Codes)
    assert (codes.format, codes.dim, len(codes)) == (INT8, 4, 3)


def level(**changes: Any) -> dict[str, Any]:
    """A level of scales in a file of 3 rows of 32 numbers."""
    fields = {"data": {"tensor": "level"}, "format": {"format": "e4m3"}, "size": 16}
    return {"kind": "BlockValues", "config": {**fields, **changes}}


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"scales": [level()]}, [3, 1], r"Codes: scales\[0\] with blocks of 16 must be \(3, 2\) .*, got \(3, 1\)"),
        ({"scales": [level()]}, [2, 2], r"Codes: scales\[0\] .* got \(2, 2\)"),
        ({"scales": [level()]}, [3, 3], r"Codes: scales\[0\] .* got \(3, 3\)"),
        ({"scales": [level()]}, [3], r"Codes: scales\[0\] .* got \(3,\)"),
        ({"scales": [level()]}, [3, 2, 1], r"BlockValues scales\.0: data of e4m3 .* got uint8 \(3, 2, 1\)"),
        ({"scales": [level()]}, [], r"BlockValues scales\.0: data of e4m3 .* got uint8 \(\)"),
        ({"scales": [level(size=32)]}, [3, 2], r"Codes: scales\[0\] with blocks of 32 must be \(3, 1\)"),
        ({"scales": [level(size=0)]}, [3, 2], r"BlockValues scales\.0: size of a block must be"),
        ({"scales": [level(size=-16)]}, [3, 2], "size of a block must be"),
        ({"scales": [level(size=1)]}, [3, 32], "size of a block must be"),
        ({"scales": [level(size=1 << 70)]}, [3, 1], "size of a block must be"),
        ({"scales": [level(size=16.0)]}, [3, 2], "size of a block must be"),
        ({"scales": [level(size=None)]}, [3, 2], r"BlockValues scales\.0: "),
        ({"scales": [level(format={"format": "float32"})]}, [3, 2], "data of float32 block values must .* got uint8"),
        ({"scales": [level(format={"format": "int8"})]}, [3, 2], "format of block values must be one of"),
        ({"scales": [level(format="e4m3")]}, [3, 2], "format of block values must be one of"),
        ({"scales": [level(data=None)]}, [3, 2], r"BlockValues scales\.0: "),
        ({"scales": [level(data=[1, 2])]}, [3, 2], r"BlockValues scales\.0: "),
        ({"scales": [level(), level()]}, [3, 2], r"field 'scales\.1\.data' must be"),
        ({"scales": level()}, [3, 2], "Codes: scales must be a tuple of BlockValues"),
        ({"scales": {"tensor": "level"}}, [3, 2], "Codes: scales must be a tuple of BlockValues"),
        ({"scales": [{"tensor": "level"}]}, [3, 2], "Codes: scales must be a tuple of BlockValues"),
        ({"scales": 5}, [3, 2], "Codes: scales must be a tuple of BlockValues"),
        ({"zero": level()}, [3, 1], r"Codes: zero with blocks of 16 must be \(3, 2\)"),
        ({"zero": level(size=1)}, [32], "Codes: zero must have blocks of the finest scales' size"),
        ({"zero": {"tensor": "level"}}, [3, 2], "Codes: zero must be BlockValues"),
        ({"tables": {"tensor": "level"}}, [1, 16], "Codes: tables must not be given with int4 codes"),
        ({"tables": {"tensor": "level"}, "format": {"format": "table4"}}, [1, 16], "Codes: tables must .* got uint8"),
        ({"format": {"format": "table4"}, "scales": [level()]}, [3, 2], "Codes: tables must be given"),
    ],
)  # fmt: skip
def test_codes_whose_scales_do_not_fit_are_refused(tmp_path, fields, shape, message):
    size = int(np.prod(shape))
    config = {"data": {"tensor": "data"}, "format": {"format": "int4"}, "dim": 32, "max_norm": 1.5, **fields}
    about = {"format_version": 1, "kind": "Codes", "config": config, "blocks": {"data": [0], "level": [0]}}
    tensors = {
        "data": {"dtype": "U8", "shape": [3, 16], "data_offsets": [0, 48]},
        "level": {"dtype": "U8", "shape": shape, "data_offsets": [48, 48 + size]},
    }
    refused(write(tmp_path / "f", about, tensors, 48 + size), message)
