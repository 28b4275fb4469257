"""Coded rows as the kernels take them: plain arrays, checked by the caller.

    number[j, d] = tables or levels[code[j, d]] * block_scale[j, d // size] + zero[j, d // size]      in float32
    row[j]       = scale[j] * number[j], and bias[j] is added to its scores

The block scale is the product of the levels of a scale tree, finest first. Each product and the sum round to float32.
Rows may lie in parts of several formats, one behind the other.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Level(NamedTuple):
    """One number for each block of `size` dimensions, a multiple of 16; the last block may be cut short."""

    kind: str  # float32, float16, e4m3 or e8m0
    size: int
    data: NDArray[Any]  # (n, blocks), or (blocks,) where all rows share them

    def of(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """The numbers of some rows, as stored."""
        return self.data[rows] if self.data.ndim == 2 else self.data[None]


class Part(NamedTuple):
    """Further numbers of each row, in a format of signs or integers."""

    kind: str
    dim: int
    data: NDArray[np.uint8]  # (n, row_bytes)


@dataclass(frozen=True, eq=False)
class Rows:
    """`n` packed rows and everything that goes with them.

    Arrays stay as they are for as long as the rows live: backends keep what they derive from them.
    """

    kind: str  # a number format, by name
    dim: int  # of all parts
    data: NDArray[np.uint8]  # (n, row_bytes); with `more`, of the first numbers only
    scale: NDArray[np.float32] | None = None  # (n,)
    bias: NDArray[np.float32] | None = None  # (n,)
    levels: tuple[Level, ...] = ()  # of the scale tree: one or two, the finest first
    zero: Level | None = None  # in blocks as the finest level
    tables: NDArray[np.int8] | None = None  # (n, blocks or 1, 2 ** bits), or without n where all rows share them
    more: tuple[Part, ...] = ()  # with at most one block, as long as a row

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the rows, in order."""
        return (Part(self.kind, self.dim - sum(part.dim for part in self.more), self.data), *self.more)

    @property
    def block(self) -> int:
        """Dimensions that share a scale and a zero; 0 where there are no blocks."""
        finest = self.levels[0] if self.levels else self.zero
        return 0 if finest is None else finest.size

    def part(self, rows: slice) -> "Rows":
        """Some of the rows, without copying."""

        def cut(array: NDArray[Any] | None, per_row: int) -> Any:
            return array if array is None or array.ndim < per_row else array[rows]

        return replace(
            self,
            data=self.data[rows],
            scale=cut(self.scale, 1),
            bias=cut(self.bias, 1),
            levels=tuple(level._replace(data=cut(level.data, 2)) for level in self.levels),
            zero=None if self.zero is None else self.zero._replace(data=cut(self.zero.data, 2)),
            tables=cut(self.tables, 3),
            more=tuple(part._replace(data=part.data[rows]) for part in self.more),
        )


class Runs(NamedTuple):
    """Lists of rows, each some runs of rows that lie side by side: those from `starts[l]` to `starts[l + 1]`."""

    starts: NDArray[np.int64]  # (lists + 1,)
    firsts: NDArray[np.int64]  # (runs,): the first row of each run
    counts: NDArray[np.int64]  # (runs,): its rows


class Through(NamedTuple):
    """A walk finds the rows allowed, and passes through all: until it knows `enough` that are better than its next."""

    allow: NDArray[np.bool_]  # (n,)
    width: int  # rows that it keeps, at least `ef`; when all of them are expanded it ends, with enough or without
    enough: int


class Only(NamedTuple):
    """No walk: all rows allowed are looked at."""

    allow: NDArray[np.bool_]  # (n,)


class Copies(NamedTuple):
    """The rows once more, each in another list, relative to the centre of that."""

    rows: Rows  # of the same kind
    max_norm: float
    runs: Runs
    of: NDArray[np.int32]  # (n,) the row that each is a copy of
    allow: NDArray[np.bool_] | None  # (n,)


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows in lists about centres, and what a search of lists asks of both: what stays from search to search."""

    rows: Rows
    max_norm: float  # no row is longer
    centres: Rows  # int8, without biases
    shifts: NDArray[np.float32] | None  # (lists,), added to the scores of centres when lists are chosen
    runs: Runs
    relative: float  # times the exact score of its centre is added to that of a row
    fine: Rows | None  # the same rows, by which the best are ranked
    ids: NDArray[np.int64]  # (n,)
    allow: NDArray[np.bool_] | None  # (n,)
    copies: Copies | None = None  # with `fine` alone: coarse scores of a row and of its copy differ
    rooms: list[Any] = field(default_factory=list)  # of kernels; they suit the same lists under another filter

    def among(self, allow: NDArray[np.bool_], copies: NDArray[np.bool_] | None, lists: NDArray[np.bool_]) -> "Listed":
        """The same where these rows (n,), and copies, are allowed, which lie in these lists."""
        own = np.float32(0) if self.shifts is None else self.shifts
        shifts = np.where(lists, own, np.float32(-np.inf)).astype(np.float32)
        others = None if self.copies is None else self.copies._replace(allow=copies)
        return replace(self, allow=allow, shifts=shifts, copies=others)
