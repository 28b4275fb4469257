"""Training of codes: what it gains, that it can be cut off and goes on, and what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import FlatIndex, RecurrentBinary, Spectral, kernels

torch = pytest.importorskip("torch")

from qindex.quantize.learning import Check, Contrastive, Neighbours, train  # noqa: E402
from qindex.quantize.learning.students import student_of  # noqa: E402


def rows(n: int, seed: int = 0, dim: int = 32) -> NDArray[np.float32]:
    """Unit rows about some centres, whose deviation falls with the axis, their axes turned."""
    turned = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0]
    centres = np.random.default_rng(98).standard_normal((40, dim))
    rng = np.random.default_rng(seed)
    found = (centres[rng.integers(40, size=n)] + rng.standard_normal((n, dim))) / np.arange(1, dim + 1) ** 0.6 @ turned
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


VECTORS = rows(3000)
QUICK: dict[str, Any] = {"steps": 60, "checks": 3, "progress": False}


def recall(quantizer: Any, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = FlatIndex.build(vectors, quantizer).search(queries, 10).ids
    return float(np.mean((found[:, :, None] == exact[:, None]).any(axis=2)))


@pytest.mark.parametrize(
    "quantizer",
    [RecurrentBinary(1), RecurrentBinary(2, 16), RecurrentBinary(3, 40), RecurrentBinary(2, 16, hidden=8)],
    ids=repr,
)
def test_the_quantizer_that_comes_out_codes_as_the_module_that_was_trained(quantizer: RecurrentBinary) -> None:
    student = student_of(quantizer, VECTORS)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        numbers = student.encode(torch.from_numpy(VECTORS[:200])).numpy()
        mapped = student.queries(torch.from_numpy(VECTORS[:50])).numpy()
    made = student.quantizer()
    codes = made.quantize(VECTORS[:200])
    assert np.mean(student.numbers(codes) == numbers) > 0.995
    wanted = mapped @ student.numbers(codes).T + (VECTORS[:50] @ made.model.mean)[:, None]
    np.testing.assert_allclose(kernels.scores(made.prepare(VECTORS[:50]), codes), wanted, atol=1e-4)


def test_trained_axes_code_as_the_module_that_was_trained() -> None:
    vectors = rows(1000, dim=64)
    student = student_of(Spectral(18), vectors)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        numbers = student.encode(torch.from_numpy(vectors[:200])).numpy()
    made = student.quantizer()
    codes = made.quantize(vectors[:200])
    assert np.mean(np.abs(student.numbers(codes) - numbers) < 1e-3 * np.abs(numbers).max()) > 0.99
    found = kernels.scores(made.prepare(vectors[:50]), codes)
    np.testing.assert_allclose(found, vectors[:50] @ made.dequantize(codes).T, atol=1e-5)


class Altered(Neighbours):
    """`Neighbours`, whose loss is what `alter` makes of it at each step."""

    def __init__(self, alter: Any) -> None:
        super().__init__()
        object.__setattr__(self, "alter", alter)

    def start(self, student: Any, lessons: Any, seed: int) -> Any:
        course, alter = super().start(student, lessons, seed), self.alter  # type: ignore[attr-defined]

        class Course:
            arrays, restore = course.arrays, course.restore

            def loss(self, student: Any, step: int) -> Any:
                return alter(course.loss(student, step), step)

        return Course()


@pytest.mark.parametrize("quantizer", [RecurrentBinary(2, 16), Spectral(16)], ids=repr)
def test_training_lowers_its_loss_on_steps_to_come(quantizer: Any) -> None:
    losses: list[float] = []

    def alter(loss: Any, step: int) -> Any:
        losses.append(loss.item())
        return loss

    train(quantizer, VECTORS, recipe=Altered(alter), steps=400, checks=1, progress=False)
    assert np.mean(losses[-100:]) < np.mean(losses[:100])


@pytest.mark.parametrize("quantizer", [RecurrentBinary(2, 16), Spectral(16)], ids=repr)
def test_a_recipe_that_makes_codes_worse_leaves_them_as_they_were(quantizer: Any) -> None:
    found: list[Check] = []
    trained = train(
        quantizer, VECTORS, recipe=Altered(lambda loss, _: -100 * loss), report=found.append, patience=1, steps=600,
        checks=2, progress=False,
    )  # fmt: skip
    assert [check.step for check in found] == [0, 300]
    assert found[1].recall < found[0].recall
    start = student_of(quantizer, VECTORS[_taught()]).quantizer()
    np.testing.assert_array_equal(trained.quantize(VECTORS).data, start.quantize(VECTORS).data)


def _taught() -> NDArray[np.int64]:
    """The rows that are not held out."""
    return np.random.default_rng(0).permutation(3000)[300:]


def test_equal_arguments_give_equal_codes() -> None:
    first, again = (train(RecurrentBinary(2, 16), VECTORS, **QUICK).quantize(VECTORS[:100]) for _ in range(2))
    np.testing.assert_array_equal(first.data, again.data)


class _CutOffError(Exception):
    pass


@pytest.mark.parametrize("recipe", [Neighbours(), Contrastive(batch=64, queue=128)], ids=lambda r: type(r).__name__)
def test_training_that_was_cut_off_goes_on_to_the_same_codes(recipe: Any, tmp_path: Path) -> None:
    whole = train(RecurrentBinary(2, 16), VECTORS, recipe=recipe, patience=9, **QUICK)
    path, seen = tmp_path / "checkpoint", []

    def report(check: Check) -> None:
        seen.append(check.step)
        if check.step == 40 and seen.count(40) == 1:
            raise _CutOffError

    with pytest.raises(_CutOffError):
        train(RecurrentBinary(2, 16), VECTORS, recipe=recipe, patience=9, checkpoint=path, report=report, **QUICK)
    resumed = train(RecurrentBinary(2, 16), VECTORS, recipe=recipe, patience=9, checkpoint=path, report=report, **QUICK)
    assert seen == [0, 20, 40, 40, 60]
    assert not path.exists()
    np.testing.assert_array_equal(resumed.quantize(VECTORS).data, whole.quantize(VECTORS).data)


def test_the_papers_recipe_learns_from_rows_and_from_pairs() -> None:
    recipe = Contrastive(batch=64, queue=128)
    for queries in (None, VECTORS + rows(3000, 3) * np.float32(0.3)):
        trained = train(RecurrentBinary(2, 16), VECTORS, queries=queries, recipe=recipe, **QUICK)
        assert recall(trained, VECTORS, rows(200, 7)) > 0.3


def test_a_loss_that_is_not_finite_ends_with_what_was_best(caplog: pytest.LogCaptureFixture) -> None:
    recipe = Altered(lambda loss, step: loss * (float("nan") if step == 30 else 1))
    trained = train(RecurrentBinary(2, 16), VECTORS, recipe=recipe, **QUICK)
    assert "the loss was nan at step 30" in caplog.text
    assert recall(trained, VECTORS, rows(200, 7)) > 0.3


def test_codes_that_say_nothing_are_refused() -> None:
    alike = np.repeat(VECTORS[:1], 3000, axis=0)
    with pytest.raises(ValueError, match="vectors must not all be the same"):
        train(RecurrentBinary(2, 16), alike, **QUICK)
    alike[:6] = VECTORS[:6]
    with pytest.raises(ValueError, match=r"codes have collapsed: .* of 16 numbers are the same for 99 % of rows"):
        train(RecurrentBinary(2, 16), alike, **QUICK)


def test_new_queries_find_in_an_old_index_what_old_queries_do_not() -> None:
    """The old model sees half of the axes; the new one is trained beside its codes (section 3.4 of the paper)."""
    weak = VECTORS.copy()
    weak[:, ::2] = 0
    queries, weak_queries = rows(300, 7), rows(300, 7)
    weak_queries[:, ::2] = 0
    old_model = train(RecurrentBinary(2, 32), weak, **QUICK)
    old = old_model.quantize(weak)
    apart = train(RecurrentBinary(2, 32), VECTORS, **QUICK)
    beside = train(RecurrentBinary(2, 32), VECTORS, old=old, steps=300, checks=3, progress=False)
    exact = np.argsort(-(queries @ VECTORS.T), axis=1)[:, :10]

    def found(quantizer: RecurrentBinary, asked: NDArray[np.float32]) -> float:
        ids = FlatIndex.from_codes(quantizer, old).search(asked, 10).ids
        return float(np.mean((ids[:, :, None] == exact[:, None]).any(axis=2)))

    assert found(beside, queries) > found(old_model, weak_queries)
    assert found(beside, queries) > found(apart, queries) + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": VECTORS[:200]}, "vectors must be at least 256 rows to train on, got 200"),
        ({"queries": VECTORS[:5]}, "queries must be aligned with the 3000 vectors, got 5"),
        ({"steps": 0}, "steps, checks and patience must be at least 1"),
        ({"recipe": Contrastive(batch=256, queue=4096)}, "batch and queue must be at most the 2700 rows"),
        ({"quantizer": Spectral(36)}, "bytes must leave axes with less than 8 bits"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"quantizer": RecurrentBinary(2, 16), "vectors": VECTORS, **QUICK} | change
    quantizer, vectors = arguments.pop("quantizer"), arguments.pop("vectors")
    with pytest.raises(ValueError, match=message):
        train(quantizer, vectors, **arguments)


def test_old_codes_of_other_numbers_are_refused() -> None:
    old = train(RecurrentBinary(2, 16), VECTORS, **QUICK).quantize(VECTORS)
    with pytest.raises(ValueError, match="old must be codes as RecurrentBinary"):
        train(RecurrentBinary(2, 20), VECTORS, old=old, **QUICK)
    with pytest.raises(ValueError, match="old must be codes of the 3000 vectors, got 10"):
        train(RecurrentBinary(2, 16), VECTORS, old=old[:10], **QUICK)
    with pytest.raises(ValueError, match="old must be left out for Spectral"):
        train(Spectral(16), VECTORS, old=old, **QUICK)


def test_the_file_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    FlatIndex.build(VECTORS[:9]).save(path)
    with pytest.raises(ValueError, match="checkpoint must be a file of this training"):
        train(RecurrentBinary(2, 16), VECTORS, checkpoint=path, **QUICK)
    assert path.exists()
    path.unlink()

    def report(check: Check) -> None:
        if check.step == 40:
            raise _CutOffError

    with pytest.raises(_CutOffError):
        train(RecurrentBinary(2, 16), VECTORS, checkpoint=path, report=report, **QUICK)
    others: list[tuple[Any, Any, Any]] = [
        (RecurrentBinary(2, 16, seed=1), VECTORS, {}),
        (RecurrentBinary(2, 16), -VECTORS, {}),
        (RecurrentBinary(2, 16), VECTORS, {"recipe": Neighbours(near=10)}),
        (RecurrentBinary(2, 16), VECTORS, {"steps": 90}),
    ]
    for quantizer, vectors, settings in others:
        with pytest.raises(ValueError, match="of other vectors or steps"):
            train(quantizer, vectors, checkpoint=path, **QUICK | settings)
    assert path.exists()


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        (Neighbours, {"anchors": 0}), (Neighbours, {"near": 1}), (Neighbours, {"temperature": 0.0}),
        (Contrastive, {"queue": 100}), (Contrastive, {"momentum": 1.0}), (Contrastive, {"hard": 0}),
    ],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(recipe: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        recipe(**arguments)
    assert dataclasses.is_dataclass(recipe)
