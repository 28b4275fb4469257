"""What a system may cost and has to find: which of those measured is chosen, and why none is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qindex.evaluate.report import Row


class _Demand(NamedTuple):
    """One of the budgets that are given."""

    limit: float
    cost: Callable[[Row], float]  # at most `limit`
    wanted: str  # how the limit reads; of a recall its measure
    offered: Callable[[Row], str]  # and what a row has

    def meets(self, row: Row) -> bool:
        return self.cost(row) <= self.limit

    def offer_of(self, rows: Sequence[Row]) -> str:
        """What the nearest of the rows has."""
        nearest = min(rows, key=self.cost)
        return f"{nearest.name} {self.offered(nearest)}"


@dataclass(frozen=True)
class Budget:
    """Bounds that a chosen system keeps; None where there is none.

    A recall is kept where the lower end of a row's interval reaches it: of systems whose mean just does, half would
    miss it on other queries.
    """

    recall: float | None = None  # at least, in (0, 1]
    bytes_per_vector: float | None = None  # at most, as rows count them
    latency_ms: float | None = None  # at most

    def __post_init__(self) -> None:
        for name, value in (("bytes_per_vector", self.bytes_per_vector), ("latency_ms", self.latency_ms)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise ValueError(f"recall must be a share in (0, 1], such as 0.95, got {self.recall!r}")

    def choose(self, rows: Sequence[Row]) -> Row | None:
        """The best row within all bounds; None where no bound is given, or none is within them.

        Best is the highest score, of equal ones the fewest bytes, where recall has no bound; else the fewest bytes
        where these have none; else the lowest latency.
        """
        demands = self._demands("")
        met = [row for row in rows if demands and all(one.meets(row) for one in demands)]
        if self.recall is None:
            return min(met, key=lambda row: (-row.score, row.bytes_per_vector), default=None)
        if self.bytes_per_vector is None:
            return min(met, key=lambda row: (row.bytes_per_vector, _latency(row)), default=None)
        return min(met, key=lambda row: (_latency(row), row.bytes_per_vector), default=None)

    def unmet(self, rows: Sequence[Row], measure: str) -> str:
        """A sentence on what stands in the way of a choice, which lets go of one bound at a time; "" if nothing does.

        `measure` is the name of the score.
        """
        demands = self._demands(measure)
        if not demands or not rows or self.choose(rows) is not None:
            return ""
        offers = []
        for one in demands:
            within = [row for row in rows if all(other.meets(row) for other in demands if other is not one)]
            if within:
                offers.append(one.offer_of(within))
        # Where no bound stands in the way alone, the best by each of them.
        offers = offers or [one.offer_of(rows) for one in demands]
        costs = " and ".join(one.wanted for one in demands if one.wanted != measure)
        has = "is" if self.recall is None else f"has {measure} of at least {self.recall:g}"
        return f"no system {has}{' within ' if costs else ''}{costs}: {'; '.join(offers)}"

    def _demands(self, measure: str) -> list[_Demand]:
        found = []
        if self.recall is not None:
            had = "has at least {:.4f}, {:.4f} in the mean"
            found.append(_Demand(-self.recall, lambda r: -_sure(r), measure, lambda r: had.format(_sure(r), r.score)))
        if (most := self.bytes_per_vector) is not None:
            taken = "takes {:.5g} bytes"
            found.append(_Demand(most, _bytes, f"{most:g} bytes", lambda row: taken.format(_bytes(row))))
        if (longest := self.latency_ms) is not None:
            found.append(_Demand(longest, _latency, f"{longest:g} ms", lambda row: f"takes {_latency(row):.3g} ms"))
        return found


def _sure(row: Row) -> float:
    return row.score if row.interval is None else row.interval[0]


def _bytes(row: Row) -> float:
    return row.bytes_per_vector


def _latency(row: Row) -> float:
    return math.inf if row.latency_ms is None else row.latency_ms
