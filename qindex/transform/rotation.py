"""Rotation: a random rotation in O(dim log dim), by Hadamard rounds with random signs."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qindex import kernels
from qindex.io import register
from qindex.transform.affine import QueryRule
from qindex.types import Queries, Vectors, as_vectors


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
        return self._rotated(as_vectors(vectors))

    def undo(self, vectors: Vectors) -> Vectors:
        """R^T y: (n, dim) float32."""
        return self._rotated(as_vectors(vectors), backwards=True)

    def prepare(self, queries: Vectors) -> Queries:
        """R q: <R q, R x> = <q, x>."""
        values = self._rotated(as_vectors(queries, "queries"))
        return Queries(values, np.zeros(len(values)))

    def dim_out(self, dim: int) -> int:
        """dim."""
        if dim < 1 or (self.blocks is not None and dim != sum(self.blocks)):
            wanted = "positive" if self.blocks is None else f"{sum(self.blocks)}, the sum of blocks={self.blocks}"
            raise ValueError(f"dim must be {wanted}, got {dim}")
        return dim

    def _rotated(self, vectors: Vectors, backwards: bool = False) -> Vectors:
        rows = vectors.copy()
        kernels.rotate(self.rotor(rows.shape[1]), rows, backwards=backwards)
        return rows

    def rotor(self, dim: int) -> kernels.Rotor:
        """What `kernels.rotate` takes, for vectors of a dim."""
        self.dim_out(dim)
        return _rotor(self.seed, self.blocks or (dim,))


@functools.lru_cache(maxsize=16)
def _rotor(seed: int, sizes: tuple[int, ...]) -> kernels.Rotor:
    """The steps of each block. Drawing them takes as long as rotating many vectors, and queries come one by one."""
    bits = np.random.PCG64(seed)
    return kernels.Rotor(tuple(_drawn(bits, size) for size in sizes))


def _drawn(bits: np.random.PCG64, size: int) -> kernels.Steps:
    width = 1 << (size.bit_length() - 1)
    rounds = 3 if width == size else 4
    # The raw stream of a bit generator, unlike what is derived from it, is the same in every version of NumPy.
    raw = np.stack([bits.random_raw(size) for _ in range(rounds)])
    order = np.argsort(bits.random_raw(size), kind="stable")
    steps = kernels.Steps((1.0 - 2.0 * (raw >> np.uint64(63))).astype(np.float32), order)
    for number, factors in enumerate(steps.factors):
        factors[steps.window(number)] *= np.float32(width**-0.5)
    return steps
