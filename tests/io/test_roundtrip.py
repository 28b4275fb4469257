"""What is saved comes back equal, memory-mapped and read-only; what cannot be stored is refused by name."""

import mmap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qindex import io
from qindex.formats import E4M3, FLOAT32, FORMATS, INT4, INT8, SIGN, Format
from qindex.io import FormatError
from qindex.types import BlockValues, Codes


@io.register("test-leaf")
@dataclass(frozen=True, eq=False)
class Leaf:
    value: Any
    cached: int = field(init=False, default=7)

    def __post_init__(self) -> None:
        if isinstance(self.value, str) and self.value == "refused":
            raise ValueError("value must not be 'refused'")


@io.register("test-tree")
@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    left: Any
    right: Any


class Opened:
    def __init__(self, state: "State") -> None:
        if len(state.ids) == 0:
            raise ValueError("ids must not be empty")
        self.ids = state.ids

    def save(self, path: Any) -> None:
        io.save(path, State(self.ids))


@io.register("test-opened", opener=Opened)
@dataclass(frozen=True, eq=False)
class State:
    ids: NDArray[np.int64]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
arrays = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in io.DTYPES.values()]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=5),
)
values = st.recursive(
    scalars | arrays | st.sampled_from(list(FORMATS.values())),
    lambda inner: st.lists(inner, max_size=4) | st.builds(Leaf, inner) | st.builds(Tree, inner, inner),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Whether the loaded `a` equals the saved `b`."""
    if isinstance(b, list):
        return type(a) is tuple and len(a) == len(b) and all(map(same, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Tree):
        return same(a.left, b.left) and same(a.right, b.right)
    return same(a.value, b.value) if isinstance(a, Leaf) else a == b


@given(value=values)
@settings(deadline=None, max_examples=150)
def test_everything_comes_back_equal_and_lists_as_tuples(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "roundtrip"
    io.save(path, Leaf(value))
    assert same(io.load(path, verify=True).value, value)
    io.verify(path)


def test_codes_come_back_with_their_format_and_scales(tmp_path):
    path = tmp_path / "codes"
    codes = Codes(np.arange(12, dtype=np.uint8).reshape(3, 4), INT8, 4, 1.5, scale=np.ones(3, np.float32))
    io.save(path, codes)
    loaded = io.load(path)
    assert type(loaded) is Codes
    assert (loaded.format, loaded.dim, loaded.max_norm, loaded.offset) == (INT8, 4, 1.5, None)
    np.testing.assert_array_equal(loaded.data, codes.data)
    np.testing.assert_array_equal(loaded.scale, codes.scale)


@dataclass(frozen=True, eq=False)
class OldCodes:
    """Codes as they were before scales of blocks."""

    data: Any
    format: Any
    dim: Any
    max_norm: Any
    scale: Any = None
    offset: Any = None


def test_codes_of_a_file_older_than_scales_of_blocks_load(tmp_path, monkeypatch):
    path = tmp_path / "codes"
    data, scale = np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones(3, np.float32)
    with monkeypatch.context() as earlier:
        earlier.setitem(io._classes, "Codes", OldCodes)
        io.save(path, OldCodes(data, INT8, 4, 1.5, scale))
    assert "scales" not in io.read_header(path)["config"]
    loaded = io.load(path)
    assert type(loaded) is Codes
    np.testing.assert_array_equal(loaded.data, data)
    np.testing.assert_array_equal(loaded.scale, scale)
    assert (loaded.scales, loaded.zero, loaded.tables) == ((), None, None)


def test_a_tree_of_scales_is_named_by_its_path_and_mapped(tmp_path):
    path = tmp_path / "codes"
    scales = (BlockValues(np.ones((3, 2), np.uint8), E4M3, 16), BlockValues(np.ones(1, np.float32), FLOAT32, 32))
    io.save(path, Codes(np.zeros((3, 16), np.uint8), INT4, 32, 1.5, scales=scales))
    assert io.read_header(path)["tensors"].keys() == {"data", "scales.0.data", "scales.1.data"}
    loaded = io.load(path)
    assert [(level.format, level.size) for level in loaded.scales] == [(E4M3, 16), (FLOAT32, 32)]
    for level, saved in zip(loaded.scales, scales, strict=True):
        np.testing.assert_array_equal(level.data, saved.data)
        assert not level.data.flags.writeable


def test_loaded_arrays_are_views_of_one_read_only_map(tmp_path):
    path = tmp_path / "tree"
    io.save(path, Tree(np.arange(5), np.ones((2, 3), np.float32)))
    tree = io.load(path)
    maps = []
    for array in (tree.left, tree.right):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        while not isinstance(array, mmap.mmap):
            array = array.obj if isinstance(array, memoryview) else array.base
        maps.append(array)
    assert maps[0] is maps[1]


def test_an_object_can_be_saved_over_the_file_it_was_loaded_from(tmp_path):
    path = tmp_path / "leaf"
    io.save(path, Leaf(np.arange(1000)))
    loaded = io.load(path)
    io.save(path, Tree(loaded.value, 1))
    np.testing.assert_array_equal(loaded.value, np.arange(1000))
    np.testing.assert_array_equal(io.load(path).left, np.arange(1000))


def test_an_opener_makes_what_load_returns(tmp_path):
    path = tmp_path / "opened"
    Opened(State(np.arange(3))).save(path)
    opened = io.load(path)
    assert type(opened) is Opened
    np.testing.assert_array_equal(opened.ids, [0, 1, 2])
    io.save(path, State(np.arange(0)))
    with pytest.raises(FormatError, match="ids must not be empty"):
        io.load(path)


def test_the_header_tells_kind_config_and_tensors_without_the_payload(tmp_path):
    path = tmp_path / "codes"
    io.save(path, Tree(Codes(np.zeros((3, 1), np.uint8), SIGN, 8, 1.0), "x"))
    header = io.read_header(path)
    assert (header["format_version"], header["kind"]) == (1, "test-tree")
    assert header["config"]["left"]["config"]["format"] == {"format": "sign"}
    assert header["config"]["left"]["config"]["data"] == {"tensor": "left.data"}
    tensor = header["tensors"]["left.data"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes, len(tensor.blocks)) == ("U8", (3, 1), 3, 1)
    assert tensor.begin == path.stat().st_size - 3


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (float("nan"), ValueError, r"left\.1\.value: nan"),
        (float("inf"), ValueError, r"left\.1\.value: inf"),
        ({"a": 1}, TypeError, r"left\.1\.value: dict is not registered"),
        (np.float32(1), TypeError, r"left\.1\.value: float32 is not registered"),
        (np.array([True]), TypeError, r"left\.1\.value: an array must be of .*float32.*, got bool"),
        (np.array(["text"]), TypeError, r"got <U4"),
        (np.array([None]), TypeError, r"got object"),
        (np.array([1j]), TypeError, r"got complex128"),
        (np.array([0], "datetime64[s]"), TypeError, r"got datetime64"),
        (Format("int8", 7, "integer"), ValueError, r"left\.1\.value: 'int8' is not one of the formats"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_path_and_leaves_the_old_file(tmp_path, value, error, message):
    path = tmp_path / "tree"
    io.save(path, Leaf(1))
    with pytest.raises(error, match=message):
        io.save(path, Tree([0, Leaf(value)], None))
    assert io.load(path).value == 1
    assert list(tmp_path.iterdir()) == [path]


def test_an_unregistered_object_is_refused(tmp_path):
    with pytest.raises(TypeError, match="obj: object is not registered"):
        io.save(tmp_path / "x", object())


def test_a_header_beyond_the_limit_of_readers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match="hold long lists as arrays"):
        io.save(tmp_path / "x", Leaf(list(range(1000))))
    assert not list(tmp_path.iterdir())


def test_a_kind_names_one_class():
    assert io.register("test-leaf")(Leaf) is Leaf
    with pytest.raises(ValueError, match="'test-leaf' already names Leaf"):
        io.register("test-leaf")(Tree)


def test_only_a_dataclass_can_be_registered():
    with pytest.raises(TypeError, match="above @dataclass"):
        io.register("test-plain")(Opened)


def test_what_a_class_refuses_is_a_format_error_with_its_reason(tmp_path):
    path = tmp_path / "tree"
    leaf = Leaf("x")
    object.__setattr__(leaf, "value", "refused")
    io.save(path, Tree(leaf, 1))
    with pytest.raises(FormatError, match=r"tree: test-leaf left: value must not be 'refused'"):
        io.load(path)
