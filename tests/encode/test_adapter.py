"""Adapters: what each kind recovers, that every index and quantizer takes their queries, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qindex
from qindex import Adapter, FlatIndex, GraphIndex, IVFIndex, fit_adapter, io
from qindex.encode.adapter import KINDS, simplex
from qindex.io import FormatError
from qindex.types import Quantizer

few = settings(deadline=None, max_examples=30, derandomize=True)

QUANTIZERS = [
    qindex.Float32(), qindex.Float16(), qindex.Float8("e4m3"), qindex.Int8(), qindex.Int8(scale="dim"), qindex.Int4(),
    qindex.Binary(), qindex.RaBitQ(bits=2), qindex.LloydMax(bits=3), qindex.Spectral(bytes=24),
    qindex.Microscaling("mxint8"),
    qindex.Chain(qindex.PCA(dim=16), qindex.Float8("e4m3")),
]  # fmt: skip


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors of length 1 about 20 centres."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((20, dim))[rng.integers(0, 20, n)] + 0.7 * rng.standard_normal((n, dim)))


def orthonormal(rows: int, columns: int, seed: int = 1) -> NDArray[np.float64]:
    """A (rows, columns) matrix, of which the shorter side is orthonormal."""
    tall = np.linalg.qr(np.random.default_rng(seed).standard_normal((max(rows, columns), min(rows, columns))))[0]
    return tall if rows >= columns else tall.T


# --- laws ------------------------------------------------------------------------------------------------------------


@given(old_dim=st.integers(1, 24), new_dim=st.integers(1, 24), seed=st.integers(0, 99))
@few
def test_orthogonal_finds_the_rotation_between_two_spaces(old_dim: int, new_dim: int, seed: int) -> None:
    turn = orthonormal(new_dim, old_dim, seed)
    inner = np.random.default_rng(seed).standard_normal((40, min(old_dim, new_dim)))
    new = (inner @ turn.T if old_dim < new_dim else inner).astype(np.float32)
    adapter = fit_adapter((new @ turn).astype(np.float32), new)
    asked = new[:7]
    assert (adapter.new_dim, adapter.old_dim) == (new_dim, old_dim)
    np.testing.assert_allclose(adapter.apply(asked), asked @ turn, atol=1e-5)


@given(old_dim=st.integers(1, 24), new_dim=st.integers(1, 24), seed=st.integers(0, 99))
@few
def test_linear_finds_any_linear_map(old_dim: int, new_dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, matrix = rng.standard_normal((200, new_dim)).astype(np.float32), rng.standard_normal((new_dim, old_dim))
    adapter = fit_adapter((new @ matrix).astype(np.float32), new, kind="linear")
    asked = rng.standard_normal((7, new_dim)).astype(np.float32)
    expected = asked @ matrix
    if adapter.length is not None:
        expected *= adapter.length / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(adapter.apply(asked), expected, atol=1e-3)


@pytest.mark.parametrize("n", [2, 3, 17, 256])
def test_all_vertices_of_a_simplex_are_alike(n: int) -> None:
    products = simplex(n).astype(np.float64) @ simplex(n).T
    np.testing.assert_allclose(products, np.where(np.eye(n) > 0, 1, -1 / (n - 1)), atol=1e-6)


# --- searching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_queries_of_a_rotated_space_find_what_those_of_the_old_one_find(quantizer: Quantizer) -> None:
    old, turn = clustered(600, 32), orthonormal(40, 32)
    queries = clustered(20, 32, seed=7)
    index = FlatIndex.build(old, quantizer)
    adapted = fit_adapter(old, unit(old @ turn.T)).apply(unit(queries @ turn.T))
    np.testing.assert_allclose(adapted, queries, atol=1e-6)
    found, wanted = index.search(adapted, 10), index.search(queries, 10)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    assert (found.ids[:, :1] == wanted.ids[:, :1]).mean() >= 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index_type", [FlatIndex, IVFIndex, GraphIndex])
def test_each_kind_finds_most_of_what_the_old_encoder_finds(index_type: type[qindex.FlatIndex], kind: str) -> None:
    rng = np.random.default_rng(3)
    texts, asked = clustered(1500, 24), clustered(50, 24, seed=8)
    matrix = orthonormal(40, 24) + 0.05 * rng.standard_normal((40, 24))
    adapter = fit_adapter(texts[:500], unit(texts[:500] @ matrix.T), kind=kind)
    index = index_type.build(texts, qindex.Int8())
    found = index.search(adapter.apply(unit(asked @ matrix.T)), 10).ids
    wanted = index.search(asked, 10).ids
    recall = (found[:, :, None] == wanted[:, None]).any(axis=2).mean()
    assert recall >= {"orthogonal": 0.7, "linear": 0.9, "simplex": 0.5}[kind], recall


def test_mapped_rows_have_the_length_that_old_vectors_had() -> None:
    old, new = clustered(200, 16), clustered(200, 24, seed=2)
    for kind in KINDS:
        for length in (1.0, 5.0):
            adapter = fit_adapter(length * old, 3 * new, kind=kind)
            np.testing.assert_allclose(np.linalg.norm(adapter.apply(new), axis=1), length, rtol=1e-5)
            np.testing.assert_array_equal(adapter.apply(np.zeros((1, 24), np.float32)), 0)
    several = old * np.linspace(1, 2, 200, dtype=np.float32)[:, None]
    assert fit_adapter(several, new).length is None
    old[5] = 0  # what encoders make of a text of which they know no word
    assert fit_adapter(old, new).length == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_direction_that_no_text_has_changes_nothing(kind: str) -> None:
    old = clustered(200, 16)
    new = old.copy()
    new[:, 3] = 0
    asked = new[:5].copy()
    asked[:, 3] = 1
    adapter = fit_adapter(old, new, kind=kind)
    np.testing.assert_allclose(adapter.apply(asked), adapter.apply(new[:5]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_mapped_alike_in_any_company(kind: str) -> None:
    old, new = clustered(300, 16), clustered(300, 24, seed=2)
    adapter = fit_adapter(old, new, kind=kind)
    whole = adapter.apply(new)
    assert adapter.apply(new[:0]).shape == (0, 16)
    for row in range(20):
        np.testing.assert_array_equal(adapter.apply(new[row : row + 1]), whole[row : row + 1])


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_give_equal_files_that_come_back(kind: str, tmp_path: Path) -> None:
    old, new = clustered(300, 16), clustered(300, 24, seed=2)
    for name in ("a", "b"):
        io.save(tmp_path / name, fit_adapter(old, new, kind=kind, old_identity="first", new_identity="second"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    fitted, loaded = fit_adapter(old, new, kind=kind), qindex.load(tmp_path / "a", verify=True)
    assert (loaded.kind, loaded.old_identity, loaded.new_identity) == (kind, "first", "second")
    np.testing.assert_array_equal(loaded.apply(new), fitted.apply(new))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("matrix", np.full((3, 2), np.nan, np.float32), "matrix must be finite"),
        ("matrix", np.zeros((3, 2), np.float64), "matrix must be float32"),
        ("matrix", np.zeros(3, np.float32), r"matrix must be float32 \(new_dim, old_dim\)"),
        ("matrix", None, "got None"),
        ("kind", "magic", "kind must be one of"),
        ("length", -1.0, "length must be a positive float"),
        ("length", "long", "length must be a positive float"),
        ("old_identity", 3, "old_identity must be"),
    ],
)
def test_a_file_with_a_field_that_cannot_be_is_refused(field: str, value: object, message: str, tmp_path: Path) -> None:
    adapter = Adapter(np.zeros((3, 2), np.float32), "linear")
    object.__setattr__(adapter, field, value)
    io.save(tmp_path / "hostile", adapter)
    with pytest.raises(FormatError, match=message):
        qindex.load(tmp_path / "hostile")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_vectors_that_cannot_be_of_the_same_texts_are_refused() -> None:
    old, new = clustered(100, 16), clustered(100, 24, seed=2)
    with pytest.raises(ValueError, match="of the same texts, got 100 and 99 rows"):
        fit_adapter(old, new[:99])
    with pytest.raises(ValueError, match="at least 8 rows for dims 16 and 24, got 7; encode more texts"):
        fit_adapter(old[:7], new[:7])
    with pytest.raises(ValueError, match="at least 4 rows for dims 1 and 24, got 3"):
        fit_adapter(old[:3, :1], new[:3])
    with pytest.raises(ValueError, match="old must hold vectors other than zeros"):
        fit_adapter(np.zeros_like(old), new)
    new[4, 2] = np.nan
    with pytest.raises(ValueError, match=r"new must be finite .* but row 4 has NaN"):
        fit_adapter(old, new)


def test_settings_that_cannot_be_are_refused() -> None:
    old, new = clustered(100, 16), clustered(100, 24, seed=2)
    with pytest.raises(
        ValueError, match="kind must be one of orthogonal, linear, simplex, got 'liner'; near is linear"
    ):
        fit_adapter(old, new, kind="liner")
    with pytest.raises(ValueError, match="seed must be"):
        fit_adapter(old, new, seed=-1)
    with pytest.raises(TypeError, match="new_identity must be the encoder's identity, a string, or None, got int"):
        fit_adapter(old, new, new_identity=3)
    with pytest.raises(ValueError, match=r"queries must be \(n, 24\), got \(100, 16\)"):
        fit_adapter(old, new).apply(old)
