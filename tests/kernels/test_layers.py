"""Attention, normalisation and activation functions: what they compute, and that nothing around a row changes it.

These checks run on the path of this process; `test_paths.py` runs them again on the others. Norms equal the NumPy
reference to the bit, on principle; what multiplies and adds in one step does but for rare roundings.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_rows import assert_same_bits
from numpy.typing import NDArray

from qindex import layers
from qindex.kernels import set_threads
from qindex.threads import threads
from qindex_kernels import reference_layers as reference
from qindex_kernels.cpu import attend as compiled
from qindex_kernels.cpu import layers as compiled_layers

few = settings(deadline=None, max_examples=60, derandomize=True)
Floats = NDArray[np.float32]
Segments = list[tuple[int, int, int, int]]

NAMES = ("gelu", "gelu_tanh", "silu", "tanh")
SIZES = (0, 1, 7, 15, 16, 17, 31, 33, 384, 1001)


def numbers(seed: int, *shape: int, size: float = 1.0) -> Floats:
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture
def _restore_threads() -> Iterator[None]:
    before = threads.count
    yield
    set_threads(before)


# --- activation functions --------------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-40, 0.6249, 0.625, -0.625, 5.6, -5.7, 87.3, -87.4, 1e4, -1e4, 3e38, -3e38])


def normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


EXACT: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * normal_cdf(x),
    "gelu_tanh": lambda x: x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * sigmoid(x),
    "tanh": math.tanh,
}


def applied(module: Any, name: str, x: Floats) -> Floats:
    out = np.full_like(x, np.nan)
    with np.errstate(over="ignore"):
        getattr(module, name)(x, out)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_off_by_no_more_than_they_state(name: str) -> None:
    x = np.concatenate([numbers(0, 20_000, size=3), SPECIAL.astype(np.float32), np.linspace(-6, 6, 20_001)])
    x = x.astype(np.float32)
    exact = np.array([EXACT[name](float(number)) for number in x])
    found = applied(compiled_layers, name, x)
    assert np.isfinite(found).all()
    assert (np.abs(found - exact) <= 2e-7 * np.abs(x) + 1e-44).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", SIZES)
def test_functions_equal_the_reference(name: str, n: int) -> None:
    x = np.concatenate([numbers(n, n, size=2), SPECIAL.astype(np.float32)])[:n]
    assert_same_bits(applied(compiled_layers, name, x), applied(reference, name, x))


@pytest.mark.parametrize("name", NAMES)
def test_a_number_has_one_result_wherever_it_lies(name: str) -> None:
    x = numbers(1, 100, size=2)
    whole = applied(compiled_layers, name, x)
    for start, stop in itertools.combinations(range(0, 101, 9), 2):
        assert_same_bits(applied(compiled_layers, name, x[start:stop].copy()), whole[start:stop])


def test_exp_is_within_two_units_in_the_last_place_and_vanishes_below_the_normal_numbers() -> None:
    x = np.concatenate([-np.geomspace(1e-6, 87.3, 100_000), np.linspace(-87.3, 0, 100_001)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    error = np.abs(reference.exp_of_negative(x) - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() < 2
    assert reference.exp_of_negative(np.array([-87.4, -1e4, -np.inf, 0.0], np.float32)).tolist() == [0, 0, 0, 1]


# --- norms -----------------------------------------------------------------------------------------------------------


def normed(module: Any, x: Floats, weight: Floats, bias: Floats | None) -> list[Floats]:
    layer, rms = np.full_like(x, np.nan), np.full_like(x, np.nan)
    module.layer_norm(x, weight, bias, 1e-5, layer)
    module.rms_norm(x, weight, 1e-5, rms)
    return [layer, rms]


@pytest.mark.parametrize("dim", [1, 3, 15, 16, 17, 32, 33, 100, 384, 1537])
@pytest.mark.parametrize("m", [0, 1, 2, 7, 9])
def test_norms_equal_the_reference_to_the_bit(m: int, dim: int) -> None:
    x = numbers(m, m, dim, size=2) + np.float32(3)
    for weight, bias in ((numbers(1, dim), numbers(2, dim)), (numbers(1, dim), None)):
        for found, wanted in zip(
            normed(compiled_layers, x, weight, bias), normed(reference, x, weight, bias), strict=True
        ):
            assert_same_bits(found, wanted)


def test_a_layer_norm_has_mean_zero_and_variance_one_and_an_rms_norm_mean_square_one() -> None:
    layer, rms = normed(compiled_layers, numbers(0, 50, 384, size=3) + np.float32(10), np.ones(384, np.float32), None)
    np.testing.assert_allclose(layer.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(layer.var(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose((rms**2).mean(axis=1), 1, atol=1e-4)


def test_a_row_is_normed_alike_alone_and_among_others() -> None:
    x, weight, bias = numbers(0, 13, 77), numbers(1, 77), numbers(2, 77)
    for i, whole in enumerate(normed(compiled_layers, x, weight, bias)):
        for row in range(13):
            assert_same_bits(normed(compiled_layers, x[row : row + 1], weight, bias)[i], whole[row : row + 1])


# --- attention -------------------------------------------------------------------------------------------------------


def attended(
    module: Any, q: Floats, k: Floats, v: Floats, segments: Segments, left: int = -1, right: int = -1
) -> Floats:
    out = np.zeros(q.shape, np.float32)
    module.attend(q, k, v, np.array(segments, np.int64), q.shape[2] ** -0.5, left, right, out)
    return out


def assert_attended_alike(found: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-7)
    assert np.count_nonzero(found != wanted) <= 1e-3 * found.size


def drawn(t: int, s: int, heads: int, kv_heads: int, dim: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    return numbers(seed, t, heads, dim), numbers(seed + 1, s, kv_heads, dim), numbers(seed + 2, s, kv_heads, dim)


SEGMENTS = [(70, 37, 0, 37), (3, 1, 50, 40), (110, 0, 0, 5), (10, 50, 30, 50), (112, 5, 10, 33), (118, 8, 90, 3)]
WINDOWS = [(-1, -1), (-1, 0), (7, 0), (0, 0), (3, 4), (20, 18), (-1, 5), (6, -1)]


@pytest.mark.parametrize(("left", "right"), WINDOWS)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 32), (6, 2, 64), (3, 1, 50), (1, 1, 1), (2, 1, 80)])
def test_attention_equals_the_reference_in_any_window(
    heads: int, kv_heads: int, dim: int, left: int, right: int
) -> None:
    """Sequences in no order, with gaps, fewer queries than keys, and more."""
    arrays = drawn(130, 100, heads, kv_heads, dim)
    found = attended(compiled, *arrays, SEGMENTS, left, right)
    assert_attended_alike(found, attended(reference, *arrays, SEGMENTS, left, right))


@given(
    queries=st.integers(0, 40), keys=st.integers(0, 70), dim=st.integers(1, 256),
    left=st.integers(-1, 40), right=st.integers(-1, 40), group=st.integers(1, 5),
)  # fmt: skip
@few
def test_attention_of_any_size_equals_the_reference(
    queries: int, keys: int, dim: int, left: int, right: int, group: int
) -> None:
    arrays = drawn(queries, keys, group, 1, dim)
    segments = [(0, queries, 0, keys)]
    found = attended(compiled, *arrays, segments, left, right)
    assert_attended_alike(found, attended(reference, *arrays, segments, left, right))


def test_attention_is_the_softmax_of_scaled_scores_times_values() -> None:
    q, k, v = drawn(40, 40, 2, 2, 32)
    scores = np.einsum("ihd,jhd->hij", q.astype(np.float64), k) / math.sqrt(32)
    scores = np.where(np.tri(40, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    exact = np.einsum("hij,jhd->ihd", weights / weights.sum(axis=2, keepdims=True), v)
    np.testing.assert_allclose(attended(compiled, q, k, v, [(0, 40, 0, 40)], right=0), exact, atol=2e-6)


@given(keys=st.integers(1, 90), size=st.floats(0, 50), constant=st.floats(-10, 10, width=32), left=st.integers(-1, 30))
@few
def test_values_that_are_all_alike_come_back(keys: int, size: float, constant: float, left: int) -> None:
    q, k, v = drawn(keys, keys, 2, 1, 24)
    found = attended(compiled, np.float32(size) * q, k, np.full_like(v, constant), [(0, keys, 0, keys)], left, 0)
    np.testing.assert_allclose(found, constant, rtol=1e-6 * keys**0.5 + 1e-6, atol=1e-30)


def test_scores_of_any_size_give_numbers() -> None:
    q, k, v = drawn(30, 30, 1, 1, 16)
    for size in (1e-30, 1e2, 1e4, 1e8):
        for sign in (1, -1):
            found = attended(compiled, np.float32(sign * size) * np.abs(q), np.abs(k), v, [(0, 30, 0, 30)])
            assert np.isfinite(found).all()
            assert (np.abs(found) <= np.abs(v).max() * 1.001).all()


@pytest.mark.parametrize(("left", "right"), [(-1, 0), (9, 0), (5, 3), (-1, -1)])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 32), (6, 2, 24), (3, 1, 64), (4, 1, 17)])
def test_a_query_has_one_result_alone_and_in_any_company(
    heads: int, kv_heads: int, dim: int, left: int, right: int
) -> None:
    """A decoding step, with the keys there are so far, gives what the whole sequence gives; so do chunks of it."""
    n = 61
    q, k, v = drawn(n, n, heads, kv_heads, dim)
    whole = attended(compiled, q, k, v, [(0, n, 0, n)], left, right)
    for first, last in [(i, i + 1) for i in range(n)] + [(0, 13), (13, 47), (30, 61)]:
        keys = last if right == 0 else n
        if right != 0:  # the last queries are those whose place does not move with the keys
            first, last = first, n
        some = q[first:last]
        found = attended(compiled, some, k[:keys], v[:keys], [(0, last - first, 0, keys)], left, right)
        assert_same_bits(found, whole[first:last])
    others = drawn(100, 100, heads, kv_heads, dim, seed=9)
    q, k, v = (np.concatenate([other, own]) for other, own in zip(others, (q, k, v), strict=True))
    found = attended(compiled, q, k, v, [(100, n, 100, n), (0, 1, 2, 77), (5, 95, 0, 100)], left, right)
    assert_same_bits(found[100:], whole)


def test_heads_and_tokens_may_lie_anywhere_in_memory() -> None:
    q, k, v = drawn(30, 30, 4, 2, 32)
    wanted = attended(compiled, q, k, v, [(0, 30, 0, 30)])

    def moved(x: Floats) -> Floats:
        """The same numbers with heads first, in the middle of an array."""
        room = np.full((x.shape[1] + 2, x.shape[0] + 3, x.shape[2] + 5), np.nan, np.float32)
        view = room[1:-1, 2:-1, 3:-2].transpose(1, 0, 2)
        view[...] = x
        return view

    assert_same_bits(attended(compiled, moved(q), moved(k), moved(v), [(0, 30, 0, 30)]), wanted)


# --- through the door ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_restore_threads")
def test_layers_do_not_depend_on_threads() -> None:
    x, weight, bias = numbers(0, 4000, 400), numbers(1, 400), numbers(2, 400)
    q, k, v = drawn(600, 600, 6, 3, 64)
    lengths = np.array([300, 1, 40, 100, 20, 9, 80, 50])
    ends = np.cumsum(lengths)
    many = np.stack([ends - lengths, lengths, ends - lengths, lengths], axis=1)
    one = np.array([[0, 500, 50, 500]])
    results = []
    for count in (1, 2, 3):
        set_threads(count)
        found = [function(x) for function in (layers.gelu, layers.silu, layers.tanh)]
        found += [layers.gelu(x, "tanh"), layers.layer_norm(x, weight, bias, 1e-6), layers.rms_norm(x, weight, 1e-6)]
        for some, right in itertools.product((many, one), (0, -1)):
            found.append(layers.attend(q, k, v, some, scaling=0.125, right=right))
        results.append(found)
    for found in results[1:]:
        for some, wanted in zip(found, results[0], strict=True):
            assert_same_bits(some, wanted)


def test_tokens_in_no_sequence_and_queries_without_keys_are_zeros() -> None:
    q, k, v = drawn(20, 20, 2, 1, 16)
    segments = np.array([[4, 3, 0, 5], [10, 6, 2, 2], [17, 2, 3, 0]])
    out = layers.attend(q, k, v, segments, scaling=1.0, right=0)
    assert (np.abs(out).max(axis=(1, 2)) > 0).nonzero()[0].tolist() == [4, 5, 6, 14, 15]
    assert not layers.attend(q, k, v, np.empty((0, 4), np.int64), scaling=1.0).any()
    assert layers.attend(q[:0], k[:0], v[:0], np.array([[0, 0, 0, 0]]), scaling=1.0).shape == (0, 2, 16)


def test_arrays_of_any_shape_are_welcome_and_empty_ones_too() -> None:
    x = numbers(0, 3, 5, 7)
    assert_same_bits(layers.silu(x).reshape(-1), layers.silu(x.reshape(-1)))
    for shape in ((0,), (0, 4), (2, 0)):
        assert layers.gelu(np.empty(shape, np.float32)).shape == shape
    assert layers.layer_norm(np.empty((0, 4), np.float32), numbers(0, 4), None, 1e-5).shape == (0, 4)


def test_what_no_kernel_may_see_is_refused() -> None:
    q, k, v = drawn(10, 12, 4, 2, 16)
    good = np.array([[0, 10, 0, 12]])

    def attend(q: Any = q, k: Any = k, v: Any = v, segments: Any = good, **options: Any) -> None:
        layers.attend(q, k, v, segments, **{"scaling": 1.0, **options})

    attend()
    wrong: list[tuple[str, dict[str, Any]]] = [
        (r"queries must be float32 \(tokens, heads, dim\)", {"q": q.astype(np.float64)}),
        (r"keys must be float32", {"k": k[:, :, ::2]}),
        (r"keys and values must be \(S, kv_heads, 16\)", {"v": v[:-1]}),
        (r"heads must be a multiple of kv_heads, got 3 and 2", {"q": q[:, :3]}),
        (r"dim of a head must be from 1 to 256, got 257", dict(zip("qkv", drawn(10, 12, 4, 2, 257), strict=True))),
        (r"segments must be C-contiguous int64 \(n, 4\)", {"segments": good.astype(np.int32)}),
        (r"segments must lie within 10 queries and 12 keys", {"segments": np.array([[1, 10, 0, 12]])}),
        (r"segments must lie within", {"segments": np.array([[0, 10, 2**62, 2**62]])}),
        (r"segments must lie within", {"segments": np.array([[-1, 3, 0, 12]])}),
        (r"segments must not share queries", {"segments": np.array([[5, 5, 0, 5], [0, 6, 0, 12]])}),
        (r"left must be an integer from 0 on, or -1", {"left": -2}),
        (r"right must be an integer from 0 on, or -1", {"right": 1.5}),
        (r"scaling must be finite", {"scaling": math.inf}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            attend(**arguments)
    x, weight = numbers(0, 3, 8), numbers(1, 8)
    with pytest.raises(ValueError, match=r"x must be C-contiguous float32 \(m, dim\), got float32 \(8, 3\)"):
        layers.layer_norm(x.T, weight, None, 1e-5)
    with pytest.raises(ValueError, match=r"weight must be contiguous float32 \(8,\), got float32 \(7,\)"):
        layers.rms_norm(x, weight[:7], 1e-5)
    with pytest.raises(ValueError, match=r"bias must be contiguous float32 \(8,\), got float64 \(8,\)"):
        layers.layer_norm(x, weight, weight.astype(np.float64), 1e-5)
    with pytest.raises(ValueError, match=r"eps must be larger than 0, got 0"):
        layers.rms_norm(x, weight, 0.0)
    with pytest.raises(ValueError, match=r"x must be C-contiguous float32"):
        layers.gelu(x[:, ::2])
    with pytest.raises(ValueError, match=r"approximate must be 'none' or 'tanh', got 'erf'"):
        layers.gelu(x, "erf")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with Linux's mprotect")
@pytest.mark.parametrize("at_end", [True, False])
def test_no_layer_reads_or_writes_outside_its_arrays(at_end: bool) -> None:
    from fences import fenced

    for n in SIZES[1:]:
        x, out, weight = (fenced(numbers(n, n), at_end) for _ in range(3))
        for name in NAMES:
            getattr(compiled_layers, name)(x, out)
        compiled_layers.layer_norm(x.reshape(1, n), weight, weight, 1e-5, out.reshape(1, n))
        compiled_layers.rms_norm(x.reshape(1, n), weight, 1e-5, out.reshape(1, n))
    for dim, t, s in itertools.product((1, 15, 16, 33, 64), (1, 5, 13), (1, 16, 37)):
        q, k, v = (fenced(x, at_end) for x in drawn(t, s, 2, 1, dim))
        out, segments = fenced(np.zeros_like(q), at_end), fenced(np.array([[0, t, 0, s]]), at_end)
        for left, right in ((-1, -1), (-1, 0), (2, 1)):
            compiled.attend(q, k, v, segments, 1.0, left, right, out)
