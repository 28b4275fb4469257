"""What of a document stands for a question to it: its title, or its first sentence."""

from __future__ import annotations

_FEWEST, _MOST = 3, 40  # words of a query
_FEWEST_LEFT = 8  # words of what is to answer it


def title_and_rest(document: str) -> tuple[str, str] | None:
    """The first line of a document, or else its first sentence, and the document without it; None where neither fits.

    Lines of a word or two before it, such as a name, belong to the rest. Where the beginning comes again, as a title
    often does in the text, it is left out there too.
    """
    lines = document.strip().splitlines()
    while len(lines) > 1 and len(lines[0].split()) < _FEWEST:
        del lines[0]
    beginning = lines[0] if len(lines) > 1 and _fits(lines[0]) else _first_sentence("\n".join(lines))
    if not _fits(beginning):
        return None
    left = " ".join(document.replace(beginning, " ").split())
    return (" ".join(beginning.split()), left) if len(left.split()) >= _FEWEST_LEFT else None


def _fits(text: str) -> bool:
    return _FEWEST <= len(text.split()) <= _MOST


def _first_sentence(document: str) -> str:
    try:
        from nupunkt import sent_tokenize
    except ImportError as error:
        raise ImportError("examples from documents need nupunkt: pip install 'qindex[rerank]'") from error
    sentences = sent_tokenize(document[:2000])
    return str(sentences[0]).strip() if sentences else ""
