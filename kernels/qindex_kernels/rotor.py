"""Rotations as the kernels take them: what was drawn at random, as plain arrays."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# The round before which numbers are shuffled: by then each was mixed once, and what the first and the last window did
# not exchange is spread evenly over both.
SHUFFLED = 2


class Steps(NamedTuple):
    """What turns `size` numbers: rounds of factors and a Hadamard matrix each, with an order before round SHUFFLED.

    The matrix is that of the largest power of two up to the size. Even rounds mix the first numbers, odd ones the last.
    """

    factors: NDArray[np.float32]  # (rounds, size): signs, those in the window over the root of its width
    order: NDArray[np.intp]  # (size,)

    @property
    def width(self) -> int:
        return 1 << (len(self.order).bit_length() - 1)

    def window(self, number: int) -> slice:
        """The numbers that the matrix of a round mixes."""
        start = number % 2 * (len(self.order) - self.width)
        return slice(start, start + self.width)


@dataclass(frozen=True, eq=False)
class Rotor:
    """A rotation of rows: each block of consecutive numbers is turned by itself.

    Arrays stay as they are for as long as it lives: backends keep what they derive from them.
    """

    blocks: tuple[Steps, ...]

    @cached_property
    def dim(self) -> int:
        return sum(len(steps.order) for steps in self.blocks)
