"""`train`: gradient steps on a quantizer, watched by the recall of rows that it does not see."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from qindex import io
from qindex.quantize.learning.recipes import Lessons, Neighbours, Recipe, nearest
from qindex.quantize.learning.students import Student, student_of
from qindex.quantize.recurrent import RecurrentBinary
from qindex.quantize.spectral import Spectral
from qindex.types import Codes, Vectors, as_vectors

logger = logging.getLogger(__name__)

Q = TypeVar("Q", RecurrentBinary, Spectral)

# Rows that are kept from training, and how many of the others they are searched among.
_HELD_OUT, _SEARCHED = 1000, 20_000
_K = 10
_WARM_UP = 50
# Adam's rate for numbers of variance 1, and for the layers of a perceptron.
_RATE, _HIDDEN_RATE = 1e-4, 3e-4


class Check(NamedTuple):
    """Recall@10 of the rows that were held out, after so many steps: of float queries, and of codes on both sides."""

    step: int
    recall: float
    symmetric: float


def train(
    quantizer: Q,
    vectors: Vectors,
    *,
    queries: Vectors | None = None,
    old: Codes | None = None,
    recipe: Recipe | None = None,
    steps: int = 2000,
    checks: int = 10,
    patience: int = 8,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    report: Callable[[Check], None] | None = None,
    progress: bool | None = None,
) -> Q:
    """A fitted `RecurrentBinary`, or a `Spectral` with learnt axes, from (n, dim) floats alone.

    `queries` (n, dim), if given, are answered by the rows of `vectors`. `old` are codes of the same rows by an earlier
    model of as many bits and numbers, whose index is to be searched by the new one (backward-compatible training):
    `FlatIndex.from_codes(new, old)`. `recipe` is `Neighbours()` unless told: see `recipes.py`.

    `checks` times, recall@10 of held-out rows is measured, of symmetric queries where the quantizer has them; what was
    best is returned, and `patience` checks without a better one end it; the last steps, which are the smallest, often
    gain most. With a `checkpoint`, a file, training that was cut off goes on from its last check when it is called
    again in the same way; the file is removed in the end. Equal arguments give equal codes on one machine with one
    number of threads.

    Raises ValueError for too few rows, and where codes have collapsed: most numbers of a code are the same for nearly
    all rows. A loss that is not finite ends training with what was best so far, and a warning.
    """
    vectors = as_vectors(vectors, nonempty=True)
    least = max(256, 2 * vectors.shape[1], 2 * (getattr(quantizer, "dim", None) or 0))
    if len(vectors) < least:
        raise ValueError(f"vectors must be at least {least} rows to train on, got {len(vectors)}")
    if steps < 1 or checks < 1 or patience < 1:
        raise ValueError(f"steps, checks and patience must be at least 1, got {steps}, {checks} and {patience}")
    if queries is not None:
        queries = as_vectors(queries, "queries", vectors.shape[1])
        if len(queries) != len(vectors):
            raise ValueError(f"queries must be aligned with the {len(vectors)} vectors, got {len(queries)}")
    if old is not None and len(old) != len(vectors):
        raise ValueError(f"old must be codes of the {len(vectors)} vectors, got {len(old)}")
    with torch.random.fork_rng(), torch.enable_grad():
        training = _Training(quantizer, vectors, queries, old, recipe or Neighbours(), device)
        path = None if checkpoint is None else Path(checkpoint)
        trained: Q = training.run(steps, checks, patience, path, report, progress)
    return trained


@io.register("learning.Checkpoint")
@dataclass(frozen=True, eq=False)
class _Checkpoint:
    of: str  # tells the training from others
    step: int
    best_step: int
    best_recall: float
    parameters: tuple[NDArray[np.float32], ...]
    moments: tuple[NDArray[np.float32], ...]  # Adam's: the first and the second of each parameter
    best: tuple[NDArray[np.float32], ...]
    course: tuple[NDArray[np.float32], ...]


class _Training:
    def __init__(
        self,
        quantizer: Any,
        vectors: Vectors,
        queries: Vectors | None,
        old: Codes | None,
        recipe: Recipe,
        device: str | None,
    ) -> None:
        seed = quantizer.seed
        order = np.random.default_rng(seed).permutation(len(vectors))
        held_out, taught = np.split(order, [min(_HELD_OUT, len(vectors) // 10)])
        asked = vectors if queries is None else queries
        if old is not None:
            _check_old(old, quantizer, vectors.shape[1])
        self.student: Student = student_of(quantizer, vectors[taught], None if old is None else old[taught])
        self.symmetric = bool(getattr(quantizer, "symmetric", False))
        lessons = Lessons(
            vectors[taught],
            None if queries is None else queries[taught],
            None if old is None else self.student.numbers(old[taught]),
        )
        self.student.to(device or "cpu")
        self.device = self.student.gain.device
        self.course = recipe.start(self.student, lessons, seed)
        self.of = _digest(quantizer, recipe, vectors, queries, None if old is None else old.data)
        self.asked, self.searched = asked[held_out], lessons.vectors[:_SEARCHED]
        self.truth = nearest(self.asked, self.searched, _K)
        hidden = [p for name, p in self.student.named_parameters() if name in ("inner", "outer")]
        others = [p for name, p in self.student.named_parameters() if name not in ("inner", "outer")]
        rates = ((others, _RATE), (hidden, _HIDDEN_RATE))
        self.rates = [rate for group, rate in rates if group]
        self.optimizer = torch.optim.Adam([{"params": group} for group, _ in rates if group])
        self.best = self._parameters()
        self.best_step, self.best_recall = 0, -1.0

    def run(
        self,
        steps: int,
        checks: int,
        patience: int,
        checkpoint: Path | None,
        report: Callable[[Check], None] | None,
        progress: bool | None,
    ) -> Any:
        every = max(1, steps // checks)
        self.of += f" {steps} {checks}"
        first = self._resumed(checkpoint)
        if first == 0:
            self._check(0, report)
        bar = tqdm(
            range(first, steps),
            desc="train",
            unit="step",
            initial=first,
            total=steps,
            disable=None if progress is None else not progress,
        )
        with bar:
            for step in bar:
                share = min((step + 1) / _WARM_UP, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
                for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = rate * share
                loss = self.course.loss(self.student, step)
                if not math.isfinite(loss.item()):
                    logger.warning(
                        "the loss was %s at step %d: training ends with step %d", loss.item(), step, self.best_step
                    )
                    break
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                self.optimizer.step()
                if (step + 1) % every == 0 or step + 1 == steps:
                    found = self._check(step + 1, report)
                    bar.set_postfix(recall=f"{found.recall:.3f}", refresh=False)
                    if step + 1 - self.best_step >= patience * every:
                        break
                    if checkpoint is not None:
                        io.save(checkpoint, self._checkpoint(step + 1))
        self._set(self.best)
        quantizer = self.student.quantizer()
        _refuse_collapsed(quantizer.quantize(self.asked))
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return quantizer

    @torch.no_grad()
    def _check(self, step: int, report: Callable[[Check], None] | None) -> Check:
        asked = torch.from_numpy(self.asked).to(self.device)
        numbers = torch.cat(
            [self.student.encode(torch.from_numpy(part).to(self.device)) for part in _parts(self.searched)]
        )
        found = [
            float(np.mean((nearest_k[:, :, None] == self.truth[:, None]).any(axis=2)))
            for side in (self.student.queries(asked), self.student.encode(asked))
            for nearest_k in [(side @ numbers.T).topk(_K, dim=1).indices.cpu().numpy()]
        ]
        check = Check(step, *found)
        logger.info("step %d: recall@10 %.4f, of codes on both sides %.4f", *check)
        if report is not None:
            report(check)
        watched = check.symmetric if self.symmetric else check.recall
        if watched > self.best_recall:
            self.best, self.best_step, self.best_recall = self._parameters(), step, watched
        return check

    def _parameters(self) -> tuple[NDArray[np.float32], ...]:
        return tuple(p.detach().cpu().numpy().copy() for p in self.student.parameters())

    @torch.no_grad()
    def _set(self, arrays: tuple[NDArray[np.float32], ...]) -> None:
        for parameter, array in zip(self.student.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(array.copy()))

    def _checkpoint(self, step: int) -> _Checkpoint:
        moments = tuple(
            self.optimizer.state[p].get(name, torch.zeros_like(p)).detach().cpu().numpy()
            for p in self.student.parameters()
            for name in ("exp_avg", "exp_avg_sq")
        )
        return _Checkpoint(
            self.of,
            step,
            self.best_step,
            self.best_recall,
            self._parameters(),
            moments,
            self.best,
            self.course.arrays(),
        )

    def _resumed(self, path: Path | None) -> int:
        """The step to go on with."""
        if path is None or not path.exists():
            return 0
        found = io.load(path)
        if not isinstance(found, _Checkpoint) or found.of != self.of:
            raise ValueError(
                f"checkpoint must be a file of this training, {path} is of other vectors or steps, or of another "
                "quantizer or recipe: name another file"
            )
        self._set(found.parameters)
        for i, parameter in enumerate(self.student.parameters()):
            first, second = (torch.from_numpy(moment.copy()) for moment in found.moments[2 * i : 2 * i + 2])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(found.step)),
                "exp_avg": first.to(self.device),
                "exp_avg_sq": second.to(self.device),
            }
        self.best, self.best_step, self.best_recall = found.best, found.best_step, found.best_recall
        self.course.restore(found.course)
        return found.step


def _digest(quantizer: Any, recipe: Recipe, *arrays: NDArray[Any] | None) -> str:
    sha256 = hashlib.sha256(f"{quantizer!r} {recipe!r}".encode())
    for array in arrays:
        sha256.update(b"none" if array is None else f"{array.shape}".encode() + array.tobytes())
    return sha256.hexdigest()[:16]


def _parts(rows: Vectors, size: int = 4096) -> list[Vectors]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _check_old(old: Codes, quantizer: Any, dim_in: int) -> None:
    wanted = getattr(quantizer, "format", None), getattr(quantizer, "dim", None) or dim_in
    if wanted[0] is not None and ((old.format, old.dim) != wanted or len(old.rowwise) > 1):
        raise ValueError(f"old must be codes as {quantizer!r} makes them, got {old.format.name} codes of dim {old.dim}")


def _refuse_collapsed(codes: Codes) -> None:
    """Raise ValueError where more than half of the numbers say nothing."""
    numbers = codes.levels
    most = np.max([np.mean(numbers == level, axis=0) for level in np.unique(numbers)], axis=0)
    stuck = int(np.count_nonzero(most > 0.99))
    if 2 * stuck > codes.dim:
        raise ValueError(
            f"codes have collapsed: {stuck} of {codes.dim} numbers are the same for 99 % of rows. Vectors must vary in "
            "more directions, or be fewer numbers: take a smaller dim"
        )
