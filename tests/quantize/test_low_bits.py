"""What the quantizers of few bits make of hard vectors: every metric, every kernel, added to and saved."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex import FlatIndex, Int4, LloydMax, Microscaling, ProductQuantizer, RaBitQ, Spectral, kernels
from qindex.index.flat import Metric
from qindex.types import Quantizer

ALL = [
    *(RaBitQ(bits) for bits in range(1, 9)),
    *(LloydMax(bits) for bits in range(1, 5)),
    *(LloydMax(2, scale="least-error"), Int4("range"), Int4("optimal")),
    *(Microscaling(format) for format in ("mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nvint4")),
    *(Microscaling("mxint4", rotate=True, seed=1), Microscaling("nvfp4", rotate=True)),
    *(ProductQuantizer(1), ProductQuantizer(1, bits=4)),
]
every_quantizer = pytest.mark.parametrize("quantizer", ALL, ids=repr)
WIDE = [*ALL, Spectral(16), Spectral(22)]  # these need as many dimensions as they have bytes
every_wide_quantizer = pytest.mark.parametrize("quantizer", WIDE, ids=repr)
CENTRED = [quantizer for quantizer in WIDE if not isinstance(quantizer, Microscaling)]


def normal_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("dim", [1, 3, 100, 384])
@every_quantizer
def test_an_index_ranks_by_the_decoded_vectors_also_when_added_to_and_loaded(
    quantizer: Quantizer, dim: int, metric: Metric, tmp_path: Path
) -> None:
    vectors, queries = normal_rows(70, dim), normal_rows(5, dim, 1)
    index = FlatIndex.build(vectors[:50], quantizer, metric=metric)
    index.add(vectors[50:])
    index.save(tmp_path / "index")
    loaded = qindex.load(tmp_path / "index")
    found = index.search(queries, 70)
    for other in (
        loaded.search(queries, 70),
        FlatIndex.build(vectors, index.quantizer, metric=metric).search(queries, 70),
    ):
        np.testing.assert_array_equal(found.ids, other.ids)
        np.testing.assert_array_equal(found.scores, other.scores)

    def unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return rows / lengths if metric == "cosine" else rows.astype(np.float64)

    coded = index.quantizer.quantize(unit(vectors).astype(np.float32))
    decoded, asked = index.quantizer.dequantize(coded).astype(np.float64), unit(queries)
    wanted = asked @ decoded.T
    if metric == "l2":
        # Decoded vectors of unbiased codes are too long: distances take the true lengths.
        lengths = (vectors if getattr(index.quantizer, "unbiased", False) else decoded).astype(np.float64)
        wanted = 2 * wanted - (asked**2).sum(axis=1)[:, None] - (lengths**2).sum(axis=1)
    reach = np.linalg.norm(asked, axis=1).max() * np.linalg.norm(decoded, axis=1).max() + np.abs(wanted).max()
    np.testing.assert_allclose(found.scores, np.take_along_axis(wanted, found.ids, 1), atol=1e-5 * reach)


@pytest.mark.parametrize("dim", [1, 3, 100, 384])
@every_quantizer
def test_compiled_kernels_score_the_codes_as_numpy_does(quantizer: Quantizer, dim: int) -> None:
    vectors = normal_rows(200, dim)
    fitted = quantizer.fit(vectors)
    for m in (1, 9):
        assert kernels.agree(fitted.prepare(normal_rows(m, dim, 2)), fitted.quantize(vectors))


HARD = {
    "constant dimensions": lambda: np.where(np.arange(48) % 5 == 0, np.float32(0.25), normal_rows(40, 48)),
    "duplicate rows": lambda: np.repeat(normal_rows(4, 48), 10, axis=0),
    "equal rows": lambda: np.repeat(normal_rows(1, 48), 20, axis=0),
    "rows of equal numbers": lambda: np.repeat(normal_rows(40, 1), 48, axis=1),
    "zeros among others": lambda: normal_rows(40, 48) * (np.arange(40) % 3 > 0)[:, None].astype(np.float32),
    "fewer rows than dimensions": lambda: normal_rows(3, 48),
    "denormals": lambda: normal_rows(40, 48) * np.float32(1e-40),
    "tiny": lambda: normal_rows(40, 48) * np.float32(1e-25),
    "huge": lambda: normal_rows(40, 48) * np.float32(1e16),
    "an outlier dimension": lambda: normal_rows(40, 48) * np.where(np.arange(48) == 7, np.float32(1e4), np.float32(1)),
    "an outlier row": lambda: normal_rows(40, 48) * np.where(np.arange(40) == 7, 1e4, 1.0)[:, None].astype(np.float32),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HARD)
@every_wide_quantizer
def test_hard_vectors_are_scored_as_decoded_and_decoded_nearby(quantizer: Quantizer, name: str) -> None:
    vectors = np.ascontiguousarray(HARD[name](), np.float32)
    fitted = quantizer.fit(vectors)
    codes = fitted.quantize(vectors)
    decoded = fitted.dequantize(codes).astype(np.float64)
    assert np.isfinite(decoded).all()
    longest = np.linalg.norm(vectors.astype(np.float64), axis=1).max()
    assert np.linalg.norm(decoded - vectors, axis=1).max() <= 1.2 * longest
    queries = normal_rows(3, vectors.shape[1], 3)
    found = kernels.scores(fitted.prepare(queries), codes)
    reach = np.linalg.norm(queries, axis=1).max() * (np.linalg.norm(decoded, axis=1).max() + longest)
    np.testing.assert_allclose(found, queries @ decoded.T, atol=1e-5 * reach + 1e-38)


@pytest.mark.parametrize("length", [1e-18, 1e18])
@every_quantizer
def test_queries_may_be_as_long_or_as_short_as_the_vectors(quantizer: Quantizer, length: float) -> None:
    vectors = normal_rows(300, 48)
    vectors *= np.float32(0.999 * length / np.linalg.norm(vectors, axis=1).max())
    fitted = quantizer.fit(vectors)
    codes, queries = fitted.quantize(vectors), fitted.prepare(vectors[:9])
    scores = kernels.scores(queries, codes)
    assert np.isfinite(scores).all()
    found = kernels.topk(queries, codes, 5, ids=np.arange(300))
    np.testing.assert_array_equal(found.ids, np.lexsort((np.tile(np.arange(300), (9, 1)), -scores))[:, :5])
    assert kernels.agree(queries, codes)


@pytest.mark.parametrize("quantizer", CENTRED, ids=repr)
def test_a_row_at_the_mean_decodes_to_it(quantizer: Quantizer) -> None:
    vectors = np.repeat(normal_rows(1, 20), 5, axis=0)
    fitted = quantizer.fit(vectors)
    np.testing.assert_array_equal(fitted.dequantize(fitted.quantize(vectors)), vectors)


@pytest.mark.parametrize("quantizer", CENTRED, ids=repr)
def test_the_mean_of_vectors_far_from_the_origin_costs_no_bits(quantizer: Quantizer) -> None:
    vectors = normal_rows(60, 64)
    near, far = quantizer.fit(vectors), quantizer.fit(vectors + 100)
    error = np.linalg.norm(near.dequantize(near.quantize(vectors)) - vectors)
    far_error = np.linalg.norm(far.dequantize(far.quantize(vectors + 100)) - 100 - vectors)
    assert far_error < 1.1 * error + 0.01


@every_wide_quantizer
def test_equal_input_gives_equal_bytes_in_a_file(quantizer: Quantizer, tmp_path: Path) -> None:
    vectors = normal_rows(30, 40)
    for name in ("a", "b"):
        FlatIndex.build(vectors, quantizer).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
