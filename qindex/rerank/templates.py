"""What a causal language model is asked about a query and its documents: prompts as data.

A prompt is fixed text with marks in it, which stand for what changes: `{query}`, `{document}`, `{instruction}`, and
`{bos}` for the token that the tokenizer begins texts with, if it does so. Other braces are text like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from qindex.io import register

Kind = Literal["yes_no", "likelihood", "listwise"]

MARKS = re.compile(r"\{(bos|instruction|query|document|documents|identifier)\}")


@register("rerank.Template")
@dataclass(frozen=True)
class Template:
    """A prompt, and how its answer is read.

    - "yes_no": the logit of `answers[0]` behind the prompt, less that of `answers[1]` if there are two.
    - "likelihood": the mean log probability of the query's tokens, with which `text` ends.
    - "listwise": `{documents}` in `text` stands for as many lines `line`, each with an `{identifier}` of `answers` and
      a `{document}`. The logits of the identifiers behind the prompt put these documents in order, window by window
      from the end of a list to its front, each `step` further than the one before it.

    Each answer must be one token. `instruction` is what stands for its mark unless the caller has another. With `chat`,
    `text` is what a user says, and the model's own chat template goes around it.
    """

    kind: Kind
    text: str
    answers: tuple[str, ...] = ()
    instruction: str = ""
    line: str = ""
    step: int = 0
    chat: bool = False
    source: str = ""  # where the prompt or the method is published
    licence: str = ""  # of the text

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        listwise = self.kind == "listwise"
        _check_marks("text", self.text, {"query", "documents" if listwise else "document"}, {"bos", "instruction"})
        _check_marks("line", self.line, {"identifier", "document"} if listwise else set(), set())
        if self.kind == "likelihood" and not self.text.endswith("{query}"):
            raise ValueError(f"text must end with {{query}}, whose likelihood is the score, got {self.text[-30:]!r}")
        if self.instruction and "{instruction}" not in self.text:
            raise ValueError("text must hold {instruction} where there is an instruction, got none")
        if not isinstance(self.answers, tuple) or not all(isinstance(one, str) and one for one in self.answers):
            raise TypeError(f"answers must be a tuple of strings with something in them, got {self.answers!r}")
        if len(set(self.answers)) != len(self.answers):
            raise ValueError(f"answers must be different, got {self.answers}")
        wanted = {"yes_no": (1, 2), "likelihood": (0, 0), "listwise": (2, 1000)}[self.kind]
        if not wanted[0] <= len(self.answers) <= wanted[1]:
            raise ValueError(
                f"answers must be {wanted[0]} to {wanted[1]} strings for {self.kind!r}, got {self.answers}"
            )
        if listwise and not 1 <= self.step <= len(self.answers):
            raise ValueError(f"step must be from 1 to {len(self.answers)}, one for each answer, got {self.step}")


def _check_marks(name: str, text: str, needed: set[str], allowed: set[str]) -> None:
    found = MARKS.findall(text)
    for mark in sorted(needed):
        if found.count(mark) != 1:
            raise ValueError(f"{name} must hold {{{mark}}} once, got it {found.count(mark)} times in {text[:60]!r}")
    unknown = sorted(set(found) - needed - allowed)
    if unknown:
        raise ValueError(f"{name} must not hold {{{unknown[0]}}} in a template of this kind, got {text[:60]!r}")
    if len(set(found)) != len(found):
        raise ValueError(f"{name} must hold each mark once, got {found} in {text[:60]!r}")


_OWN = "Apache-2.0"

TEMPLATES: dict[str, Template] = {
    "qwen3": Template(
        kind="yes_no",
        text=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        ),
        answers=("yes", "no"),
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        source="https://huggingface.co/Qwen/Qwen3-Reranker-0.6B",
        licence="Apache-2.0",
    ),
    "bge-gemma": Template(
        kind="yes_no",
        text=(
            "{bos}A: {query}\nB: {document}\nGiven a query A and a passage B, determine whether the passage contains "
            "an answer to the query by providing a prediction of either 'Yes' or 'No'."
        ),
        answers=("Yes",),
        source="https://huggingface.co/BAAI/bge-reranker-v2-gemma",
        licence="Apache-2.0",
    ),
    "yes_no": Template(
        kind="yes_no",
        text=(
            "{instruction} Answer with Yes or No and nothing else.\n\nQuery: {query}\n\nDocument: {document}\n\n"
            "Does the document answer the query?"
        ),
        answers=("Yes", "No"),
        instruction="You judge whether a document answers a query.",
        chat=True,
        licence=_OWN,
    ),
    "likelihood": Template(
        kind="likelihood",
        text="{bos}Passage: {document}\n\nA question that this passage answers: {query}",
        source="https://arxiv.org/abs/2204.07496",  # the method; the words are our own
        licence=_OWN,
    ),
    "listwise": Template(
        kind="listwise",
        text=(
            "{bos}Below is a query, and passages that have a letter each. Name the passage that answers the query "
            "best.\n\nQuery: {query}\n\n{documents}\nThe passage that answers the query best is ["
        ),
        answers=tuple("ABCDEFGHIJKLMNOPQRST"),
        line="[{identifier}] {document}\n",
        step=10,
        source="https://arxiv.org/abs/2406.15657",  # the method; the words are our own
        licence=_OWN,
    ),
}
