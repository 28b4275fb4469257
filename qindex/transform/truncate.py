"""Truncate: the first numbers of vectors whose encoder was trained for that (Matryoshka)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qindex.io import register
from qindex.transform.affine import QueryRule, unfitted
from qindex.types import Queries, Vectors, as_vectors, row_norms


@register("Truncate")
@dataclass(frozen=True)
class Truncate:
    """Keeps the first `dim` numbers of each vector, and with `renormalize` (default) divides them by their length.

    Queries are only cut: their length scales all scores of a query alike and so changes no ranking. Scores are those
    of the shortened (and renormalised) documents, which are undone to vectors with zeros in the rest; the original
    length is not kept. A prefix of zeros stays zero.
    """

    queries: ClassVar[QueryRule] = "inverse"

    dim: int
    renormalize: bool = True
    full: int | None = None  # learnt: numbers of the vectors before they are cut

    def __post_init__(self) -> None:
        if not isinstance(self.dim, int) or self.dim < 1:
            raise ValueError(f"dim must be a positive integer, got {self.dim!r}")
        if not isinstance(self.renormalize, bool):
            raise TypeError(f"renormalize must be True or False, got {self.renormalize!r}")
        if self.full is not None and not (isinstance(self.full, int) and self.full >= self.dim):
            raise ValueError(f"dim must be at most that of the vectors, {self.full!r}, got {self.dim}")

    @property
    def fitted(self) -> bool:
        return self.full is not None

    def fit(self, vectors: Vectors) -> "Truncate":
        """A Truncate for vectors of this dim."""
        return replace(self, full=as_vectors(vectors, nonempty=True).shape[1])

    def apply(self, vectors: Vectors) -> Vectors:
        """(n, full) floats -> (n, dim)."""
        prefixes = np.ascontiguousarray(as_vectors(vectors, dim=self._full())[:, : self.dim])
        if not self.renormalize:
            return prefixes
        norms = row_norms(prefixes)
        return (prefixes / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)

    def undo(self, vectors: Vectors) -> Vectors:
        """(n, dim) floats -> (n, full), zeros behind."""
        prefixes = as_vectors(vectors, dim=self.dim)
        return np.pad(prefixes, ((0, 0), (0, self._full() - self.dim)))

    def prepare(self, queries: Vectors) -> Queries:
        """(m, full) floats -> (m, dim), only cut."""
        values = np.ascontiguousarray(as_vectors(queries, "queries", self._full())[:, : self.dim])
        return Queries(values, np.zeros(len(values)))

    def dim_out(self, dim: int) -> int:
        """`self.dim`."""
        if dim < self.dim or (self.full is not None and dim != self.full):
            wanted = f"at least {self.dim}" if self.full is None else f"{self.full}, as fitted"
            raise ValueError(f"dim must be {wanted}, got {dim}")
        return self.dim

    def _full(self) -> int:
        if self.full is None:
            raise unfitted("Truncate")
        return self.full
