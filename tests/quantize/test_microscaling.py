"""Microscaling: block formats as a quantizer, and one matrix scale for rows that come later."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import FlatIndex
from qindex.quantize import Microscaling, blocks
from qindex.quantize.blocks import SCHEMES
from qindex.transform import Rotation
from qindex.types import Codes

FORMATS = ["mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "nvint4"]
every_format = pytest.mark.parametrize("format", FORMATS)


def rows_of(seed: int, n: int = 30, dim: int = 80) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@every_format
def test_the_codes_of_what_was_fitted_are_those_of_the_scheme(format: str) -> None:
    vectors = rows_of(0)
    ours = Microscaling(format).fit(vectors).quantize(vectors)  # type: ignore[arg-type]
    scheme = blocks.encode(vectors, SCHEMES[format])
    np.testing.assert_array_equal(ours.data, scheme.data)
    for a, b in zip(ours.scales, scheme.scales, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert ours.max_norm == scheme.max_norm


@every_format
def test_rotated_codes_are_those_of_rotated_vectors(format: str) -> None:
    vectors = rows_of(1)
    plain, turned = Microscaling(format), Microscaling(format, rotate=True, seed=4)  # type: ignore[arg-type]
    rows = Rotation(4).apply(vectors)
    np.testing.assert_array_equal(turned.fit(vectors).quantize(vectors).data, plain.fit(rows).quantize(rows).data)


@pytest.mark.parametrize("format", ["nvfp4", "nvint4"])
def test_rows_coded_later_lie_in_the_matrix_of_the_first(format: str) -> None:
    first, later = rows_of(2), rows_of(3) * np.float32(0.1)
    fitted = Microscaling(format).fit(first)  # type: ignore[arg-type]
    together = Codes.concatenate([fitted.quantize(first), fitted.quantize(later), fitted.quantize(first[:0])])
    np.testing.assert_array_equal(together.data, fitted.quantize(np.concatenate([first, later])).data)
    error = fitted.dequantize(fitted.quantize(later)) - later
    assert np.linalg.norm(error) < 0.15 * np.linalg.norm(later)


@pytest.mark.parametrize(("format", "largest"), [("nvfp4", 6), ("nvint4", 7)])
def test_blocks_beyond_those_seen_saturate(format: str, largest: int) -> None:
    fitted = Microscaling(format).fit(np.ones((1, 16), np.float32))  # type: ignore[arg-type]
    assert fitted.matrix_scale == pytest.approx(1 / largest / 448)
    np.testing.assert_allclose(fitted.dequantize(fitted.quantize(np.full((1, 16), 5, np.float32))), 1, rtol=1e-6)


@pytest.mark.parametrize("format", ["nvfp4", "nvint4"])
def test_fitting_to_zeros_leaves_room_for_other_vectors(format: str) -> None:
    fitted = Microscaling(format).fit(np.zeros((2, 16), np.float32))  # type: ignore[arg-type]
    np.testing.assert_allclose(fitted.dequantize(fitted.quantize(np.ones((1, 16), np.float32))), 1, rtol=1e-6)


def test_an_index_takes_rows_after_it_was_built() -> None:
    vectors = rows_of(5)
    index = FlatIndex.build(vectors[:20], Microscaling("nvfp4"))
    index.add(vectors[20:] * np.float32(1.5))
    found = index.search(vectors, 1).ids[:, 0]
    assert (found == np.arange(30)).mean() > 0.9


@pytest.mark.parametrize("format", ["mxint4", "mxfp4", "nvint4"])
def test_a_rotation_tames_a_dimension_that_stands_out(format: str) -> None:
    vectors = rows_of(6)
    vectors[:, 3] *= 30

    fellows = np.arange(32) != 3  # in its block

    def error(rotate: bool) -> float:
        fitted = Microscaling(format, rotate).fit(vectors)  # type: ignore[arg-type]
        return float(np.abs(fitted.dequantize(fitted.quantize(vectors)) - vectors)[:, :32][:, fellows].mean())

    assert error(True) < error(False)


@pytest.mark.parametrize(
    ("format", "size"),
    [("mxint8", 396), ("mxint6", 300), ("mxint4", 204), ("mxfp8", 396), ("mxfp6", 300), ("mxfp4", 204),
     ("nvfp4", 216), ("nvint4", 216)],
)  # fmt: skip
def test_a_row_takes_its_codes_and_a_byte_for_each_block(format: str, size: int) -> None:
    quantizer = Microscaling(format).fit(rows_of(7, 10, 384))  # type: ignore[arg-type]
    assert quantizer.bytes_per_vector(384) == size
    assert quantizer.quantize(rows_of(7, 10, 384)).nbytes == 10 * size + (4 if format.startswith("nv") else 0)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"format must be one of mxint8, .*, got 'int4g32'"):
        Microscaling("int4g32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed changes nothing without rotate=True, got 3"):
        Microscaling(seed=3)
    with pytest.raises(ValueError, match=r"matrix_scale must be .* None but for nvfp4 and nvint4"):
        Microscaling("mxint8", matrix_scale=1.0)
    with pytest.raises(ValueError, match=r'matrix goes with schemes of outer="matrix", got 1\.0'):
        blocks.encode(rows_of(8), SCHEMES["mxint8"], 1.0)
