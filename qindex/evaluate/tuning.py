"""Which system to take for one's own vectors: a grid is measured on a sample, with queries that were held out of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from qindex.evaluate.budget import Budget
from qindex.evaluate.grid import default_systems
from qindex.evaluate.metrics import paired_bootstrap
from qindex.evaluate.report import ID_BYTES, Report, Row, environment
from qindex.evaluate.systems import System
from qindex.index.flat import FlatIndex
from qindex.index.ids import as_count
from qindex.index.metric import Metric, check_metric
from qindex.io import PathLike
from qindex.quantize import Float32
from qindex.quantize.origin import check_seed
from qindex.types import Index, Vectors, as_vectors

FILE = "tune.json"  # in the folder of a run

_SHARE = 10  # of the vectors, one of so many is held out at most
_FEWEST = 10  # queries that are held out

CONFIDENCE = 0.99  # of intervals: a choice among dozens of systems is to keep its own

TRUTH = System(Float32())


@dataclass(frozen=True, eq=False)
class Tuned:
    """What `tune` found."""

    report: Report  # of all systems measured; `report.choice` is the name of the choice
    choice: System | None  # the best within the budget
    unmet: str  # why there is none though there is a budget; "" otherwise


def tune(
    vectors: ArrayLike,
    *,
    queries: ArrayLike | None = None,
    recall: float | None = None,
    bytes_per_vector: float | None = None,
    latency_ms: float | None = None,
    systems: Sequence[System] | None = None,
    metric: Metric = "ip",
    k: int = 10,
    sample: int = 100_000,
    n_queries: int = 1000,
    corpus: int | None = None,
    seed: int = 0,
    folder: PathLike | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Measure systems (default: `default_systems`) on a sample of (n, dim) floats, and choose one within a budget.

    A row of the report has the share of the k best by float32 that a system finds, or copies of them, its mean over the
    queries with an interval; the bytes of codes, scales, lists and links, but not the 8 of an id, for each vector of
    the sample; all bytes of the index; and the median time of single queries on as many threads as are set. 99 times in
    100 the interval holds the mean of as many other queries of the same kind; it allows for their chance, and for that
    of those measured.

    `vectors` is an array, or what can be sliced as one, such as an `np.memmap`; up to `sample` rows are drawn.
    `queries`, (m, dim) floats of which up to `n_queries` are drawn, should be real ones. Without, one of ten vectors
    up to `n_queries` are held out of the sample: they ask what a document would ask. `corpus` is how many vectors there
    will be, where `vectors` is a sample itself: among more rows recall is lower and a search takes longer, of which a
    note tells.

    The budget is `recall` (the lower end of the interval reaches it), `bytes_per_vector` and `latency_ms`; the choice
    is the best in what is not given (`Budget.choose`). Without any there is no choice, and one that nothing meets is
    no error either: `unmet` says what stands in the way.

    With `folder`, the report is in its `tune.json` after every system, and the same call goes on where another ended:
    what is there is not measured again, also under another budget or with more systems. Times are then of different
    moments. `progress=None` shows a bar on a terminal.

    Raises ValueError for too few vectors, queries of another dim, a budget that is none, two systems of one name, and
    a folder whose run had other vectors, queries, versions or another machine.
    """
    budget = Budget(recall, bytes_per_vector, latency_ms)
    rows, asked = _sampled(vectors, queries, sample, n_queries, seed)
    (n, dim), k = rows.shape, as_count(k, "k")
    if k > n:
        raise ValueError(f"k must be at most the rows of the sample, {n}, got {k}")
    there = len(np.asanyarray(vectors)) - (len(asked) if queries is None else 0)
    corpus = there if corpus is None else max(there, as_count(corpus, "corpus"))
    systems = default_systems(dim, n) if systems is None else list(systems)
    _check_systems(systems, metric, dim)

    notes = _notes(n, len(asked), corpus, k, metric, held_out=queries is None)
    here = {**environment(), "inputs": _digest(rows, asked, metric, k)}
    run = _Run(Report(f"{n:,} vectors of {dim} numbers", f"recall@{k}", [], notes=notes, environment=here), folder)
    equal = _first_of_equal(rows)
    truth = equal[FlatIndex.build(rows, Float32(), metric=metric).search(asked, k).ids]
    with tqdm(
        total=len(systems), desc="tune", unit="system", disable=None if progress is None else not progress
    ) as bar:
        for group in _of_one_build(systems):
            index = None
            for system in group:
                if system.name not in run.rows:
                    index = system.build(rows, metric) if index is None else index
                    run.add(_measured(system, index, asked, truth, equal, metric))
                bar.update()

    measured = [run.rows[system.name] for system in systems]
    best = budget.choose(measured)
    report = run.saved("" if best is None else best.name)
    choice = next((system for system in systems if best and system.name == best.name), None)
    return Tuned(report, choice, budget.unmet(measured, report.measure))


def drawn(
    n: int, sample: int, n_queries: int, seed: int = 0, *, hold_out: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of n vectors are the sample, and which are held out of it as queries; both ascending.

    Raises ValueError where a tenth of the vectors is too few queries.
    """
    n_queries = min(as_count(n_queries, "n_queries"), n // _SHARE) if hold_out else 0
    if hold_out and n_queries < _FEWEST:
        raise ValueError(
            f"vectors must be at least {_SHARE * _FEWEST} for a tenth of them, and n_queries at least {_FEWEST}, to "
            f"tell anything as queries, got {n} and {n_queries}; or give queries"
        )
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[n_queries : n_queries + as_count(sample, "sample")]), np.sort(order[:n_queries])


class _Run:
    """The rows measured, and the report of them in a folder, if there is one."""

    def __init__(self, blank: Report, folder: PathLike | None) -> None:
        self.rows: dict[str, Row] = {}
        self._blank, self._file = blank, None
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file = Path(folder) / FILE
            if self._file.exists():
                self._take(Report.load(self._file))

    def _take(self, earlier: Report) -> None:
        """Go on where another run of the same ended."""
        for name, here in self._blank.environment.items():
            there = earlier.environment.get(name)
            if name != "date" and there != here:
                raise ValueError(
                    f"folder holds a run that cannot go on: {self._file} has {name} {there!r}, and now it is {here!r}; "
                    "name another folder"
                )
        self.rows = {row.name: row for row in earlier.rows}

    def add(self, row: Row) -> None:
        self.rows[row.name] = row
        self.saved("")

    def saved(self, choice: str) -> Report:
        reference = TRUTH.name if TRUTH.name in self.rows else ""
        report = replace(self._blank, rows=list(self.rows.values()), reference=reference, choice=choice)
        if self._file is not None:
            report.save(self._file)
        return report


def _sampled(
    vectors: ArrayLike, queries: ArrayLike | None, sample: int, n_queries: int, seed: int
) -> tuple[Vectors, Vectors]:
    """The rows of the sample, and the queries."""
    check_seed(seed)
    array = np.asanyarray(vectors)  # an np.memmap stays one
    if array.ndim != 2:
        as_vectors(array)  # says what is wanted
    rows, held = drawn(len(array), sample, n_queries, seed, hold_out=queries is None)
    sampled = as_vectors(array[rows], nonempty=True, numbers=rows)
    if queries is None:
        return sampled, as_vectors(array[held], numbers=held)
    asked = as_vectors(queries, "queries", sampled.shape[1], nonempty=True)
    some, _none = drawn(len(asked), n_queries, n_queries, seed, hold_out=False)
    return sampled, asked[some]


def _check_systems(systems: Sequence[System], metric: Metric, dim: int) -> None:
    names = [system.name for system in systems]
    if not names:
        raise ValueError("systems must be at least one, got none")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"systems must differ, got {', '.join(sorted(twice))} more than once")
    for system in systems:
        for quantizer in (system.quantizer, system.rescore):
            check_metric(quantizer, metric)
        try:
            system.bytes_per_vector(dim)
        except ValueError as error:
            raise ValueError(f"{system.name} does not suit vectors of {dim} numbers: {error}") from None


def _of_one_build(systems: Sequence[System]) -> list[list[System]]:
    """The systems that differ in settings of the search alone, together."""
    groups: dict[str, list[System]] = {}
    for system in systems:
        groups.setdefault(replace(system, searched={}).name, []).append(system)
    return list(groups.values())


def _first_of_equal(rows: Vectors) -> NDArray[np.int64]:
    """For each row the first that equals it, which stands for all its copies: a search may find any of them."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)])


def _measured(
    system: System,
    index: Index,
    queries: Vectors,
    truth: NDArray[np.int64],
    equal: NDArray[np.int64],
    metric: Metric,
) -> Row:
    """One system, of which `index` is built."""
    k = truth.shape[1]
    ids = system.search(index, queries, k).ids
    same = np.where(ids < 0, -1, equal[ids])[:, :, None] == truth[:, None, :]
    # Copies in the truth may be more than those found, or fewer.
    shares = np.minimum(same.any(axis=1).mean(axis=1), same.any(axis=2).mean(axis=1))
    return Row(
        name=system.name,
        family=system.index,
        score=float(shares.mean()),
        bytes_per_vector=index.nbytes / len(index) - ID_BYTES,
        code="\n".join(system.lines(metric, k)),
        interval=(1.0, 1.0) if system.name == TRUTH.name else interval_of(shares, k),
        index_bytes=index.nbytes,
        latency_ms=system.latency_ms(index, queries, k),
    )


def interval_of(shares: NDArray[np.float64], k: int) -> tuple[float, float]:
    """Where the mean of as many other queries lies, 99 times in 100; of (m,) shares of k ids.

    It is wider by sqrt(2) than that of the mean of all queries of the kind, since the others differ from it too. One
    more query that misses one id stands for what so few cannot show: where none has missed any, others may.
    """
    mean, low, high = paired_bootstrap([np.append(shares, 1 - 1 / k)], confidence=CONFIDENCE)
    wider = math.sqrt(2)
    return max(0.0, mean - wider * (mean - low)), min(1.0, mean + wider * (high - mean))


def _digest(rows: Vectors, queries: Vectors, metric: Metric, k: int) -> str:
    """What tells the inputs of one run from those of another."""
    digest = hashlib.sha256(f"{rows.shape} {queries.shape} {metric} {k}".encode())
    digest.update(rows.data)
    digest.update(queries.data)
    return digest.hexdigest()[:16]


def _notes(n: int, m: int, corpus: int, k: int, metric: Metric, *, held_out: bool) -> list[str]:
    asked = f"{m:,} of the vectors, held out of the sample" if held_out else f"{m:,} queries"
    notes = [
        f"Recall is the share of the {k} best by float32 and metric {metric!r} among {n:,} vectors that are found, in "
        f"the mean over {asked}. The interval holds the mean of as many others of the kind, 99 times in 100.",
        f"Bytes of a vector are codes, scales, lists and links; its id takes {ID_BYTES} more.",
        "Milliseconds are the median of one query at a time.",
    ]
    if corpus > n:
        notes.append(
            f"The {n:,} vectors stand for {corpus:,}, among which neighbours lie closer: recall is lower there. Bytes "
            f"of a vector stay, a flat index takes {corpus / n:.3g} times the milliseconds, and ivf and graph less."
        )
    return notes
