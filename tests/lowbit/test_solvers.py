"""Solvers: which leave less error, that they hold for any scheme, and what they make of odd layers."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qindex import io
from qindex.formats import E4M3, E8M0, FLOAT16, HALF3, HALF4, INT2, INT3, INT4, INT8, SIGN, TABLE3, TERNARY
from qindex.lowbit.solvers import GPTQ, HQQ, Nearest, Scaled, Solver, error
from qindex.lowbit.statistics import Collector, LayerStatistics
from qindex.quantize.blocks import SCHEMES, Scheme, decode, encode
from qindex.quantize.lloyd_max import table
from qindex.threads import set_threads, threads
from qindex.types import Codes

SCHEMES_OF_ALL_KINDS = {
    **SCHEMES,
    "int2 affine": Scheme(INT2, 64, FLOAT16, affine=True),
    "half3 affine": Scheme(HALF3, 32, affine=True),
    "half4": Scheme(HALF4, 64, FLOAT16),
    "int4, wide blocks": Scheme(INT4, 192, FLOAT16, affine=True),
    "int4, super blocks": Scheme(INT4, 16, E4M3, outer=64),
    "int3, power of two": Scheme(INT3, 32, E8M0),
    "levels of its own": Scheme(TABLE3, 64, FLOAT16, table=tuple(table(3).tolist())),
    "signs": Scheme(SIGN, 32, FLOAT16),
    "ternary": Scheme(TERNARY, 64, FLOAT16),
}
INT2_GROUPS, INT3_GROUPS, INT4_GROUPS = (Scheme(format, 64, FLOAT16, affine=True) for format in (INT2, INT3, INT4))
SOLVERS: dict[str, Solver] = {
    "nearest": Nearest(),
    "clip": Nearest(clip=True),
    "hqq": HQQ(),
    "gptq": GPTQ(),
    "gptq in order": GPTQ(inner=HQQ(), order=True),
    "scaled": Scaled(inner=Nearest()),
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES_OF_ALL_KINDS.values(), ids=SCHEMES_OF_ALL_KINDS)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
few = settings(deadline=None, max_examples=8)


def layer(n: int = 96, dim: int = 200, seed: int = 0) -> tuple[NDArray[np.float32], LayerStatistics]:
    """Weights with a few large ones, and correlated inputs of unequal channels."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(5, (n, dim)) * 0.05
    mixing = rng.standard_normal((dim, dim)) / np.sqrt(dim) + np.eye(dim)
    x = rng.standard_normal((1000, dim)) @ mixing * rng.lognormal(0, 1, dim)
    return weight.astype(np.float32), statistics_of(x.astype(np.float32))


def statistics_of(x: NDArray[np.float32], max_dim: int = 8192) -> LayerStatistics:
    collector = Collector(max_dim)
    collector.add("layer", x)
    return collector.take()["layer"]


def same(a: Codes, b: Codes) -> bool:
    return a.is_like(b) and a.max_norm == b.max_norm and all(map(np.array_equal, a.rowwise, b.rowwise))


@pytest.fixture
def thread_count() -> Iterator[int]:
    count = threads.count
    yield count
    set_threads(count)


# --- orderings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [INT2_GROUPS, INT3_GROUPS, INT4_GROUPS], ids=["int2", "int3", "int4"])
def test_what_a_solver_knows_more_leaves_less_error(scheme: Scheme) -> None:
    weight, statistics = layer()
    nearest, clipped, with_diagonal, fitted, scaled, fed_back = (
        error(weight, solver.solve(weight, scheme, given), statistics)
        for solver, given in [
            (Nearest(), None), (Nearest(clip=True), None), (Nearest(clip=True), statistics), (HQQ(), None),
            (Scaled(), statistics), (GPTQ(), statistics),
        ]
    )  # fmt: skip
    assert fed_back < scaled <= with_diagonal < clipped < nearest
    assert fed_back < fitted < nearest
    assert fed_back < 0.75 * with_diagonal


@every_scheme
def test_searches_are_never_worse_than_rounding_to_nearest(scheme: Scheme) -> None:
    weight, statistics = layer()
    rows = weight.astype(np.float64)

    def squares(codes: Codes, weights: Any = 1.0) -> NDArray[np.float64]:
        """Of each block."""
        off = (decode(codes) - rows) ** 2 * weights
        block = scheme.block or off.shape[1]
        return np.add.reduceat(off, np.arange(0, off.shape[1], block), axis=1)

    nearest = Nearest().solve(weight, scheme)
    for found in (Nearest(clip=True).solve(weight, scheme), HQQ().solve(weight, scheme)):
        assert np.all(squares(found) <= squares(nearest) * 1.0001)
    counts = statistics.diagonal / statistics.diagonal.mean() + 0.01
    found = Nearest(clip=True).solve(weight, scheme, statistics)
    assert np.all(squares(found, counts) <= squares(nearest, counts) * 1.0001)


@every_scheme
def test_error_feedback_pays_with_any_scheme(scheme: Scheme) -> None:
    weight, statistics = layer(n=48)
    fed_back = error(weight, GPTQ(damping=0.1, inner=HQQ()).solve(weight, scheme, statistics), statistics)
    assert fed_back < error(weight, HQQ().solve(weight, scheme), statistics)


@every_solver
def test_more_bits_leave_less_error(solver: Solver) -> None:
    weight, statistics = layer()
    schemes = [INT2_GROUPS, INT3_GROUPS, INT4_GROUPS, Scheme(INT8, 64, FLOAT16, affine=True)]
    errors = [error(weight, solver.solve(weight, scheme, statistics), statistics) for scheme in schemes]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_grids_of_later_blocks_make_up_for_the_errors_of_earlier_ones_across_lazy_parts() -> None:
    weight, statistics = layer(dim=400)  # more than are fed back together
    for block in (32, 96, 128, 192):
        scheme = Scheme(INT3, block, FLOAT16, affine=True)
        clipped = error(weight, Nearest(clip=True).solve(weight, scheme, statistics), statistics)
        assert error(weight, GPTQ().solve(weight, scheme, statistics), statistics) < 0.6 * clipped


def test_gptq_is_the_textbook_loop() -> None:
    weight, statistics = layer(n=5, dim=40)
    scheme = SCHEMES["int4"]
    codes = GPTQ(inner=Nearest()).solve(weight, scheme, statistics)
    assert statistics.hessian is not None
    hessian = statistics.hessian + 0.01 * statistics.diagonal.mean() * np.eye(40)
    left, wanted = weight.astype(np.float64), np.zeros((5, 40))
    assert codes.scale is not None
    step = codes.scale.astype(np.float64)
    for k in range(40):
        inverse = np.linalg.inv(hessian[k:, k:])  # of the columns that are left
        wanted[:, k] = np.clip(np.rint(left[:, k] / step), -7, 7) * step
        left[:, k:] -= np.outer((left[:, k] - wanted[:, k]) / inverse[0, 0], inverse[0])
    np.testing.assert_allclose(decode(codes), wanted, rtol=1e-6)


# --- laws ------------------------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("solver", [Nearest(), Nearest(clip=True), HQQ(), GPTQ(inner=Nearest())])
def test_what_can_be_stored_is_kept(scheme: Scheme, solver: Solver) -> None:
    weight, statistics = layer(n=20)
    stored = decode(encode(weight, scheme))
    stored = decode(encode(stored, scheme))  # symmetric signs and e4m3 trees settle
    assert error(stored, solver.solve(stored, scheme, statistics), statistics) <= max(
        1e-5, 1.5 * error(stored, encode(stored, scheme), statistics)
    )


@every_scheme
@pytest.mark.parametrize("solver", [Nearest(clip=True), HQQ(), GPTQ()])
def test_weights_times_a_power_of_two_have_the_same_levels(scheme: Scheme, solver: Solver) -> None:
    weight, statistics = layer(n=20)
    if scheme.affine:
        weight = np.rint(weight * 1000) / np.float32(1000)
    codes, doubled = solver.solve(weight, scheme, statistics), solver.solve(weight * 4, scheme, statistics)
    np.testing.assert_array_equal(codes.data, doubled.data)
    np.testing.assert_array_equal(decode(codes) * 4, decode(doubled))


@every_solver
@pytest.mark.parametrize("scheme", [INT3_GROUPS, SCHEMES["nvfp4"]], ids=["int3", "nvfp4"])
def test_equal_inputs_give_equal_bytes_with_any_number_of_threads(
    solver: Solver, scheme: Scheme, thread_count: int
) -> None:
    weight, statistics = layer(n=1500 if isinstance(solver, Nearest | HQQ) else 60)  # threads work on parts of these
    set_threads(1)
    one = solver.solve(weight, scheme, statistics)
    set_threads(3)
    assert same(one, solver.solve(weight, scheme, statistics))


@pytest.mark.parametrize("solver", [Nearest(clip=True), HQQ()])
@pytest.mark.parametrize("scheme", [INT3_GROUPS, SCHEMES["int4"], SCHEMES["nf4dq"]], ids=["int3", "int4", "nf4dq"])
def test_a_row_does_not_depend_on_the_others(solver: Solver, scheme: Scheme) -> None:
    weight, _ = layer(n=1500)  # more than are worked on at once
    whole = solver.solve(weight, scheme)
    for rows in (slice(0, 1), slice(654, 658), slice(1499, 1500)):
        alone = solver.solve(weight[rows], scheme)
        assert all(map(np.array_equal, alone.rowwise, whole[rows].rowwise))


@every_scheme
@given(
    weight=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.sampled_from([1, 15, 16, 40, 130])),
        elements=st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1e-30, -1e-42, 7.0]),
    )
)
@few
def test_any_weights_have_finite_codes_within_their_range(scheme: Scheme, weight: NDArray[np.float32]) -> None:
    statistics = statistics_of(np.ones((3, weight.shape[1]), np.float32))
    for solver in (Nearest(clip=True), HQQ(), GPTQ()):
        decoded = decode(solver.solve(weight, scheme, statistics))
        assert decoded.shape == weight.shape
        assert np.isfinite(decoded).all()


# --- odd layers ------------------------------------------------------------------------------------------------------


@every_solver
@pytest.mark.parametrize("scheme", [INT2_GROUPS, INT4_GROUPS, SCHEMES["mxfp4"]], ids=["int2", "int4", "mxfp4"])
def test_zero_rows_and_constant_blocks_stay_what_they_are(solver: Solver, scheme: Scheme) -> None:
    weight, statistics = layer(n=8)
    weight[1] = 0
    weight[2] = 0.5
    decoded = decode(solver.solve(weight, scheme, statistics))
    np.testing.assert_array_equal(decoded[1], 0)
    if not isinstance(solver, Scaled):
        np.testing.assert_allclose(decoded[2], 0.5, rtol=1e-3)
    assert error(weight[1:2], solver.solve(weight[1:2], scheme, statistics), statistics) == 0


def test_dead_channels_are_rounded_like_others_and_pass_no_error_on() -> None:
    weight, _ = layer(n=30, dim=128)
    x = np.random.default_rng(3).standard_normal((500, 128)).astype(np.float32)
    x[:, 10:30] = 0
    other = weight.copy()
    other[:, 10:30] *= np.float32(0.9)
    scheme = SCHEMES["int4"]
    weight[:, 100] = other[:, 100] = 1  # all rows keep their scale
    codes, changed = (GPTQ(inner=Nearest()).solve(each, scheme, statistics_of(x)) for each in (weight, other))
    decoded, live = decode(codes), np.r_[0:10, 30:128]
    np.testing.assert_array_equal(decoded[:, live], decode(changed)[:, live])
    np.testing.assert_array_equal(decoded[:, 10:30], decode(encode(weight, scheme))[:, 10:30])


@pytest.mark.parametrize("size", [1e-12, 1e-6])
def test_channels_that_hardly_carry_anything_leave_scales_that_float16_holds(size: float) -> None:
    weight, _ = layer()
    x = np.random.default_rng(3).standard_normal((300, weight.shape[1])).astype(np.float32)
    x[:, ::7] *= size
    codes = Scaled(Nearest(clip=True)).solve(weight, Scheme(INT4, 64, FLOAT16, affine=True), statistics_of(x))
    assert np.isfinite(decode(codes)).all()


@every_solver
def test_a_layer_whose_inputs_are_all_zero_is_still_quantized(solver: Solver) -> None:
    weight, _ = layer(n=8)
    statistics = statistics_of(np.zeros((5, 200), np.float32))
    codes = solver.solve(weight, INT4_GROUPS, statistics)
    assert error(weight, codes) < 0.02
    assert error(weight, codes, statistics) == 0


def test_inputs_fewer_than_channels_are_damped_until_they_can_be_solved() -> None:
    weight, _ = layer(n=8)
    x = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    statistics = statistics_of(x)
    codes = GPTQ(damping=1e-12).solve(weight, INT3_GROUPS, statistics)
    assert error(weight, codes, statistics) < error(weight, Nearest().solve(weight, INT3_GROUPS), statistics)


def test_a_hessian_that_no_damping_cures_is_an_error() -> None:
    weight, statistics = layer(n=4, dim=16)
    hopeless = np.full((16, 16), 1e12) * np.where(np.eye(16), 1e-12, 1)
    broken = dataclasses.replace(statistics, hessian=hopeless)
    with pytest.raises(ValueError, match="Hessian that damping makes positive definite, but"):
        GPTQ(damping=1e-9).solve(weight, INT4_GROUPS, broken)


@pytest.mark.parametrize("solver", [GPTQ(), Scaled()])
def test_solvers_that_need_statistics_name_the_way_out(solver: Solver) -> None:
    weight, _ = layer(n=4)
    unreached = LayerStatistics(0, np.zeros(200), np.zeros(200, np.float32), np.zeros((200, 200)))
    for statistics in (None, unreached):
        with pytest.raises(ValueError, match="got none: calibrate with text that reaches the layer"):
            solver.solve(weight, INT4_GROUPS, statistics)


def test_gptq_says_that_a_diagonal_is_not_enough_and_others_take_it() -> None:
    weight, _ = layer(n=4)
    x = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    wide = statistics_of(x, max_dim=100)
    with pytest.raises(ValueError, match=r"for GPTQ, got only its diagonal: .* a max_dim no less than its width"):
        GPTQ().solve(weight, INT4_GROUPS, wide)
    for solver in (Nearest(clip=True), Scaled()):
        assert error(weight, solver.solve(weight, INT4_GROUPS, wide), wide) < 0.02


@pytest.mark.parametrize("solver", [Nearest(clip=True), HQQ()])
def test_solvers_without_need_of_statistics_take_an_unreached_layer(solver: Solver) -> None:
    weight, _ = layer(n=4)
    unreached = LayerStatistics(0, np.zeros(200), np.zeros(200, np.float32), np.zeros((200, 200)))
    assert same(solver.solve(weight, INT4_GROUPS, unreached), solver.solve(weight, INT4_GROUPS))


@every_solver
def test_weights_and_statistics_that_do_not_fit_are_errors(solver: Solver) -> None:
    weight, statistics = layer(n=4)
    bad = weight.copy()
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"weight must be finite .* row 2 has NaN or infinity"):
        solver.solve(bad, INT4_GROUPS, statistics)
    with pytest.raises(ValueError, match="weight must have at least one row"):
        solver.solve(weight[:0], INT4_GROUPS, statistics)
    if solver not in (Nearest(), HQQ()):
        with pytest.raises(ValueError, match="statistics must be of the 100 columns of weight, got 200"):
            solver.solve(weight[:, :100], INT4_GROUPS, statistics)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="damping must be a float above 0, up to 1, got 0"):
        GPTQ(damping=0)
    with pytest.raises(TypeError, match="inner must be Nearest or HQQ, got GPTQ"):
        GPTQ(inner=GPTQ())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inner must be Nearest, HQQ or GPTQ, got Scaled"):
        Scaled(inner=Scaled())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clip must be True or False, got 1"):
        Nearest(clip=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="order must be True or False, got 1"):
        GPTQ(order=1)  # type: ignore[arg-type]


# --- column scales and errors ----------------------------------------------------------------------------------------


def test_column_scales_undo_the_factors_and_are_counted_in_the_error() -> None:
    weight, statistics = layer()
    codes = Scaled().solve(weight, INT3_GROUPS, statistics)
    columns = codes.column_scale
    assert columns is not None
    assert columns.max() > 1.5
    assert columns.max() * columns.min() == pytest.approx(1, rel=1e-5)
    off = decode(codes).astype(np.float64) - weight
    assert statistics.hessian is not None
    rows = weight.astype(np.float64)
    wanted = np.trace(off @ statistics.hessian @ off.T) / np.trace(rows @ statistics.hessian @ rows.T)
    assert error(weight, codes, statistics) == pytest.approx(wanted, rel=1e-9)
    norms = np.linalg.norm(decode(codes) / columns, axis=1)  # max_norm is that before column scales
    assert norms.max() <= codes.max_norm * 1.00001


def test_the_error_uses_what_statistics_there_are() -> None:
    weight, statistics = layer(n=6)
    codes = encode(weight, INT2_GROUPS)
    off = (decode(codes).astype(np.float64) - weight) ** 2
    squares = weight.astype(np.float64) ** 2
    assert error(weight, codes) == pytest.approx(off.sum() / squares.sum())
    diagonal = dataclasses.replace(statistics, hessian=None)
    assert error(weight, codes, diagonal) == pytest.approx(
        (off @ statistics.diagonal).sum() / (squares @ statistics.diagonal).sum()
    )
    with pytest.raises(ValueError, match="codes must have the 3 rows of weight, got 6"):
        error(weight[:3], codes)


def test_solvers_are_saved_and_loaded(tmp_path: Path) -> None:
    for solver in (*SOLVERS.values(), Scaled(inner=GPTQ(damping=0.1, inner=HQQ()))):
        io.save(tmp_path / "solver", solver)
        assert io.load(tmp_path / "solver") == solver
