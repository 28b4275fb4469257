"""Which of some rows lie in which list: runs of rows that lie side by side."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qindex.kernels import Runs


class InRuns:
    """What rows lie in lists: a dataclass that has these fields, as kernels.Runs."""

    starts: NDArray[np.int64]  # (lists + 1,)
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def check_runs(self) -> None:
        """ValueError unless every row lies in one run, and every run in one list."""
        for name, array in (("starts", self.starts), ("firsts", self.firsts), ("counts", self.counts)):
            if array.dtype != np.int64 or array.ndim != 1 or not array.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous int64 (n,), got {array.dtype} {array.shape}")
        if not len(self.starts) or len(self.firsts) != len(self.counts):
            raise ValueError("lists have a start each and one more, and runs have a first row and a count each")
        if self.starts[0] != 0 or self.starts[-1] != len(self.firsts) or (np.diff(self.starts) < 0).any():
            raise ValueError(f"starts must rise from 0 to the number of runs, {len(self.firsts)}")
        # Sorted, runs follow each other without a gap.
        order = np.lexsort((self.counts, self.firsts))
        ends = np.cumsum(self.counts[order])
        if len(order) and (
            self.counts.min() < 0 or ends.min() < 0 or (self.firsts[order] != np.append(0, ends[:-1])).any()
        ):
            raise ValueError("runs must hold every row once")

    @property
    def n_lists(self) -> int:
        return len(self.starts) - 1

    @property
    def n_rows(self) -> int:
        return int(self.counts.sum())

    @property
    def runs(self) -> Runs:
        return Runs(self.starts, self.firsts, self.counts)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(lists,) rows of each."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])[self.starts]
        return np.diff(ends)

    @cached_property
    def of_rows(self) -> NDArray[np.int32]:
        """(n,) the list of each row."""
        result = np.empty(self.n_rows, np.int32)
        run_lists = np.repeat(np.arange(self.n_lists, dtype=np.int32), np.diff(self.starts))
        order = np.argsort(self.firsts, kind="stable")
        result[:] = np.repeat(run_lists[order], self.counts[order])
        return result

    def probed(self, probes: NDArray[np.int32]) -> NDArray[np.int64]:
        """(m,) rows of the lists (m, p), of which -1 is none."""
        counts: NDArray[np.int64] = np.where(probes >= 0, self.sizes[probes], 0).sum(axis=1)
        return counts

    def may_hold(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(lists,): False for those without any row of a mask (n,)."""
        held, (firsts, lists) = np.zeros(self.n_lists, np.bool_), self._by_first
        if len(firsts):
            held[lists[np.logical_or.reduceat(rows, firsts)]] = True
        return held

    @cached_property
    def _by_first(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first rows of the runs that have some, in order, and their lists."""
        lists = np.repeat(np.arange(self.n_lists), np.diff(self.starts))
        order = np.argsort(self.firsts, kind="stable")
        order = order[self.counts[order] > 0]
        return self.firsts[order], lists[order]

    def longer(self, sizes: NDArray[np.int64]) -> Runs:
        """The runs with rows behind the others, list by list, so many of each."""
        added = np.flatnonzero(sizes)
        firsts = self.n_rows + np.cumsum(sizes) - sizes
        run_lists = np.concatenate([np.repeat(np.arange(self.n_lists), np.diff(self.starts)), added])
        order = np.argsort(run_lists, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(run_lists, minlength=self.n_lists))])
        firsts = np.concatenate([self.firsts, firsts[added]])[order]
        return Runs(starts, firsts, np.concatenate([self.counts, sizes[added]])[order])


def in_order(sizes: NDArray[np.int64]) -> Runs:
    """Runs of rows that lie list by list, so many of each."""
    return Runs(np.arange(len(sizes) + 1), np.cumsum(sizes) - sizes, sizes)
