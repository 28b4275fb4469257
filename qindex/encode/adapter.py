"""Another encoder for an index that stays as it is: its queries are mapped into the space of the encoder before.

    score(query, document) = <W^T new(query), old(document)>

`W` (new_dim, old_dim) is learnt from texts that both encoders have encoded, rows of X by the new one and of Y by the
old one. It acts on queries only, so the index may be of any kind and hold its vectors in any format. No kind takes off
the means: on four judged collections that won 0.2 points of nDCG@10 at most and lost up to 5.

    orthogonal   U V^T of the SVD X^T Y = U S V^T: of all (semi-)orthogonal maps that with the largest <X W, Y>
                 (Procrustes: Schönemann, 1966). Keeps the angles between queries, so it needs few texts
    linear       (X^T X + lambda)^-1 X^T Y: ridge regression of old vectors on new ones
    simplex      H_new H_old^T: each encoder has a head, and both heads aim at the same fixed points, the vertices of a
                 regular simplex (Biondi et al., CVPR 2024: "d-Simplex"). Score: the product of the two heads' features

Texts have no classes, which the simplex is made for: clusters of the old vectors take their place. The heads are ridge
regressions onto the vertex of a text's cluster. The original trains the encoder itself, by cross-entropy to the
vertices and a term that aligns pairs of old and new features (HOC); neither is here.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex.index import kmeans
from qindex.io import register
from qindex.quantize.origin import check_seed
from qindex.transform.affine import along_axes
from qindex.transform.moments import blocks
from qindex.types import Encoder, Vectors, as_vectors, row_norms

Kind = Literal["orthogonal", "linear", "simplex"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# With half as many texts as dimensions a map found 72 to 87 % of what one from ten times as many texts found, with a
# quarter 53 to 65 % (nDCG@10 on cran and med).
TEXTS_PER_DIM = 0.5
FEWEST_TEXTS = 4  # two clusters of two
MOST_VERTICES = 1024  # as in the paper

# Of the mean square along an axis.
_RIDGES = (1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ONE_LENGTH = 0.01  # old vectors of lengths within this share of each other were normalised


@register("Adapter")
@dataclass(frozen=True, eq=False)
class Adapter:
    """Maps vectors of a new encoder into the space of an old one; `fit_adapter` makes it.

    `io.save` and `qindex.load` keep it. `length` is that of every old vector, to which mapped ones are brought; None
    where they had several, and mapped ones keep that which the map gives them. `check` refuses another encoder.
    """

    matrix: NDArray[np.float32]  # (new_dim, old_dim)
    kind: Kind
    length: float | None = None
    old_identity: str | None = None
    new_identity: str | None = None

    def __post_init__(self) -> None:
        matrix: Any = self.matrix
        if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or matrix.ndim != 2 or 0 in matrix.shape:
            found = f"{matrix.dtype} {matrix.shape}" if isinstance(matrix, np.ndarray) else repr(matrix)
            raise ValueError(f"matrix must be float32 (new_dim, old_dim), got {found}")
        if not np.isfinite(matrix).all():
            raise ValueError("matrix must be finite, got NaN or infinity")
        _check_kind(self.kind)
        if self.length is not None and not (
            isinstance(self.length, float) and math.isfinite(self.length) and self.length > 0
        ):
            raise ValueError(f"length must be a positive float, or None for several, got {self.length!r}")
        _check_identities(self.old_identity, self.new_identity)

    @property
    def new_dim(self) -> int:
        """Numbers of a vector that is mapped."""
        return len(self.matrix)

    @property
    def old_dim(self) -> int:
        """Numbers of a vector of the index."""
        return int(self.matrix.shape[1])

    def apply(self, queries: ArrayLike) -> Vectors:
        """(m, new_dim) floats of the new encoder -> (m, old_dim) float32 to search the old index with.

        What the fitted texts say nothing about becomes zero. Raises ValueError for another dim, NaN or infinity.
        """
        rows = as_vectors(queries, "queries", self.new_dim)
        # In float64, as transforms are: a query is then mapped alike alone and in company.
        mapped = np.concatenate([along_axes(rows[part].astype(np.float64), self._axes) for part in blocks(len(rows))])
        if self.length is not None:
            norms = np.sqrt(np.square(mapped).sum(axis=1))
            mapped *= (self.length / np.where(norms > 0, norms, 1))[:, None]
        with np.errstate(over="ignore"):  # reported by the check
            return as_vectors(mapped.astype(np.float32), "mapped queries")

    def check(self, encoder: Encoder, dim: int) -> None:
        """Raise ValueError unless this maps vectors of `encoder` to those of an index of `dim`, as far as it knows."""
        if (encoder.dim, dim) != (self.new_dim, self.old_dim):
            raise ValueError(
                f"adapter must be from the encoder's dim {encoder.dim} to that of the index, {dim}, got one from "
                f"{self.new_dim} to {self.old_dim}; fit one with fit_adapter on vectors of these two encoders"
            )
        if self.new_identity is not None and self.new_identity != encoder.identity:
            raise ValueError(
                f"adapter was fitted for the encoder {self.new_identity!r}, but encoder is {encoder.identity!r}; "
                "search with the former, or fit another with fit_adapter"
            )

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.matrix.T, np.float64)


def fit_adapter(
    old: ArrayLike,
    new: ArrayLike,
    *,
    kind: Kind = "orthogonal",
    old_identity: str | None = None,
    new_identity: str | None = None,
    seed: int = 0,
) -> Adapter:
    """What lets a new encoder search an index of the old one's vectors: (n, old_dim), (n, new_dim) -> Adapter.

    `old[i]` and `new[i]` are vectors of the same text; old ones may be dequantized. Take documents of the index itself,
    all or as many as can be encoded: those fitted to other collections found little more than half as much. Between
    unrelated encoders the new one's queries may still find less than the old one's, so measure both before the old
    encoder goes, as `benchmarks/recurrent_upgrade.py` does.

    `kind` is one of `KINDS`: "orthogonal" was the best on nearly all that we measured. "simplex" maps to another
    measure than distance, for the metrics "ip" and "cosine". `seed` draws the start of its clusters; the others draw
    nothing. The identities are those of the encoders; `Collection.search` asks for both.

    Raises ValueError for different numbers of rows, fewer of them than half the smaller dim (or 4), NaN, infinity, and
    vectors of which nothing but zeros is known; TypeError for numbers that are not floats.
    """
    _check_kind(kind)
    _check_identities(old_identity, new_identity)
    check_seed(seed)
    y, x = as_vectors(old, "old"), as_vectors(new, "new")
    if len(y) != len(x):
        raise ValueError(f"old and new must be vectors of the same texts, got {len(y)} and {len(x)} rows")
    fewest = max(FEWEST_TEXTS, math.ceil(TEXTS_PER_DIM * min(y.shape[1], x.shape[1])))
    if len(y) < fewest:
        raise ValueError(
            f"old and new must have at least {fewest} rows for dims {y.shape[1]} and {x.shape[1]}, got {len(y)}; "
            "encode more texts, or passages of these"
        )
    for name, rows in (("old", y), ("new", x)):
        if not rows.any():
            raise ValueError(f"{name} must hold vectors other than zeros")
    if kind == "orthogonal":
        matrix = _procrustes(x, y)
    elif kind == "linear":
        matrix = _ridge(x, y)
    else:
        targets = _cluster_vertices(y, seed)
        matrix = _ridge(x, targets) @ _ridge(y, targets).T
    return Adapter(matrix.astype(np.float32), kind, _one_length(y), old_identity, new_identity)


def _procrustes(x: Vectors, y: Vectors) -> NDArray[np.float64]:
    """U V^T of X^T Y, without the directions that the rows do not have: (new_dim, old_dim)."""
    u, sizes, vt = np.linalg.svd(_products(x, y), full_matrices=False)
    # Both sides were rounded to float32. What is smaller than the product of that says nothing, and any direction
    # would do: with fewer texts than dimensions, to leave these out found more.
    known = sizes > sizes[0] * max(x.shape[1], y.shape[1]) * float(np.finfo(np.float32).eps) ** 2
    matrix: NDArray[np.float64] = u[:, known] @ vt[known]
    return matrix


def _ridge(x: Vectors, y: Vectors) -> NDArray[np.float64]:
    """(X^T X + lambda)^-1 X^T Y, with the lambda of the least error on rows that are left out: (dim of x, of y).

    The error on a row x that is left out is that of the fit to all, divided by 1 - x^T (X^T X + lambda)^-1 x (Allen,
    1974).
    """
    squares, axes = np.linalg.eigh(_products(x, x))
    squares = np.maximum(squares, 0)
    along = axes.T @ _products(x, y)
    ridges = [share * float(squares.mean()) for share in _RIDGES]
    errors = np.zeros(len(ridges))
    for part in blocks(len(x)):
        rows = x[part] @ axes
        for i, ridge in enumerate(ridges):
            inverse = 1 / (squares + ridge)
            missed = y[part] - (rows * inverse) @ along
            errors[i] += np.square(missed / (1 - np.square(rows) @ inverse)[:, None]).sum()
    best = ridges[int(errors.argmin())]
    matrix: NDArray[np.float64] = axes @ (along / (squares + best)[:, None])
    return matrix


def _cluster_vertices(y: Vectors, seed: int) -> Vectors:
    """Of each row the vertex of its cluster, (n, vertices - 1): half as many clusters as rows, at most 1024."""
    n_vertices = min(MOST_VERTICES, len(y) // 2)
    centroids = kmeans.as_codes(kmeans.train(y, n_vertices, seed))
    labels, _squares = kmeans.nearest(centroids, y)
    targets: Vectors = simplex(n_vertices)[labels]
    return targets


def simplex(n_vertices: int) -> NDArray[np.float32]:
    """The vertices of a regular simplex, rows of length 1 and product -1 / (n - 1) with each other: (n, n - 1).

    The unit vectors and one row of (1 - sqrt(n)) / (n - 1), about their mean (Pernici et al., TNNLS 2021).
    """
    last = np.full((1, n_vertices - 1), (1 - math.sqrt(n_vertices)) / (n_vertices - 1))
    rows = np.vstack([np.eye(n_vertices - 1), last])
    rows -= rows.mean(axis=0)
    vertices: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vertices


def _products(x: Vectors, y: Vectors) -> NDArray[np.float64]:
    """X^T Y in float64."""
    total = np.zeros((x.shape[1], y.shape[1]))
    for part in blocks(len(x)):
        total += x[part].T.astype(np.float64) @ y[part].astype(np.float64)
    return total


def _one_length(vectors: Vectors) -> float | None:
    """The length that all rows have which are not zeros."""
    norms = row_norms(vectors)
    norms = norms[norms > 0]
    mean = float(norms.mean())
    return mean if float(norms.max() - norms.min()) <= _ONE_LENGTH * mean else None


def _check_kind(kind: Any) -> None:
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1, 0.3) or list(KINDS)
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}; near is {', '.join(near)}")


def _check_identities(old: Any, new: Any) -> None:
    for name, identity in (("old_identity", old), ("new_identity", new)):
        if identity is not None and not isinstance(identity, str):
            raise TypeError(f"{name} must be the encoder's identity, a string, or None, got {type(identity).__name__}")
