"""Rotations by Hadamard rounds, one row at a time: each block of it is turned in a scratch that stays in the cache."""

import ctypes
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qindex_kernels.cpu.addresses import address
from qindex_kernels.cpu.queries import copy_row
from qindex_kernels.cpu.record import INTEGER, LINE, Record, reader
from qindex_kernels.cpu.simd import (
    difference_f32,
    hadamard16,
    load_f32,
    peek_f32,
    peek_i32,
    poke_f32,
    store_f32,
    store_first,
    sum_f32,
    times,
)
from qindex_kernels.cpu.sources import helper, inlined, kernel
from qindex_kernels.rotor import SHUFFLED, Rotor


class BlockSteps(Record):
    """What turns one block."""

    _fields_ = (
        ("size", INTEGER),
        ("width", INTEGER),
        ("rounds", INTEGER),
        ("factors", INTEGER),  # float32 (rounds, size), each round padded with zeros to `stride` bytes
        ("stride", INTEGER),
        ("order", INTEGER),  # int32 (size,): bytes from the first number
        ("inverse", INTEGER),
    )


class RotorSteps(Record):
    """All blocks of a rotor."""

    _fields_ = (
        ("blocks", INTEGER),  # BlockSteps, one behind the other
        ("n", INTEGER),  # blocks
        ("longest", INTEGER),  # bytes of a block, in whole lines
    )


read_block, read_rotor = reader(BlockSteps), reader(RotorSteps)
BLOCK_BYTES = np.dtype(BlockSteps).itemsize


@kernel
def rotate_rows(rotor_at, rows, scratch, backwards):
    """In place. `scratch` has room for two blocks and a line."""
    rotor, numbers, here = read_rotor(rotor_at), np.intp(rows.ctypes.data), np.intp(scratch.ctypes.data)
    here += -here % LINE
    there = here + rotor.longest
    for _ in range(len(rows)):
        for b in range(rotor.n):
            block = read_block(rotor.blocks + b * BLOCK_BYTES)
            copy_row(numbers, here, block.size)
            for i in range(block.rounds):
                number = block.rounds - 1 - i if backwards else i
                if number == SHUFFLED and not backwards:
                    shuffle(block.order, here, there, block.size)
                    here, there = there, here
                factors = block.factors + number * block.stride
                window = here + number % 2 * 4 * (block.size - block.width)
                if backwards:
                    hadamard(window, block.width)
                    multiply(here, factors, block.size)
                else:
                    multiply(here, factors, block.size)
                    hadamard(window, block.width)
                if number == SHUFFLED and backwards:
                    shuffle(block.inverse, here, there, block.size)
                    here, there = there, here
            for at in range(0, 4 * block.size, LINE):
                store_first(numbers + at, load_f32(here + at), block.size - at // 4)
            numbers += 4 * block.size


@helper
def multiply(numbers, factors, size):
    for at in range(0, 4 * size, LINE):
        store_f32(numbers + at, times(load_f32(numbers + at), load_f32(factors + at)))


@helper
def shuffle(order, source, target, size):
    for at in range(0, 4 * size, 4):
        poke_f32(target + at, peek_f32(source + peek_i32(order + at)))


@helper
def hadamard(numbers, width):
    """In place; the first four levels in registers."""
    if width < 16:
        small_hadamard(numbers, 4 * width)
        return
    size = 4 * width
    for at in range(0, size, LINE):
        store_f32(numbers + at, hadamard16(load_f32(numbers + at)))
    half = LINE
    while 2 * half < size:  # two levels at once
        for first in range(numbers, numbers + size, 4 * half):
            for at in range(first, first + half, LINE):
                a, b = load_f32(at), load_f32(at + half)
                c, d = load_f32(at + 2 * half), load_f32(at + 3 * half)
                a, b, c, d = sum_f32(a, b), difference_f32(a, b), sum_f32(c, d), difference_f32(c, d)
                store_f32(at, sum_f32(a, c))
                store_f32(at + half, sum_f32(b, d))
                store_f32(at + 2 * half, difference_f32(a, c))
                store_f32(at + 3 * half, difference_f32(b, d))
        half *= 4
    if half < size:
        for at in range(numbers, numbers + half, LINE):
            a, b = load_f32(at), load_f32(at + half)
            store_f32(at, sum_f32(a, b))
            store_f32(at + half, difference_f32(a, b))


@inlined
def small_hadamard(numbers, size):
    half = 4
    while half < size:
        for first in range(numbers, numbers + size, 2 * half):
            for at in range(first, first + half, 4):
                a, b = peek_f32(at), peek_f32(at + half)
                poke_f32(at, a + b)
                poke_f32(at + half, a - b)
        half *= 2


_known: WeakKeyDictionary[Rotor, RotorSteps] = WeakKeyDictionary()


def _addressed(rotor: Rotor) -> RotorSteps:
    """The steps as a kernel takes them; kept as long as the rotor is."""
    found = _known.get(rotor)
    if found is None:
        found = _known[rotor] = _laid_out(rotor)
    return found


def _laid_out(rotor: Rotor) -> RotorSteps:
    blocks, kept, longest = (BlockSteps * len(rotor.blocks))(), [], 0
    for i, steps in enumerate(rotor.blocks):
        rounds, size = steps.factors.shape
        factors = np.zeros((rounds, -(-size // 16) * 16), np.float32)
        factors[:, :size] = steps.factors
        order, inverse = (4 * places.astype(np.int32) for places in (steps.order, np.argsort(steps.order)))
        blocks[i] = BlockSteps(
            size=size, width=steps.width, rounds=rounds, factors=address(factors), stride=factors.strides[0],
            order=address(order), inverse=address(inverse),
        )  # fmt: skip
        kept.append((factors, order, inverse))
        longest = max(longest, factors.strides[0])
    found = RotorSteps(blocks=ctypes.addressof(blocks), n=len(blocks), longest=longest)
    found.kept = blocks, kept
    return found


def rotate(rotor: Rotor, rows: NDArray[np.float32], backwards: bool) -> None:
    """As `reference.rotate`, to the bit. `rows` are C-contiguous."""
    steps = _addressed(rotor)
    rotate_rows(steps.address, rows, np.empty(2 * steps.longest + LINE, np.uint8), backwards)
