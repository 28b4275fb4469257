"""Texts as `qindex tune` measures on them: passages, some of them held out to ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qindex.collection.sources import read_sources
from qindex.encode.chunks import split_passages
from qindex.encode.sentence import SentenceEncoder
from qindex.evaluate.tuning import drawn
from qindex.io import PathLike
from qindex.quantize import Float32
from qindex.types import Codes, Vectors


def read_passages(sources: Sequence[str | Path], field: str | None = None, max_chars: int = 1000) -> list[str]:
    """The passages that a collection of these sources would have. Raises ValueError where they hold no text."""
    documents = read_sources(sources, field)
    passages = [part.text for document in documents for part in split_passages(document.text, max_chars)]
    if not passages:
        raise ValueError("sources must hold some text, but there was none")
    return passages


def read_questions(path: PathLike) -> list[str]:
    """The lines of a file that hold text. Raises ValueError for none, or text that is not UTF-8."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"queries must be UTF-8 text, one question a line: {path}: {error}") from None
    questions = [line.strip() for line in text.splitlines() if line.strip()]
    if not questions:
        raise ValueError(f"queries must hold a question, but {path} has none")
    return questions


def encoded(
    passages: Sequence[str],
    questions: Sequence[str] | None,
    encoder: SentenceEncoder,
    *,
    sample: int,
    n_queries: int,
    folder: PathLike | None = None,
) -> tuple[Vectors, Vectors]:
    """Vectors of up to `sample` passages, and of up to `n_queries` questions: (n, dim) and (m, dim) float32.

    Without questions, passages that are held out of the sample (see `drawn`) are encoded as queries are. With `folder`,
    what is encoded there stays, and a run that was cut off goes on.
    """
    if questions is None:
        rows, held = drawn(len(passages), sample, n_queries)
        asked = [passages[i] for i in held]
    else:
        rows, _none = drawn(len(passages), sample, n_queries, hold_out=False)
        asked = [questions[i] for i in drawn(len(questions), n_queries, n_queries, hold_out=False)[0]]
    texts = [passages[i] for i in rows]
    if folder is None:
        return encoder.encode_document(texts), encoder.encode_query(asked)
    shards = encoder.encode_to(Path(folder) / "passages", texts, Float32())
    return shards.quantizer.dequantize(Codes.concatenate(shards.codes)), encoder.encode_query(asked)
