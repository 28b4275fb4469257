"""A saved index comes back, memory-mapped, and answers to the bit as before."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex.index import FlatIndex
from qindex.index.flat import Metric
from qindex.quantize import Binary, Float8, Float16, Float32, Int8
from qindex.types import Matches, Quantizer

QUANTIZERS = [Float32(), Float16(), Float8("e4m3"), Float8("e5m2"), Float8("e3m4"), Int8(), Int8("dim"), Binary(True)]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((200, 20)).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path, vectors: NDArray[np.float32]) -> Path:
    FlatIndex.build(vectors, Binary(), rescore=Int8(), metric="l2").save(tmp_path / "saved.qindex")
    return tmp_path / "saved.qindex"


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_a_loaded_index_answers_as_the_saved_one(
    quantizer: Quantizer, metric: Metric, tmp_path: Path, vectors: NDArray[np.float32]
) -> None:
    index = FlatIndex.build(vectors[:150], quantizer, rescore=Int8("dim"), ids=np.arange(150)[::-1], metric=metric)
    index.add(vectors[150:])
    index.remove(np.arange(10, 30))
    index.save(tmp_path / "a")
    for loaded in (FlatIndex.load(tmp_path / "a"), qindex.load(str(tmp_path / "a"), verify=True)):
        assert_same(loaded.search(vectors, 15), index.search(vectors, 15))
        assert repr(loaded) == repr(index)
        assert loaded.nbytes == index.nbytes
        np.testing.assert_array_equal(loaded.ids, index.ids)
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_equal_indexes_are_equal_files(tmp_path: Path, vectors: NDArray[np.float32]) -> None:
    for name in ("a", "b"):
        FlatIndex.build(vectors, Binary(), rescore=Int8()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_changing_a_loaded_index_leaves_its_file_alone(saved: Path, vectors: NDArray[np.float32]) -> None:
    before, index = saved.read_bytes(), FlatIndex.load(saved)
    assert index.add(vectors[:5]).tolist() == [200, 201, 202, 203, 204]
    index.remove([0, 203])
    assert saved.read_bytes() == before
    kept = np.concatenate([vectors[1:], vectors[[0, 1, 2, 4]]])
    ids = [*range(1, 200), 200, 201, 202, 204]
    # The level of Binary was learnt from the first vectors.
    fresh = FlatIndex.build(kept, FlatIndex.load(saved).quantizer, rescore=Int8(), ids=ids, metric="l2")
    assert_same(index.search(vectors[:9], 10), fresh.search(vectors[:9], 10))
    index.save(saved)
    assert_same(FlatIndex.load(saved).search(vectors[:9], 10), fresh.search(vectors[:9], 10))


def test_the_next_id_is_remembered(saved: Path, vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.load(saved)
    index.remove(np.arange(100, 200))
    index.save(saved)
    assert FlatIndex.load(saved).add(vectors[:1]).tolist() == [200]


def test_an_emptied_index_can_be_saved(saved: Path, vectors: NDArray[np.float32]) -> None:
    index = FlatIndex.load(saved)
    index.remove(index.ids)
    index.save(saved)
    loaded = FlatIndex.load(saved)
    assert len(loaded) == 0
    assert np.all(loaded.search(vectors[:2], 3).ids == -1)


# --- files that are refused; tests/io has many more ------------------------------------------------------------------


def truncate(raw: bytes) -> bytes:
    return raw[:-1]


def flip_header_bit(raw: bytes) -> bytes:
    return raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]


def not_ours(raw: bytes) -> bytes:
    return b"Once upon a time " * 99


def newer(raw: bytes) -> bytes:
    payload = 8 + int.from_bytes(raw[:8], "little")
    header = raw[:payload].replace(b'\\"format_version\\":1', b'\\"format_version\\":2')
    crc = zlib.crc32(header[:34] + b"0" * 8 + header[42:])
    return header[:34] + b"%08x" % crc + header[42:] + raw[payload:]


@pytest.mark.parametrize("load", [FlatIndex.load, qindex.load], ids=["FlatIndex.load", "qindex.load"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated"),
        (flip_header_bit, "header is damaged"),
        (not_ours, "not a qindex file"),
        (newer, "format version 2, but this qindex reads up to 1: upgrade qindex"),
    ],
)
def test_a_damaged_file_is_refused(damage: Any, message: str, load: Any, saved: Path) -> None:
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(qindex.FormatError, match=f"{saved}.*{message}"):
        load(saved)


def test_a_flipped_bit_in_the_payload_is_refused_by_verify(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    raw[-5] ^= 1
    saved.write_bytes(raw)
    for check in (
        qindex.verify,
        lambda path: qindex.load(path, verify=True),
        lambda path: FlatIndex.load(path, verify=True),
    ):
        with pytest.raises(qindex.FormatError, match="is damaged in block 0"):
            check(saved)


def test_a_file_of_another_kind_says_how_to_open_it(tmp_path: Path, vectors: NDArray[np.float32]) -> None:
    qindex.io.save(tmp_path / "codes", Int8().quantize(vectors))
    with pytest.raises(qindex.FormatError, match=r"holds a Codes, not a FlatIndex: open it with qindex\.load"):
        FlatIndex.load(tmp_path / "codes")
    assert len(qindex.load(tmp_path / "codes")) == 200


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    for load in (FlatIndex.load, qindex.load, qindex.verify):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "none")
