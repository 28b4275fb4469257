"""Markdown tables and the sentences under them."""

from collections.abc import Iterable
from typing import Any

# Columns of words; the others are of numbers.
_WORDS = {
    "library", "query", "activations", "weights", "family", "beside", "for", "rows", "wanted", "found", "reached",
    "way", "choice",
}  # fmt: skip
_WORDS_BEGIN = ("fastest", "best of")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], caption: str) -> str:
    """A Markdown table, numbers to the right, and the sentences under it."""
    align = ["---", *("---" if name in _WORDS or name.startswith(_WORDS_BEGIN) else "---:" for name in head[1:])]
    lines = (f"| {' | '.join(cells)} |" for cells in (head, align, *rows))
    return "\n".join((*lines, "", caption, ""))


def measured(environment: dict[str, Any]) -> str:
    cores = "1 core" if environment["cores"] == 1 else f"{environment['cores']} cores"
    return f"Measured {environment['date']} on {cores} of {environment['cpu']}."


def code(name: str) -> str:
    """Names that are Python stand in backticks."""
    return f"`{name}`" if "(" in name else name
