"""How rows get into a graph of neighbours, and how it closes over rows that leave it.

A row is inserted as in Vamana and HNSW: a walk finds near rows, `kernels.link` chooses neighbours among them, and these
get the row as a neighbour in turn. Rows go in in batches: those of one batch walk over the graph of the batches before,
and meet each other by an exact search. So what comes out depends on neither threads nor timing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from qindex import kernels
from qindex.index.growable import Growable, GrowableCodes
from qindex.index.metric import Coder, normalised
from qindex.index.reading import Filled
from qindex.index.stored import Stored
from qindex.memory import empty, taken
from qindex.quantize import Float32, Int8
from qindex.types import Codes, Vectors

Rows = NDArray[np.int64]
VectorsOf = Callable[[Rows], Vectors]

BATCH = 4096  # rows

# A neighbour is left out if another, times this, is nearer to it (squared distances). Text embeddings lie at about the
# same distance from each other, so that 1.2, as is usual, would leave next to nothing out.
ALPHA = 1.05

FIRST_MATES, MATES = 64, 16  # nearest rows of its own batch that a row meets: of the first, and of others

MOST = 128  # candidates that neighbours are chosen from

ENTRIES, ENTRY_SAMPLE, ENTRY_ROUNDS = 16, 4096, 8

_AT_ONCE = 4096


class Graph(NamedTuple):
    """A row's own number, or what is no row, stands for no neighbour."""

    neighbours: NDArray[np.int32]  # (n, degree)
    entries: NDArray[np.int32]  # where walks start


class Space:
    """Rows as neighbours are chosen by: int8 under a scale each, and their squared lengths.

    They are the codes of an index where it has such, else copies.
    """

    def __init__(self, codes: Codes) -> None:
        self.codes, self.norms = codes, _norms(codes)
        self._codes, self._norms = GrowableCodes(codes), Growable(self.norms)

    @classmethod
    def of(cls, stored: Stored) -> Space:
        shared = _int8_codes(stored)
        return cls(_copies(stored, 0) if shared is None else shared)

    def grow(self, stored: Stored) -> None:
        """Take in the rows at the end of `stored`."""
        shared = _int8_codes(stored)
        if shared is None:
            added = _copies(stored, len(self.norms))
            self.codes = self._codes.append(added)
        else:
            self.codes, added = shared, shared[len(self.norms) :]
        self.norms = self._norms.append(_norms(added))


def _int8_codes(stored: Stored) -> Codes | None:
    for quantizer, codes in ((stored.rescore, stored.rescore_codes), (stored.quantizer, stored.codes)):
        if isinstance(quantizer, Int8) and quantizer.scale == "vector":
            return codes
    return None


def _copies(stored: Stored, first: int) -> Codes:
    """Int8 codes of the rows from `first` on."""
    n, vectors = len(stored), decoded(stored)
    copies = Filled(n - first)
    for start in range(first, max(n, first + 1), _AT_ONCE):  # once for no rows, too
        rows = np.arange(start, min(start + _AT_ONCE, n))
        copies.put(rows - first, Int8().quantize(vectors(rows)))
    return copies.all()


def _norms(codes: Codes) -> NDArray[np.float32]:
    assert codes.scale is not None
    norms = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # Sums of squares up to 2 ** 24 are exact in any order; above, float64 is.
        numbers = codes.data[part].view(np.int8).astype(np.float64)
        dots = np.einsum("ij,ij->i", numbers, numbers).astype(np.float32)
        norms[part] = (codes.scale[part] * codes.scale[part]) * dots
    return norms


def decoded(stored: Stored) -> VectorsOf:
    """What is known of the vectors of rows."""

    def vectors(rows: Rows) -> Vectors:
        if stored.rescore_codes is not None:
            return stored.fine.decode(stored.codes[rows], stored.rescore_codes[rows])
        return stored.quantizer.dequantize(stored.codes[rows])

    return vectors


def insert(
    stored: Stored,
    space: Space,
    vectors: VectorsOf,
    order: Rows,
    graph: Graph,
    degree: int,
    ef: int,
    progress: bool | None = False,
) -> None:
    """Link rows, in this order, into a graph of which they are no part yet. Lists may be longer than `degree`."""
    neighbours, entries = graph
    first = bool(np.isin(entries, order).all())
    walks = kernels.Walks(stored.codes, None, graph, stored.ids)
    bar = tqdm(total=len(order), desc="rows", unit="row", disable=None if progress is None else not progress)
    with bar:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            queries, codes = stored.coder.prepare(vectors(batch)), stored.codes[batch]
            alone = first and start == 0
            n_mates = min(len(batch), FIRST_MATES if alone else MATES)
            mates = kernels.topk(queries, codes, n_mates, ids=np.arange(len(batch))).ids
            met = [np.where(mates >= 0, batch[mates], -1)]
            if not alone:
                found, _, _ = walks.best(queries.values, queries.values, queries.offset, 0, ef=ef, ranked=ef)
                met.append(found.ids)
            candidates = np.hstack(met).astype(np.int32)
            starts = np.arange(len(batch) + 1) * candidates.shape[1]
            _link(space, neighbours, batch.astype(np.int32), starts, candidates.reshape(-1), degree, room=0)
            link_back(space, neighbours, batch, degree)
            bar.update(len(batch))


def link_back(space: Space, neighbours: NDArray[np.int32], rows: Rows, degree: int) -> None:
    """Make rows neighbours of their neighbours."""
    targets = neighbours[rows].reshape(-1)
    sources = np.repeat(rows.astype(np.int32), neighbours.shape[1])
    linked = targets != sources
    targets, sources = targets[linked], sources[linked]
    order = np.argsort(targets, kind="stable")
    targets, starts = np.unique(targets[order], return_index=True)
    starts = np.append(starts, len(order))
    _link(space, neighbours, targets, starts, sources[order], degree, room=neighbours.shape[1])


def shortened(space: Space, neighbours: NDArray[np.int32], degree: int) -> NDArray[np.int32]:
    """The best `degree` neighbours of lists that are longer."""
    if neighbours.shape[1] > degree:
        long = np.flatnonzero(neighbours[:, degree] != np.arange(len(neighbours))).astype(np.int32)
        _link(space, neighbours, long, np.zeros(len(long) + 1, np.int64), np.zeros(1, np.int32), degree, room=0)
    lists = empty((len(neighbours), degree), np.int32)
    lists[:] = neighbours[:, :degree]
    return lists


def without(space: Space, neighbours: NDArray[np.int32], gone: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The lists of the rows that stay, among themselves: neighbours of those gone take their place (FreshDiskANN)."""
    degree = neighbours.shape[1]
    lists = np.minimum(neighbours.view(np.uint32), len(gone) - 1).astype(np.int32)
    torn = np.flatnonzero(gone[lists].any(axis=1) & ~gone)
    for start in range(0, len(torn), _AT_ONCE):
        rows = torn[start : start + _AT_ONCE]
        own = lists[rows]
        behind = lists[own]  # (rows, degree, degree)
        candidates = np.where(gone[own][:, :, None] & ~gone[behind], behind, -1).reshape(len(rows), -1)
        lists[rows] = np.where(gone[own], rows[:, None], own)
        starts = np.arange(len(rows) + 1) * candidates.shape[1]
        _link(space, lists, rows.astype(np.int32), starts, candidates.reshape(-1).astype(np.int32), degree, room=0)
    new_number = np.cumsum(~gone, dtype=np.int32) - 1
    left = taken(lists, ~gone)
    left[:] = new_number[left]
    return left


def _link(
    space: Space,
    neighbours: NDArray[np.int32],
    targets: NDArray[np.int32],
    starts: NDArray[np.int64],
    candidates: NDArray[np.int32],
    degree: int,
    room: int,
) -> None:
    equals = max(1, degree // 8)
    kernels.link(
        space.codes, space.norms, neighbours, targets, starts, candidates,
        degree=degree, room=room, alpha=ALPHA, equals=equals, most=MOST,
    )  # fmt: skip


def entry_rows(stored: Stored, vectors: VectorsOf, rows: Rows, seed: int) -> NDArray[np.int32]:
    """Some of the rows, as far apart as what there is: those next to the centroids of a sample."""
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(rows, min(len(rows), ENTRY_SAMPLE), replace=False))
    points = vectors(sample)
    if stored.metric == "cosine":
        points = normalised(points)
    near = Coder(Float32(), "l2")
    centroids = points[rng.choice(len(points), min(len(points), ENTRIES), replace=False)]
    for _ in range(ENTRY_ROUNDS):
        codes = near.encode(centroids)
        nearest = kernels.topk(near.prepare(points), codes, 1, ids=np.arange(len(centroids))).ids[:, 0]
        for i in range(len(centroids)):
            if (nearest == i).any():
                centroids[i] = points[nearest == i].mean(axis=0)
    found = kernels.topk(near.prepare(centroids), near.encode(points), 1, ids=np.arange(len(points))).ids[:, 0]
    return np.unique(sample[found]).astype(np.int32)
