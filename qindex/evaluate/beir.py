"""Judged collections in the folder layout of the BEIR benchmark."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qindex.collection.sources import json_object
from qindex.rerank.judgements import Judgements
from qindex.types import Encoder

logger = logging.getLogger(__name__)

_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True)
class JudgedCollection:
    """Documents, queries, and which document answers which query."""

    documents: dict[str, str]  # id -> text
    queries: dict[str, str]  # id -> text; each of them is judged
    qrels: dict[str, dict[str, int]]  # query id -> document id -> grade

    def judgements(self, encoder: Encoder) -> Judgements:
        """What a reranker learns from: queries and documents in their order here, and what `encoder` finds."""
        rows = {document: row for row, document in enumerate(self.documents)}
        grades = [{rows[d]: float(g) for d, g in self.qrels[query].items() if d in rows} for query in self.queries]
        return Judgements.of(list(self.queries.values()), list(self.documents.values()), grades, encoder)


def load_beir(folder: str | Path) -> JudgedCollection:
    """Read `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`.

    A document's text is its title, a space and its text, as BEIR encodes it; an empty one stays in. Of the queries
    only the judged ones are kept, since some collections carry many others. Grades stay as they are.

    Raises FileNotFoundError for a missing file, and ValueError with file and line number for a line of another form,
    an id that comes twice, or a judged query that is not there. A judged document that is not there cannot be found by
    anyone and stays in the judgements; the log warns of it.
    """
    folder = Path(folder)
    documents: dict[str, str] = {}
    for place, id, record in _records(folder / "corpus.jsonl"):
        if id in documents:
            raise ValueError(f"{place}: the id {id!r} comes for the second time")
        documents[id] = f"{_text(place, record, 'title', '')} {_text(place, record, 'text')}".strip()

    qrels: dict[str, dict[str, int]] = {}
    first_place: dict[str, str] = {}
    for place, query, document, grade in _judgements(folder / "qrels" / "test.tsv"):
        if document in qrels.setdefault(query, {}):
            raise ValueError(f"{place}: document {document!r} is judged for query {query!r} for the second time")
        qrels[query][document] = grade
        first_place.setdefault(query, place)

    queries: dict[str, str] = {}
    for place, id, record in _records(folder / "queries.jsonl"):
        if id in queries:
            raise ValueError(f"{place}: the id {id!r} comes for the second time")
        if id in qrels:
            queries[id] = _text(place, record, "text")
    for query in qrels:
        if query not in queries:
            raise ValueError(f"{first_place[query]}: queries.jsonl has no query {query!r}")

    missing = len({document for grades in qrels.values() for document in grades} - documents.keys())
    if missing:
        logger.warning("%s judges %d documents that corpus.jsonl lacks", folder, missing)
    return JudgedCollection(documents, queries, qrels)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, behind its place."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path} line {number}"
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} must be UTF-8: {error}") from None
            if text.strip():
                yield place, text.rstrip("\r\n")


def _records(path: Path) -> Iterator[tuple[str, str, dict[str, object]]]:
    for place, line in _lines(path):
        record = json_object(place, line)
        yield place, _text(place, record, "_id"), record


def _text(place: str, record: dict[str, object], field: str, default: str | None = None) -> str:
    text = record.get(field, default)
    if not isinstance(text, str):
        got = f"{type(text).__name__}" if field in record else f"only {', '.join(map(repr, record)) or 'none'}"
        raise ValueError(f"{place} must have a string in {field!r}, got {got}")
    return text


def _judgements(path: Path) -> Iterator[tuple[str, str, str, int]]:
    lines = _lines(path)
    place, header = next(lines, (f"{path} line 1", ""))
    if header.split("\t") != _HEADER:
        raise ValueError(f"{place} must be the header {' <tab> '.join(_HEADER)}, got {header[:60]!r}")
    for place, line in lines:
        fields = line.split("\t")
        if len(fields) != len(_HEADER):
            raise ValueError(f"{place} must have 3 fields between tabs, got {len(fields)}: {line[:60]!r}")
        query, document, grade = fields
        if not re.fullmatch(r"-?[0-9]{1,9}", grade):
            raise ValueError(f"{place} must end in a grade, an integer, got {grade[:60]!r}")
        yield place, query, document, int(grade)
