"""The checks that `test_interpreter.py` runs in a process of its own, where Triton interprets its kernels in NumPy."""

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qindex.formats import FORMATS, SCALE_FORMATS
from qindex_kernels import reference
from qindex_kernels.gpu import topk as topk_module
from qindex_kernels.gpu.matmul import matmul, quantized
from qindex_kernels.gpu.rows import DECODERS, to_device
from qindex_kernels.gpu.score_rows import score_rows
from qindex_kernels.gpu.topk import topk
from qindex_kernels.layout import Level, Rows

INTEGERS = [kind for kind, decoder in DECODERS.items() if decoder.family != "small_float"]

# (kind, block, shared by all rows) of each level of a scale tree, and of a zero.
TREES: dict[str, dict[str, Any]] = {
    "row": {"levels": (), "zero": None},
    "float32": {"levels": (("float32", 16, False),), "zero": None},
    "mx": {"levels": (("e8m0", 32, False),), "zero": None},
    "nv": {"levels": (("e4m3", 16, False), ("float32", 65536, True)), "zero": None},
    "affine": {"levels": (("float16", 32, False),), "zero": ("float16", 32, False)},
    "super": {"levels": (("float16", 16, False), ("float16", 64, False)), "zero": ("float32", 16, True)},
    "odd": {"levels": (("float32", 48, True),), "zero": None},
    "zero": {"levels": (), "zero": ("float32", 128, False)},
}


def made(
    kind: str, n: int, dim: int, rng: np.random.Generator, tree: str = "row", scaled: bool = True, biased: bool = True
) -> Rows:
    """Random rows, each of which comes twice, so that there are ties."""
    half = (n + 1) // 2

    def twice(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate([array, array])[:n])

    def level(name: str, size: int, shared: bool) -> Level:
        blocks = -(-dim // size)
        format = next(format for format in SCALE_FORMATS if format.name == name)
        values = rng.uniform(0.1, 2, (1 if shared else half, blocks)).astype(np.float32)
        data = format.encode(values)
        data = data if format.bits == 8 else data.view(f"<f{format.bits // 8}")
        return Level(name, size, data[0] if shared else twice(data))

    format = FORMATS[kind]
    width = format.bits
    codes = rng.integers(0, 1 << width, (half, dim)).astype(np.uint8)
    if width == 8 and kind != "int8":
        codes[~np.isfinite(format.levels[codes])] = 0
    shape = TREES[tree]
    return Rows(
        kind,
        dim,
        twice(format.pack(codes)),
        scale=twice(rng.uniform(-1, 1, half).astype(np.float32)) if scaled else None,
        bias=twice(rng.integers(-1, 2, half).astype(np.float32)) if biased else None,
        levels=tuple(level(*one) for one in shape["levels"]),
        zero=None if shape["zero"] is None else level(*shape["zero"]),
        tables=np.sort(rng.integers(-127, 128, (1, 16)).astype(np.int8)) if kind == "table4" else None,
    )


def max_norm(rows: Rows) -> float:
    scale = 1 if rows.scale is None else rows.scale[:, None]
    return float(np.linalg.norm(reference.numbers(rows, slice(None)) * scale, axis=1).max()) * (1 + 1e-6)


def assert_equal_bits(found: torch.Tensor, wanted: NDArray[np.float32]) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy().view(np.int32), wanted.view(np.int32))


def assert_equal_scores(rows: Rows, values: NDArray[np.float32], chosen: NDArray[np.int64]) -> None:
    offset = np.linspace(-1, 1, len(values))
    wanted = reference.score_rows(rows, values, offset, chosen)
    found = score_rows(to_device(rows, "cpu"), *map(torch.from_numpy, (values, offset, chosen)))
    assert_equal_bits(found, wanted)


def assert_equal_topk(
    rows: Rows,
    values: NDArray[np.float32],
    offset: NDArray[np.float64],
    k: int,
    ids: NDArray[np.int64] | None = None,
    allow: NDArray[np.bool_] | None = None,
) -> None:
    ids = np.arange(len(rows.data))[::-1].copy() if ids is None else ids
    bound = max_norm(rows)
    wanted = reference.topk(rows, values, offset, ids, allow, k, bound)
    masked = None if allow is None else torch.from_numpy(allow)
    found = topk(to_device(rows, "cpu"), *map(torch.from_numpy, (values, offset, ids)), masked, k, bound)
    np.testing.assert_array_equal(found[0].numpy(), wanted[0])
    assert_equal_bits(found[1], wanted[1])


# --- decoding, and exact scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["e4m3", "e5m2", "e3m4", "int8", "sign", "int4", "half4", "e2m1", "nf4"])
def test_every_code_decodes_to_its_level(kind: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    if FORMATS[kind].bits == 8:
        codes = codes[np.isfinite(FORMATS[kind].levels)]
    per_byte = 8 // FORMATS[kind].bits
    rows = Rows(kind, per_byte, codes[:, None].copy())
    values = 3 ** np.arange(per_byte, dtype=np.float32)[None]
    assert_equal_scores(rows, values, np.arange(len(codes))[None])


@pytest.mark.parametrize("kind", ["e4m3", "e8m0"])
def test_every_code_of_a_scale_decodes_to_its_level(kind: str) -> None:
    codes = np.arange(255 if kind == "e8m0" else 127, dtype=np.uint8)[:, None]
    rows = Rows("sign", 1, np.ones((len(codes), 1), np.uint8), levels=(Level(kind, 16, codes),))
    assert_equal_scores(rows, np.ones((1, 1), np.float32), np.arange(len(codes))[None])


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("kind", ["int4", "e4m3"])
def test_exact_scores_equal_the_reference(kind: str, tree: str) -> None:
    rng = np.random.default_rng(0)
    for dim in (1, 17, 100):
        rows = made(kind, 9, dim, rng, tree, scaled=dim != 17, biased=dim != 1)
        values = rng.standard_normal((2, dim)).astype(np.float32)
        assert_equal_scores(rows, values, rng.integers(0, 9, (2, 5)))


# --- top-k -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 rows, so that a hundred rows are enough for steps to leave some out."""
    monkeypatch.setattr(topk_module, "ROWS_IN_BLOCK", 16)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", DECODERS)
def test_topk_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(1)
    values, offset = rng.standard_normal((3, 100)).astype(np.float32), rng.standard_normal(3)
    ids = rng.permutation(90)
    for m in (1, 3):  # one query goes by multiply-add, several by matrix products, of integers where rows are integers
        rows = made(kind, 90, 100, rng, scaled=m == 3)
        assert_equal_topk(rows, values[:m], offset[:m], 3, ids, rng.random(90) < 0.7 if m == 3 else None)


@pytest.mark.parametrize(("n", "dim", "k"), [(1, 1, 1), (1, 33, 3), (128, 17, 2), (129, 65, 140)])
def test_topk_of_any_size_equals_the_reference(n: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(n)
    for kind, m in (("int8", 2), ("int4", 1)):
        values = rng.standard_normal((m, dim)).astype(np.float32)
        assert_equal_topk(made(kind, n, dim, rng, biased=False), values, np.zeros(m), k)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("tree", ["nv", "affine"])
def test_topk_of_rows_with_blocks_equals_the_reference(tree: str) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2, 80)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(made("e2m1", 70, 80, rng, tree), values[:m], np.zeros(m), 2)


@pytest.mark.usefixtures("small_blocks")
def test_a_filter_that_allows_few_or_no_rows_is_kept() -> None:
    rng = np.random.default_rng(3)
    rows = made("int8", 50, 20, rng)
    values = rng.standard_normal((2, 20)).astype(np.float32)
    for allowed in ([], [7], [7, 40]):
        allow = np.isin(np.arange(50), allowed)
        assert_equal_topk(rows, values, np.zeros(2), 3, allow=allow)


@pytest.mark.usefixtures("small_blocks")
def test_equal_rows_come_in_the_order_of_their_ids() -> None:
    rng = np.random.default_rng(4)
    rows = made("int8", 1, 40, rng, scaled=False, biased=False)
    rows = rows._replace(data=np.repeat(rows.data, 100, 0))
    ids = rng.permutation(100)
    values = rng.standard_normal((2, 40)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2, ids)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "sign"])
def test_queries_that_int8_hardly_tells_apart_get_the_exact_answer(kind: str) -> None:
    rng = np.random.default_rng(5)
    values = rng.uniform(-0.6, 0.6, (6, 40)).astype(np.float32)
    values[:, 0] = 127  # so the step is 1, and the others round to -1, 0 or 1
    assert_equal_topk(made(kind, 100, 40, rng, scaled=False, biased=False), values, np.zeros(6), 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_scores_that_float32_sums_hardly_tell_apart_get_the_exact_answer(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = made(kind, 100, 40, rng, scaled=False, biased=False)
    shared = rows.data.shape[1] // 2
    rows.data[:, :shared] = rows.data[0, :shared]
    values = rng.standard_normal((6, 40)).astype(np.float32)
    values[:, :20] *= 1e7  # a large part that is the same for all rows, and that the offset takes back
    offset = -(values[:, :20].astype(np.float64) @ reference.numbers(rows, slice(0, 1))[0, :20])
    assert_equal_topk(rows, values, offset, 2)
    assert_equal_topk(rows, values[:1], offset[:1], 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [1e-40, 1e15, 0.0])
def test_tiny_and_huge_queries_get_the_exact_answer(size: float) -> None:
    rng = np.random.default_rng(7)
    values = (size * rng.standard_normal((2, 31))).astype(np.float32)
    rows = made("int8", 60, 31, rng, biased=False)
    rows = rows._replace(scale=None if rows.scale is None else rows.scale * np.float32(1e10))
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_sums_that_overflow_in_float32_rule_no_row_out() -> None:
    rng = np.random.default_rng(8)
    rows = made("int4", 64, 64, rng, "float32", scaled=False, biased=False)
    size = np.where(np.arange(64) % 32 < 16, 1e37, 1).astype(np.float32)  # of every other block of rows
    huge = rows.levels[0]._replace(data=rows.levels[0].data * size[:, None])
    rows = rows._replace(levels=(huge,), scale=np.float32(2) / size)
    rows.scale[::2] *= -1  # type: ignore[index]
    values = 100 * rng.standard_normal((2, 64)).astype(np.float32)
    for m in (1, 2):
        assert_equal_topk(rows, values[:m], np.zeros(m), 2)


# --- linear layers ---------------------------------------------------------------------------------------------------


def assert_close_matmul(rows: Rows, x: NDArray[np.float32]) -> None:
    wanted = reference.matmul(rows, x)
    found = matmul(to_device(rows, "cpu"), torch.from_numpy(x)).numpy()
    scale = 1 if rows.scale is None else np.abs(rows.scale)
    reach = np.abs(x) @ np.abs(reference.numbers(rows, slice(None))).T * scale
    reach += 0 if rows.bias is None else np.abs(rows.bias)
    bound = (rows.dim + 4) * 2.0**-24 * reach + rows.dim * 2.0**-126
    assert (np.abs(found.astype(np.float64) - wanted) <= bound).all()


@pytest.mark.parametrize("kind", DECODERS)
def test_float_matmul_is_within_its_bound(kind: str) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, 100)).astype(np.float32)
    for m, tree in ((1, "super"), (3, "row"), (9, "mx")):  # gemv of one, gemv of several, tiles
        assert_close_matmul(made(kind, 11, 100, rng, tree), x[:m])


@pytest.mark.parametrize(("n", "dim", "m"), [(1, 1, 1), (1, 513, 2), (65, 32, 65)])
def test_float_matmul_of_any_size_is_within_its_bound(n: int, dim: int, m: int) -> None:
    rng = np.random.default_rng(n)
    for tree in ("row", "odd"):
        rows = made("int4", n, dim, rng, tree, scaled=False)
        assert_close_matmul(rows, rng.standard_normal((m, dim)).astype(np.float32))


def assert_equal_int8_matmul(rows: Rows, x: NDArray[np.float32]) -> None:
    found = matmul(to_device(rows, "cpu"), torch.from_numpy(x), "int8")
    assert_equal_bits(found, reference.matmul_int8(rows, x, 0))


@pytest.mark.parametrize("kind", INTEGERS)
def test_int8_matmul_equals_the_reference(kind: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 100)).astype(np.float32)
    for tree in ("row", "nv", "affine"):
        assert_equal_int8_matmul(made(kind, 11, 100, rng, tree), x)


@pytest.mark.parametrize("tree", ["super", "odd", "zero"])
def test_int8_matmul_equals_the_reference_whatever_the_blocks(tree: str) -> None:
    rng = np.random.default_rng(9)
    for n, dim, m in ((1, 1, 1), (33, 300, 17)):
        x = rng.standard_normal((m, dim)).astype(np.float32)
        assert_equal_int8_matmul(made("int4", n, dim, rng, tree, scaled=n > 1, biased=n == 1), x)


def test_activations_are_rounded_as_the_reference_rounds_them() -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((40, 33)).astype(np.float32) * np.float32(10.0) ** rng.integers(-44, 30, (40, 1))
    x = np.concatenate([x, np.zeros((1, 33), np.float32)]).astype(np.float32)
    codes, step = quantized(torch.from_numpy(x))
    wanted = reference.quantize(x, 0)
    np.testing.assert_array_equal(codes.numpy(), wanted[0])
    np.testing.assert_array_equal(step.numpy(), wanted[1][:, 0])


# --- bad input, and reads --------------------------------------------------------------------------------------------


def test_rows_without_a_kernel_say_which_have_one() -> None:
    with pytest.raises(ValueError, match=r"sign, int4, .* got int5"):
        to_device(Rows("int5", 8, np.zeros((1, 5), np.uint8)), "cpu")
    own = Rows("table4", 2, np.zeros((3, 1), np.uint8), tables=np.zeros((3, 1, 16), np.int8))
    with pytest.raises(ValueError, match="one of 16 levels that all rows share"):
        to_device(own, "cpu")


def test_int8_activations_with_small_floats_are_refused() -> None:
    rows = to_device(Rows("e4m3", 4, np.zeros((1, 4), np.uint8)), "cpu")
    with pytest.raises(ValueError, match=r'e4m3 .* activations="float32"'):
        matmul(rows, torch.zeros((1, 4)), "int8")


def fenced(array: NDArray[Any], kept: list[mmap.mmap]) -> NDArray[Any]:
    """A copy of `array` that ends where this process may not read."""
    mprotect = ctypes.CDLL(None).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    kept.append(memory)
    assert mprotect(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size, mmap.PAGESIZE, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with Linux's mprotect")
def test_kernels_read_only_their_arrays() -> None:
    rng = np.random.default_rng(11)
    kept: list[mmap.mmap] = []
    for kind, dim in (("sign", 1), ("sign", 100), ("int4", 17), ("int8", 33)):
        rows = made(kind, 5, dim, rng, "affine")
        rows = rows._replace(
            data=fenced(rows.data, kept),
            scale=fenced(rows.scale, kept),
            bias=fenced(rows.bias, kept),
            levels=tuple(level._replace(data=fenced(level.data, kept)) for level in rows.levels),
            zero=rows.zero._replace(data=fenced(rows.zero.data, kept)),
        )
        x = fenced(rng.standard_normal((3, dim)).astype(np.float32), kept)
        on_device = to_device(rows, "cpu")
        assert on_device.data.data_ptr() == rows.data.ctypes.data  # the kernels read the fenced arrays themselves
        for m in (1, 3):
            values = torch.from_numpy(x)[-m:]
            topk(on_device, values, torch.zeros(m).double(), torch.arange(5), torch.ones(5, dtype=torch.bool), 2, 1e3)
            matmul(on_device, values)
            matmul(on_device, values, "int8")
