"""Templates, queries and documents as token numbers.

Each part is tokenised by itself, so that the tokens of a document are the same behind any query, and a prompt begins
with the same tokens for every document. What stands in a query or a document never becomes a special token: a document
cannot end the turn that it is quoted in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qindex.rerank.templates import MARKS, Template

Tokens = tuple[int, ...]

# Marks that text takes the place of. A space before one goes to that text: most vocabularies have words with theirs.
_FILLED = ("query", "document", "instruction")

# What stands between the fixed parts of a prompt: a mark that a query or a document fills.
_Piece = Tokens | str


@dataclass(frozen=True)
class Asked:
    """A prompt with its query: what comes before the documents, and behind them."""

    before: Tokens
    after: Tokens
    query: Tokens
    room: int  # for the tokens of one document


class Prompts:
    """The prompts of a template by a tokenizer, each of at most `max_length` tokens.

    Documents are cut to the room that is left for them, and queries to half of what the fixed parts leave.

    Raises ValueError for an answer that is not one token, or two that are the same, and for a `max_length` with no room
    beside the fixed parts.
    """

    def __init__(self, template: Template, tokenizer: Any, max_length: int, instruction: str | None = None) -> None:
        if instruction is not None and "{instruction}" not in template.text:
            raise ValueError("instruction must be None for this template, which has no place for one")
        self.template = template
        self._tokenizer = tokenizer
        self._instruction = template.instruction if instruction is None else instruction
        # Some tokenizers begin every text with a space.
        self._space = "" if tokenizer.convert_ids_to_tokens(self._tokens("a"))[0].startswith("▁") else " "
        self._spaced = [mark for mark in _FILLED if f" {{{mark}}}" in template.text + template.line]
        self.answers = self._answers()
        self._text = self._pieces(_in_chat(template.text, tokenizer) if template.chat else template.text)
        self._line = self._pieces(template.line)
        self._documents = len(self.answers) if template.kind == "listwise" else 1
        fixed = _fixed(self._text) + self._documents * (_fixed(self._line) + self._line.count("identifier"))
        self._room = max_length - fixed
        if self._room < 1 + self._documents:
            raise ValueError(
                f"max_length must be at least {fixed + 1 + self._documents}, as the fixed parts of the prompt have "
                f"{fixed} tokens, got {max_length}"
            )

    def ask(self, query: str) -> Asked:
        """Raises ValueError for a query without a token."""
        most = min(self._room // 2, self._room - self._documents)
        tokens = self._filled("query", query)[: max(1, most)]
        if not tokens:
            raise ValueError(f"query must have a token at least, got {query!r}")
        pieces = [tokens if piece == "query" else piece for piece in self._text]
        place = next(i for i, piece in enumerate(pieces) if isinstance(piece, str))
        before, after = (_joined(some) for some in (pieces[:place], pieces[place + 1 :]))
        return Asked(before, after, tokens, (self._room - len(tokens)) // self._documents)

    def document(self, text: str) -> Tokens:
        """Its tokens, all of them."""
        return self._filled("document", text)

    def lines(self, documents: Sequence[Tokens]) -> Tokens:
        """A line for each, with one answer after the other as identifiers."""
        found: list[int] = []
        for answer, document in zip(self.answers, documents, strict=False):
            given = {"identifier": (answer,), "document": document}
            found += _joined([given[piece] if isinstance(piece, str) else piece for piece in self._line])
        return tuple(found)

    def _tokens(self, text: str, *, special: bool = False) -> Tokens:
        given = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not special, verbose=False)
        return tuple(given["input_ids"])

    def _filled(self, mark: str, text: str) -> Tokens:
        return self._tokens(self._space + text if mark in self._spaced else text)

    def _answers(self) -> Tokens:
        found: dict[int, str] = {}
        for answer in self.template.answers:
            tokens = self._tokens(answer)
            if len(tokens) != 1 or tokens[0] == self._tokenizer.unk_token_id:
                names = self._tokenizer.convert_ids_to_tokens(tokens)
                raise ValueError(f"answers must be one token each, but {answer!r} has become {names}: choose another")
            if tokens[0] in found:
                raise ValueError(f"answers must be different tokens, but {found[tokens[0]]!r} and {answer!r} are one")
            found[tokens[0]] = answer
        return tuple(found)

    def _pieces(self, text: str) -> list[_Piece]:
        """The fixed parts in tokens, with the names of marks between them."""
        parts = MARKS.split(text)  # fixed, mark, fixed, ...
        found: list[_Piece] = []
        for i, part in enumerate(parts):
            if i % 2:
                found.append(self._mark(part))
            else:
                spaced = i + 1 < len(parts) and parts[i + 1] in self._spaced
                found.append(self._tokens(part.removesuffix(" ") if spaced else part, special=True))
        return found

    def _mark(self, mark: str) -> _Piece:
        if mark == "instruction":
            return self._filled(mark, self._instruction)
        if mark == "bos":
            first = self._tokenizer("a")["input_ids"][0]
            return (first,) if first == self._tokenizer.bos_token_id else ()
        return mark


def _in_chat(text: str, tokenizer: Any) -> str:
    """What a user says, as the chat template of the model has it, and where the model is to answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "template must not be one with chat=True for a tokenizer without a chat template: choose another"
        )
    said = [{"role": "user", "content": text}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    found: str = tokenizer.apply_chat_template(said, **options)
    return found


def _fixed(pieces: list[_Piece]) -> int:
    return sum(len(piece) for piece in pieces if not isinstance(piece, str))


def _joined(pieces: Sequence[_Piece]) -> Tokens:
    return tuple(token for piece in pieces if not isinstance(piece, str) for token in piece)
