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

from qindex.formats import FLOAT16, FLOAT32, SCALE_FORMATS, Format

Vectors = NDArray[np.float32]  # (n, dim)

# Squares and products of norms up to this bound stay well inside float32.
MAX_NORM = 1e18
_MOST_SQUARES = MAX_NORM**2 / 2

# Integer kernels sum products of up to 255 * 127 in int32.
MAX_DIM = 65_536


# Parts of a row, each of another format.
MAX_PARTS = 16

# To compare a dtype with these takes a tenth of what it takes to compare it with np.float32.
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# Kernels decode 16 numbers at a time, under one scale.
BLOCK_GRAIN = 16


@dataclass(frozen=True, slots=True, eq=False)
class BlockValues:
    """One number for each block of `size` dimensions: a level of a scale tree, or the zeros of blocks.

    `data` is (n, blocks), or (blocks,) where all rows share the numbers; a block may reach past the last dimension.
    One number for a whole matrix is a single shared block of any size, one for each dimension (a column scale) is
    shared and has size 1. Any other size is a multiple of 16.
    """

    data: NDArray[Any]  # float32, float16, or uint8 codes of the other formats
    format: Format  # one of SCALE_FORMATS
    size: int

    def __post_init__(self) -> None:
        if self.format not in SCALE_FORMATS:
            known = ", ".join(f.name for f in SCALE_FORMATS)
            raise ValueError(f"format of block values must be one of {known}, got {self.format!r}")
        dtype = {FLOAT32: np.float32, FLOAT16: np.float16}.get(self.format, np.uint8)
        if self.data.dtype != dtype or self.data.ndim not in (1, 2) or not self.data.flags.c_contiguous:
            raise ValueError(
                f"data of {self.format.name} block values must be C-contiguous {np.dtype(dtype)} (n, blocks) or "
                f"(blocks,), got {self.data.dtype} {self.data.shape}"
            )
        per_column = self.size == 1 and self.data.ndim == 1
        if (
            not isinstance(self.size, int)
            or not 1 <= self.size <= MAX_DIM
            or (self.size % BLOCK_GRAIN and not per_column)
        ):
            raise ValueError(
                f"size of a block must be a multiple of {BLOCK_GRAIN} up to {MAX_DIM}, or 1 for numbers that all rows "
                f"share, got {self.size!r} with data {self.data.shape}"
            )

    @property
    def values(self) -> NDArray[np.float32]:
        """The numbers as float32, of the shape of `data`."""
        return self.format.levels[self.data] if self.data.dtype == np.uint8 else self.data.astype(np.float32)

    def check(self, name: str, n: int, dim: int) -> None:
        """Raise ValueError unless there is a number for each block of `n` rows of `dim`."""
        blocks = -(-dim // self.size)
        if self.data.shape not in ((blocks,), (n, blocks)):
            raise ValueError(
                f"{name} with blocks of {self.size} must be ({n}, {blocks}) for {n} rows of {dim} numbers, or "
                f"({blocks},) for all rows, got {self.data.shape}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Further numbers of the rows of a `Codes`, in a format of their own: one of signs or integers of a grid."""

    data: NDArray[np.uint8]  # (n, format.row_bytes(dim)), C-contiguous
    format: Format
    dim: int

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format) or self.format.kind not in ("sign", "integer", "half_integer"):
            raise ValueError(f"format of a part must be of signs, integers or half-integers, got {self.format!r}")
        if not isinstance(self.dim, int) or not 1 <= self.dim <= MAX_DIM:
            raise ValueError(f"dim of a part must be an integer from 1 to {MAX_DIM}, got {self.dim!r}")
        _check_data("data of a part", self.data, self.format, self.dim)


def _check_data(name: str, data: NDArray[Any], format: Format, dim: int) -> None:
    row_bytes = format.row_bytes(dim)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != row_bytes:
        raise ValueError(
            f"{name} must be uint8 (n, {row_bytes}) for {dim} numbers in {format.name}, got {data.dtype} {data.shape}"
        )
    if not data.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: pass np.ascontiguousarray(data)")


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Codes:
    """`n` rows of `dim` numbers in a low-bit format, with everything that scoring them needs.

        number[j, d] = level[code[j, d]] * (product of block scales)[j, d] + zero[j, d]
        row[j, d]    = scale[j] * number[j, d] * column_scale[d]

    `scales` is a tree: one or two levels of blocks, the finest first, and at most one level of column scales at its
    end. The arrays are checked once, here: whoever holds a `Codes` may hand its addresses to a kernel.

    A row may lie in parts of several formats: its first numbers in `data`, the others in `more`, part after part. Such
    rows are of signs or integers throughout, and have at most one block, as long as the row.
    """

    data: NDArray[np.uint8]  # (n, format.row_bytes(dim)), C-contiguous; with `more`, of the first numbers only
    format: Format  # of `data`
    dim: int  # of a row, all parts together
    # Before column scales, no row is longer, nor are its scaled levels or its scaled zeros alone: bounds fast scans.
    max_norm: float
    scale: NDArray[np.float32] | None = None  # (n,); None stands for ones
    offset: NDArray[np.float32] | None = None  # (n,), added to each score of the row; None stands for zeros
    scales: tuple[BlockValues, ...] = ()
    zero: BlockValues | None = None  # in blocks as the finest level
    tables: NDArray[np.int8] | None = None  # codebook formats: (n, blocks or 1, 2 ** bits), or without n for all rows
    more: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            raise TypeError(f"format must be a Format of qindex.formats, got {self.format!r}")
        if self.format.kind == "exponent":
            raise ValueError(f"format {self.format.name} holds scales, not the numbers of rows")
        if not isinstance(self.dim, int) or not 1 <= self.dim <= MAX_DIM:
            raise ValueError(f"dim must be an integer from 1 to {MAX_DIM}, got {self.dim!r}")
        self._check_parts()
        for name, rows in (("scale", self.scale), ("offset", self.offset)):
            if rows is not None and (
                rows.dtype != np.float32 or rows.shape != (len(self.data),) or not rows.flags.c_contiguous
            ):
                raise ValueError(
                    f"{name} must be contiguous float32 ({len(self.data)},), got {rows.dtype} {rows.shape}"
                )
        if not isinstance(self.max_norm, float) or not 0 <= self.max_norm < float("inf"):
            raise ValueError(f"max_norm must be finite and not negative, got {self.max_norm!r}")
        self._check_blocks()

    def _check_parts(self) -> None:
        if not isinstance(self.more, tuple) or not all(isinstance(part, Part) for part in self.more):
            raise TypeError(f"more must be a tuple of Part, got {self.more!r}")
        first_dim = self.parts[0][2]
        if first_dim < 1 or len(self.more) >= MAX_PARTS:
            raise ValueError(
                f"more must be up to {MAX_PARTS - 1} parts of less than dim={self.dim} numbers together, got "
                f"{[part.dim for part in self.more]}"
            )
        _check_data("data", self.data, self.format, first_dim)
        if self.more:
            Part(self.data, self.format, first_dim)
        for part in self.more:
            if len(part.data) != len(self.data):
                raise ValueError(f"data of a part must have {len(self.data)} rows, got {len(part.data)}")

    def _check_blocks(self) -> None:
        n = len(self.data)
        if self.format.kind == "one_hot" and (self.scales or self.zero is not None):
            raise ValueError(f"scales and zero must not be given with {self.format.name} codes")
        if not isinstance(self.scales, tuple) or not all(isinstance(level, BlockValues) for level in self.scales):
            raise TypeError(f"scales must be a tuple of BlockValues, got {self.scales!r}")
        for i, level in enumerate(self.scales):
            level.check(f"scales[{i}]", n, self.dim)
        sizes = [level.size for level in self.blocks]
        columns = len(self.scales) - len(sizes)
        nested = len(sizes) < 2 or (sizes[0] < sizes[1] and sizes[1] % sizes[0] == 0)
        if len(sizes) > 2 or columns > 1 or (columns and self.scales[-1].size != 1) or not nested:
            raise ValueError(
                "scales must be up to two levels of blocks, the finer first and its size a divisor of the other's, "
                f"then at most one of columns (size 1), got sizes {[level.size for level in self.scales]}"
            )
        if self.zero is not None:
            if not isinstance(self.zero, BlockValues):
                raise TypeError(f"zero must be BlockValues, got {self.zero!r}")
            if self.zero.size == 1 or self.zero.size != self.block:
                wanted = self.block if self.blocks else f"a multiple of {BLOCK_GRAIN}"
                raise ValueError(f"zero must have blocks of the finest scales' size, {wanted}, got {self.zero.size}")
            self.zero.check("zero", n, self.dim)
        whole_rows = all(level.size >= self.dim and level.data.ndim == 2 for level in self.blocks)
        if self.more and (self.zero is not None or len(sizes) > 1 or not whole_rows):
            raise ValueError(
                f"codes in parts must have at most one level of blocks, of all {self.dim} numbers of a row, with a "
                f"scale for each row, and no zeros, got sizes {sizes}{'' if self.zero is None else ' and zeros'}"
            )
        if (self.tables is not None) != (self.format.kind == "codebook"):
            raise ValueError(
                f"tables must {'' if self.tables is None else 'not '}be given with {self.format.name} codes"
            )
        if self.tables is not None:
            entries = 1 << self.format.bits
            # Kernels look up 64 codes at a time.
            many = -(-self.dim // self.block) if self.block and self.block % 64 == 0 else 1
            shared = [(count, entries) for count in sorted({1, many})]
            shapes = [*((n, *shape) for shape in shared), *shared]
            if self.tables.dtype != np.int8 or self.tables.shape not in shapes or not self.tables.flags.c_contiguous:
                raise ValueError(
                    f"tables must be C-contiguous int8 {' or '.join(map(str, shapes))} (one for each block only where "
                    f"blocks are a multiple of 64), got {self.tables.dtype} {self.tables.shape}"
                )

    def __len__(self) -> int:
        return len(self.data)

    @property
    def parts(self) -> tuple[tuple[NDArray[np.uint8], Format, int], ...]:
        """Data, format and dim of each part of the rows, in order."""
        first = self.data, self.format, self.dim - sum(part.dim for part in self.more)
        return (first, *((part.data, part.format, part.dim) for part in self.more))

    @property
    def levels(self) -> NDArray[np.float32]:
        """The numbers before all scales and zeros: (n, dim) float32. Codebook formats have theirs in `tables`."""
        if not self.more:
            return self.format.decode(self.data, self.dim)
        return np.hstack([format.decode(data, dim) for data, format, dim in self.parts])

    @property
    def blocks(self) -> tuple[BlockValues, ...]:
        """The levels of `scales` that are of blocks, the finest first."""
        return tuple(level for level in self.scales if level.size > 1)

    @property
    def block(self) -> int:
        """Dimensions that share a scale and a zero; 0 where there are no blocks."""
        for level in self.scales:
            if level.size > 1:
                return level.size
        return 0 if self.zero is None else self.zero.size

    @property
    def column_scale(self) -> NDArray[np.float32] | None:
        """(dim,) factors of the dimensions, which a caller multiplies into the queries; None stands for ones."""
        return self.scales[-1].values if self.scales and self.scales[-1].size == 1 else None

    @property
    def is_bare(self) -> bool:
        """Whether rows are their levels: in one part, with no scales, offsets, zeros or tables."""
        beside = (self.scale, self.offset, self.zero, self.tables)
        return not self.scales and not self.more and all(array is None for array in beside)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of all that rides with them."""
        return sum(array.nbytes for array in (*self.rowwise, *self._shared))

    def _arrays(self) -> list[tuple[int, NDArray[Any] | None]]:
        """Every array there may be, in a fixed order, with the number of its axes where each row has its own."""
        blockwise = [(2, level.data) for level in self.scales]
        zero = None if self.zero is None else self.zero.data
        more = [(2, part.data) for part in self.more]
        return [(2, self.data), (1, self.scale), (1, self.offset), *blockwise, (2, zero), (3, self.tables), *more]

    @property
    def rowwise(self) -> list[NDArray[Any]]:
        """The arrays whose first axis is that of the rows, `data` first."""
        return [array for axes, array in self._arrays() if array is not None and array.ndim == axes]

    @property
    def _shared(self) -> list[NDArray[Any]]:
        return [array for axes, array in self._arrays() if array is not None and array.ndim < axes]

    def with_rowwise(self, arrays: Sequence[NDArray[Any]], max_norm: float | None = None) -> Codes:
        """These codes with other rows: `arrays` as `rowwise` lists them."""
        new = iter(arrays)

        def replaced(array: NDArray[Any] | None, axes: int) -> Any:
            return array if array is None or array.ndim < axes else next(new)

        n_levels = len(self.scales)
        data, scale, offset, *others = (replaced(array, axes) for axes, array in self._arrays())
        blockwise, (zero, tables, *more) = others[:n_levels], others[n_levels:]
        return dataclasses.replace(
            self,
            data=data,
            max_norm=self.max_norm if max_norm is None else max_norm,
            scale=scale,
            offset=offset,
            scales=tuple(
                dataclasses.replace(level, data=new) for level, new in zip(self.scales, blockwise, strict=True)
            ),
            zero=None if self.zero is None else dataclasses.replace(self.zero, data=zero),
            tables=tables,
            more=tuple(dataclasses.replace(part, data=new) for part, new in zip(self.more, more, strict=True)),
        )

    def __getitem__(self, rows: slice | NDArray[Any]) -> Codes:
        """The chosen rows: a slice shares memory, an index array or a boolean mask copies."""
        if isinstance(rows, int | np.integer):
            raise TypeError(
                f"Codes take a slice or an array of rows, got {rows}; a single row is codes[{rows}:{rows}+1]"
            )
        return self.with_rowwise([np.ascontiguousarray(array[rows]) for array in self.rowwise])

    @staticmethod
    def concatenate(parts: Sequence[Codes]) -> Codes:
        """All rows of `parts` in order; they must agree in format, dim and in all that rides with the rows."""
        first = parts[0]
        for part in parts[1:]:
            if not first.is_like(part):
                raise ValueError(
                    f"cannot concatenate {first.format.name} codes of dim {first.dim} with {part.format.name} codes "
                    f"of dim {part.dim}, or only one of them has row scales, offsets, or blocks like these"
                )
        return first.with_rowwise(
            [np.concatenate(arrays) for arrays in zip(*(part.rowwise for part in parts), strict=True)],
            max(part.max_norm for part in parts),
        )

    def is_like(self, other: Codes) -> bool:
        """Whether the rows of two codes can lie in one matrix."""

        def described(codes: Codes) -> list[Any]:
            tree = [*codes.scales, *([] if codes.zero is None else [codes.zero])]
            kinds = [(level.format, level.size) for level in tree]
            axes = [None if array is None else (array.ndim, array.shape[1:]) for _, array in codes._arrays()]
            return [[(format, dim) for _, format, dim in codes.parts], kinds, axes]

        return described(self) == described(other) and all(map(np.array_equal, self._shared, other._shared))


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Float queries as a quantizer prepared them: `values` in the space of the levels, `offset` added to each score.

    Queries that are themselves codes, of signs or half-integers, may say so: `values` are then exactly the levels of
    `codes` times one positive float32 number a query. Scores are those of the values, with codes or without; codes
    only let `kernels.topk` compare bits with rows of the same format. `of_codes` makes such queries.
    """

    values: NDArray[np.float32]  # (m, dim), C-contiguous
    offset: NDArray[np.float64]  # (m,)
    codes: Codes | None = None  # m rows of dim numbers, and nothing beside them: no scale, no offset

    def __post_init__(self) -> None:
        if self.values.dtype != _FLOAT32 or self.values.ndim != 2 or not self.values.flags.c_contiguous:
            raise ValueError(f"values must be contiguous float32 (m, dim), got {self.values.dtype} {self.values.shape}")
        if self.offset.dtype != _FLOAT64 or self.offset.shape != (len(self.values),):
            raise ValueError(
                f"offset must be float64 ({len(self.values)},), got {self.offset.dtype} {self.offset.shape}"
            )
        if self.codes is not None:
            self._check_codes(self.codes)

    def _check_codes(self, codes: Codes) -> None:
        if not isinstance(codes, Codes):
            raise TypeError(f"codes must be Codes, got {type(codes).__name__}")
        if (len(codes), codes.dim) != self.values.shape:
            raise ValueError(f"codes must be {self.values.shape} like values, got ({len(codes)}, {codes.dim})")
        if not codes.is_bare or codes.format.kind not in ("sign", "half_integer"):
            raise ValueError(
                "codes must be of signs or half-integers in one part, without scales, offsets or zeros, got "
                f"{codes.format.name}{'' if codes.is_bare else ' with more than that'}: leave codes out"
            )
        levels = codes.levels
        scale = self.values[:, :1] / levels[:, :1]
        if not ((scale > 0).all() and np.array_equal(scale.astype(np.float64) * levels, self.values)):
            raise ValueError(
                "values must be exactly the levels of codes times one positive number a query, got others: "
                "make them with Queries.of_codes"
            )

    @classmethod
    def of_codes(cls, codes: Codes, scale: NDArray[np.float32], offset: NDArray[np.float64] | None = None) -> Queries:
        """Queries whose values are the levels of `codes` times `scale` (m,), positive; no `offset` stands for zeros.

        The scale is rounded to 24 - bits bits, so that its products with the levels are exact.
        """
        if scale.dtype != _FLOAT32 or scale.shape != (len(codes),):
            raise ValueError(f"scale must be float32 ({len(codes)},), got {scale.dtype} {scale.shape}")
        last = 1 << codes.format.bits
        rounded = ((scale.view(np.int32) + last // 2) & -last).view(np.float32)
        offset = np.zeros(len(codes)) if offset is None else offset
        return cls(rounded[:, None] * codes.levels, offset, codes)

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
        """Exactly what one vector of `dim` numbers takes: `codes.nbytes / len(codes)`, but for what all rows share.

        That is a table of levels, or the scale of a whole matrix: at most 16 bytes for all vectors together.
        """
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
    """Scores documents for a query. `qindex.rerank.rerank` orders hits by it; ours have it as a method."""

    def score(self, query: str, documents: Sequence[str], /) -> NDArray[np.float32]:
        """(n,) numbers, larger is better; -inf for a document without text."""
        ...


def as_vectors(
    vectors: ArrayLike,
    name: str = "vectors",
    dim: int | None = None,
    *,
    nonempty: bool = False,
    numbers: Sequence[int] | NDArray[np.int64] | None = None,
) -> Vectors:
    """Check a user's matrix and return it as contiguous float32 (n, dim); float16 and float64 are converted.

    `numbers` (n,) are those of the rows where they are some of a larger matrix, for errors to name.

    Raises TypeError for numbers that are not floats, ValueError for another shape, another dim, NaN, infinity, or
    rows so long that float32 scores would overflow.
    """
    array = np.asarray(vectors)
    if array.dtype != _FLOAT32 and array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats, got {array.dtype}; pass {name}.astype(np.float32)")
    if array.ndim != 2:
        way_out = f"; a single vector is {name}[None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} must be (n, {dim or 'dim'}), got {array.shape}{way_out}")
    n, width = array.shape
    if width == 0 or (dim is not None and width != dim):
        raise ValueError(f"{name} must be (n, {dim or 'dim >= 1'}), got {array.shape}")
    if nonempty and n == 0:
        raise ValueError(f"{name} must have at least one row, got {array.shape}")
    if array.dtype != _FLOAT32:
        with np.errstate(over="ignore"):  # a float64 too large for float32 is reported below
            array = array.astype(np.float32)
    result = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    if not np.vdot(result, result) <= _MOST_SQUARES:  # one sum clears nearly every matrix; others are looked at by row
        _check_rows(result, name, range(n) if numbers is None else numbers)
    return result


def _check_rows(vectors: Vectors, name: str, numbers: Sequence[int] | NDArray[np.int64]) -> None:
    norms = row_norms(vectors)
    if not np.all(norms <= MAX_NORM):
        row = int(np.argmin(norms <= MAX_NORM))
        finite = np.isfinite(vectors[row]).all()
        found = f"a norm of {norms[row]:.3g}, above {MAX_NORM:.0e}" if finite else "NaN or infinity"
        raise ValueError(f"{name} must be finite with norms up to {MAX_NORM:.0e}, but row {numbers[row]} has {found}")


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
