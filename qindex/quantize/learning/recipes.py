"""What codes are taught: the losses, and the rows that each step draws for them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from qindex import kernels
from qindex.quantize.floats import Float32
from qindex.quantize.learning.students import Student
from qindex.types import Queries, Vectors


@dataclass(frozen=True, eq=False)
class Lessons:
    """What there is to learn from: vectors, queries aligned with them if there are any, and codes of an old model."""

    vectors: Vectors  # (n, dim_in)
    queries: Vectors | None  # (n, dim_in), each answered by its row of the vectors
    old: Vectors | None  # (n, dim), the numbers of the old codes


class Recipe(Protocol):
    def start(self, student: Student, lessons: Lessons, seed: int) -> Course: ...


class Course(Protocol):
    """A recipe at work. `loss` depends on the student, on what `arrays` holds, and on the step."""

    def loss(self, student: Student, step: int) -> torch.Tensor: ...

    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """What it remembers from step to step."""
        ...

    def restore(self, arrays: tuple[NDArray[np.float32], ...]) -> None: ...


@dataclass(frozen=True)
class Neighbours:
    """Let the nearest rows of a row stay in their order.

    Each step takes `anchors` rows (or queries), and for each `near` of its `pool` nearest rows by exact inner product.
    The loss is the Kullback-Leibler divergence between the softmax of the exact inner products at `temperature`, in
    units of the mean squared length, and that of the scores of float queries against codes; plus `symmetric` times the
    same for the inner products of codes on both sides. Of an old model's codes, both count once more.
    """

    anchors: int = 64
    near: int = 20
    pool: int = 64
    temperature: float = 0.04
    symmetric: float = 1.0
    most: int = 20_000  # anchors whose neighbours are looked up

    def __post_init__(self) -> None:
        if self.anchors < 1 or not 2 <= self.near <= self.pool:
            raise ValueError(
                f"anchors must be at least 1, near from 2 to pool, got {self.anchors}, {self.near}, {self.pool}"
            )
        if not self.temperature > 0 or self.symmetric < 0:
            raise ValueError(
                f"temperature must be above 0 and symmetric not below, got {self.temperature}, {self.symmetric}"
            )

    def start(self, student: Student, lessons: Lessons, seed: int) -> Course:
        return _Groups(self, lessons, seed)


class _Groups:
    def __init__(self, recipe: Neighbours, lessons: Lessons, seed: int) -> None:
        self.recipe, self.lessons, self.seed = recipe, lessons, seed
        n = len(lessons.vectors)
        pool = min(recipe.pool, n - 1)
        self.rows = np.sort(np.random.default_rng(seed).permutation(n)[: recipe.most])
        source = lessons.vectors if lessons.queries is None else lessons.queries
        self.anchors = source[self.rows]
        near = nearest(self.anchors, lessons.vectors, pool + 1)
        # A row is not its own neighbour; the answer of a query is one, wherever it lies.
        others = near != self.rows[:, None]
        others[others.all(axis=1), -1] = False
        self.near = near[others].reshape(-1, pool)
        if lessons.queries is not None:
            self.near[:, -1] = self.rows
        self.square = float(np.mean(np.square(lessons.vectors[:10_000], dtype=np.float64).sum(axis=1)))

    def loss(self, student: Student, step: int) -> torch.Tensor:
        recipe, rng = self.recipe, np.random.default_rng((self.seed, step))
        chosen = rng.integers(len(self.rows), size=recipe.anchors)
        near = min(recipe.near, self.near.shape[1])
        places = rng.random((recipe.anchors, self.near.shape[1])).argsort(axis=1)[:, :near]
        rows = np.take_along_axis(self.near[chosen], places, axis=1)
        device = student.gain.device
        anchors = torch.from_numpy(self.anchors[chosen]).to(device)
        vectors = torch.from_numpy(self.lessons.vectors[rows.ravel()]).to(device)
        exact = _by_group(anchors, vectors)
        wanted = (exact / (recipe.temperature * self.square)).softmax(dim=1)

        def missed(scores: torch.Tensor) -> torch.Tensor:
            found = (scores / (recipe.temperature * self.square)).log_softmax(dim=1)
            return functional.kl_div(found, wanted, reduction="batchmean")

        mapped, coded = student.queries(anchors), student.encode(anchors)
        sides = [student.encode(vectors)]
        if self.lessons.old is not None:
            sides.append(torch.from_numpy(self.lessons.old[rows.ravel()]).to(device))
        loss = torch.zeros((), device=device)
        for numbers in sides:
            loss = loss + missed(_by_group(mapped, numbers))
            if recipe.symmetric:
                loss = loss + recipe.symmetric * missed(student.gain * _by_group(coded, numbers))
        return loss

    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        return ()

    def restore(self, arrays: tuple[NDArray[np.float32], ...]) -> None:
        pass


def _by_group(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(m, d) and (m * near, d) -> inner products (m, near)."""
    return torch.einsum("md,mnd->mn", queries, rows.view(len(queries), -1, rows.shape[1]))


@dataclass(frozen=True)
class Contrastive:
    """The paper's own way (arXiv 2302.08714, section 3.3): InfoNCE of codes, with a momentum encoder and a queue.

    A row and its `noise`d self (or a query and its answer) are a pair. The cosine of their codes stands, at
    `temperature`, against those of the `hard` most similar other rows of the batch and of a queue of the last `queue`
    keys, which a copy of the model has encoded that follows it with `momentum`. Both directions of a pair count. Of an
    old model's codes, those of the batch take the place of the keys once more (section 3.4).
    """

    batch: int = 256
    temperature: float = 0.05
    hard: int = 5
    queue: int = 4096
    momentum: float = 0.999
    noise: float = 0.3  # of a row's length

    def __post_init__(self) -> None:
        if not 1 <= self.hard < self.batch or self.queue < 0 or self.queue % self.batch:
            raise ValueError(
                "hard must be from 1 to less than batch and queue a multiple of batch, got "
                f"{self.hard}, {self.batch} and {self.queue}"
            )
        if not self.temperature > 0 or not 0 <= self.momentum < 1 or not self.noise >= 0:
            raise ValueError(
                "temperature must be above 0, momentum in [0, 1) and noise not negative, got "
                f"{self.temperature}, {self.momentum} and {self.noise}"
            )

    def start(self, student: Student, lessons: Lessons, seed: int) -> Course:
        n = len(lessons.vectors)
        if self.batch + self.queue > n:
            raise ValueError(f"batch and queue must be at most the {n} rows, got {self.batch} and {self.queue}")
        return _Pairs(self, student, lessons, seed)


class _Pairs:
    def __init__(self, recipe: Contrastive, student: Student, lessons: Lessons, seed: int) -> None:
        self.recipe, self.lessons, self.seed = recipe, lessons, seed
        self.follower = copy.deepcopy(student).requires_grad_(False)
        self.keys = torch.zeros(0)
        self.rows = torch.zeros(0, dtype=torch.int64)

    def loss(self, student: Student, step: int) -> torch.Tensor:
        recipe, rng = self.recipe, np.random.default_rng((self.seed, step))
        device = student.gain.device
        rows = torch.from_numpy(rng.choice(len(self.lessons.vectors), recipe.batch, replace=False))
        vectors = self.lessons.vectors[rows.numpy()]
        if self.lessons.queries is None:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            noise = rng.standard_normal(vectors.shape, np.float32) / np.sqrt(vectors.shape[1], dtype=np.float32)
            others = vectors + recipe.noise * lengths * noise
            others *= lengths / np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-12)
        else:
            others = self.lessons.queries[rows.numpy()]
        sides = [torch.from_numpy(side.astype(np.float32)).to(device) for side in (others, vectors)]
        with torch.no_grad():
            for mine, followed in zip(student.parameters(), self.follower.parameters(), strict=True):
                followed.lerp_(mine, 1 - recipe.momentum if step else 1.0)
            keys = [functional.normalize(self.follower.encode(side)) for side in sides]
        codes = [functional.normalize(student.encode(side)) for side in sides]
        loss = self._contrast(codes[0], keys[1], rows) + self._contrast(codes[1], keys[0], rows)
        if self.lessons.old is not None:
            old = functional.normalize(torch.from_numpy(self.lessons.old[rows.numpy()]).to(device))
            loss = loss + self._contrast(codes[0], old, rows, queued=False)
        if recipe.queue:
            self.keys = torch.cat([self.keys.to(device).reshape(-1, keys[1].shape[1]), keys[1]])[-recipe.queue :]
            self.rows = torch.cat([self.rows, rows])[-recipe.queue :]
        return loss

    def _contrast(
        self, codes: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, queued: bool = True
    ) -> torch.Tensor:
        """Cross-entropy of each code's own key against the hardest of the others."""
        own = (codes * keys).sum(dim=1, keepdim=True)
        all_keys, all_rows = keys, rows
        if queued and len(self.keys):
            all_keys, all_rows = torch.cat([keys, self.keys]), torch.cat([rows, self.rows])
        same = (rows[:, None] == all_rows[None]).to(codes.device)
        hardest = (codes @ all_keys.T).masked_fill(same, -torch.inf).topk(self.recipe.hard, dim=1).values
        logits = torch.cat([own, hardest], dim=1) / self.recipe.temperature
        return functional.cross_entropy(logits, torch.zeros(len(codes), dtype=torch.int64, device=codes.device))

    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        followed = [p.cpu().numpy() for p in self.follower.parameters()]
        return (*followed, self.keys.cpu().numpy(), self.rows.numpy().astype(np.float32))

    def restore(self, arrays: tuple[NDArray[np.float32], ...]) -> None:
        *followed, keys, rows = arrays
        for p, array in zip(self.follower.parameters(), followed, strict=True):
            p.copy_(torch.from_numpy(array.copy()))
        self.keys, self.rows = torch.from_numpy(keys.copy()), torch.from_numpy(rows.astype(np.int64))


def nearest(queries: Vectors, rows: Vectors, k: int) -> NDArray[np.int64]:
    """The k rows with the largest inner product with each query: (m, k)."""
    prepared = Queries(np.ascontiguousarray(queries, np.float32), np.zeros(len(queries)))
    return kernels.topk(prepared, Float32().quantize(rows), k, ids=np.arange(len(rows))).ids
