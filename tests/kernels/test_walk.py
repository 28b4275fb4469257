"""Walks over graphs, and the choice of neighbours: compiled and in NumPy alike."""

from collections.abc import Callable

import numpy as np
import pytest
from kernel_rows import KINDS, ONE_HOT_KINDS, PARTS, TREES, assert_same_bits, dims_of, in_parts, made, made_one_hot
from numpy.typing import NDArray

from qindex_kernels import reference_graph
from qindex_kernels.cpu.link import link
from qindex_kernels.cpu.walk import Walks
from qindex_kernels.layout import Only, Rows, Through


def random_graph(n: int, degree: int, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    neighbours = rng.integers(0, n, (n, degree)).astype(np.int32)
    neighbours[rng.random((n, degree)) < 0.2] = -7  # what is no row stands for the last
    return neighbours, rng.integers(0, n, 3).astype(np.int32)


def assert_walks_alike(rows: Rows, fine: Rows, rng: np.random.Generator, ef: int, k: int) -> None:
    n, m = len(rows.data), 3
    queries = [rng.standard_normal((m, one.dim)).astype(np.float32) for one in (rows, fine)]
    offset, ids = rng.standard_normal(m), rng.permutation(n)
    over = rows, fine, *random_graph(n, 5, rng), ids
    reference, compiled = reference_graph.Walks(*over), Walks(*over)
    allow = rng.random(n) < 0.5
    ways = (
        None, Through(allow, ef, 1), Through(allow, 2 * ef, k), Through(allow, 3 * ef, ef + 1),
        Only(allow),
    )  # fmt: skip
    for among in ways:
        for wanted_k, ranked in ((k, ef), (k, max(1, ef // 2)), (0, ef)):
            asked = queries[0], queries[1], offset
            how = wanted_k, ef, ranked, among
            wanted = reference(*asked, *how)
            alone = [compiled(*(array[i : i + 1] for array in asked), *how) for i in range(m)]
            best, scores, work, short = zip(*alone, strict=True)
            for found in (compiled(*asked, *how), (np.vstack(best), np.vstack(scores), np.hstack(work), any(short))):
                np.testing.assert_array_equal(found[0], wanted[0])
                assert_same_bits(found[1], wanted[1])
                np.testing.assert_array_equal(found[2], wanted[2])
                assert found[3] == wanted[3]


@pytest.mark.parametrize("kind", KINDS)
def test_walks_equal_the_reference(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    others = [tree for tree in TREES if tree not in ("none", "wide", "factor")]
    for tree in ("none", "wide", "factor", others[KINDS.index(kind) % len(others)]):
        for n, ef in ((1, 8), (100, 16)):
            dim = dims_of(kind, tree)[int(rng.integers(6))]
            rows = made(kind, n, dim, rng, tree, scaled=n > 1, biased=tree != "none")
            assert_walks_alike(rows, rows, rng, ef, 5)


@pytest.mark.parametrize("name", PARTS)
def test_walks_over_rows_in_parts_equal_the_reference(name: str) -> None:
    rng = np.random.default_rng(1)
    for n, ef in ((1, 8), (200, 24)):
        rows = in_parts(name, n, rng, scaled=n == 1)
        assert_walks_alike(rows, rows, rng, ef, 7)


@pytest.mark.parametrize("kind", ONE_HOT_KINDS)
def test_walks_over_one_hot_rows_equal_the_reference(kind: str) -> None:
    rng = np.random.default_rng(2)
    rows = made_one_hot(kind, 100, 5, rng)
    assert_walks_alike(rows, rows, rng, 16, 7)


def test_finer_rows_rank_what_coarse_rows_find() -> None:
    rng = np.random.default_rng(3)
    for fine in (made("int8", 90, 70, rng), in_parts("falling", 90, rng), made("float16", 90, 33, rng)):
        assert_walks_alike(made("int4", 90, 65, rng, "wide"), fine, rng, 32, 40)


def test_a_walk_over_a_connected_graph_with_room_for_all_rows_finds_the_best() -> None:
    rng = np.random.default_rng(4)
    rows = made("int8", 150, 40, rng)
    x, offset, ids = rng.standard_normal((4, 40)).astype(np.float32), np.zeros(4), np.arange(150)
    ring = ((np.arange(150)[:, None] + [1, 149]) % 150).astype(np.int32)
    found = Walks(rows, rows, ring, np.zeros(1, np.int32), ids)(x, x, offset, 10, 150, 150)
    wanted = reference_graph.score_rows(rows, x, offset, np.tile(ids, (4, 1)))
    np.testing.assert_array_equal(found[0], np.lexsort((np.tile(ids, (4, 1)), -wanted))[:, :10])
    assert (found[2][1] == 150).all()


def test_epochs_wrap_around() -> None:
    rng = np.random.default_rng(5)
    rows = made("int8", 50, 16, rng)
    x = rng.standard_normal((600, 16)).astype(np.float32)
    over, asked = (rows, rows, *random_graph(50, 4, rng), np.arange(50)), (x, x, np.zeros(600), 3, 8, 8)
    for found, wanted in zip(Walks(*over)(*asked), reference_graph.Walks(*over)(*asked), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dim", [1, 63, 64, 100])
def test_chosen_neighbours_equal_the_reference(dim: int) -> None:
    rng = np.random.default_rng(dim)
    n, width = 80, 9
    rows = made("int8", n, dim, rng, biased=False)
    assert rows.scale is not None
    norms = rows.scale**2 * (rows.data.view(np.int8).astype(np.float32) ** 2).sum(axis=1)
    start = np.where(rng.random((n, width)) < 0.5, rng.integers(0, n, (n, width)), np.arange(n)[:, None])
    start = np.sort(np.where(start == np.arange(n)[:, None], n, start), axis=1)  # its own number behind all others
    start = np.where(start == n, np.arange(n)[:, None], start).astype(np.int32)
    targets = rng.permutation(n)[:50].astype(np.int32)
    counts = rng.integers(0, 30, 50)
    starts = np.concatenate([[0], np.cumsum(counts)])
    candidates = rng.integers(-1, n + 2, starts[-1]).astype(np.int32)
    for degree, room, alpha, equals, most in ((6, 0, 1.05, 2, 64), (9, 9, 1.0, 0, 16), (3, 5, 1.5, 9, 8)):
        wanted, found = start.copy(), start.copy()
        for function, lists in ((reference_graph.link, wanted), (link, found)):
            arguments: tuple[object, ...] = (targets, starts, candidates, degree, room, alpha, equals, most)
            _call(function, rows, norms, lists, *arguments)
        np.testing.assert_array_equal(found, wanted)
        others = np.setdiff1d(np.arange(n), targets[5:40])
        np.testing.assert_array_equal(found[others], start[others])


def _call(function: Callable[..., None], *arguments: object) -> None:
    for part in (slice(5, 20), slice(20, 40)):
        function(*arguments, part)
