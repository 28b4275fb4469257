"""What `qindex demo` shows: a collection of docstrings, and questions to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qindex.collection.collection import Collection
from qindex.evaluate.docstrings import docstrings
from qindex.types import Encoder, Vectors

QUESTIONS = (
    "how do I parse command line options?",
    "what are the n largest values of a list?",
    "cache the results of a function",
    "how do I send an e-mail?",
    "which files match a wildcard?",
)
HELD_OUT = 15  # of so many docstrings, one is not indexed


class Demo(NamedTuple):
    """The collection, and what a comparison of quantizers needs."""

    collection: Collection
    vectors: Vectors  # of the passages, as the encoder gave them
    queries: Vectors  # of the first paragraphs of the docstrings that were held out


def build_demo(path: Path, encoder: Encoder, model: str, limit: int) -> Demo:
    """Index `limit` docstrings, less those that are held out. Raises what `Collection.build` raises."""
    documents = docstrings(limit)
    indexed = [document for i, document in enumerate(documents) if i % HELD_OUT]
    held_out = [document.text.split("\n\n")[1] for document in documents[::HELD_OUT]]
    remembering = _Remembering(encoder)
    collection = Collection.build(path, indexed, remembering, model=model)
    return Demo(collection, remembering.vectors, encoder.encode_query(held_out))


class _Remembering:
    """An encoder that keeps the vectors it gave, so that the demo encodes its documents once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.dim = encoder.dim
        self.identity = encoder.identity

    def encode_document(self, texts: Sequence[str]) -> Vectors:
        self.vectors = self._encoder.encode_document(texts)
        return self.vectors

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        return self._encoder.encode_query(texts)
