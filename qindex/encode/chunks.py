"""Long texts cut into passages that an encoder can read, with exact offsets into the text."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]

_BLANK_LINE = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a longer text: `text[start:end] == passage.text`, without surrounding whitespace."""

    start: int
    end: int
    text: str


def split_passages(text: str, max_chars: int = 1000) -> list[Passage]:
    """Cut a text into passages of at most `max_chars` characters, in order and without overlap.

    Paragraphs (separated by blank lines) are packed together while they fit, so a short text is one passage, and
    headings and list items share one with their neighbours. A paragraph longer than `max_chars` is packed sentence by
    sentence, a sentence longer than that is cut at whitespace, and a word longer than that is cut within. Nothing but
    whitespace is left out; a text of nothing else gives [].

    The default is about what encoders of 256 tokens read of English. Passages do not overlap: overlap would store
    sentences twice and answer with them twice.

    Raises TypeError unless `text` is a string, ValueError for `max_chars` < 1, ImportError without nupunkt.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be one string, got {type(text).__name__}; split each text by itself")
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, got {max_chars}")
    try:
        from nupunkt import sent_spans
    except ImportError as error:
        raise ImportError("split_passages needs nupunkt: pip install 'qindex[encode]'") from error

    packed: list[Span] = []
    for start, end in _units(text, max_chars, sent_spans):
        if packed and end - packed[-1][0] <= max_chars:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return [Passage(start, end, text[start:end]) for start, end in packed]


def _units(text: str, max_chars: int, sent_spans: Callable[[str], list[Span]]) -> Iterator[Span]:
    """What is never cut: paragraphs that fit, else sentences that fit, else runs of words; stripped, none empty."""
    for paragraph in _paragraphs(text):
        if paragraph[1] - paragraph[0] <= max_chars:
            yield paragraph
            continue
        for start, end in sent_spans(text[slice(*paragraph)]):
            sentence = _strip(text, paragraph[0] + start, paragraph[0] + end)
            yield from _word_runs(text, sentence, max_chars)


def _paragraphs(text: str) -> Iterator[Span]:
    start = 0
    ends = [*(gap.start() for gap in _BLANK_LINE.finditer(text)), len(text)]
    for end in ends:
        stripped = _strip(text, start, end)
        if stripped[0] < stripped[1]:
            yield stripped
        start = end


def _word_runs(text: str, sentence: Span, max_chars: int) -> Iterator[Span]:
    """The sentence itself if it fits, else pieces of it that end before whitespace where there is any."""
    start, end = sentence
    while end - start > max_chars:
        # One character more is looked at: a word may end exactly at the limit.
        window = text[start : start + max_chars + 1]
        cut = next((i for i in range(max_chars, 0, -1) if window[i].isspace()), max_chars)
        yield _strip(text, start, start + cut)
        start, _ = _strip(text, start + cut, end)
    if start < end:
        yield start, end


def _strip(text: str, start: int, end: int) -> Span:
    """The span without the whitespace at its ends; an empty one if there is nothing else."""
    piece = text[start:end]
    end = start + len(piece.rstrip())
    return min(start + len(piece) - len(piece.lstrip()), end), end
