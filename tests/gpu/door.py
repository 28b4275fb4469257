"""`qindex.kernels` treats codes on a device as it treats those in NumPy. `test_answers.py` runs these checks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import triton
from kernel_rows import assert_same_bits, coded, made
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FLOAT32
from qindex.lowbit import QuantLinear
from qindex.quantize import Binary, Float8, Int8
from qindex.quantize.blocks import SCHEMES, decode, encode
from qindex.types import BlockValues, Codes, Queries

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
N, DIM = 40, 80


def some_values(m: int = 2, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((m, dim)).astype(np.float32)


def some_queries(m: int = 2, dim: int = DIM) -> Queries:
    return Queries(some_values(m, dim), np.linspace(-1, 1, m))


def some_codes(kind: str = "int8", tree: str = "none") -> Codes:
    return coded(made(kind, N, DIM, np.random.default_rng(0), tree))


def moved(codes: Codes) -> kernels.DeviceCodes:
    return kernels.to_device(codes, DEVICE)


def tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array).to(DEVICE)


def assert_equal_topk(queries: Queries, codes: Codes, k: int, **rest: Any) -> None:
    wanted = kernels.topk(queries, codes, k, **rest)
    found = kernels.topk(queries, moved(codes), k, **rest)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert_same_bits(found.scores, wanted.scores)


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "int8-dim", "e4m3", "binary", "mxint8", "mxfp4", "nvfp4", "nf4", "int4g32"])
def test_answers_are_those_of_the_cpu(name: str) -> None:
    vectors = np.random.default_rng(2).standard_normal((N, 96)).astype(np.float32)
    quantizer = {"int8": Int8(), "int8-dim": Int8("dim"), "e4m3": Float8("e4m3"), "binary": Binary(center=True)}.get(
        name
    )
    if quantizer is None:
        codes, queries = encode(vectors, SCHEMES[name]), some_queries(3, 96)
    else:
        fitted = quantizer.fit(vectors)
        codes, queries = fitted.quantize(vectors), fitted.prepare(some_values(3, 96))
    codes = dataclasses.replace(codes, offset=np.linspace(-1, 1, N, dtype=np.float32))
    there = moved(codes)
    assert_same_bits(kernels.scores(queries, there), kernels.scores(queries, codes))
    rows = np.array([[1, 39], [-1, -1], [7, -1]])
    assert_same_bits(kernels.score_rows(queries, there, rows), kernels.score_rows(queries, codes, rows))
    ids = np.random.default_rng(3).permutation(N)
    few, many = np.arange(N) == 17, np.arange(N) % 3 > 0
    for m, k, allow in ((1, 2, None), (1, 3, few), (3, N + 1, many)):
        assert_equal_topk(Queries(queries.values[:m], queries.offset[:m]), codes, k, ids=ids, allow=allow)
    for activations in ("int8", "int8-block") if codes.block else ("int8",):
        if name != "e4m3":
            wanted = kernels.matmul(queries.values, codes, activations=activations)
            found = kernels.matmul(tensor(queries.values), there, activations=activations)
            assert_same_bits(found.numpy(force=True), wanted)


@pytest.mark.parametrize("tree", ["none", "nv", "affine"])
@pytest.mark.parametrize("kind", ["int8", "e4m3", "nf4"])
def test_column_scales_are_honoured(kind: str, tree: str) -> None:
    columns = np.exp(np.random.default_rng(2).standard_normal(DIM)).astype(np.float32)
    codes = some_codes(kind, tree)
    codes = dataclasses.replace(codes, scales=(*codes.scales, BlockValues(columns, FLOAT32, 1)))
    there, queries = moved(codes), some_queries(3)
    assert_same_bits(kernels.scores(queries, there), kernels.scores(queries, codes))
    assert_equal_topk(queries, codes, 5, ids=np.arange(N))
    wanted = queries.values.astype(np.float64) @ decode(codes).T.astype(np.float64) + codes.offset
    found = kernels.matmul(tensor(queries.values), there)
    np.testing.assert_allclose(found.numpy(force=True), wanted, atol=1e-5 * np.abs(wanted).max())


def test_tensors_of_ids_and_filters_give_the_same_answers() -> None:
    codes, queries = some_codes(), some_queries()
    ids, allow = np.arange(N)[::-1].copy(), np.arange(N) % 3 > 0
    wanted = kernels.topk(queries, codes, 4, ids=ids, allow=allow)
    found = kernels.topk(queries, moved(codes), 4, ids=tensor(ids), allow=tensor(allow))
    np.testing.assert_array_equal(found.ids, wanted.ids)
    assert_same_bits(found.scores, wanted.scores)


def test_strided_and_read_only_arrays_give_the_same_answers() -> None:
    def awkward(array: NDArray[Any]) -> NDArray[Any]:
        spread = np.repeat(array, 2, axis=-1)[..., ::2]
        spread.flags.writeable = False
        return spread

    codes, x = some_codes("int4", "affine"), some_values()
    codes.data.flags.writeable = False
    queries, there = Queries(x, awkward(np.linspace(-1, 1, 2))), moved(codes)
    assert_equal_topk(queries, codes, 3, ids=awkward(np.arange(N)[::-1]), allow=awkward(np.arange(N) % 3 > 0))
    rows = np.array([[1, 2], [3, -1]], np.int32)
    for some in (awkward(rows), np.asfortranarray(rows)):
        assert_same_bits(kernels.score_rows(queries, there, some), kernels.score_rows(queries, codes, rows))
    for activations in ("float32", "int8"):
        wanted = kernels.matmul(tensor(x), there, activations=activations)
        found = kernels.matmul(tensor(x.T.copy()).T, there, activations=activations)
        assert_same_bits(found.numpy(force=True), wanted.numpy(force=True))


def test_no_rows_and_no_queries_are_answered() -> None:
    for n, m in ((0, 2), (7, 0), (0, 0)):
        codes = moved(some_codes(tree="wide")[:n])
        matches = kernels.topk(some_queries(m), codes, 3, ids=np.arange(n))
        assert matches.ids.shape == matches.scores.shape == (m, 3)
        assert (matches.ids == -1).all()
        assert kernels.scores(some_queries(m), codes).shape == (m, n)
        for activations in ("float32", "int8", "int8-block"):
            assert kernels.matmul(tensor(some_values(m)), codes, activations=activations).shape == (m, n)
    assert kernels.topk(some_queries(), moved(some_codes()), 0, ids=np.arange(N)).ids.shape == (2, 0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("activations", ["float32", "int8", "int8-block"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_spoil_their_own_row_and_no_other(wrong: float, activations: Any) -> None:
    x, codes = some_values(3), moved(some_codes("int4", "wide"))
    wanted = kernels.matmul(tensor(x), codes, activations=activations).numpy(force=True)
    x[1, 63] = wrong
    found = kernels.matmul(tensor(x), codes, activations=activations).numpy(force=True)
    assert not np.isfinite(found[1]).any()
    assert_same_bits(found[::2], wanted[::2])


# --- the value -------------------------------------------------------------------------------------------------------


def test_codes_on_a_device_say_what_they_are() -> None:
    codes = some_codes("e2m1", "nv")
    there = moved(codes)
    assert (len(there), there.dim, there.block, there.format) == (N, DIM, 16, codes.format)
    assert there.device.type == DEVICE
    assert there.nbytes == codes.nbytes
    columns = dataclasses.replace(codes, scales=(*codes.scales, BlockValues(np.ones(DIM, np.float32), FLOAT32, 1)))
    assert moved(columns).nbytes == columns.nbytes


# --- refusals --------------------------------------------------------------------------------------------------------


def test_formats_without_a_kernel_say_which_have_one() -> None:
    with pytest.raises(ValueError, match=r"sign, int4, .* got int5"):
        moved(some_codes("int5"))
    with pytest.raises(ValueError, match="one of 16 levels that all rows share"):
        moved(some_codes("table4"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_devices_without_kernels_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device must be .* got '{device}'; the CPU takes codes as they are"):
        kernels.to_device(some_codes(), device)


def test_another_dim_is_refused_with_both_shapes() -> None:
    codes, wanted = moved(some_codes()), r"must be \(m, 80\) for these codes, got \(2, 63\)"
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.topk(some_queries(dim=63), codes, 3, ids=np.arange(N))
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.score_rows(some_queries(dim=63), codes, np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match=f"queries {wanted}"):
        kernels.scores(some_queries(dim=63), codes)
    with pytest.raises(ValueError, match=f"x {wanted}"):
        kernels.matmul(tensor(some_values(dim=63)), codes)


@pytest.mark.parametrize("move", [np.asarray, tensor])
def test_ids_filters_and_rows_of_another_type_or_shape_are_refused(move: Any) -> None:
    codes, queries, ids = moved(some_codes()), some_queries(), np.arange(N)
    with pytest.raises(ValueError, match=r"ids must be int64 \(40,\), got int32 \(40,\)"):
        kernels.topk(queries, codes, 3, ids=move(ids.astype(np.int32)))
    with pytest.raises(ValueError, match=r"allow must be bool \(40,\), got bool \(39,\)"):
        kernels.topk(queries, codes, 3, ids=move(ids), allow=move(np.ones(39, bool)))
    with pytest.raises(ValueError, match="k must be an integer from 0 on, got -1"):
        kernels.topk(queries, codes, -1, ids=move(ids))
    with pytest.raises(ValueError, match=r"rows must lie in \[-1, 40\), got 0 to 40"):
        kernels.score_rows(queries, codes, np.array([[0], [40]]))


def test_activations_elsewhere_than_the_codes_are_refused_with_both_places_and_the_way_out() -> None:
    codes, x = some_codes(), some_values()
    on_device = f"a tensor on {moved(codes).device}, where the codes are, got"
    with pytest.raises(ValueError, match=rf"x must be {on_device} ndarray on cpu; pass torch.as_tensor\(x, device="):
        kernels.matmul(x, moved(codes))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=rf"x must be {on_device} Tensor on meta"):
        kernels.matmul(torch.zeros((2, DIM), device="meta"), moved(codes))
    there = tensor(x)
    in_numpy = f"a NumPy array on cpu, where the codes are, got Tensor on {there.device}"
    with pytest.raises(ValueError, match=rf"x must be {in_numpy}; pass x.numpy\(force=True\)"):
        kernels.matmul(there, codes)  # type: ignore[call-overload]


def test_activations_of_another_type_or_shape_are_refused() -> None:
    codes, x = moved(some_codes()), tensor(some_values())
    for wrong in (x.half(), x.double(), x[0]):
        with pytest.raises(ValueError, match=r"x must be float32 \(m, 80\), got float\d\d \("):
            kernels.matmul(wrong, codes)


def test_roundings_that_codes_do_not_allow_are_refused() -> None:
    x = tensor(some_values())
    with pytest.raises(ValueError, match='activations must be "float32" for e4m3 codes'):
        kernels.matmul(x, moved(some_codes("e4m3")), activations="int8")
    with pytest.raises(ValueError, match="codes without blocks"):
        kernels.matmul(x, moved(some_codes()), activations="int8-block")


def test_a_linear_layer_gives_on_a_device_the_bits_that_it_gives_here() -> None:
    values = np.random.default_rng(2).standard_normal((N, DIM)).astype(np.float32)
    codes = dataclasses.replace(encode(values, SCHEMES["int4g32"]), offset=np.arange(N, dtype=np.float32))
    layer, x = QuantLinear(codes, "int8"), torch.from_numpy(some_values(3))
    wanted = layer(x)
    layer.to(DEVICE)
    if DEVICE == "cpu":  # interpreted: a layer that is told to stay here takes the kernels of the CPU
        layer._placed = moved(codes)
    assert_same_bits(layer(x.to(DEVICE)).numpy(force=True), wanted.numpy())
