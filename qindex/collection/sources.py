"""From files to documents: text files, JSON lines and folders of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT_SUFFIXES = (".txt", ".md", ".rst")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from. `metadata` must be what JSON can hold."""

    source: str
    text: str
    line: int | None = None  # 1-based, for a source that holds one document a line
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("source", self.source), ("text", self.text)):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                place = self.source if self.line is None else f"{self.source} line {self.line}"
                raise ValueError(
                    f"{name} of {place!r} must be valid Unicode, but character {error.start} is half a surrogate pair"
                ) from None


def read_sources(sources: Sequence[str | Path], field: str | None = None) -> Iterator[Document]:
    """The documents in files and folders, in the order given; folders are walked in the order of their names.

    A text file is one document. A JSON lines file holds one a line: its text is in `field` ("text" unless told), its
    other strings, numbers, booleans and nulls become metadata. Names with a leading dot are passed over in folders,
    and a file reached twice is read once.

    Raises FileNotFoundError for a missing source, ValueError for a source of another kind, text that is not UTF-8, a
    line that is not a JSON object with a string in `field`, or a `field` where no source is JSON lines.
    """
    files = list(_files(sources))
    if field is not None and not any(file.suffix.lower() == ".jsonl" for file in files):
        raise ValueError(f"field is {field!r}, but no source is JSON lines (.jsonl); leave field out")
    return (document for file in files for document in _read(file, field or "text"))


def _files(sources: Sequence[str | Path]) -> Iterator[Path]:
    seen = set()
    for source in map(Path, sources):
        if source.is_dir():
            found = list(_walk(source))
            if not found:
                raise ValueError(f"source {source} holds no file that ends in {', '.join(SUFFIXES)}")
        elif not source.exists():
            raise FileNotFoundError(f"source {source} does not exist")
        elif source.suffix.lower() not in SUFFIXES:
            raise ValueError(f"source {source} must be a folder or end in {', '.join(SUFFIXES)}")
        else:
            found = [source]
        for file in found:
            identity = file.resolve()
            if identity not in seen:
                seen.add(identity)
                yield file


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _read(path: Path, field: str) -> Iterator[Document]:
    # Decoded from bytes, so that offsets count the file's own line ends.
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"source {path} must be UTF-8 text, but byte {error.start} is {data[error.start]:#04x}; convert the file"
        ) from None
    if path.suffix.lower() != ".jsonl":
        yield Document(str(path), text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _document(path, number, line, field)


def json_object(place: str, line: str) -> dict[str, Any]:
    """The object on a line of a JSON lines file; `place` names it in the ValueError for anything else."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} must be a JSON object: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{place} must be a JSON object, got {type(record).__name__}")
    return record


def _document(path: Path, number: int, line: str, field: str) -> Document:
    place = f"{path} line {number}"
    record = json_object(place, line)
    if field not in record:
        raise ValueError(f"{place} has no field {field!r}; it has {', '.join(map(repr, record)) or 'none'}")
    text = record.pop(field)
    if not isinstance(text, str):
        raise ValueError(f"field {field!r} of {place} must be a string, got {type(text).__name__}")
    scalars = {key: value for key, value in record.items() if value is None or isinstance(value, str | int | float)}
    return Document(str(path), text, line=number, metadata=scalars)
