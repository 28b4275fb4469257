"""Transforms: what happens to vectors before quantization, and to queries so that scores stay true.

A transform maps a document `x` to `y = apply(x)` and back, `x ~ undo(y)`, and a query `q` to prepared `values` and an
`offset`. With `queries="inverse"` these give the product of the query with the vector that was undone,

    <values, y> + offset = <q, undo(y)>

whatever `y` is: so `y` may be quantized, and the scores are still those of the decoded vectors. With `queries="same"`
queries go the way of documents: the score is `<apply(q), y>`, which is another measure and ranks differently.

`Chain` (in `qindex.quantize`) composes transforms with a quantizer.
"""

from typing import Protocol, runtime_checkable

from qindex.transform.affine import QueryRule
from qindex.transform.opq import OPQ
from qindex.transform.pca import PCA
from qindex.transform.rotation import Rotation
from qindex.transform.scaling import Center, Standardize
from qindex.transform.truncate import Truncate
from qindex.transform.whiten import Whiten
from qindex.types import Queries, Vectors

__all__ = ["OPQ", "PCA", "Center", "QueryRule", "Rotation", "Standardize", "Transform", "Truncate", "Whiten"]


@runtime_checkable
class Transform(Protocol):
    """Maps vectors to vectors, perhaps of another dim. A frozen value; it is saved if it is registered (`io`)."""

    def fit(self, vectors: Vectors, /) -> "Transform":
        """A fitted transform (a new one, or this one where nothing is learnt)."""
        ...

    @property
    def fitted(self) -> bool: ...

    @property
    def queries(self) -> QueryRule: ...

    def apply(self, vectors: Vectors, /) -> Vectors: ...

    def undo(self, vectors: Vectors, /) -> Vectors:
        """What `apply` was given, as far as it can be told from what it returned."""
        ...

    def prepare(self, queries: Vectors, /) -> Queries: ...

    def dim_out(self, dim: int, /) -> int:
        """Numbers that a vector of `dim` numbers becomes."""
        ...
