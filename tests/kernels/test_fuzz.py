"""Whatever bytes the codes hold, the door answers in the right shapes and reads nothing outside them.

The arrays are fenced: a byte too far ends this process, and faulthandler names the test.
"""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_rows import INTEGER_KINDS, KINDS
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS, SCALE_FORMATS, Format
from qindex.types import BlockValues, Codes, Queries

if sys.platform != "linux":
    pytest.skip("protects pages with Linux's mprotect", allow_module_level=True)

from fences import fenced

HOSTILE = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

dims = st.one_of(st.integers(1, 200), st.sampled_from([1, 16, 48, 64, 65, 128, 1000]))
sizes = st.sampled_from([16, 32, 48, 64, 96, 128, 65_536])
# NaN of every format is all ones; the others are 0x7f (e4m3), infinities of float16 and float32, huge and tiny numbers.
patterns = st.sampled_from([None, 0x00, 0xFF, 0x7F, 0x80, 0x7C, 0x01])


@st.composite
def any_codes(draw: st.DrawFn) -> Codes:
    """Codes of arbitrary bytes, in every shape that `Codes` takes."""
    format = FORMATS[draw(st.sampled_from(KINDS))]
    n, dim, at_end = draw(st.integers(0, 60)), draw(dims), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 1000)))

    def array(dtype: Any, *shape: int) -> NDArray[Any]:
        pattern = draw(patterns)
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = rng.integers(0, 256, count) if pattern is None else np.full(count, pattern)
        return fenced(data.astype(np.uint8).view(dtype).reshape(shape), at_end)

    def values(format: Format, size: int) -> BlockValues:
        blocks = -(-dim // size)
        dtype = {"float32": np.float32, "float16": np.float16}.get(format.name, np.uint8)
        shape = (blocks,) if size == 1 or draw(st.booleans()) else (n, blocks)
        return BlockValues(array(dtype, *shape), format, size)

    stored = st.sampled_from(SCALE_FORMATS)
    scales, zero = [], None
    size = draw(sizes)
    if draw(st.booleans()):
        scales.append(values(draw(stored), size))
        if size < 20_000 and draw(st.booleans()):
            scales.append(values(draw(stored), size * draw(st.sampled_from([2, 3]))))
    if draw(st.booleans()):
        zero = values(draw(stored), size)
    if draw(st.integers(0, 4)) == 0:
        scales.append(values(draw(stored), 1))
    tables = None
    if format.kind == "codebook":
        blocks = zero is not None or any(one.size > 1 for one in scales)
        many = -(-dim // size) if blocks and size % 64 == 0 else 1
        own = (n,) if draw(st.booleans()) else ()
        tables = array(np.int8, *own, draw(st.sampled_from([1, many])), 1 << format.bits)
    scale, offset = (array(np.float32, n) if draw(st.booleans()) else None for _ in range(2))
    norm = draw(st.sampled_from([0.0, 1.0, 1e6, 1e300]))
    data = array(np.uint8, n, format.row_bytes(dim))
    return Codes(data, format, dim, norm, scale=scale, offset=offset, scales=tuple(scales), zero=zero, tables=tables)


def some_values(m: int, dim: int, rng: np.random.Generator, size: float) -> NDArray[np.float32]:
    return (rng.standard_normal((m, dim)) * size).astype(np.float32)


counts = st.sampled_from([0, 1, 2, 4, 5, 17, 70])
magnitudes = st.sampled_from([0.0, 1e-40, 1.0, 1e30, np.nan])


@pytest.fixture(autouse=True, scope="module")
def _compiled() -> None:
    kernels.path()


@HOSTILE
@given(any_codes(), counts, st.integers(0, 70), magnitudes, st.booleans(), st.integers(0, 1000))
def test_topk_of_any_bytes_returns_rows_that_are_there(
    codes: Codes, m: int, k: int, size: float, filtered: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = len(codes)
    allow = fenced(rng.random(n) < rng.random(), True) if filtered else None
    ids = fenced(rng.permutation(n), True)
    rows, scores = kernels.topk(
        Queries(some_values(m, codes.dim, rng, size), rng.standard_normal(m)), codes, k, ids=ids, allow=allow
    )
    assert rows.shape == scores.shape == (m, k)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    assert ((rows >= -1) & (rows < n)).all()
    assert (scores[rows == -1] == -np.inf).all()
    for found in rows:
        present = found[found >= 0]
        assert len(set(present.tolist())) == len(present)
        assert allow is None or allow[present].all()


@HOSTILE
@given(any_codes(), counts, st.integers(0, 9), magnitudes, st.integers(0, 1000))
def test_scores_of_any_bytes_are_as_many_as_the_rows(codes: Codes, m: int, r: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = fenced(rng.integers(-1, max(len(codes), 0), (m, r)), True)
    found = kernels.score_rows(Queries(some_values(m, codes.dim, rng, size), np.zeros(m)), codes, rows)
    assert (found.shape, found.dtype) == ((m, r), np.float32)
    assert (found[rows == -1] == -np.inf).all()


@HOSTILE
@given(any_codes(), counts, st.sampled_from([0.0, 1e-40, 1.0, 1e30]), st.integers(0, 1000))
def test_products_of_any_bytes_are_a_matrix_or_a_value_error(codes: Codes, m: int, size: float, seed: int) -> None:
    x = some_values(m, codes.dim, np.random.default_rng(seed), size)
    # A column scale is multiplied into x: the product may not be finite, which the door refuses.
    finite = codes.column_scale is None
    for activations in ("float32", "int8", "int8-block"):
        allowed = activations == "float32" or codes.format.name in INTEGER_KINDS
        allowed &= activations != "int8-block" or codes.block > 0
        try:
            found = kernels.matmul(x, codes, activations=activations)
        except ValueError:
            assert not allowed or not finite
        else:
            assert allowed
            assert (found.shape, found.dtype) == ((m, len(codes)), np.float32)
