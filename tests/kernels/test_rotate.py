"""The compiled rotation equals the NumPy one to the bit, and both give what saved codes were made with."""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_rows import assert_same_bits
from numpy.typing import NDArray

from qindex import kernels
from qindex.threads import threads
from qindex.transform import Rotation
from qindex_kernels import reference
from qindex_kernels.cpu import rotate as compiled
from qindex_kernels.rotor import Rotor

few = settings(deadline=None, max_examples=80, derandomize=True)
Rotate = Callable[[Rotor, NDArray[np.float32], bool], None]


def rotated(rotate: Rotate, rotor: Rotor, rows: NDArray[np.float32], backwards: bool = False) -> NDArray[np.float32]:
    result = rows.copy()
    rotate(rotor, result, backwards)
    return result


def normal_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def assert_rotated_alike(rotor: Rotor, rows: NDArray[np.float32]) -> None:
    for backwards in (False, True):
        found, wanted = (rotated(rotate, rotor, rows, backwards) for rotate in (compiled.rotate, reference.rotate))
        assert_same_bits(found, wanted)


@given(dim=st.integers(1, 700), n=st.integers(0, 4), seed=st.integers(0, 2**32))
@few
def test_rows_of_any_dim_are_rotated_alike(dim: int, n: int, seed: int) -> None:
    assert_rotated_alike(Rotation(seed).rotor(dim), normal_rows(n, dim, seed))


@given(sizes=st.lists(st.integers(1, 150), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@few
def test_blocks_of_any_sizes_are_rotated_alike(sizes: list[int], seed: int) -> None:
    assert_rotated_alike(Rotation(seed, tuple(sizes)).rotor(sum(sizes)), normal_rows(3, sum(sizes), seed))


@pytest.mark.parametrize("dim", [*range(1, 70), 127, 128, 129, 255, 256, 257, 1023, 1024, 1025, 4096, 65_536])
def test_dims_about_powers_of_two_are_rotated_alike(dim: int) -> None:
    assert_rotated_alike(Rotation().rotor(dim), normal_rows(2, dim))


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-44, 1e-38, 1e30])
def test_zeros_denormals_and_huge_numbers_are_rotated_alike(scale: float) -> None:
    assert_rotated_alike(Rotation().rotor(100), normal_rows(5, 100) * np.float32(scale))


# CRC-32 of five rows, rotated and rotated back.
SAVED = {
    (0, (1,)): (0x5807ADD4, 0x5807ADD4),
    (0, (2,)): (0xF3633280, 0xB0D6F2AA),
    (1, (7,)): (0xAC418C83, 0x2A7B1097),
    (2, (16,)): (0x7E390073, 0x9207BB9C),
    (3, (31,)): (0x39A7720C, 0x94459407),
    (0, (100,)): (0xA55A108B, 0xB1E7D97D),
    (0, (384,)): (0x7B6A8C93, 0xE198375E),
    (9, (512,)): (0x9BE102AB, 0xBD132C36),
    (5, (768,)): (0xA7474851, 0xF7F08A1D),
    (0, (64, 64, 128)): (0xBCDBBB3A, 0xA859F219),
    (4, (33, 5, 262)): (0xD1E22A0C, 0x818A352D),
}


@pytest.mark.parametrize("rotate", [reference.rotate, compiled.rotate], ids=["reference", "compiled"])
@pytest.mark.parametrize(("seed", "sizes"), SAVED, ids=str)
def test_codes_were_saved_of_these_very_bits_so_they_never_change(
    rotate: Rotate, seed: int, sizes: tuple[int, ...]
) -> None:
    dim = sum(sizes)
    rotor = Rotation(seed, None if len(sizes) == 1 else sizes).rotor(dim)
    rows = ((np.arange(5 * dim) * 7919 % 20011 - 10005).astype(np.float32) / np.float32(977)).reshape(5, dim)
    both = (rotated(rotate, rotor, rows, backwards) for backwards in (False, True))
    assert tuple(zlib.crc32(rows.astype("<f4").tobytes()) for rows in both) == SAVED[seed, sizes]


# --- through the door ------------------------------------------------------------------------------------------------


@pytest.fixture
def _restore_threads() -> Iterator[None]:
    before = threads.count
    yield
    kernels.set_threads(before)


@pytest.mark.usefixtures("_restore_threads")
def test_rotations_do_not_depend_on_threads() -> None:
    rows, rotor = normal_rows(20_000, 100), Rotation().rotor(100)
    wanted = rotated(compiled.rotate, rotor, rows)
    for count in (1, 2, 3):
        kernels.set_threads(count)
        found = rows.copy()
        kernels.rotate(rotor, found)
        assert_same_bits(found, wanted)


def test_rows_that_no_kernel_may_see_are_refused() -> None:
    rotor = Rotation().rotor(6)
    for rows in (np.ones((2, 5)), np.ones((2, 6)), np.ones((2, 5), np.float32), np.ones((6, 2), np.float32).T):
        before = rows.copy()
        with pytest.raises(ValueError, match=r"rows must be C-contiguous float32 \(n, 6\), got float\d\d \(2, [56]\)"):
            kernels.rotate(rotor, rows)
        np.testing.assert_array_equal(rows, before)


def test_rotating_back_undoes_it_and_no_rows_are_welcome() -> None:
    rotor, rows = Rotation(3, (40, 60)).rotor(100), normal_rows(4, 100)
    there = rows.copy()
    kernels.rotate(rotor, there)
    assert np.abs(there - rows).max() > 0.1
    kernels.rotate(rotor, there, backwards=True)
    np.testing.assert_allclose(there, rows, atol=1e-5)
    kernels.rotate(rotor, np.empty((0, 100), np.float32))
    assert kernels.agree_on_rotation(rotor, rows)
