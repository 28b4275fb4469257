"""Rotation: a random rotation in O(dim log dim), by Hadamard rounds with random signs."""

import functools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qindex.io import register
from qindex.transform.affine import QueryRule
from qindex.types import Queries, Vectors, as_vectors

# Rows that are rotated together: dim * 256 float32, twice, stay in the cache for dims of a thousand.
ROWS = 256

# The round before which numbers are shuffled: by then each was mixed once, and what the first and the last window did
# not exchange is spread evenly over both.
SHUFFLED = 2


@register("Rotation")
@dataclass(frozen=True)
class Rotation:
    """Turns vectors at random, so that no dimension stands out and each looks like a normal variable.

    Lengths, products and distances stay. Each round flips random signs and applies a Hadamard matrix: three rounds for
    a dim that is a power of two, and for any other four, over the first and the last `2 ** floor(log2(dim))` numbers
    in turns. Before the third round the numbers are shuffled. Each step is orthogonal, for any dim without padding.

    `blocks` are sizes that sum to the dim: each block of consecutive numbers is rotated by itself, so the first
    `blocks[0]` numbers of a result depend on the first `blocks[0]` of the vector only, and so do longer prefixes of
    whole blocks (Matryoshka).
    """

    queries: ClassVar[QueryRule] = "inverse"
    fitted: ClassVar[bool] = True

    seed: int = 0
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be an integer from 0 to 2 ** 63 - 1, got {self.seed!r}")
        if self.blocks is not None and not (
            isinstance(self.blocks, tuple) and self.blocks and all(isinstance(b, int) and b > 0 for b in self.blocks)
        ):
            raise ValueError(f"blocks must be a tuple of positive sizes, such as (64, 64, 128), got {self.blocks!r}")

    def fit(self, vectors: Vectors) -> "Rotation":
        """Check the vectors; there is nothing to learn."""
        self.dim_out(as_vectors(vectors, nonempty=True).shape[1])
        return self

    def apply(self, vectors: Vectors) -> Vectors:
        """R x: (n, dim) float32."""
        return self._rotated(as_vectors(vectors), backwards=False)

    def undo(self, vectors: Vectors) -> Vectors:
        """R^T y: (n, dim) float32."""
        return self._rotated(as_vectors(vectors), backwards=True)

    def prepare(self, queries: Vectors) -> Queries:
        """R q: <R q, R x> = <q, x>."""
        values = self._rotated(as_vectors(queries, "queries"), backwards=False)
        return Queries(values, np.zeros(len(values)))

    def dim_out(self, dim: int) -> int:
        """dim."""
        if dim < 1 or (self.blocks is not None and dim != sum(self.blocks)):
            wanted = "positive" if self.blocks is None else f"{sum(self.blocks)}, the sum of blocks={self.blocks}"
            raise ValueError(f"dim must be {wanted}, got {dim}")
        return dim

    def _rotated(self, vectors: Vectors, backwards: bool) -> Vectors:
        dim = self.dim_out(vectors.shape[1])
        sizes = (dim,) if self.blocks is None else self.blocks
        drawn = _steps_of(self.seed, sizes)
        result = np.empty_like(vectors)
        for start in range(0, len(vectors), ROWS):
            rows = slice(start, start + ROWS)
            # Numbers of one dimension lie side by side, so that each step runs over whole cache lines.
            columns = vectors[rows].T.copy(order="C")
            spare = np.empty_like(columns)
            begin = 0
            for size, steps in zip(sizes, drawn, strict=True):
                block = slice(begin, begin + size)
                (_turn_back if backwards else _turn)(columns[block], spare[block], steps)
                begin += size
            result[rows] = columns.T
        return result


class _Steps(NamedTuple):
    """What is drawn at random for a block: a rotation is `H_w D` of each round, with an order between two of them."""

    windows: list[slice]  # of each round: the numbers that its Hadamard matrix mixes
    factors: list[NDArray[np.float32]]  # of each round: signs of all numbers, over the root of the window's width
    order: NDArray[np.intp]  # before round SHUFFLED


@functools.lru_cache(maxsize=16)
def _steps_of(seed: int, sizes: tuple[int, ...]) -> list[_Steps]:
    """The steps of each block. Drawing them takes as long as rotating a few vectors, and queries come one by one."""
    bits = np.random.PCG64(seed)
    return [_drawn(bits, size) for size in sizes]


def _drawn(bits: np.random.PCG64, dim: int) -> _Steps:
    width = 1 << (dim.bit_length() - 1)
    windows = [slice(0, dim)] * 3 if width == dim else [slice(0, width), slice(dim - width, dim)] * 2
    factors = []
    for window in windows:
        # The raw stream of a bit generator, unlike what is derived from it, is the same in every version of NumPy.
        factor = 1.0 - 2.0 * (bits.random_raw(dim) >> np.uint64(63))
        factor[window] *= width**-0.5
        factors.append(factor.astype(np.float32))
    return _Steps(windows, factors, np.argsort(bits.random_raw(dim), kind="stable"))


def _turn(columns: Vectors, spare: Vectors, steps: _Steps) -> None:
    """Rotate `columns` (dim, n) in place."""
    for number, (window, factor) in enumerate(zip(steps.windows, steps.factors, strict=True)):
        if number == SHUFFLED:
            columns[...] = columns[steps.order]
        columns *= factor[:, None]
        _hadamard(columns[window], spare[window])


def _turn_back(columns: Vectors, spare: Vectors, steps: _Steps) -> None:
    """The transpose of `_turn`: its steps in reverse, of which all but the order are symmetric."""
    for number, (window, factor) in reversed(list(enumerate(zip(steps.windows, steps.factors, strict=True)))):
        _hadamard(columns[window], spare[window])
        columns *= factor[:, None]
        if number == SHUFFLED:
            columns[steps.order] = columns.copy()


def _hadamard(columns: Vectors, spare: Vectors) -> None:
    """Multiply (width, n) by the Hadamard matrix of entries +1 and -1, in place."""
    width, n = columns.shape
    source, target = columns, spare
    half = 1
    while half < width:
        pairs, sums = source.reshape(-1, 2, half, n), target.reshape(-1, 2, half, n)
        np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
        source, target, half = target, source, 2 * half
    if source is not columns:
        columns[...] = source
