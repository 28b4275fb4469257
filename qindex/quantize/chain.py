"""Chain: transforms and one quantizer, as one quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qindex.io import register
from qindex.quantize.rows import BLOCK
from qindex.transform import QueryRule, Transform
from qindex.types import Codes, Quantizer, Queries, Vectors, as_vectors


@register("Chain")
@dataclass(frozen=True, init=False, repr=False, eq=False)
class Chain:
    """Transforms, one after the other, and a quantizer of what they give: `Chain(PCA(dim=192), Float8())`.

    Scores are those of the decoded vectors, for which every step is undone. A transform with `queries="same"` replaces
    them by the products of what it makes of documents and queries.
    """

    transforms: tuple[Transform, ...]
    quantizer: Quantizer

    def __init__(
        self,
        *steps: Transform | Quantizer,
        transforms: Sequence[Transform | Quantizer] = (),
        quantizer: Transform | Quantizer | None = None,
    ) -> None:
        """Transforms and then a quantizer (of a Chain, its steps are taken); or both by keyword, as a file has them."""
        if steps:
            *transforms, quantizer = steps
        for step in transforms:
            if isinstance(step, type) or not isinstance(step, Transform):
                raise TypeError(
                    f"all but the last of a Chain must be transforms such as qindex.Rotation(), got {step!r}"
                )
        if isinstance(quantizer, type) or not isinstance(quantizer, Quantizer):
            raise TypeError(f"the last of a Chain must be a quantizer such as qindex.Int8(), got {quantizer!r}")
        if isinstance(quantizer, Chain):
            transforms, quantizer = (*transforms, *quantizer.transforms), quantizer.quantizer
        if not transforms:
            raise ValueError(f"a Chain needs at least one transform; without one use {quantizer!r} itself")
        object.__setattr__(self, "transforms", tuple(transforms))
        object.__setattr__(self, "quantizer", quantizer)

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self._steps))})"

    @property
    def _steps(self) -> tuple[Transform | Quantizer, ...]:
        return (*self.transforms, self.quantizer)

    @property
    def fitted(self) -> bool:
        return all(step.fitted for step in self._steps)

    @property
    def unbiased(self) -> bool:
        """Whether scores are estimates of products with the vectors, as the quantizer has it."""
        return bool(getattr(self.quantizer, "unbiased", False))

    @property
    def queries(self) -> QueryRule:
        """ "same" where a transform has it: scores are then not those of the decoded vectors."""
        return "same" if any(step.queries == "same" for step in self.transforms) else "inverse"

    def fit(self, vectors: Vectors) -> Chain:
        """A Chain in which each step is fitted to what the steps before make of (n, dim) floats.

        Steps that are fitted already stay as they are.
        """
        values = as_vectors(vectors, nonempty=True)
        transforms = []
        for step in self.transforms:
            transforms.append(step if step.fitted else step.fit(values))
            values = transforms[-1].apply(values)
        return Chain(*transforms, self.quantizer if self.quantizer.fitted else self.quantizer.fit(values))

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of the dim that the transforms give."""
        vectors = as_vectors(vectors)
        starts = range(0, max(len(vectors), 1), BLOCK)  # one block for no rows, too
        return Codes.concatenate([self._quantized(vectors[start : start + BLOCK]) for start in starts])

    def _quantized(self, vectors: Vectors) -> Codes:
        for step in self.transforms:
            vectors = step.apply(vectors)
        return self.quantizer.quantize(vectors)

    def dequantize(self, codes: Codes) -> Vectors:
        """The decoded vectors with every transform undone: (n, dim) float32."""
        vectors = self.quantizer.dequantize(codes)
        for step in reversed(self.transforms):
            vectors = step.undo(vectors)
        return vectors

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats, prepared by each step in turn; the offsets add up."""
        values = as_vectors(queries, "queries")
        offset = np.zeros(len(values))
        for step in self._steps:
            prepared = step.prepare(values)
            values, offset = prepared.values, offset + prepared.offset
        return Queries(values, offset)

    def bytes_per_vector(self, dim: int) -> int:
        """What the quantizer takes for the dim that the transforms give."""
        for step in self.transforms:
            dim = step.dim_out(dim)
        return self.quantizer.bytes_per_vector(dim)
