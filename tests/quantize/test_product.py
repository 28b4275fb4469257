"""ProductQuantizer and OPQ: what codes mean, what is learnt, and that faiss is needed for nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex import OPQ, Chain, FlatIndex, ProductQuantizer, kernels
from qindex.formats import ONE_HOT4, ONE_HOT8
from qindex.types import BlockValues, Codes, Vectors

every_width = pytest.mark.parametrize("bits", [4, 8])


def correlated(n: int, dim: int, seed: int = 0) -> Vectors:
    """Normal rows with a spectrum that falls off, in axes of their own, about a mean."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * 0.9 ** np.arange(dim) @ axes + 0.3).astype(np.float32)


def error(quantizer: Any, vectors: Vectors) -> float:
    decoded = quantizer.dequantize(quantizer.quantize(vectors))
    return float(((decoded - vectors) ** 2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum())


# --- codes -----------------------------------------------------------------------------------------------------------


def by_hand() -> ProductQuantizer:
    """Three numbers in two parts; centroid c is (c, c) in the first part and (10 * c) in the second."""
    c = np.arange(16, dtype=np.float32)[:, None]
    return ProductQuantizer(2, bits=4, codebooks=np.hstack([c, c, 10 * c]))


def test_codes_are_numbers_of_the_nearest_centroids() -> None:
    codes = by_hand().quantize(np.array([[3.2, 2.9, 41], [0, 1, 500], [1, 2, 5]], np.float32))
    assert codes.format is ONE_HOT4
    assert codes.data.tolist() == [[0x43], [0xF0], [0x01]]  # of two equally near, the first
    decoded = by_hand().dequantize(codes)
    np.testing.assert_array_equal(decoded, [[3, 3, 40], [0, 0, 150], [1, 1, 0]])
    np.testing.assert_array_equal(codes.format.decode(codes.data, codes.dim)[0].nonzero()[0], [3, 16 + 4])


def test_a_query_becomes_its_products_with_all_centroids() -> None:
    prepared = by_hand().prepare(np.array([[1, 2, 3]], np.float32))
    np.testing.assert_array_equal(prepared.values, [[*(3 * np.arange(16)), *(30 * np.arange(16))]])
    assert prepared.offset.tolist() == [0]


@every_width
@pytest.mark.parametrize(("dim", "n_codes"), [(10, 3), (10, 10), (10, 1), (37, 5), (384, 48)])
def test_any_number_of_codes_up_to_dim_fits(bits: int, dim: int, n_codes: int) -> None:
    vectors, queries = correlated(40, dim), correlated(12, dim, 1)
    fitted = ProductQuantizer(n_codes, bits).fit(vectors)
    codes = fitted.quantize(vectors)
    assert codes.data.shape == (40, fitted.bytes_per_vector(dim)) == (40, -(-n_codes * bits // 8))
    decoded = fitted.dequantize(codes)
    np.testing.assert_allclose(kernels.scores(fitted.prepare(queries), codes), queries @ decoded.T, atol=1e-4)
    if bits == 8:
        np.testing.assert_array_equal(decoded, vectors)  # fewer rows than centroids


@every_width
def test_no_query_and_no_row_changes_with_its_company(bits: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-1, 2, (600, 40)).astype(np.float32)  # many are equally near to some centroids
    fitted = ProductQuantizer(10, bits).fit(vectors)
    codes, prepared = fitted.quantize(vectors), fitted.prepare(vectors[:70] / 3)
    for i in (0, 1, 69):
        np.testing.assert_array_equal(fitted.quantize(vectors[i : i + 1]).data, codes[i : i + 1].data)
        np.testing.assert_array_equal(fitted.prepare(vectors[i : i + 1] / 3).values, prepared.values[i : i + 1])
    order = rng.permutation(600)
    np.testing.assert_array_equal(fitted.quantize(vectors[order]).data, codes.data[order])


def test_one_hot_rows_round_to_the_largest_number() -> None:
    values = np.zeros((2, 32), np.float32)
    values[0, [3, 4]], values[0, 31], values[1, 16:] = 2, 1e-9, -1
    np.testing.assert_array_equal(ONE_HOT4.encode(values), [[0xF3], [0x00]])
    with pytest.raises(ValueError, match="dim must be a multiple of 16 for onehot4, got 33"):
        ONE_HOT4.row_bytes(33)
    with pytest.raises(ValueError, match="stands for 256 numbers: use decode"):
        _ = ONE_HOT8.levels


# --- learning --------------------------------------------------------------------------------------------------------


@every_width
def test_parts_of_few_different_values_are_kept_exactly(bits: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((15, 12)).astype(np.float32)[rng.integers(0, 15, 500)] * np.float32(1e4)
    vectors[:, :2] = 7  # constant dimensions
    fitted = ProductQuantizer(4, bits).fit(vectors)
    np.testing.assert_array_equal(fitted.dequantize(fitted.quantize(vectors)), vectors)


def test_more_different_values_than_centroids_are_clustered_even_if_only_just() -> None:
    vectors = np.repeat(np.arange(17, dtype=np.float32)[:, None], 3, axis=0)
    fitted = ProductQuantizer(1, bits=4).fit(vectors)
    assert np.abs(fitted.dequantize(fitted.quantize(vectors)) - vectors).max() <= 0.75


def test_learning_is_the_same_for_any_number_of_threads_and_another_for_another_seed() -> None:
    faiss = pytest.importorskip("faiss")
    vectors, threads = correlated(3000, 24), faiss.omp_get_max_threads()
    books = []
    for count in (1, 2, 4):
        faiss.omp_set_num_threads(count)
        books.append(ProductQuantizer(6, 8).fit(vectors).codebooks)
        assert faiss.omp_get_max_threads() == count
    faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(books[0], books[1])
    np.testing.assert_array_equal(books[0], books[2])
    other = ProductQuantizer(6, 8, seed=1).fit(vectors).codebooks
    assert other is not None
    assert (other != books[0]).any()


@pytest.mark.parametrize(("n_codes", "bits"), [(8, 8), (12, 4)])
def test_it_errs_as_little_as_faiss_does(n_codes: int, bits: int) -> None:
    faiss = pytest.importorskip("faiss")
    vectors, others = correlated(20_000, 48), correlated(5000, 48, 1)
    theirs = faiss.ProductQuantizer(48, n_codes, bits)
    theirs.train(vectors)
    wrong = ((theirs.decode(theirs.compute_codes(others)) - others) ** 2).sum()
    wrong /= ((others - others.mean(axis=0)) ** 2).sum()
    assert error(ProductQuantizer(n_codes, bits).fit(vectors), others) < 1.02 * wrong


@every_width
@pytest.mark.parametrize(("size", "shift"), [(1e-40, 0), (1e-20, 0), (1e15, 0), (1, 1e3)])
def test_vectors_of_any_size_and_far_from_zero_are_learnt_as_well(bits: int, size: float, shift: float) -> None:
    vectors = correlated(2000, 16)
    plain = error(ProductQuantizer(4, bits).fit(vectors), vectors)
    moved = (vectors.astype(np.float64) * size + shift).astype(np.float32)
    fitted = ProductQuantizer(4, bits).fit(moved)
    decoded = fitted.dequantize(fitted.quantize(moved)).astype(np.float64)
    found = ((decoded - moved) ** 2).sum() / ((moved.astype(np.float64) - moved.mean(axis=0, dtype=float)) ** 2).sum()
    assert found < 1.1 * plain


# --- OPQ -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_codes", [8, 7])
def test_opq_halves_the_error_where_dimensions_depend_on_each_other(n_codes: int) -> None:
    vectors, others = correlated(8000, 32), correlated(2000, 32, 1)
    plain = error(ProductQuantizer(n_codes, bits=4).fit(vectors), others)
    assert error(Chain(OPQ(n_codes), ProductQuantizer(n_codes, bits=4)).fit(vectors), others) < 0.5 * plain


def test_opq_gives_all_parts_about_the_same_product_of_variances() -> None:
    vectors = correlated(5000, 30)
    variances = OPQ(5).fit(vectors).apply(vectors).var(axis=0).reshape(5, 6)
    products = np.log(variances).sum(axis=1)
    assert np.ptp(products) < 0.5
    assert np.ptp(np.log(variances)) > 4  # as axes of large and of small variance have


@pytest.mark.parametrize("vectors", [np.ones((1, 9)), np.ones((20, 9)), correlated(3, 9), correlated(40, 9) * 1e-30])
def test_opq_of_few_rows_or_none_that_differ_is_a_rotation(vectors: NDArray[Any]) -> None:
    rows = vectors.astype(np.float32)
    fitted = OPQ(4).fit(rows)
    np.testing.assert_allclose(fitted.undo(fitted.apply(rows)), rows, rtol=1e-4, atol=1e-6 * np.abs(rows).max())
    assert fitted.affine is not None
    assert fitted.affine.axes is not None
    np.testing.assert_allclose(fitted.affine.axes @ fitted.affine.axes.T, np.eye(9), atol=1e-5)


# --- without faiss ---------------------------------------------------------------------------------------------------

WITHOUT_FAISS = """
import sys
import numpy as np
sys.modules["faiss"] = None
import qindex
index = qindex.load(sys.argv[1])
found = index.search(np.load(sys.argv[2]), 5)
index.add(np.load(sys.argv[2]))
print(found.ids.tolist(), found.scores.tobytes().hex())
try:
    qindex.ProductQuantizer(4).fit(np.ones((3, 8), np.float32))
except ImportError as error:
    print(error)
"""


def test_an_index_is_loaded_searched_and_added_to_without_faiss(tmp_path: Path) -> None:
    vectors, queries = correlated(500, 20), correlated(3, 20, 1)
    index = FlatIndex.build(vectors, Chain(OPQ(6), ProductQuantizer(6, bits=4)))
    index.save(tmp_path / "index")
    np.save(tmp_path / "queries.npy", queries)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FAISS, str(tmp_path / "index"), str(tmp_path / "queries.npy")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = index.search(queries, 5)
    assert done.stdout.splitlines() == [
        f"{found.ids.tolist()} {found.scores.tobytes().hex()}",
        "fitting a ProductQuantizer needs faiss: pip install 'qindex[faiss]'",
    ]


# --- refused ---------------------------------------------------------------------------------------------------------

BOOKS = np.zeros((16, 8), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits must be 4 or 8, got 5"),
        ({"n_codes": 0}, "n_codes must be a positive integer, got 0"),
        ({"n_codes": True}, "n_codes must be a positive integer, got True"),
        ({"n_codes": 257}, "n_codes must be at most 256 with 8 bits, got 257"),
        ({"n_codes": 4097, "bits": 4}, "n_codes must be at most 4096 with 4 bits, got 4097"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"n_codes": 4, "codebooks": BOOKS}, "codebooks must be float32 (256, dim) with a dim from 4 on, got float32"),
        ({"n_codes": 9, "bits": 4, "codebooks": BOOKS}, "codebooks must be float32 (16, dim) with a dim from 9 on"),
        ({"n_codes": 4, "bits": 4, "codebooks": BOOKS.astype("f8")}, "codebooks must be float32 (16, dim)"),
        ({"n_codes": 4, "bits": 4, "codebooks": 3}, "codebooks must be float32 (16, dim) with a dim from 4 on, got 3"),
        ({"n_codes": 4, "bits": 4, "codebooks": BOOKS + np.float32(np.nan)}, "codebooks must hold numbers up to 1e+18"),
    ],
)
def test_what_no_product_quantizer_has_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ProductQuantizer(**arguments)


def test_more_codes_than_dimensions_and_use_before_fit_are_refused() -> None:
    vectors = correlated(30, 8)
    for call in (ProductQuantizer(9).fit, OPQ(9).fit):
        with pytest.raises(ValueError, match="n_codes must be at most dim, 8, got 9"):
            call(vectors)
    with pytest.raises(ValueError, match="n_codes must be at most dim, 8, got 9"):
        ProductQuantizer(9).bytes_per_vector(8)
    for call in (ProductQuantizer(2).quantize, ProductQuantizer(2).prepare, OPQ(2).apply):
        with pytest.raises(ValueError, match="must be fitted before use"):
            call(vectors)
    with pytest.raises(ValueError, match="n_codes must be a positive integer, got 'two'"):
        OPQ("two")  # type: ignore[arg-type]


def test_codes_of_another_quantizer_are_refused() -> None:
    vectors = correlated(30, 8)
    fitted = ProductQuantizer(2).fit(vectors)
    for other in (ProductQuantizer(4), ProductQuantizer(2, bits=4), qindex.Int8()):
        with pytest.raises(ValueError, match="another made them"):
            fitted.dequantize(other.fit(vectors).quantize(vectors))


def test_codes_that_do_not_fit_their_dim_or_come_with_scales_are_refused() -> None:
    data = np.zeros((2, 3), np.uint8)
    Codes(data, ONE_HOT8, 768, 2.0)
    with pytest.raises(ValueError, match="dim must be a multiple of 256 for onehot8, got 767"):
        Codes(data, ONE_HOT8, 767, 2.0)
    with pytest.raises(ValueError, match=re.escape("data must be uint8 (n, 4) for 1024 numbers in onehot8")):
        Codes(data, ONE_HOT8, 1024, 2.0)
    scales = BlockValues(np.ones(1, np.float32), qindex.formats.FLOAT32, 768)
    for riding in ({"scales": (scales,)}, {"zero": scales}):
        with pytest.raises(ValueError, match="scales and zero must not be given with onehot8 codes"):
            Codes(data, ONE_HOT8, 768, 2.0, **riding)  # type: ignore[arg-type]


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_products_with_one_hot_codes_are_refused(activations: Any) -> None:
    codes = ProductQuantizer(2).fit(correlated(30, 8)).quantize(correlated(3, 8))
    with pytest.raises(ValueError, match="codes must hold numbers, got onehot8, which name centroids"):
        kernels.matmul(np.zeros((1, codes.dim), np.float32), codes, activations=activations)
