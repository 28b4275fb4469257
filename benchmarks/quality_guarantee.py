"""What `guarantee=` keeps of the ranking by the finer codes, and how many rows that takes."""

from typing import Any

import numpy as np

from qindex import FlatIndex, Int8, RaBitQ
from quality_bars import bar
from quality_data import Vectorised
from quality_measures import K

GUARANTEE = 0.999
MOST_RESCORED = {1: 0.06, 4: 0.02}  # shares of the rows, by bits of the first stage


def guaranteed(data: Vectorised, seeds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and bars: over rotations and queries, how many sets of ten differ, and the mean share of rows rescored."""
    fine = Int8().fit(data.documents)
    exact = np.sort(FlatIndex.build(data.documents, fine).search(data.queries, K).ids, axis=1)
    rows, bars = [], []
    for bits, most in MOST_RESCORED.items():
        different, rescored, scans = [], [], []
        for seed in range(seeds):
            index = FlatIndex.build(data.documents, RaBitQ(bits, seed), rescore=fine)
            found, work = index.search(data.queries, K, guarantee=GUARANTEE, explain=True)
            different.append((np.sort(found.ids, axis=1) != exact).any(axis=1).mean())
            rescored.append(work.rescored.mean() / len(index))
            scans.append(work.scored.mean() / len(index))
        row = {"first": f"RaBitQ({bits})", "rescore": "Int8()", "guarantee": GUARANTEE, "seeds": seeds}
        row |= {"sets_that_differ": float(np.mean(different)), "rescored": round(float(np.mean(rescored)), 6)}
        rows.append(row | {"scans": round(float(np.mean(scans)), 3)})
        what = (
            f"guarantee={GUARANTEE}, RaBitQ({bits}), rescore=Int8(), {seeds} rotations x {len(data.queries):,} queries"
        )
        wanted = f"at most {1 - GUARANTEE:.1%} of the sets of ten differ, at most {most:.0%} of the rows rescored"
        said = f"{np.mean(different):.3%} differ, {np.mean(rescored):.3%} rescored"
        bars.append(bar(what, wanted, said, np.mean(different) <= 1 - GUARANTEE and np.mean(rescored) <= most))
    return rows, bars
