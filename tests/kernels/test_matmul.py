"""Matrix products: integer ones equal the NumPy reference to the bit, float ones within the bound they state.

These checks run on the path of this process; `test_paths.py` runs them again on the others.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from kernel_rows import INTEGER_KINDS, KINDS, TREES, assert_same_bits, dims_of, made
from numpy.typing import NDArray

from qindex_kernels import reference
from qindex_kernels.cpu.matmul import matmul, matmul_int8
from qindex_kernels.layout import Level, Rows

# Rows and queries on both sides of every tile: groups of 64 rows, 16 and fours of gemv, 6 tokens, 48 at once.
N_ROWS = (1, 4, 5, 15, 17, 51, 63, 64, 65)
N_QUERIES = (1, 2, 3, 4, 5, 6, 7, 13, 48, 49, 65)


def any_size(rng: np.random.Generator) -> tuple[int, int]:
    """A number of queries and one of rows."""
    return int(rng.choice(N_QUERIES)), int(rng.choice(N_ROWS))


def queries(m: int, dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal((m, dim)).astype(np.float32)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_integer_products_equal_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), len(tree)])
    for i, dim in enumerate(dims_of(kind, tree)):
        m, n = any_size(rng)
        rows, x = made(kind, n, dim, rng, tree, scaled=i % 2 == 0, biased=i % 4 < 2), queries(m, dim, rng)
        for x_block in {0, rows.block}:
            assert_same_bits(matmul_int8(rows, x, x_block), reference.matmul_int8(rows, x, x_block))


@pytest.mark.parametrize(("kind", "tree"), [("int8", "none"), ("int4", "nv"), ("int6", "affine"), ("table4", "tables")])
def test_integer_products_equal_the_reference_at_every_edge_of_a_tile(kind: str, tree: str) -> None:
    rng = np.random.default_rng(1)
    for m, n in itertools.product(N_QUERIES, N_ROWS):
        rows, x = made(kind, n, 100, rng, tree), queries(m, 100, rng)
        assert_same_bits(matmul_int8(rows, x, rows.block), reference.matmul_int8(rows, x, rows.block))


def error_bound(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What `matmul` states: (dim / 16 + 6) * 2 ** -24 of the sum of magnitudes, then scale and bias round once each."""
    magnitude = np.abs(x).astype(np.float64) @ np.abs(reference.numbers(rows, slice(None))).T
    scale = np.ones(len(rows.data)) if rows.scale is None else np.abs(rows.scale).astype(np.float64)
    bias = np.zeros(len(rows.data)) if rows.bias is None else np.abs(rows.bias).astype(np.float64)
    half = 2.0**-24  # of a unit in the last place, relative
    smallest = float(np.finfo(np.float32).smallest_subnormal) * rows.dim  # products may underflow
    summed = magnitude * (rows.dim / 16 + 6) * half + smallest
    scaled = summed * scale + magnitude * scale * (1 + 1e-3) * half
    return scaled + (magnitude * scale * (1 + 1e-3) + bias) * half + smallest


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", KINDS)
def test_float_products_err_by_no_more_than_they_state(kind: str, tree: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), len(tree)])
    for i, dim in enumerate(dims_of(kind, tree)):
        m, n = any_size(rng)
        rows, x = made(kind, n, dim, rng, tree, scaled=i % 2 == 0, biased=i % 4 < 2), queries(m, dim, rng)
        error = np.abs(matmul(rows, x).astype(np.float64) - exact(rows, x))
        assert (error <= error_bound(rows, x)).all()


def exact(rows: Rows, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The product in float64, which errs by 2 ** -29 of what float32 does."""
    result = x.astype(np.float64) @ reference.numbers(rows, slice(None)).T
    result *= 1 if rows.scale is None else rows.scale
    return result + (0 if rows.bias is None else rows.bias)


@pytest.mark.parametrize("block", [16, 32, 48, 64, 96, 128])
@pytest.mark.parametrize("kind", ["int8", "int4", "e2m1", "sign"])
def test_integer_products_equal_the_reference_with_blocks_of_every_size(kind: str, block: int) -> None:
    rng = np.random.default_rng(block)
    for dim, m in itertools.product((1, 63, 65, 384, 576), (1, 5, 7)):
        blocks = -(-dim // block)
        own, shared = (rng.standard_normal(shape).astype(np.float16) for shape in ((70, blocks), (blocks,)))
        zero = Level("float16", block, own[::-1].copy()) if m == 5 else None
        for scales in (own, shared):
            rows = replace(made(kind, 70, dim, rng), levels=(Level("float16", block, scales),), zero=zero)
            x = queries(m, dim, rng)
            for x_block in (0, block):
                assert_same_bits(matmul_int8(rows, x, x_block), reference.matmul_int8(rows, x, x_block))


def test_activations_next_to_half_steps_round_as_quotients_do() -> None:
    """Where a product with the inverse of the step would fall on the other side."""
    rng = np.random.default_rng(7)
    for scale in (1.0, 3e-38, 1e-3, 1e36):
        largest = np.float32(scale) * rng.uniform(1, 2, 40).astype(np.float32)
        half = (rng.integers(-127, 127, (40, 63)) + 0.5).astype(np.float32) * (largest / np.float32(127))[:, None]
        near = (half.view(np.int32) + rng.integers(-3, 4, half.shape, np.int32)).view(np.float32)
        x = np.column_stack([largest, near]).astype(np.float32)
        rows = Rows("int8", 64, np.eye(64, dtype=np.uint8))  # so each result is one code times the step
        assert_same_bits(matmul_int8(rows, x, 0), reference.matmul_int8(rows, x, 0))


# --- one result, whatever comes with it ------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ["none", "nv", "affine", "tables"])
@pytest.mark.parametrize("kind", ["int8", "e2m3", "int5", "int4", "nf4", "table3", "ternary", "sign"])
def test_integer_products_do_not_depend_on_the_size_of_a_batch(kind: str, tree: str) -> None:
    rng = np.random.default_rng(3)
    rows, x = made(kind, 51, 150, rng, tree), queries(65, 150, rng)
    for x_block in {0, rows.block}:
        whole = matmul_int8(rows, x, x_block)
        for i in range(65):
            assert_same_bits(matmul_int8(rows, x[i : i + 1], x_block), whole[i : i + 1])
        for start, stop in ((0, 1), (3, 40), (24, 51), (50, 51)):
            part = rows.part(slice(start, stop))
            assert_same_bits(matmul_int8(part, x, x_block), whole[:, start:stop])
            assert_same_bits(matmul_int8(part, x[:2], x_block), whole[:2, start:stop])


@pytest.mark.parametrize("tree", ["none", "nv", "affine", "tables"])
@pytest.mark.parametrize("kind", ["float32", "float16", "e4m3", "e3m2", "int8", "int3", "nf4", "table4", "sign"])
def test_float_products_do_not_depend_on_the_size_of_a_batch(kind: str, tree: str) -> None:
    rng = np.random.default_rng(4)
    rows, x = made(kind, 51, 150, rng, tree), queries(65, 150, rng)
    whole = matmul(rows, x)
    for i in range(65):
        assert_same_bits(matmul(rows, x[i : i + 1]), whole[i : i + 1])
    for start, stop in ((0, 1), (3, 40), (24, 51), (50, 51)):
        part = rows.part(slice(start, stop))
        assert_same_bits(matmul(part, x), whole[:, start:stop])
        assert_same_bits(matmul(part, x[:2]), whole[:2, start:stop])


# --- extremes --------------------------------------------------------------------------------------------------------


def extreme_activations(dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    plain = rng.standard_normal(dim)
    spike = np.where(np.arange(dim) == dim // 2, 1e4, plain)
    ties = np.where(np.arange(dim) == 0, 127, rng.integers(-126, 126, dim) + 0.5)  # halfway between the steps
    sizes = plain * 10.0 ** rng.uniform(-20, 20, dim)
    smallest_step = plain / np.abs(plain).max() * 127 * float(np.finfo(np.float32).tiny)
    return np.array(
        [0 * plain, plain * 1e-40, plain * 1e-45, plain * 1e30, spike, ties, sizes, smallest_step, smallest_step / 1.01]
    ).astype(np.float32)


@pytest.mark.parametrize("kind", ["int8", "e2m1", "nf4", "int4", "half2", "ternary", "sign"])
@pytest.mark.parametrize("tree", ["none", "mx", "affine"])
def test_extreme_activations_give_what_the_reference_gives(kind: str, tree: str) -> None:
    """Also where a step would be subnormal. Rows are small enough that 1e30 does not overflow."""
    rng = np.random.default_rng(5)
    rows, x = made(kind, 30, 100, rng, tree), extreme_activations(100, rng)
    for some, x_block in itertools.product((x, x[:4], x[4:8], x[8:]), {0, rows.block}):
        found = matmul_int8(rows, some, x_block)
        assert np.isfinite(found).all()
        assert_same_bits(found, reference.matmul_int8(rows, some, x_block))
    error = np.abs(matmul(rows, x).astype(np.float64) - exact(rows, x))
    assert (error <= error_bound(rows, x)).all()


@pytest.mark.parametrize("kind", ["int8", "int4", "table4", "sign"])
@pytest.mark.parametrize("block", [0, 16, 65_536])
def test_integer_products_hold_the_largest_dim_at_its_extremes(kind: str, block: int) -> None:
    dim = 65_536
    byte = {"int8": 0x80, "int4": 0x00, "table4": 0x00, "sign": 0x00}[kind]  # the lowest level in every number
    tables = np.linspace(-128, 127, 16).astype(np.int8)[None] if kind == "table4" else None
    levels = () if not block else (Level("float32", block, np.ones(dim // block, np.float32)),)
    width = {"int8": 8, "sign": 1}.get(kind, 4)
    data = np.array([np.full(dim // 8 * width, byte), np.full(dim // 8 * width, byte ^ 0xFF)], np.uint8)
    rows = Rows(kind, dim, data, levels=levels, tables=tables)
    x = np.array([np.ones(dim), -np.ones(dim), np.where(np.arange(dim) % 2, 1, -1)], np.float32)
    for some in (x[:1], x, np.repeat(x, 6, axis=0)):
        assert_same_bits(matmul_int8(rows, some, block), reference.matmul_int8(rows, some, block))


def test_the_error_of_rounded_activations_is_half_a_step_of_each_number() -> None:
    rng = np.random.default_rng(6)
    for kind in ("int8", "int4", "e2m1", "sign"):
        rows, x = made(kind, 40, 384, rng, "nv"), queries(20, 384, rng)
        half_step = np.abs(x).max(axis=1, keepdims=True) / 254
        assert rows.scale is not None
        magnitudes = np.abs(reference.numbers(rows, slice(None))).sum(axis=1) * rows.scale
        error = np.abs(matmul_int8(rows, x, 0) - exact(rows, x))
        assert (error <= half_step * magnitudes * (1 + 1e-3) + 1e-3).all()
        assert error.max() > 0
