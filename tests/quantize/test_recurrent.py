"""Recurrent binarization: its codes by the formula, each row by itself, and what queries of both kinds score."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qindex
from qindex import FlatIndex, GraphIndex, IVFIndex, RecurrentBinary, kernels
from qindex.io import FormatError
from qindex.quantize.gaussian import uniform_step
from qindex.quantize.recurrent import BEYOND, RecurrentModel

DIM_IN = 24


def rows(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIM_IN)).astype(np.float32)


def made(bits: int, dim: int = 20, hidden: int = 0, symmetric: bool = False, group: int = 6) -> RecurrentBinary:
    """A model that nobody has trained: its maps are near what training starts from."""
    rng = np.random.default_rng(bits)
    axes = np.linalg.qr(rng.standard_normal((DIM_IN, DIM_IN)))[0][:dim]
    step = uniform_step(bits) if bits > 1 else 0.8

    def noisy(array: Any, size: float) -> NDArray[np.float32]:
        return (array + size * rng.standard_normal(np.shape(array))).astype(np.float32)

    groups = np.arange(dim) // group
    model = RecurrentModel(
        mean=noisy(np.zeros(DIM_IN), 0.2),
        encoder=noisy(axes / step, 0.02),
        bias=noisy(np.zeros(dim), 0.05),
        feedback=noisy(np.zeros((dim, dim)), 0.1) * (groups[None] < groups[:, None]).astype(np.float32),
        group=group,
        decoder=noisy(axes, 0.02),
        share=0.88 / step,
        gain=0.7,
        inner=noisy(np.zeros((hidden, DIM_IN + 1)), 0.2) if hidden else None,
        outer=noisy(np.zeros((dim, hidden)), 0.2) if hidden else None,
    )
    return RecurrentBinary(bits, dim, hidden, symmetric, model=model)


ALL = [
    made(1),
    made(2),
    made(3),
    made(4),
    made(2, hidden=7),
    made(2, dim=6),
    made(3, symmetric=True),
    made(2, group=20),
]
every = pytest.mark.parametrize("quantizer", ALL, ids=repr)


def binarized(model: RecurrentModel, bits: int, vector: NDArray[np.float64], stretch: float) -> NDArray[np.float64]:
    """The levels of one vector at one stretch, sign by sign, in float64."""
    read = model.encoder @ vector + model.bias
    if model.inner is not None and model.outer is not None:
        read = read + model.outer @ np.maximum(model.inner @ np.append(vector, 1), 0)
    step = 2.0 ** -max(bits - 2, 0)  # of b, by levels
    levels, errors = np.zeros(len(read)), np.zeros(len(read))
    for j, number in enumerate(read):
        v = number * stretch + model.feedback[j].astype(np.float64) @ errors
        b = np.float64(1 if v >= 0 else -1)
        for u in range(1, bits):
            b += 2.0**-u * (1 if v - b / step >= 0 else -1)
        levels[j] = b / step
        errors[j] = v - levels[j]
    return levels


@every
def test_a_code_is_that_of_the_formula_at_some_stretch_that_brings_it_as_near_as_three_steps_do(
    quantizer: RecurrentBinary,
) -> None:
    model = quantizer.model
    assert model is not None
    vectors = rows(40)
    for vector, code in zip(
        vectors.astype(np.float64) - model.mean, model.levels(vectors, quantizer.format), strict=True
    ):
        along = model.decoder.astype(np.float64) @ vector
        wanted = model.share * (along @ along + BEYOND * max(vector @ vector - along @ along, 0))
        stretch, tried = 1.0, []
        for _ in range(4):
            found = binarized(model, quantizer.bits, vector, stretch)
            tried.append((abs(wanted - along @ found), found))
            stretch *= np.clip(wanted / (along @ found), 0.5, 2) if along @ found > 0 else 1
        best = min(tried, key=lambda one: one[0])[1]
        assert np.mean(best == code) > 0.9  # a sign of nearly zero may fall either way in float32


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_point_along_rows_by_the_share_that_was_learnt(bits: int) -> None:
    quantizer = made(bits)
    model = quantizer.model
    assert model is not None
    vectors = rows(300)
    f = vectors - model.mean
    along = f @ model.decoder.T
    spanned = (along * along).sum(axis=1)
    length = spanned + BEYOND * np.maximum((f * f).sum(axis=1) - spanned, 0)
    found = (along * model.levels(vectors, quantizer.format)).sum(axis=1) / length
    assert np.mean(np.abs(found / model.share - 1)) < 0.05


@every
def test_scores_are_those_of_the_decoded_vectors(quantizer: RecurrentBinary) -> None:
    vectors, queries = rows(30), rows(5, 1)
    codes = quantizer.quantize(vectors)
    found = kernels.scores(quantizer.prepare(queries), codes)
    if quantizer.symmetric:
        model = quantizer.model
        assert model is not None
        offset = queries @ model.mean
        format = quantizer.format
        wanted = model.gain * model.levels(queries, format) @ model.levels(vectors, format).T + offset[:, None]
    else:
        wanted = queries @ quantizer.dequantize(codes).T
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@every
def test_a_row_has_the_same_code_alone_and_among_any_others(quantizer: RecurrentBinary) -> None:
    vectors = rows(1100)
    codes = quantizer.quantize(vectors)
    assert codes.nbytes == 1100 * quantizer.bytes_per_vector(DIM_IN)
    for chosen in (slice(0, 1), slice(511, 514), slice(700, 1100)):
        np.testing.assert_array_equal(quantizer.quantize(vectors[chosen]).data, codes.data[chosen])
    assert len(quantizer.quantize(vectors[:0])) == 0


@every
@pytest.mark.parametrize("kind", [FlatIndex, IVFIndex, GraphIndex])
def test_every_index_finds_by_these_codes_and_is_saved_with_them(
    quantizer: RecurrentBinary, kind: Any, tmp_path: Path
) -> None:
    vectors, queries = rows(200), rows(4, 1)
    index = kind.build(vectors, quantizer)
    index.add(rows(3, 2))
    index.save(tmp_path / "index")
    found, loaded = index.search(queries, 10), qindex.load(tmp_path / "index").search(queries, 10)
    np.testing.assert_array_equal(found.ids, loaded.ids)
    np.testing.assert_array_equal(found.scores, loaded.scores)
    if kind is FlatIndex:
        codes = quantizer.quantize(np.vstack([vectors, rows(3, 2)]))
        wanted = np.argsort(-kernels.scores(quantizer.prepare(queries), codes), axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(found.ids, wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits must be an integer from 1 to 4, got 0"),
        ({"bits": 5}, "bits must be an integer from 1 to 4, got 5"),
        ({"dim": 0}, "dim must be a positive integer"),
        ({"hidden": -1}, "hidden must be an integer of at least 0"),
        ({"model": made(2).model, "dim": 7}, "model must be learnt by fit for dim=7"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentBinary(**arguments)


def test_other_vectors_and_use_before_training_are_refused() -> None:
    with pytest.raises(ValueError, match="must be fitted before use"):
        RecurrentBinary().quantize(rows(3))
    with pytest.raises(ValueError, match=r"vectors must have dim 24|vectors must be .*24"):
        made(2).quantize(rows(3)[:, :20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 0}, "group must be a positive integer"),
        ({"share": 0.0}, "share must be finite and above 0"),
        ({"gain": -1.0}, "gain must be finite and above 0"),
        ({"mean": np.zeros(3, np.float32)}, "mean must be finite float32"),
        ({"bias": np.full(20, np.nan, np.float32)}, "bias must be finite float32"),
        ({"feedback": np.zeros((20, 19), np.float32)}, "feedback must be finite float32"),
        ({"inner": np.zeros((3, DIM_IN + 1), np.float32)}, "inner and outer must be given together"),
    ],
)
def test_a_model_of_a_hostile_file_is_refused(change: dict[str, Any], message: str) -> None:
    model = made(2).model
    assert model is not None
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, **change)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    FlatIndex.build(rows(20), made(2)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError):
        qindex.load(path)
