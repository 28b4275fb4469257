"""Laws of all transforms, and what each learns, keeps and refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import qindex
from qindex import io
from qindex.transform import OPQ, PCA, Center, Rotation, Standardize, Transform, Truncate, Whiten
from qindex.transform.affine import Affine

INVERTIBLE = [Center(), Standardize(), Whiten(), Whiten(0.0), Whiten(1), PCA(kept=1.0), OPQ(1), Rotation()]
SAME = [Center("same"), Standardize("same"), Whiten(queries="same")]
LOSSY = [PCA(dim=1), PCA(kept=0.5), Truncate(1), Truncate(1, renormalize=False)]
UNFITTED = [t for t in [*INVERTIBLE, *SAME, *LOSSY] if not t.fitted]
ALL = [*INVERTIBLE, *SAME, *LOSSY]

few = settings(deadline=None, max_examples=40, derandomize=True)
numbers = st.floats(-100, 100, width=32, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1.0, 2.0**-20])
matrices = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=numbers)


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    """300 rows whose dimensions have means and correlate."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((300, 24)) @ rng.standard_normal((24, 24)) + rng.standard_normal(24)).astype(np.float32)


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [*INVERTIBLE, *LOSSY], ids=repr)
@given(vectors=matrices, data=st.data())
@few
def test_prepared_queries_score_what_is_undone_whatever_was_quantized(
    transform: Transform, vectors: NDArray[np.float32], data: st.DataObject
) -> None:
    queries = data.draw(hnp.arrays(np.float32, (2, vectors.shape[1]), elements=numbers))
    fitted = transform.fit(vectors)
    coded = np.round(fitted.apply(vectors))  # a quantizer's work
    prepared, undone = fitted.prepare(queries), fitted.undo(coded).astype(np.float64)
    found = prepared.values.astype(np.float64) @ coded.T.astype(np.float64) + prepared.offset[:, None]
    reach = np.linalg.norm(queries.astype(np.float64), axis=1).max() * (np.abs(vectors).max() + 1) * len(coded.T)
    np.testing.assert_allclose(found, queries.astype(np.float64) @ undone.T, atol=1e-5 * reach + 1e-30)


@pytest.mark.parametrize("transform", SAME, ids=repr)
def test_by_the_rule_same_queries_become_what_documents_become(
    transform: Transform, vectors: NDArray[np.float32]
) -> None:
    fitted = transform.fit(vectors)
    prepared = fitted.prepare(vectors[:9])
    np.testing.assert_array_equal(prepared.values, fitted.apply(vectors[:9]))
    np.testing.assert_array_equal(prepared.offset, 0)


@pytest.mark.parametrize("transform", INVERTIBLE, ids=repr)
@given(vectors=matrices)
@few
def test_undo_gives_back_the_vectors_of_any_rank(transform: Transform, vectors: NDArray[np.float32]) -> None:
    fitted = transform.fit(vectors)
    if isinstance(transform, PCA):  # the axes that hold the variance of these vectors, and no others
        assert fitted.dim_out(vectors.shape[1]) <= max(1, min(vectors.shape[0] - 1, vectors.shape[1]))
    atol = 1e-5 * float(np.abs(vectors).max()) * vectors.shape[1] + 1e-30
    np.testing.assert_allclose(fitted.undo(fitted.apply(vectors)), vectors, atol=atol)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_a_row_is_transformed_alike_in_any_company(transform: Transform, vectors: NDArray[np.float32]) -> None:
    fitted, order = transform.fit(vectors), np.random.default_rng(1).permutation(300)
    whole = fitted.apply(vectors)
    np.testing.assert_array_equal(fitted.apply(vectors[order]), whole[order])
    for row in range(20):
        np.testing.assert_array_equal(fitted.apply(vectors[row : row + 1]), whole[row : row + 1])
        np.testing.assert_array_equal(
            fitted.prepare(vectors[row : row + 1]).values, fitted.prepare(vectors).values[row : row + 1]
        )


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_fit_returns_a_fitted_transform_of_the_protocol(transform: Transform, vectors: NDArray[np.float32]) -> None:
    fitted = transform.fit(vectors)
    assert fitted.fitted
    assert isinstance(fitted, Transform)
    assert type(fitted) is type(transform)
    assert fitted.queries == transform.queries
    assert fitted.apply(vectors).shape == (300, fitted.dim_out(24))
    assert fitted.undo(fitted.apply(vectors[:0])).shape == (0, 24)


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_equal_vectors_give_equal_files_that_come_back(
    transform: Transform, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        io.save(tmp_path / name, transform.fit(vectors.copy()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = qindex.load(tmp_path / "a", verify=True)
    assert repr(loaded) == repr(transform.fit(vectors))
    np.testing.assert_array_equal(loaded.apply(vectors), transform.fit(vectors).apply(vectors))
    io.save(tmp_path / "unfitted", transform)
    assert qindex.load(tmp_path / "unfitted").fitted == transform.fitted


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", UNFITTED, ids=repr)
def test_use_before_fit_says_how_to_fit(transform: Transform, vectors: NDArray[np.float32]) -> None:
    for use in (transform.apply, transform.prepare, transform.undo):
        with pytest.raises(ValueError, match=r"must be fitted before use: call fitted = transform\.fit"):
            use(vectors[:, :1])


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_no_rows_and_numbers_that_are_not_finite_are_refused(
    transform: Transform, vectors: NDArray[np.float32]
) -> None:
    with pytest.raises(ValueError, match=r"vectors must have at least one row, got \(0, 24\)"):
        transform.fit(vectors[:0])
    fitted = transform.fit(vectors)
    vectors[7, 3] = np.nan
    for use, name in ((transform.fit, "vectors"), (fitted.apply, "vectors"), (fitted.prepare, "queries")):
        with pytest.raises(ValueError, match=f"{name} must be finite .* row 7 has NaN or infinity"):
            use(vectors)


@pytest.mark.parametrize("transform", UNFITTED, ids=repr)
def test_another_dim_than_the_fitted_one_says_both(transform: Transform, vectors: NDArray[np.float32]) -> None:
    fitted = transform.fit(vectors)
    with pytest.raises(ValueError, match=r"vectors must be \(n, 24\), got \(300, 5\)"):
        fitted.apply(vectors[:, :5])
    with pytest.raises(ValueError, match=r"queries must be \(n, 24\), got \(300, 5\)"):
        fitted.prepare(vectors[:, :5])
    with pytest.raises(ValueError, match="dim must be 24, as fitted, got 5"):
        fitted.dim_out(5)


def test_settings_that_cannot_be_say_what_can() -> None:
    wrong: list[tuple[Any, str]] = [
        (lambda: Center("both"), 'queries must be "inverse" or "same", got \'both\''),  # type: ignore[arg-type]
        (lambda: PCA(), "PCA takes either dim or kept, got dim=None and kept=None"),
        (lambda: PCA(dim=3, kept=0.5), "PCA takes either dim or kept, got dim=3 and kept=0.5"),
        (lambda: PCA(0.9), r"dim must be a positive integer, got 0.9; a share is PCA\(kept=0.9\)"),  # type: ignore[arg-type]
        (lambda: PCA(kept=1.5), r"kept must be a share of the variance in \(0, 1\], got 1.5"),
        (lambda: Whiten(-0.1), r"shrinkage must be in \[0, 1\], got -0.1"),
        (lambda: Truncate(0), "dim must be a positive integer, got 0"),
        (lambda: PCA(dim=4).fit(np.ones((2, 3), np.float32)), "dim must be at most that of the vectors, 3, got 4"),
        (lambda: Truncate(4).fit(np.ones((2, 3), np.float32)), "dim must be at most that of the vectors, 3, got 4"),
        (lambda: PCA(dim=4).dim_out(3), "dim must be at least 4 for .*, got 3"),
        (lambda: Truncate(4).dim_out(3), "dim must be at least 4, got 3"),
        (lambda: Center().dim_out(0), "dim must be positive, got 0"),
    ]
    for make, message in wrong:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="renormalize must be True or False, got 1"):
        Truncate(4, renormalize=1)  # type: ignore[arg-type]


def test_a_file_cannot_bring_parts_that_do_not_fit() -> None:
    row, pair = np.ones(3, np.float32), np.ones(2, np.float32)
    wrong = [
        ((row, pair), r"mean must be \(dim,\) and scale \(1 to dim,\), got \(3,\) and \(2,\)"),
        ((row[:0], row[:0]), "mean must be"),
        ((row[None], row), "mean must be"),
        ((row, pair, np.ones((2, 4), np.float32)), r"axes must be \(2, 3\), got \(2, 4\)"),
        ((pair, row, np.ones((3, 2), np.float32)), "mean must be"),
        ((row, np.array([1, 0, 1], np.float32)), "scale must be positive, got 0.0"),
        ((row, np.array([1, np.inf, 1], np.float32)), "scale must be finite float32"),
        ((row.astype(np.float64), row), "mean must be finite float32, got float64"),
    ]
    for parts, message in wrong:
        with pytest.raises(ValueError, match=message):
            Affine(*parts)  # type: ignore[arg-type]


# --- what each learns -------------------------------------------------------------------------------------------------


def test_center_takes_the_mean_and_standardize_the_deviation() -> None:
    vectors = np.array([[1, 10], [3, 10], [5, 16]], np.float32)
    np.testing.assert_allclose(Center().fit(vectors).apply(vectors), [[-2, -2], [0, -2], [2, 4]])
    deviations = np.array([(8 / 3) ** 0.5, 8**0.5])
    np.testing.assert_allclose(
        Standardize().fit(vectors).apply(vectors), [[-2, -2], [0, -2], [2, 4]] / deviations, rtol=1e-6
    )


def test_constant_dimensions_are_kept_exactly(vectors: NDArray[np.float32]) -> None:
    vectors[:, 5], vectors[:, 7] = 0.1, -1e10
    for transform in (Center(), Standardize()):
        fitted = transform.fit(vectors)
        assert not fitted.apply(vectors)[:, [5, 7]].any()
        np.testing.assert_array_equal(fitted.undo(fitted.apply(vectors))[:, [5, 7]], vectors[:, [5, 7]])
    np.testing.assert_array_equal(Standardize().fit(vectors).affine.scale[[5, 7]], 1)  # type: ignore[union-attr]


def test_pca_finds_the_axes_and_points_them_one_way() -> None:
    along, across = np.array([0.6, -0.8]), np.array([0.8, 0.6])
    steps = np.array([[3, 1], [-3, 1], [3, -1], [-3, -1]])
    vectors = (steps @ [along, across] + [5, 7]).astype(np.float32)
    fitted = PCA(dim=2).fit(vectors)
    assert fitted.affine is not None
    np.testing.assert_allclose(fitted.affine.mean, [5, 7], rtol=1e-6)
    np.testing.assert_allclose(fitted.affine.axes, [-along, across], atol=1e-6)  # the largest number is positive
    np.testing.assert_allclose(PCA(dim=1).fit(vectors).apply(vectors)[:, 0], [-3, 3, -3, 3], atol=1e-5)
    one = PCA(dim=1).fit(vectors)
    np.testing.assert_allclose(one.undo(one.apply(vectors)), steps[:, :1] * along + [5, 7], atol=1e-5)


@pytest.mark.parametrize(("kept", "dim"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.94, 2), (0.96, 3), (1.0, 3)])
def test_pca_keeps_the_fewest_axes_that_hold_the_share(kept: float, dim: int) -> None:
    widths = np.diag([4.0, 3**0.5, 1.0, 0.0])  # variances 16 : 3 : 1 : 0
    vectors = np.concatenate([widths, -widths]).astype(np.float32)
    assert PCA(kept=kept).fit(vectors).dim_out(4) == dim


def test_whitened_vectors_have_unit_covariance(vectors: NDArray[np.float32]) -> None:
    white = Whiten(0.0).fit(vectors).apply(vectors)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(24), atol=1e-4)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)


def test_shrinkage_bounds_what_thin_axes_are_multiplied_by(vectors: NDArray[np.float32]) -> None:
    thin = vectors[:10]  # nine axes of 24 hold variance
    mean_variance = np.var(thin.astype(np.float64), axis=0).mean()
    fitted = Whiten(0.1).fit(thin)
    assert fitted.affine is not None
    assert fitted.affine.scale.min() >= (0.1 * mean_variance) ** 0.5 * (1 - 1e-6)
    np.testing.assert_array_equal(Whiten(0.0).fit(thin).affine.scale[9:], 1)  # type: ignore[union-attr]
    ball = Whiten(1).fit(thin)
    assert ball.affine is not None
    np.testing.assert_allclose(ball.affine.scale, mean_variance**0.5, rtol=1e-6)


def test_truncate_cuts_both_sides_and_renormalises_documents() -> None:
    vectors = np.array([[3, 4, 12], [0, 0, 1], [0, 2, 0]], np.float32)
    fitted = Truncate(2).fit(vectors)
    np.testing.assert_allclose(fitted.apply(vectors), [[0.6, 0.8], [0, 0], [0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(fitted.prepare(vectors).values, vectors[:, :2])
    np.testing.assert_allclose(fitted.undo(fitted.apply(vectors))[0], [0.6, 0.8, 0], rtol=1e-6)
    np.testing.assert_array_equal(Truncate(2, renormalize=False).fit(vectors).apply(vectors), vectors[:, :2])


# --- surprising vectors -----------------------------------------------------------------------------------------------

SURPRISES = {
    "one row": np.linspace(-1, 2, 24, dtype=np.float32)[None],
    "duplicate rows": np.tile(np.linspace(-1, 2, 24, dtype=np.float32), (5, 1)),
    "zeros": np.zeros((5, 24), np.float32),
    "fewer rows than dimensions": np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32),
    "denormals": (np.random.default_rng(0).standard_normal((50, 24)) * 1e-42).astype(np.float32),
    "huge norms": (np.random.default_rng(0).standard_normal((50, 24)) * 1e17).astype(np.float32),
    "an outlier dimension": np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32) * np.logspace(
        0, -6, 24, dtype=np.float32
    ),
}  # fmt: skip


@pytest.mark.parametrize("surprise", SURPRISES)
@pytest.mark.parametrize("transform", [*INVERTIBLE, *SAME], ids=repr)
def test_surprising_vectors_come_back(transform: Transform, surprise: str) -> None:
    vectors = SURPRISES[surprise]
    fitted = transform.fit(vectors)
    changed = fitted.apply(vectors)
    assert np.isfinite(changed).all()
    largest = float(np.abs(vectors).max())
    np.testing.assert_allclose(fitted.undo(changed), vectors, atol=1e-6 * largest * 24 + 1e-43)
    if not np.ptp(vectors, axis=0).any() and not isinstance(transform, Rotation):
        assert not changed.any()
        np.testing.assert_array_equal(fitted.undo(changed), vectors)


def test_numbers_beyond_float32_after_a_transform_are_an_error() -> None:
    fitted = Standardize("same").fit(np.array([[0, 1], [1e-30, 1]], np.float32))
    with pytest.raises(ValueError, match="transformed vectors must be finite with norms up to 1e"):
        fitted.apply(np.array([[1e10, 1]], np.float32))
    with pytest.raises(ValueError, match="transformed queries must be finite"):
        fitted.prepare(np.array([[1e10, 1]], np.float32))
