"""One saved thing is one safetensors file that describes itself; any safetensors reader opens it.

    8 bytes   the length of the header, little-endian
    header    JSON in ASCII, padded with spaces so that the payload begins at a multiple of 64
    payload   the tensors, little-endian and in C order, one behind the other without gaps

The header lists the tensors as they lie in the payload, wider numbers first, so each is aligned to its numbers:

    {"__metadata__":{"crc32":"0123abcd","qindex":"..."},"codes.data":{"dtype":"U8","shape":[3,4],"data_offsets":[0,12]}}

`crc32` is the CRC-32 of everything before the payload, taken while its own eight digits are zeros. It always stands
at byte 34, so it is checked before anything is parsed. `qindex` is JSON text again:

    {"format_version":1,"kind":"FlatIndex","config":{...},"blocks":{"codes.data":[2432014819]}}

`blocks` has the CRC-32 of every 4 MiB of each tensor. `config` holds the fields of the saved object: numbers, strings,
true, false, null and lists of them stand for themselves, and an object is one of

    {"tensor": name}                    an array; its name is the dotted path of the field
    {"format": name}                    a number format of `qindex.formats`
    {"kind": kind, "config": {...}}     an object within the object

`crc32`, `qindex`, `format_version` and their places are the same in every future version. Nothing in a file is
executed: a kind names one of the classes that `register` was given, and that class checks its own fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import reprlib
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from qindex.formats import FORMATS, Format
from qindex.types import BlockValues, Codes, Part

FORMAT_VERSION = 1
ALIGNMENT = 64
BLOCK_BYTES = 1 << 22
MAX_HEADER_BYTES = 100_000_000  # what other safetensors readers accept
MAX_AXES = 64  # what NumPy accepts
DTYPES = {
    "U8": "u1", "I8": "i1", "F16": "f2", "U32": "u4", "I32": "i4", "F32": "f4", "U64": "u8", "I64": "i8", "F64": "f8",
}  # fmt: skip

_DTYPE_NAMES = {code: name for name, code in DTYPES.items()}
_PREFIX = b'{"__metadata__":{"crc32":"'
_DIGITS = slice(8 + len(_PREFIX), 8 + len(_PREFIX) + 8)

PathLike = str | os.PathLike[str]
C = TypeVar("C", bound=type[Any])


class FormatError(ValueError):
    """A file is not what it should be: foreign, damaged, truncated, hostile, or of a newer version."""


class Tensor(NamedTuple):
    """Where a tensor lies in its file."""

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    begin: int  # first byte, counted from the start of the file
    nbytes: int
    blocks: tuple[int, ...]  # CRC-32 of every BLOCK_BYTES


class Header(TypedDict):
    """What a file says about itself."""

    format_version: int
    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]  # in the order of the payload


_classes: dict[str, type[Any]] = {}
_openers: dict[str, Callable[[Any], Any]] = {}


def register(kind: str, opener: Callable[[Any], Any] | None = None) -> Callable[[C], C]:
    """Let `save` and `load` handle a dataclass under the name `kind`.

    Its fields may be None, bool, int, finite float, str, NumPy arrays, Formats, registered objects, and lists or
    tuples of all these, which load as tuples. `load` calls the class with its fields as keywords, so the class's own
    checks guard against hostile files. `opener` turns the loaded dataclass into what `load` returns.

    Raises TypeError for anything but a dataclass, ValueError where `kind` already names another class.
    """

    def decorate(cls: C) -> C:
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"register({kind!r}) takes a dataclass, got {cls!r}; put it above @dataclass")
        if _classes.setdefault(kind, cls) is not cls:
            raise ValueError(f"kind {kind!r} already names {_classes[kind].__qualname__}, choose another name")
        if opener is not None:
            _openers[kind] = opener
        return cls

    return decorate


def save(path: PathLike, obj: Any) -> None:
    """Write a registered object to `path`, entirely or not at all: an older file stays until the new one is safe.

    Equal objects give equal bytes. Arrays are streamed; only non-contiguous or big-endian ones are copied.
    Raises ValueError or TypeError, before anything is written, for a field that cannot be stored or a folder that
    does not exist.
    """
    found: dict[str, NDArray[Any]] = {}
    described = _describe(obj, "", found)
    arrays = dict(sorted(found.items(), key=lambda item: -item[1].itemsize))
    header = _header_bytes(described, arrays)
    with replacing(path) as file:
        file.write(header)
        for array in arrays.values():
            for block in _blocks(array):
                file.write(block)


@contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when all of it is safely on disk; after an exception nothing has.

    Raises ValueError for a folder, or a file in a folder that does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path must name a file, but {path} is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"path must lie in an existing folder; create {path.parent} first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name must survive a power failure too; Windows cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: PathLike, *, verify: bool = False) -> Any:
    """Open a saved object. Its arrays are read-only views of the memory-mapped file.

    While they live, the file may be replaced (as `save` does) or deleted, but not changed in place.
    The header is checked always, the payload's checksums with `verify=True`, which reads the whole file.
    Raises FormatError for a file that is damaged, foreign, newer, or of a kind that is not registered.
    """
    with _open(path) as file:
        header = _read_header(file)
        if verify:
            _verify_payload(file, header)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {
            name: np.frombuffer(mapped, "<" + DTYPES[t.dtype], math.prod(t.shape), t.begin).reshape(t.shape)
            for name, t in header["tensors"].items()
        }
        kind = header["kind"]
        state = _rebuild(kind, header["config"], "", arrays)
        if arrays:
            raise FormatError(f"no field of {kind} holds the tensors {sorted(arrays)}")
        return _openers[kind](state) if kind in _openers else state


def verify(path: PathLike) -> None:
    """Read a whole file and compare every checksum. Raises FormatError that names the first damaged block."""
    with _open(path) as file:
        _verify_payload(file, _read_header(file))


def read_header(path: PathLike) -> Header:
    """What a file says about itself, checked, without reading the payload or knowing its kind."""
    with _open(path) as file:
        return _read_header(file)


def _describe(obj: Any, path: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The kind and config of a registered object; its arrays are added to `arrays`, ready to be written."""
    kind = next((kind for kind, cls in _classes.items() if cls is type(obj)), None)
    if kind is None:
        raise TypeError(f"cannot save {path or 'obj'}: {type(obj).__name__} is not registered with qindex.io.register")
    prefix = f"{path}." if path else ""
    names = [field.name for field in dataclasses.fields(_classes[kind]) if field.init]
    return {"kind": kind, "config": {name: _encode(getattr(obj, name), prefix + name, arrays) for name in names}}


def _encode(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"cannot save {path}: {value} is not a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encode(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, Format):
        if FORMATS.get(value.name) != value:
            raise ValueError(f"cannot save {path}: {value.name!r} is not one of the formats {sorted(FORMATS)}")
        return {"format": value.name}
    if isinstance(value, np.ndarray):
        code = value.dtype.str[1:]
        if code not in _DTYPE_NAMES:
            allowed = ", ".join(str(np.dtype(code)) for code in _DTYPE_NAMES)
            raise TypeError(f"cannot save {path}: an array must be of {allowed}, got {value.dtype}")
        arrays[path] = np.asarray(value, "<" + code, order="C")
        return {"tensor": path}
    return _describe(value, path, arrays)


def _header_bytes(described: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bytes:
    """Everything before the payload."""
    blocks = {name: [zlib.crc32(block) for block in _blocks(array)] for name, array in arrays.items()}
    about = _compact({"format_version": FORMAT_VERSION, **described, "blocks": blocks})
    header: dict[str, Any] = {"__metadata__": {"crc32": "0" * 8, "qindex": about}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = _DTYPE_NAMES[array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    text = _compact(header).encode("ascii")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"obj needs a header of {len(text)} bytes, not {MAX_HEADER_BYTES}; hold long lists as arrays")
    return _sign(len(text).to_bytes(8, "little") + text)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _sign(header: bytes) -> bytes:
    """The header with its own checksum in place."""
    unsigned = header[: _DIGITS.start] + b"0" * 8 + header[_DIGITS.stop :]
    return header[: _DIGITS.start] + b"%08x" % zlib.crc32(unsigned) + header[_DIGITS.stop :]


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    content = array.reshape(-1).view(np.uint8).data
    return (content[i : i + BLOCK_BYTES] for i in range(0, len(content), BLOCK_BYTES))


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turn whatever a file's content may trip over into a FormatError that says where."""
    try:
        yield
    except RecursionError as error:
        raise FormatError(f"{where}: nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{where}: {error}") from error


@contextmanager
def _open(path: PathLike) -> Iterator[BinaryIO]:
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: not a qindex file but a folder or a device")
    with open(path, "rb") as file, _refusing(str(path)):
        yield file


def _read_header(file: BinaryIO) -> Header:
    """Check everything before the payload and the payload's size. Leaves `file` at the payload."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(_DIGITS.stop)
    if start[8 : _DIGITS.start] != _PREFIX or len(start) < _DIGITS.stop:
        raise FormatError(f"not a qindex file, or its beginning is damaged: its {size} bytes do not begin like one")
    length = int.from_bytes(start[:8], "little")
    payload = 8 + length
    if length > MAX_HEADER_BYTES or not len(start) <= payload <= size:
        raise FormatError(f"truncated or damaged: the file has {size} bytes, but its header would take {payload}")
    raw = start + file.read(payload - len(start))
    if _sign(raw) != raw:
        raise FormatError("the header is damaged: its checksum does not match")
    with _refusing("header"):
        return _parse_header(raw, size)


def _parse_header(raw: bytes, size: int) -> Header:
    payload = len(raw)
    tensors = _parse(raw[8:])
    about = _parse(tensors.pop("__metadata__")["qindex"])
    version = about["format_version"]
    if type(version) is not int or version < 1:
        raise FormatError(f"the format version must be a positive integer, got {version!r}")
    if version > FORMAT_VERSION:
        raise FormatError(f"format version {version}, but this qindex reads up to {FORMAT_VERSION}: upgrade qindex")
    match about:
        case {"format_version": _, "kind": str(kind), "config": dict(config), "blocks": dict(blocks), **extra} if (
            not extra and payload % ALIGNMENT == 0 and blocks.keys() == tensors.keys()
        ):
            checked = _check_tensors(tensors, blocks, payload, size)
            return {"format_version": version, "kind": kind, "config": config, "tensors": checked}
    raise FormatError("must describe a kind, its config, and blocks for each tensor of an aligned payload")


def _check_tensors(entries: dict[str, Any], blocks: dict[str, Any], payload: int, size: int) -> dict[str, Tensor]:
    """The tensors of a header, after checking that they fill the file from `payload` to `size` exactly."""
    tensors = {}
    end = 0
    for name, entry in entries.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": list(offsets), **extra} if (
                not extra and dtype in DTYPES and len(shape) <= MAX_AXES and all(map(_is_count, (*shape, *offsets)))
            ):
                itemsize = np.dtype(DTYPES[dtype]).itemsize
            case _:
                found = reprlib.repr(entry)
                raise FormatError(f"tensor {name!r} must have a known dtype, a shape and two offsets, got {found}")
        nbytes = math.prod(shape) * itemsize
        begin, end = end, end + nbytes
        if offsets != [begin, end] or begin % itemsize:
            raise FormatError(f"tensor {name!r} must be aligned and take bytes {begin} to {end}, got {offsets[:2]}")
        crcs = blocks[name]
        if not isinstance(crcs, list) or len(crcs) != -(-nbytes // BLOCK_BYTES):
            raise FormatError(f"tensor {name!r} of {nbytes} bytes must have a checksum for each {BLOCK_BYTES}")
        tensors[name] = Tensor(dtype, tuple(shape), payload + begin, nbytes, tuple(crcs))
    if payload + end != size:
        wrong = "truncated" if size < payload + end else "longer than it should be"
        raise FormatError(f"the file is {wrong}: it has {size} bytes, its header describes {payload + end}")
    return tensors


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _parse(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError(f"repeats one of the keys {sorted(result)}")
    return result


def _verify_payload(file: BinaryIO, header: Header) -> None:
    # Reads rather than maps: a failing disk is then an OSError instead of a bus error.
    for name, tensor in header["tensors"].items():
        left = tensor.nbytes
        for i, crc in enumerate(tensor.blocks):
            block = file.read(min(left, BLOCK_BYTES))
            left -= len(block)
            if zlib.crc32(block) != crc:
                raise FormatError(f"tensor {name!r} is damaged in block {i}, of {len(block)} bytes")


def _rebuild(kind: str, config: dict[str, Any], path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Construct the registered object that `_describe` took apart, removing its arrays from `arrays`."""
    if kind not in _classes:
        raise FormatError(f"unknown kind {kind!r}; known are {sorted(_classes)}")
    known = [field for field in dataclasses.fields(_classes[kind]) if field.init]
    # Fields with a default may have come with a later version.
    needed = {field.name for field in known if field.default is dataclasses.MISSING}
    missing, unknown = sorted(needed - config.keys()), sorted(config.keys() - {field.name for field in known})
    if missing or unknown:
        raise FormatError(f"fields of {kind}: missing {missing}, unknown {unknown}")
    prefix = f"{path}." if path else ""
    fields = {name: _decode(node, prefix + name, arrays) for name, node in config.items()}
    with _refusing(f"{kind} {path}".rstrip()):
        return _classes[kind](**fields)


def _decode(node: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    match node:
        case None | bool() | int() | str():
            return node
        case float() if math.isfinite(node):
            return node
        case list():
            return tuple(_decode(item, f"{path}.{i}", arrays) for i, item in enumerate(node))
        case {"tensor": str(name), **extra} if not extra and name in arrays:
            return arrays.pop(name)
        case {"format": str(name), **extra} if not extra and name in FORMATS:
            return FORMATS[name]
        case {"kind": str(kind), "config": dict(config), **extra} if not extra:
            return _rebuild(kind, config, path, arrays)
    found = reprlib.repr(node)
    raise FormatError(f"field {path!r} must be a value, list, format, object or unused tensor of the file, got {found}")


register("BlockValues")(BlockValues)  # types.py lies below this module
register("Part")(Part)
register("Codes")(Codes)
