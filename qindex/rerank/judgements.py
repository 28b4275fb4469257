"""What a reranker learns from: queries, what a first stage found for them, and which of it is right."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qindex.index.flat import FlatIndex
from qindex.quantize import Float32
from qindex.rerank.order import DEPTH
from qindex.rerank.sentences import title_and_rest
from qindex.types import Encoder, Matches, as_texts


@dataclass(frozen=True)
class Example:
    """A query, a document that answers it, and such as do not: the nearer to it, the more is learnt."""

    query: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Judgements:
    """Queries, documents, and for each query its grades, row of a document -> grade; 1 and above is right.

    `found` are the rows that a first stage found for each query, (m, r), and their scores.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    grades: tuple[Mapping[int, float], ...]
    found: Matches

    def __post_init__(self) -> None:
        if not len(self.queries) == len(self.grades) == len(self.found.ids):
            raise ValueError(
                "queries, grades and found must be as many, got "
                f"{len(self.queries)}, {len(self.grades)} and {len(self.found.ids)}"
            )

    @classmethod
    def of(
        cls, queries: Sequence[str], documents: Sequence[str], grades: Sequence[Mapping[int, float]], encoder: Encoder
    ) -> Judgements:
        """With what `encoder` finds: the first stage by exact search in float32."""
        queries, documents = as_texts(queries, "queries"), as_texts(documents, "documents")
        index = FlatIndex.build(encoder.encode_document(documents), Float32())
        found = index.search(encoder.encode_query(queries), min(DEPTH, len(documents)))
        return cls(tuple(queries), tuple(documents), tuple(grades), found)

    @classmethod
    def from_documents(
        cls, documents: Sequence[str], encoder: Encoder, *, most: int = 3000, seed: int = 0
    ) -> Judgements:
        """From documents alone: the title of one, or its first sentence, is the query, and its rest what is right.

        Documents without such a beginning make none. Raises ValueError where fewer than two have one.
        """
        parts = [part for part in map(title_and_rest, as_texts(documents, "documents")) if part is not None]
        if len(parts) < 2:
            raise ValueError(
                "documents must begin with a title or a sentence of 3 to 40 words and go on, so that there are queries "
                f"to learn from; of {len(documents)} so do {len(parts)}: bring judged queries"
            )
        parts = [parts[i] for i in sorted(random.Random(seed).sample(range(len(parts)), min(most, len(parts))))]
        titles, rests = zip(*parts, strict=True)
        return cls.of(titles, rests, [{i: 1.0} for i in range(len(parts))], encoder)

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, rows: Iterable[int]) -> Judgements:
        """Some of the queries."""
        rows = list(rows)
        found = Matches(self.found.ids[rows], self.found.scores[rows])
        queries, grades = tuple(self.queries[i] for i in rows), tuple(self.grades[i] for i in rows)
        return Judgements(queries, self.documents, grades, found)

    def split(self, share: float = 0.2, *, most: int = 50, seed: int = 0) -> tuple[Judgements, Judgements]:
        """All but a share of the queries, at most so many, and that share."""
        order = random.Random(seed).sample(range(len(self)), len(self))
        n = min(most, round(share * len(self)))
        return self[sorted(order[n:])], self[sorted(order[:n])]

    def examples(self, *, most: int = 8, seed: int = 0) -> list[Example]:
        """One for up to `most` right documents of each query, beside what was found for it and is not right."""
        rng = random.Random(seed)
        examples = []
        for query, grades, rows in zip(self.queries, self.grades, self.found.ids.tolist(), strict=True):
            right = sorted(row for row, grade in grades.items() if grade >= 1)
            wrong = tuple(self.documents[row] for row in rows[:DEPTH] if row >= 0 and row not in right)
            rng.shuffle(right)
            if query.strip() and wrong:
                examples += [Example(query, self.documents[row], wrong) for row in right[:most]]
        return examples

    def found_grades(self, i: int) -> tuple[list[int], np.ndarray]:
        """The rows that were found for query i, and their grades."""
        rows = [row for row in self.found.ids[i].tolist() if row >= 0]
        return rows, np.array([self.grades[i].get(row, 0.0) for row in rows])
