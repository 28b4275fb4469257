"""Every damaged, truncated, lengthened, foreign or newer file is refused with a FormatError that names it."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from qindex import io
from qindex.io import BLOCK_BYTES, FormatError


@io.register("test-damage")
@dataclass(frozen=True, eq=False)
class Thing:
    name: str
    data: NDArray[np.uint8]
    empty: NDArray[np.float32]


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "thing"
    io.save(path, Thing("thing", np.arange(40, dtype=np.uint8), np.zeros((0, 3), np.float32)))
    return path


def payload_begin(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def flip(path: Path, byte: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def test_every_flipped_bit_before_the_payload_is_refused(saved):
    for byte in range(payload_begin(saved)):
        for bit in range(8):
            flip(saved, byte, bit)
            with pytest.raises(FormatError, match="thing: "):
                io.load(saved)
            flip(saved, byte, bit)
    io.load(saved, verify=True)


def test_every_flipped_bit_of_the_payload_is_found_by_verify(saved):
    begin = payload_begin(saved)
    for byte in range(begin, saved.stat().st_size):
        for bit in range(8):
            flip(saved, byte, bit)
            assert io.load(saved).data[byte - begin] == (byte - begin) ^ 1 << bit
            with pytest.raises(FormatError, match="tensor 'data' is damaged in block 0"):
                io.verify(saved)
            with pytest.raises(FormatError, match="tensor 'data' is damaged in block 0"):
                io.load(saved, verify=True)
            flip(saved, byte, bit)
    io.verify(saved)


def test_verify_names_the_damaged_block(tmp_path):
    path = tmp_path / "thing"
    io.save(path, Thing("thing", np.zeros(2 * BLOCK_BYTES + 5, np.uint8), np.zeros((7, 3), np.float32)))
    begin = io.read_header(path)["tensors"]["data"].begin
    for block, offset in enumerate((BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 4)):
        flip(path, begin + offset, 3)
        with pytest.raises(FormatError, match=f"tensor 'data' is damaged in block {block}"):
            io.verify(path)
        flip(path, begin + offset, 3)
    io.verify(path)


def test_a_file_cut_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        for read in (io.load, io.verify, io.read_header):
            with pytest.raises(FormatError, match=f" {length} bytes"):
                read(saved)


def test_trailing_bytes_are_refused_with_both_sizes(saved):
    size = saved.stat().st_size
    with open(saved, "ab") as file:
        file.write(b"\0")
    with pytest.raises(FormatError, match=f"longer than it should be: it has {size + 1} bytes, .* describes {size}"):
        io.load(saved)


def test_a_newer_version_says_both_versions_and_the_way_out(saved):
    raw = saved.read_bytes()
    raw = raw.replace(b'\\"format_version\\":1,', b'\\"format_version\\":9,')
    begin = payload_begin(saved)
    crc = zlib.crc32(raw[:34] + b"0" * 8 + raw[42:begin])
    saved.write_bytes(raw[:34] + b"%08x" % crc + raw[42:])
    with pytest.raises(FormatError, match="format version 9, but this qindex reads up to 1: upgrade qindex"):
        io.load(saved)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, {"qindex": "{}"}, {"crc32": "00000000", "qindex": "{}"}):
        safetensors.numpy.save_file({"weights": np.ones(100, np.float32)}, path, metadata=metadata)
        with pytest.raises(FormatError, match=r"foreign.safetensors: "):
            io.load(path)
    safetensors.numpy.save_file({"weights": np.ones(100, np.float32)}, path)
    with pytest.raises(FormatError, match="not a qindex file"):
        io.load(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 41, 42, 10_000])
def test_random_bytes_are_refused(tmp_path, size):
    path = tmp_path / "random"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(FormatError, match=f"not a qindex file.* {size} bytes"):
        io.load(path)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "text.json"
    path.write_text(json.dumps(list(range(1000))))
    with pytest.raises(FormatError, match="not a qindex file"):
        io.load(path)


def test_a_folder_is_refused(tmp_path):
    for read in (io.load, io.verify, io.read_header):
        with pytest.raises(FormatError, match="a folder"):
            read(tmp_path)


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    for read in (io.load, io.verify, io.read_header):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")
