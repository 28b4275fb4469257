"""Questions in, texts out: an encoder, an index and the texts behind its ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qindex.index.allow import Allow
from qindex.types import Encoder, Hit, Index, as_texts


class Retriever:
    """Answers questions with the texts that an index holds as vectors.

    `texts[i]`, and `metadata[i]` if given, belong to `index.ids[i]`. Both are taken as they stand now: after adding
    to the index or removing from it, make a new Retriever.

    Raises ValueError where their numbers differ, or where encoder and index differ in dim.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        texts: Sequence[str],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self._texts = as_texts(texts)
        if len(self._texts) != len(index):
            raise ValueError(
                f"texts must be aligned with index.ids: the index holds {len(index)}, got {len(self._texts)} texts"
            )
        if metadata is not None and len(metadata) != len(index):
            raise ValueError(
                f"metadata must be aligned with index.ids: the index holds {len(index)}, got {len(metadata)} entries"
            )
        if encoder.dim != index.dim:
            raise ValueError(
                f"encoder gives vectors of dim {encoder.dim}, but index holds dim {index.dim}; "
                "search with the encoder that the index was built with"
            )
        self._encoder = encoder
        self._index = index
        self._metadata = metadata
        self._order = np.argsort(index.ids)
        self._sorted_ids = index.ids[self._order]

    def search(self, texts: Sequence[str], k: int = 10, *, allow: Allow | None = None) -> list[list[Hit]]:
        """The `k` best texts for each question, best first; fewer where the index or `allow` has fewer.

        `allow` restricts the answers as in the index's own `search`. Raises TypeError for a bare string.
        """
        questions = as_texts(texts)
        if not questions:
            return []
        ids, scores = self._index.search(self._encoder.encode_query(questions), k, allow=allow)
        return [
            [self._hit(id, score) for id, score in zip(*row, strict=True) if id >= 0]
            for row in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def _hit(self, id: int, score: float) -> Hit:
        place = int(np.searchsorted(self._sorted_ids, id))
        if place == len(self._sorted_ids) or self._sorted_ids[place] != id:
            raise ValueError(f"index found id {id}, which has no text: the index has changed; make a new Retriever")
        row = int(self._order[place])
        metadata = {} if self._metadata is None else self._metadata[row]
        return Hit(id, score, self._texts[row], metadata, {"index": score})
