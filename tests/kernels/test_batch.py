"""Many queries at once take another way (the integer tile) than few, to the same answers."""

import numpy as np
import pytest
from kernel_rows import KINDS, TREES, assert_same_bits, largest_norm, made
from numpy.typing import NDArray

from qindex_kernels import reference
from qindex_kernels.cpu.topk import BATCH_QUERIES, topk

Answers = tuple[NDArray[np.int64], NDArray[np.float32]]


def assert_same(found: Answers, wanted: Answers) -> None:
    np.testing.assert_array_equal(found[0], wanted[0])
    assert_same_bits(found[1], wanted[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tree", TREES)
def test_topk_of_a_batch_equals_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng(len(kind) + len(tree))
    for m, n, dim in ((BATCH_QUERIES, 150, 100), (17, 25, 65), (70, 5, 128), (40, 160, 33)):
        rows = made(kind, n, dim, rng, tree)
        values, offset = rng.standard_normal((m, dim)).astype(np.float32), rng.standard_normal(m)
        ids, allow = rng.permutation(n).astype(np.int64), rng.random(n) < 0.6 if m == 17 else None
        k = int(rng.choice([1, 10, n + 3]))
        arguments = (rows, values, offset, ids, allow, k, largest_norm(rows))
        assert_same(topk(*arguments), reference.topk(*arguments))


def test_hard_queries_of_a_batch_get_the_exact_answer() -> None:
    rng = np.random.default_rng(0)
    dim, n = 200, 700
    plain = rng.standard_normal((12, dim))
    hard = np.concatenate([plain * 10.0 ** rng.uniform(-10, 10, dim), plain * 1e-40, plain * 1e15, plain * 0])
    for kind in ("int8", "sign", "int4"):
        rows = made(kind, n, dim, rng)
        arguments = (rows, hard.astype(np.float32), np.zeros(48), np.arange(n), None, 10, largest_norm(rows))
        assert_same(topk(*arguments), reference.topk(*arguments))
