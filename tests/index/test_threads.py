"""Answers do not depend on threads, on a fork, or on whether the compiled kernels are loaded yet."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import kernels
from qindex.index import FlatIndex
from qindex.quantize import Binary, Int8, LloydMax, RaBitQ
from qindex.threads import threads
from qindex.types import Matches, Quantizer
from qindex_kernels.cpu.addresses import RowAddresses, addressed
from qindex_kernels.layout import Rows


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """Enough for one query to be worth five threads."""
    vectors = np.random.default_rng(0).standard_normal((40_000, 264)).astype(np.float32)
    vectors[20_000:20_200] = vectors[:200]  # ties, on two threads
    return vectors


@pytest.fixture(scope="module")
def index(vectors: NDArray[np.float32]) -> FlatIndex:
    return FlatIndex.build(vectors, Int8(), ids=np.arange(40_000)[::-1])


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = threads.count
    yield
    kernels.set_threads(before)


def assert_same(found: Matches, wanted: Matches) -> None:
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_answers_do_not_depend_on_the_number_of_threads(index: FlatIndex, vectors: NDArray[np.float32]) -> None:
    queries, mask = vectors[:30], np.arange(40_000) % 3 > 0
    for some, k, allow in ((queries[:1], 9, None), (queries[:3], 50_000, None), (queries, 9, None), (queries, 9, mask)):
        answers = []
        for n in (1, 2, 5):
            kernels.set_threads(n)
            answers.append(index.search(some, k, allow=allow))
        assert_same(answers[1], answers[0])
        assert_same(answers[2], answers[0])


def test_many_threads_search_one_index_at_once(index: FlatIndex, vectors: NDArray[np.float32]) -> None:
    kernels.set_threads(2)
    wanted = [index.search(vectors[i : i + 2], 5) for i in range(16)]
    start = threading.Barrier(16)

    def search(i: int) -> list[Matches]:
        start.wait(timeout=60)
        return [index.search(vectors[i : i + 2], 5) for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        for found, expected in zip(pool.map(search, range(16)), wanted, strict=True):
            for one in found:
                assert_same(one, expected)


def test_threads_that_search_an_index_first_go_by_one_record_of_its_rows() -> None:
    """Kernels hold its address alone, and the second of two would go with the thread that made it."""
    data, together, interval = np.zeros((100, 64), np.uint8), threading.Barrier(2), sys.getswitchinterval()

    def record(rows: Rows) -> RowAddresses:
        together.wait(timeout=60)
        return addressed(rows)

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(300):
                one, other = pool.map(record, 2 * [Rows("int8", 64, data)])
                assert one is other
    finally:
        sys.setswitchinterval(interval)


def test_searches_see_a_whole_state_while_rows_come_and_go() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    index = FlatIndex.build(rows[:30], Binary(), rescore=Int8(), metric="l2")
    done = threading.Event()

    def change() -> None:
        try:
            for _ in range(100):
                added = index.add(rows[30:])
                index.remove(added)
        finally:
            done.set()

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)

        def search() -> None:
            while not done.is_set():
                ids, scores = index.search(rows[:2], 60, allow=None, oversample=1)
                assert (ids >= 0).sum(axis=1).tolist() in ([30, 30], [60, 60])
                assert np.array_equal(ids < 0, np.isneginf(scores))

        searching = [pool.submit(search) for _ in range(4)]
        changing.result(timeout=120)
        for one in searching:
            one.result(timeout=120)
    assert index.ids.tolist() == list(range(30))


def test_parts_within_parts_do_not_wait_for_themselves() -> None:
    kernels.set_threads(2)

    def part(i: int) -> list[int]:
        return threads.map(lambda j: 10 * i + j, [(0,), (1,), (2,)])

    assert threads.map(part, [(i,) for i in range(4)]) == [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(4)]


@pytest.mark.parametrize("count", [1, 2])
def test_the_error_of_the_first_part_that_has_one_is_raised(count: int) -> None:
    kernels.set_threads(count)

    def part(i: int) -> None:
        if i in (3, 5):
            raise ValueError(f"part {i}")

    with pytest.raises(ValueError, match="part 3"):
        threads.map(part, [(i,) for i in range(50)])


@pytest.mark.parametrize("quantizer", [RaBitQ(1), RaBitQ(4), LloydMax(3)], ids=repr)
def test_codes_do_not_depend_on_the_number_of_threads(quantizer: Quantizer, vectors: NDArray[np.float32]) -> None:
    fitted = quantizer.fit(vectors[:3000])
    coded = []
    for n in (1, 2, 3):
        kernels.set_threads(n)
        coded.append(fitted.quantize(vectors[:3000]))
    for other in coded[1:]:
        assert other.max_norm == coded[0].max_norm
        for found, wanted in zip(other.rowwise, coded[0].rowwise, strict=True):
            np.testing.assert_array_equal(found, wanted)


# --- processes -------------------------------------------------------------------------------------------------------

PREPARE = """
import os, sys
import numpy as np
import qindex
rng = np.random.default_rng(0)
vectors = rng.standard_normal((20_000, 256)).astype(np.float32)
index = qindex.FlatIndex.build(vectors, qindex.Int8())
"""

FORK = """
qindex.set_threads(2)
wanted = index.search(vectors[:20], 5)
child = os.fork()
found = index.search(vectors[:20], 5)
same = np.array_equal(found.ids, wanted.ids) and np.array_equal(found.scores, wanted.scores)
if child == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

NUMPY_FIRST = """
found = index.search(vectors[:1], 5)
assert "numba" not in sys.modules, "a small search loads numba"
index.search(vectors[:20], 5)
assert "numba" in sys.modules, "much work does not load numba"
again = index.search(vectors[:1], 5)
assert np.array_equal(found.ids, again.ids) and np.array_equal(found.scores, again.scores)
"""

WITHOUT_COMPILER = """
found = index.search(vectors[:4], 5)
assert "numba" not in sys.modules
print(found.ids.tolist(), found.scores.view(np.int32).tolist())
"""

WITH_COMPILER = """
from qindex import kernels
kernels.warmup(progress=False)
found = index.search(vectors[:4], 5)
print(found.ids.tolist(), found.scores.view(np.int32).tolist())
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", PREPARE + script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_searches_after_its_parent_did() -> None:
    done = run(FORK)
    assert done.returncode == 0, done.stderr


def test_a_first_small_search_does_without_numba_and_answers_alike() -> None:
    done = run(NUMPY_FIRST)
    assert done.returncode == 0, done.stderr


def test_numpy_answers_where_numba_s_compiler_is_disabled() -> None:
    without, compiled = run(WITHOUT_COMPILER, NUMBA_DISABLE_JIT="1"), run(WITH_COMPILER)
    assert without.returncode == compiled.returncode == 0, without.stderr + compiled.stderr
    assert without.stdout == compiled.stdout


@pytest.mark.parametrize("setting", ["abc", "0", "-2", "1.5", ""])
def test_a_wrong_qindex_threads_is_named(setting: str) -> None:
    done = run("index.search(vectors[:1], 5)", QINDEX_THREADS=setting)
    assert done.returncode != 0
    assert f"ValueError: QINDEX_THREADS must be a positive integer, got {setting!r}" in done.stderr


def test_qindex_threads_sets_the_number() -> None:
    done = run("from qindex.threads import threads; assert threads.count == 3", QINDEX_THREADS="3")
    assert done.returncode == 0, done.stderr
