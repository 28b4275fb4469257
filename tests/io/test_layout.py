"""The bytes of a file: exactly specified, readable by others, aligned, equal for equal inputs."""

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from qindex import io
from qindex.formats import E4M3


@io.register("test-layout")
@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    name: str
    bias: float
    parts: Any = None


GOLDEN_HEADER = (
    b'{"__metadata__":{"crc32":"1dc57689","qindex":"{\\"format_version\\":1,\\"kind\\":\\"test-layout\\",'
    b'\\"config\\":{\\"name\\":\\"caf\\\\u00e9\\",\\"bias\\":-0.1,\\"parts\\":[{\\"tensor\\":\\"parts.0\\"},'
    b'{\\"tensor\\":\\"parts.1\\"},{\\"format\\":\\"e4m3\\"},null,true]},'
    b'\\"blocks\\":{\\"parts.1\\":[2896259690],\\"parts.0\\":[1438416925]}}"},'
    b'"parts.1":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"parts.0":{"dtype":"U8","shape":[1,3],"data_offsets":[4,7]}}'
)
GOLDEN_PAYLOAD = b"\x00\x00\x80\x3f" + b"\x01\x02\x03"


def golden() -> Thing:
    parts = (np.array([[1, 2, 3]], np.uint8), np.ones(1, np.float32), E4M3, None, True)
    return Thing("café", -0.1, parts)


def test_a_tiny_object_has_exactly_these_bytes(tmp_path):
    path = tmp_path / "golden"
    io.save(path, golden())
    written = path.read_bytes()
    (length,) = struct.unpack("<Q", written[:8])
    assert written[8 : 8 + length].rstrip(b" ") == GOLDEN_HEADER
    assert length == -(-(8 + len(GOLDEN_HEADER)) // 64) * 64 - 8
    assert written[8 + length :] == GOLDEN_PAYLOAD


def test_a_reader_can_be_written_from_the_documentation(tmp_path):
    path = tmp_path / "thing"
    io.save(path, Thing("big", 0.0, np.arange(3 << 20, dtype=np.uint16).view(np.uint8).reshape(-1, 6)))

    raw = path.read_bytes()
    payload = 8 + int.from_bytes(raw[:8], "little")
    assert int(raw[34:42], 16) == zlib.crc32(raw[:34] + b"0" * 8 + raw[42:payload])
    tensors = json.loads(raw[8:payload])
    about = json.loads(tensors.pop("__metadata__")["qindex"])
    assert (about["format_version"], about["kind"]) == (1, "test-layout")
    assert about["config"] == {"name": "big", "bias": 0.0, "parts": {"tensor": "parts"}}
    for name, tensor in tensors.items():
        begin, end = tensor["data_offsets"]
        content = raw[payload + begin : payload + end]
        blocks = [content[i : i + (1 << 22)] for i in range(0, len(content), 1 << 22)]
        assert about["blocks"][name] == [zlib.crc32(block) for block in blocks]
        assert len(blocks) == 2


@pytest.mark.parametrize(
    "parts",
    [
        (),
        np.zeros((0, 384), np.float32),
        np.full((), 3.0),
        tuple(np.arange(7).astype(dtype) for dtype in ("u1", "i1", "f2", "u4", "i4", "f4", "u8", "i8", "f8")),
        (np.zeros(0, np.int64), np.ones((2, 3), np.uint8), np.zeros((5, 0), np.float16)),
    ],
    ids=["no tensor", "no rows", "no axes", "every dtype", "empty among others"],
)
def test_the_safetensors_library_reads_what_we_write(tmp_path, parts):
    path = tmp_path / "thing"
    io.save(path, Thing("x", 1.0, parts))
    arrays = {"parts": parts} if isinstance(parts, np.ndarray) else {f"parts.{i}": a for i, a in enumerate(parts)}
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(theirs[name], array)
    with safetensors.safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["qindex"])["kind"] == "test-layout"


def test_equal_objects_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        io.save(tmp_path / name, golden())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "same",
    [
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype="<f4").reshape(3, 4)),
        np.repeat(np.arange(12, dtype="<f4").reshape(3, 4), 2, axis=1)[:, ::2],
    ],
    ids=["big-endian", "fortran order", "strided"],
)
def test_the_layout_in_memory_does_not_change_the_bytes(tmp_path, same):
    io.save(tmp_path / "plain", Thing("x", 1.0, np.arange(12, dtype="<f4").reshape(3, 4)))
    io.save(tmp_path / "other", Thing("x", 1.0, same))
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("padding", range(0, 130, 13))
def test_the_payload_begins_at_a_multiple_of_64_and_every_tensor_at_one_of_its_numbers(tmp_path, padding):
    path = tmp_path / "thing"
    io.save(path, Thing("x" * padding, 1.0, [np.ones(n, dtype) for n, dtype in ((3, "u1"), (5, "f8"), (1, "f2"))]))
    tensors = io.read_header(path)["tensors"]
    assert [tensor.dtype for tensor in tensors.values()] == ["F64", "F16", "U8"]
    assert next(iter(tensors.values())).begin % 64 == 0
    for part in io.load(path).parts:
        assert part.flags.aligned
