"""Questions in, texts out: an encoder, an index, the texts behind its ids, and a reranker for the best of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qindex.encode.adapter import Adapter
from qindex.index.allow import Allow
from qindex.rerank.fusion import Fusion
from qindex.rerank.order import DEPTH, rerank
from qindex.types import Encoder, Hit, Index, Reranker, as_texts


class Retriever:
    """Answers questions with the texts that an index holds as vectors.

    `texts[i]`, and `metadata[i]` if given, belong to `index.ids[i]`. Both are taken as they stand now: after adding
    to the index or removing from it, make a new Retriever.

    A `reranker` reads the best hits of the index and puts them in its order, or in that of `fuse` where one is given or
    the reranker has one.

    With an `adapter` (`qindex.fit_adapter`), the encoder is a newer one than that of the index: each question goes
    through the adapter into the space of the index.

    Raises ValueError where their numbers differ, where encoder and index differ in dim, and for an adapter that is not
    from this encoder to vectors of that dim.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        texts: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        reranker: Reranker | None = None,
        fuse: Fusion | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        if fuse is not None and reranker is None:
            raise ValueError("fuse must come with a reranker, whose scores it takes, got none")
        self._texts = as_texts(texts)
        if len(self._texts) != len(index):
            raise ValueError(
                f"texts must be aligned with index.ids: the index holds {len(index)}, got {len(self._texts)} texts"
            )
        if metadata is not None and len(metadata) != len(index):
            raise ValueError(
                f"metadata must be aligned with index.ids: the index holds {len(index)}, got {len(metadata)} entries"
            )
        if adapter is not None:
            adapter.check(encoder, index.dim)
        elif encoder.dim != index.dim:
            raise ValueError(
                f"encoder gives vectors of dim {encoder.dim}, but index holds dim {index.dim}; "
                "search with the encoder that the index was built with, or with an adapter (qindex.fit_adapter)"
            )
        self._encoder = encoder
        self._adapter = adapter
        self._index = index
        self._metadata = metadata
        self._reranker = reranker
        self._fuse = fuse
        self._order = np.argsort(index.ids)
        self._sorted_ids = index.ids[self._order]

    def search(
        self,
        texts: Sequence[str],
        k: int = 10,
        *,
        allow: Allow | None = None,
        depth: int | None = None,
        budget_ms: float | None = None,
    ) -> list[list[Hit]]:
        """The `k` best texts for each question, best first; fewer where the index or `allow` has fewer.

        `allow` restricts the answers as in the index's own `search`. A reranker reads the `depth` best hits (50 if that
        is not told, at least k) of each question, within `budget_ms` for each: its hits are `qindex.rerank.Reranked`,
        which tell whether the budget was enough. Raises TypeError for a bare string, ValueError for `depth` or
        `budget_ms` without a reranker.
        """
        questions = as_texts(texts)
        if self._reranker is None and (depth is not None or budget_ms is not None):
            raise ValueError("depth and budget_ms are for a reranker: make the Retriever with one")
        if depth is not None and depth < k:
            raise ValueError(f"depth must be at least k, {k}, got {depth}")
        if not questions:
            return []
        n = k if self._reranker is None else max(k, depth or DEPTH)
        queries = self._encoder.encode_query(questions)
        if self._adapter is not None:
            queries = self._adapter.apply(queries)
        ids, scores = self._index.search(queries, n, allow=allow)
        found = [
            [self._hit(id, score) for id, score in zip(*row, strict=True) if id >= 0]
            for row in zip(ids.tolist(), scores.tolist(), strict=True)
        ]
        if self._reranker is None:
            return found
        return [
            rerank(self._reranker, question, hits, k, budget_ms=budget_ms, fuse=self._fuse, progress=False)
            for question, hits in zip(questions, found, strict=True)
        ]

    def _hit(self, id: int, score: float) -> Hit:
        place = int(np.searchsorted(self._sorted_ids, id))
        if place == len(self._sorted_ids) or self._sorted_ids[place] != id:
            raise ValueError(f"index found id {id}, which has no text: the index has changed; make a new Retriever")
        row = int(self._order[place])
        metadata = {} if self._metadata is None else self._metadata[row]
        return Hit(id, score, self._texts[row], metadata, {"index": score})
