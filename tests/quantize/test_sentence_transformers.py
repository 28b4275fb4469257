"""What sentence-transformers quantized comes over: the same signs, and values within half a step."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex.quantize import Binary, Int8


@pytest.fixture(scope="module")
def quantize_embeddings() -> Any:
    return pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings


@pytest.fixture
def vectors() -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).standard_normal((400, 40)).astype(np.float32)
    vectors[:, 3] = 0.25  # real models have constant dimensions
    return vectors


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_imported_integers_decode_to_within_half_a_step(
    precision: str, vectors: NDArray[np.float32], quantize_embeddings: Any
) -> None:
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    quantizer, codes = Int8.from_sentence_transformers(quantize_embeddings(vectors, precision, ranges), ranges)
    step = (ranges[1] - ranges[0]) / 255
    error = np.abs(quantizer.dequantize(codes) - vectors)
    assert np.all(error <= step / 2 + 1e-6)
    np.testing.assert_array_equal(quantizer.dequantize(codes)[:, 3], vectors[:, 3])


@pytest.mark.parametrize("dim", [8, 40])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_imported_bits_are_the_signs(
    precision: str, dim: int, vectors: NDArray[np.float32], quantize_embeddings: Any
) -> None:
    vectors = vectors[:, :dim]
    quantizer, codes = Binary.from_sentence_transformers(quantize_embeddings(vectors, precision), dim)
    np.testing.assert_array_equal(np.sign(quantizer.dequantize(codes)), np.sign(vectors))
    np.testing.assert_allclose(np.linalg.norm(quantizer.dequantize(codes), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(codes.data, Binary().fit(vectors).quantize(vectors).data)


def test_foreign_bit_order_is_reversed() -> None:
    embeddings = np.array([[0b1100_0000, 0b1000_0000]], np.uint8)
    _quantizer, codes = Binary.from_sentence_transformers(embeddings, dim=9)
    np.testing.assert_array_equal(codes.data, [[0b0000_0011, 0b1]])
    _quantizer, shifted = Binary.from_sentence_transformers((embeddings - np.uint8(128)).view(np.int8), dim=9)
    np.testing.assert_array_equal(shifted.data, codes.data)


def test_foreign_integers_keep_their_order() -> None:
    ranges = np.array([[-1.0], [1.0]], np.float32)
    unsigned = np.array([[0], [128], [255]], np.uint8)
    _quantizer, codes = Int8.from_sentence_transformers(unsigned, ranges)
    np.testing.assert_array_equal(codes.data.view(np.int8), [[-128], [0], [127]])


def test_embeddings_of_another_shape_or_type_are_refused() -> None:
    ranges = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    with pytest.raises(TypeError, match=r"embeddings must be int8 or uint8 .* got int16"):
        Int8.from_sentence_transformers(np.zeros((3, 2), np.int16), ranges)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ranges must be \(2, 3\).* got \(2, 2\)"):
        Int8.from_sentence_transformers(np.zeros((3, 3), np.int8), ranges)
    with pytest.raises(ValueError, match="minima first"):
        Int8.from_sentence_transformers(np.zeros((3, 2), np.int8), ranges[::-1])
    with pytest.raises(TypeError, match=r"embeddings must be int8 or uint8 .* got float32"):
        Binary.from_sentence_transformers(np.zeros((3, 2), np.float32), 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"embeddings must be \(n, 3\) for dim 17, got \(3, 2\)"):
        Binary.from_sentence_transformers(np.zeros((3, 2), np.uint8), 17)
