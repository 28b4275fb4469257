"""The values that travel between the parts of qindex, and the four protocols that the parts follow.

One operation carries the library: the scores of `m` prepared queries against `n` coded rows,

    score[i, j] = a[i] + b[j] + s[j] * <q[i], level[code[j]]>

`Queries` holds `q` and `a`; `Codes` holds the codes, `s` and `b`. Everything else (a rotation, a mean, a step per
dimension) belongs to the quantizer, which folds it into the queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qindex.formats import Format

Vectors = NDArray[np.float32]  # (n, dim)

# Squares and products of norms up to this bound stay well inside float32.
MAX_NORM = 1e18

# Integer kernels sum products of up to 255 * 127 in int32.
MAX_DIM = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """`n` rows of `dim` numbers in a low-bit format, with everything that scoring them needs.

    The arrays are checked once, here: whoever holds a `Codes` may hand its addresses to a kernel.
    """

    data: NDArray[np.uint8]  # (n, format.row_bytes(dim)), C-contiguous
    format: Format
    dim: int
    max_norm: float  # no row s[j] * level[code[j]] is longer than this; bounds the error of fast scans
    scale: NDArray[np.float32] | None = None  # (n,) s; None stands for ones
    offset: NDArray[np.float32] | None = None  # (n,) b; None stands for zeros

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise TypeError(f"format must be a Format of qindex.formats, got {self.format!r}")
        if not isinstance(self.dim, int) or not 1 <= self.dim <= MAX_DIM:
            raise ValueError(f"dim must be an integer from 1 to {MAX_DIM}, got {self.dim!r}")
        row_bytes = self.format.row_bytes(self.dim)
        if self.data.dtype != np.uint8 or self.data.ndim != 2 or self.data.shape[1] != row_bytes:
            raise ValueError(
                f"data must be uint8 (n, {row_bytes}) for {self.dim} numbers in {self.format.name}, "
                f"got {self.data.dtype} {self.data.shape}"
            )
        if not self.data.flags.c_contiguous:
            raise ValueError("data must be C-contiguous: pass np.ascontiguousarray(data)")
        for name, rows in (("scale", self.scale), ("offset", self.offset)):
            if rows is not None and (
                rows.dtype != np.float32 or rows.shape != (len(self.data),) or not rows.flags.c_contiguous
            ):
                raise ValueError(
                    f"{name} must be contiguous float32 ({len(self.data)},), got {rows.dtype} {rows.shape}"
                )
        if not isinstance(self.max_norm, float) or not 0 <= self.max_norm < float("inf"):
            raise ValueError(f"max_norm must be finite and not negative, got {self.max_norm!r}")

    def __len__(self) -> int:
        return len(self.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, their scales and their offsets."""
        return sum(a.nbytes for a in (self.data, self.scale, self.offset) if a is not None)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Codes:
        """The chosen rows: a slice shares memory, an index array or a boolean mask copies."""
        if isinstance(rows, int | np.integer):
            raise TypeError(
                f"Codes take a slice or an array of rows, got {rows}; a single row is codes[{rows}:{rows}+1]"
            )
        return dataclasses.replace(
            self,
            data=np.ascontiguousarray(self.data[rows]),
            scale=None if self.scale is None else np.ascontiguousarray(self.scale[rows]),
            offset=None if self.offset is None else np.ascontiguousarray(self.offset[rows]),
        )

    @staticmethod
    def concatenate(parts: Sequence[Codes]) -> Codes:
        """All rows of `parts` in order; they must agree in format, dim and in which side arrays they carry."""
        first = parts[0]
        signature = (first.format, first.dim, first.scale is None, first.offset is None)
        for part in parts[1:]:
            if (part.format, part.dim, part.scale is None, part.offset is None) != signature:
                raise ValueError(
                    f"cannot concatenate {first.format.name} codes of dim {first.dim} "
                    f"with {part.format.name} codes of dim {part.dim}, or only one of them has row scales or offsets"
                )
        return dataclasses.replace(
            first,
            data=np.concatenate([p.data for p in parts]),
            max_norm=max(p.max_norm for p in parts),
            scale=None if first.scale is None else np.concatenate([p.scale for p in parts if p.scale is not None]),
            offset=None if first.offset is None else np.concatenate([p.offset for p in parts if p.offset is not None]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Float queries as a quantizer prepared them: `values` in the space of the levels, `offset` added to each score."""

    values: NDArray[np.float32]  # (m, dim), C-contiguous
    offset: NDArray[np.float64]  # (m,)

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim != 2 or not self.values.flags.c_contiguous:
            raise ValueError(f"values must be contiguous float32 (m, dim), got {self.values.dtype} {self.values.shape}")
        if self.offset.dtype != np.float64 or self.offset.shape != (len(self.values),):
            raise ValueError(
                f"offset must be float64 ({len(self.values)},), got {self.offset.dtype} {self.offset.shape}"
            )

    def __len__(self) -> int:
        return len(self.values)


class Matches(NamedTuple):
    """The best rows for each query, best first. Larger scores are nearer; ties go to the smaller id."""

    ids: NDArray[np.int64]  # (m, k), -1 where fewer than k rows exist
    scores: NDArray[np.float32]  # (m, k), -inf beside -1


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer in text. `stages` holds the score that each stage of the search gave it."""

    id: int
    score: float
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Quantizer(Protocol):
    """Turns vectors into `Codes` and float queries into `Queries` that score against them."""

    def fit(self, vectors: Vectors, /) -> Quantizer:
        """A fitted quantizer (a new one, or this one where nothing is learnt)."""
        ...

    @property
    def fitted(self) -> bool: ...

    def quantize(self, vectors: Vectors, /) -> Codes: ...

    def dequantize(self, codes: Codes, /) -> Vectors: ...

    def prepare(self, queries: Vectors, /) -> Queries: ...

    def bytes_per_vector(self, dim: int, /) -> int:
        """Exactly what one vector of `dim` numbers takes: `codes.nbytes / len(codes)`."""
        ...


@runtime_checkable
class Index(Protocol):
    """Coded vectors under int64 ids. Class methods `build` and `load` make one."""

    @property
    def ids(self) -> NDArray[np.int64]: ...

    @property
    def dim(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def search(self, queries: Vectors, /, k: int = 10, *, allow: Any = None) -> Matches: ...

    def add(self, vectors: Vectors, /, ids: ArrayLike | None = None) -> NDArray[np.int64]: ...

    def remove(self, ids: ArrayLike, /) -> None: ...

    def save(self, path: Any, /) -> None: ...


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into float32 vectors."""

    @property
    def dim(self) -> int: ...

    @property
    def identity(self) -> str:
        """Names the vector space: vectors of equal identity may be compared."""
        ...

    def encode_document(self, texts: Sequence[str], /) -> Vectors: ...

    def encode_query(self, texts: Sequence[str], /) -> Vectors: ...


@runtime_checkable
class Reranker(Protocol):
    """Scores documents for a query; larger is better."""

    def score(self, query: str, documents: Sequence[str], /) -> NDArray[np.float32]: ...


def as_vectors(vectors: ArrayLike, name: str = "vectors", dim: int | None = None, *, nonempty: bool = False) -> Vectors:
    """Check a user's matrix and return it as contiguous float32 (n, dim); float16 and float64 are converted.

    Raises TypeError for numbers that are not floats, ValueError for another shape, another dim, NaN, infinity, or
    rows so long that float32 scores would overflow.
    """
    array = np.asarray(vectors)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats, got {array.dtype}; pass {name}.astype(np.float32)")
    if array.ndim != 2:
        way_out = f"; a single vector is {name}[None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} must be (n, {dim or 'dim'}), got {array.shape}{way_out}")
    if array.shape[1] == 0 or (dim is not None and array.shape[1] != dim):
        raise ValueError(f"{name} must be (n, {dim or 'dim >= 1'}), got {array.shape}")
    if nonempty and len(array) == 0:
        raise ValueError(f"{name} must have at least one row, got {array.shape}")
    with np.errstate(over="ignore"):  # a float64 too large for float32 is reported below
        result = np.ascontiguousarray(array, np.float32)
        squares = float(np.vdot(result, result))
    if not squares <= MAX_NORM**2 / 2:  # one sum clears nearly every matrix; only the others are looked at by row
        _check_rows(result, name)
    return result


def _check_rows(vectors: Vectors, name: str) -> None:
    norms = row_norms(vectors)
    if not np.all(norms <= MAX_NORM):
        row = int(np.argmin(norms <= MAX_NORM))
        finite = np.isfinite(vectors[row]).all()
        found = f"a norm of {norms[row]:.3g}, above {MAX_NORM:.0e}" if finite else "NaN or infinity"
        raise ValueError(f"{name} must be finite with norms up to {MAX_NORM:.0e}, but row {row} has {found}")


def row_norms(vectors: Vectors) -> NDArray[np.float64]:
    """Euclidean length of each row, accumulated in float64: (n, dim) -> (n,)."""
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64, casting="same_kind")
    return np.sqrt(squares)


def as_texts(texts: Sequence[str], name: str = "texts") -> list[str]:
    """Check a list of texts. A bare string is a TypeError: one text is `[text]`."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a sequence of strings, got one string; pass [{texts[:30]!r}]")
    result = list(texts)
    for position, text in enumerate(result):
        if not isinstance(text, str):
            raise TypeError(f"{name} must hold strings, but {name}[{position}] is {type(text).__name__}")
    return result
