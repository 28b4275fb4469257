"""Text to search, in a folder: `catalogue.sqlite` and one index segment that never changes.

A build writes the new segment under a name that was never used, then switches the catalogue to it in one
transaction. Until then the old collection stands, and readers use it; after it, the old segment is removed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qindex.collection import catalogue
from qindex.collection.sources import Document
from qindex.encode.adapter import Adapter
from qindex.encode.chunks import split_passages
from qindex.index.flat import FlatIndex
from qindex.io import FormatError
from qindex.quantize import Chain, Int8
from qindex.transform import Transform
from qindex.types import Encoder, Hit, Quantizer, as_texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """Passages of text in a folder, found by meaning. `Collection.build` makes one, `Collection.open` opens it.

    It answers from the state that it opened; once the folder is built anew, `search` says so. Threads may share it.
    """

    path: Path
    index: FlatIndex
    meta: catalogue.Meta

    @classmethod
    def build(
        cls,
        path: str | Path,
        documents: Iterable[Document],
        encoder: Encoder,
        quantizer: Quantizer | None = None,
        *,
        rescore: Quantizer | None = None,
        max_chars: int = 1000,
        model: str = "",
    ) -> Collection:
        """Split documents into passages of up to `max_chars`, encode and index them, and replace what `path` held.

        `path` is a collection, an empty folder, or does not exist. `quantizer` (default `Int8()`) and `rescore` are
        those of `FlatIndex.build`. The encoder's identity is kept and has to be the same in every search; `model` is
        a note for who must construct that encoder again.

        Raises ValueError for a folder with other things in it, for documents without any text, and while another
        build runs on `path`; FormatError for a catalogue that is damaged, foreign or newer.
        """
        folder = Path(path)
        quantizer = Int8() if quantizer is None else quantizer
        catalogue.check_target(folder)
        sources, passages = _split(documents, max_chars)
        with catalogue.writing(folder) as connection:
            replaced = catalogue.active_segment(connection)
            _remove_leftovers(folder, keep=replaced)
            vectors = encoder.encode_document([passage.text for passage in passages])
            index = FlatIndex.build(vectors, quantizer, rescore=rescore)
            segment = f"segment-{secrets.token_hex(8)}.qindex"
            index.save(folder / segment)
            meta = catalogue.Meta(
                encoder=encoder.identity,
                model=model,
                quantizer=" + ".join(_describe(q) for q in (quantizer, rescore) if q is not None),
                segment=segment,
                dim=index.dim,
                passages=len(passages),
                sources=len(sources),
            )
            catalogue.replace_all(connection, meta, sources, passages)
        if replaced:
            (folder / replaced).unlink(missing_ok=True)
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """Open a folder that `build` wrote; vectors stay on disk until a search reads them.

        Raises FileNotFoundError for a folder that does not exist, FormatError for one that is not a collection, whose
        first build was cut off, which is damaged, or of a newer version.
        """
        folder = Path(path)
        with catalogue.reading(folder) as connection:
            meta = catalogue.read_meta(connection)
            index = _load_segment(folder, meta.segment)
            last = connection.execute("SELECT MAX(id) FROM passages").fetchone()[0]
        agree = len(index) == meta.passages and last == len(index) - 1
        if not agree or not np.array_equal(index.ids, np.arange(len(index))):
            raise FormatError(
                f"{folder / meta.segment} holds {len(index)} passages, but its catalogue has {meta.passages}, "
                f"the last of them {last}; build the collection again"
            )
        return cls(folder, index, meta)

    def __len__(self) -> int:
        return len(self.index)

    def search(
        self, texts: Sequence[str], k: int = 10, *, encoder: Encoder, adapter: Adapter | None = None
    ) -> list[list[Hit]]:
        """The `k` best passages for each text, best first, or all where there are fewer.

        A hit's metadata tells its `source`, `start` and `end` (characters in the document), the `line` of a JSON lines
        file, and in `fields` the document's own metadata.

        An encoder other than the one the collection was built with needs an `adapter` from its space to that of the
        collection (`qindex.fit_adapter`, told both identities). Raises ValueError for any other, or without one.
        """
        self.check_encoder(encoder, adapter)
        questions = as_texts(texts)
        if not questions:
            return []
        queries = encoder.encode_query(questions)
        return self.search_vectors(queries if adapter is None else adapter.apply(queries), k)

    def search_vectors(self, queries: ArrayLike, k: int = 10) -> list[list[Hit]]:
        """`search` for queries that the right encoder has encoded: (m, dim) floats."""
        matches = self.index.search(queries, k)
        with catalogue.reading(self.path) as connection:
            self._check_current(connection)
            wanted = np.unique(matches.ids[matches.ids >= 0]).tolist()
            found = {row.id: (source, row) for source, row in catalogue.read_passages(connection, wanted)}
        return [
            [_hit(*found[id], score) for id, score in zip(ids, scores, strict=True) if id >= 0]
            for ids, scores in zip(matches.ids.tolist(), matches.scores.tolist(), strict=True)
        ]

    def texts(self) -> list[str]:
        """The texts of all passages, in the order of `index.ids`."""
        with catalogue.reading(self.path) as connection:
            self._check_current(connection)
            return catalogue.read_texts(connection)

    def _check_current(self, connection: sqlite3.Connection) -> None:
        if catalogue.active_segment(connection) != self.meta.segment:
            raise ValueError(f"collection {self.path} was built anew since it was opened; open it again")

    def check_encoder(self, encoder: Encoder, adapter: Adapter | None = None) -> None:
        """Raise ValueError unless `encoder`, through `adapter` if given, makes vectors of the collection's space."""
        if adapter is not None:
            adapter.check(encoder, self.index.dim)
            if (adapter.old_identity, adapter.new_identity) != (self.meta.encoder, encoder.identity):
                raise ValueError(
                    f"adapter must be from the encoder's space {encoder.identity!r} to that of the collection "
                    f"{self.path}, {self.meta.encoder!r}, got one from {adapter.new_identity!r} to "
                    f"{adapter.old_identity!r}; fit one with fit_adapter(..., old_identity=..., new_identity=...)"
                )
        elif encoder.identity != self.meta.encoder:
            raise ValueError(
                f"collection {self.path} was built with the encoder {self.meta.encoder!r}, "
                f"but encoder is {encoder.identity!r}; search with the former, with an adapter from the latter "
                "(qindex.fit_adapter), or build the collection again"
            )

    def info(self) -> dict[str, str | int]:
        """What the collection holds and what it takes on disk, in bytes."""
        return {
            **self.meta._asdict(),
            "segment_bytes": (self.path / self.meta.segment).stat().st_size,
            "catalogue_bytes": (self.path / catalogue.FILE_NAME).stat().st_size,
        }


def _split(documents: Iterable[Document], max_chars: int) -> tuple[dict[str, int], list[catalogue.Row]]:
    """The sources with their sizes in characters, and the passages under ids from 0."""
    sources: dict[str, int] = {}
    numbers: dict[str, int] = {}
    passages: list[catalogue.Row] = []
    n_documents = n_empty = 0
    for document in documents:
        source = numbers.setdefault(document.source, len(numbers))
        sources[document.source] = sources.get(document.source, 0) + len(document.text)
        metadata = json.dumps(dict(document.metadata))
        parts = split_passages(document.text, max_chars)
        n_documents += 1
        n_empty += not parts
        passages.extend(
            catalogue.Row(id, source, document.line, part.start, part.end, part.text, metadata)
            for id, part in enumerate(parts, start=len(passages))
        )
    if not passages:
        raise ValueError("documents must hold some text, but there was none")
    if n_empty:
        logger.warning("%d of %d documents hold no text and are left out", n_empty, n_documents)
    return sources, passages


def _load_segment(folder: Path, name: str) -> FlatIndex:
    try:
        return FlatIndex.load(folder / name)
    except FileNotFoundError:
        raise FormatError(f"the index segment {folder / name} is missing; build the collection again") from None


def _remove_leftovers(folder: Path, keep: str | None) -> None:
    """Remove what killed builds wrote. Only the holder of the write transaction may."""
    for pattern in ("segment-*.qindex", ".segment-*.qindex.*.tmp"):
        for file in folder.glob(pattern):
            if file.name != keep:
                file.unlink()


def _hit(source: str, row: catalogue.Row, score: float) -> Hit:
    metadata = {"source": source, "start": row.start, "end": row.end, "fields": json.loads(row.metadata)}
    if row.line is not None:
        metadata["line"] = row.line
    return Hit(row.id, score, row.text, metadata, {"index": score})


def _describe(step: Quantizer | Transform) -> str:
    """A quantizer or transform for people: its name and its settings, without arrays."""
    if isinstance(step, Chain):
        return f"Chain({', '.join([*map(_describe, step.transforms), _describe(step.quantizer)])})"
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(step) if dataclasses.is_dataclass(step) else ()
    values = {field.name: getattr(step, field.name) for field in fields}
    options = ", ".join(f"{name}={value!r}" for name, value in values.items() if isinstance(value, str | int | float))
    return f"{type(step).__name__}({options})"
