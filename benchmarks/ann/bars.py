"""What qindex's indexes should reach beside the others, and whether they did."""

from collections.abc import Callable, Sequence
from typing import Any

from ann.curves import KINDS, LEVELS
from quality_bars import bar

OURS = "qindex"
Row = dict[str, Any]
Bar = dict[str, Any]

IN_BATCHES, ALONE, LEAN, SECOND, LISTS = 3.0, 2.5, 2.0, 2.0, 1.3
BUILD, SCALING, IDLE = 0.45, 0.85, 0.75
FILTERED_RECALL, FILTERED_TIME = 0.98, 1.5
CHURN, ESTIMATE, COLD_S = 0.01, 0.2, 0.5


def graph_bars(rows: Sequence[Row], where: str) -> list[Bar]:
    """At each recall: faster than the best peer, at no more bytes than hnswlib, and than the leanest of peers."""
    bars = []
    for level in LEVELS:
        peers = _reaching(rows, level, ours=False)
        if not peers:
            continue
        hnswlib = min((row["bytes_per_vector"] for row in rows if row["library"] == "hnswlib"), default=float("inf"))
        leanest = min(row["bytes_per_vector"] for row in peers)
        bars += [
            _faster(rows, level, "batch", IN_BATCHES, hnswlib, where),
            _faster(rows, level, "single", ALONE, hnswlib, where),
            _faster(rows, level, "batch", LEAN, leanest, f"{where}, lean"),
        ]
    return bars


def second_bars(rows: Sequence[Row], where: str) -> list[Bar]:
    hnswlib = min((row["bytes_per_vector"] for row in rows if row["library"] == "hnswlib"), default=float("inf"))
    return [_faster(rows, level, kind, SECOND, hnswlib, where) for level in LEVELS for kind in KINDS]


def list_bars(rows: Sequence[Row], where: str) -> list[Bar]:
    """At the higher recalls: faster than the best peer, at no more bytes than it."""
    bars = []
    for level in LEVELS[1:]:
        theirs = _fastest(_reaching(rows, level, ours=False), level, "batch")
        most = theirs["bytes_per_vector"] if theirs else float("inf")
        bars.append(_faster(rows, level, "batch", LISTS, most, where))
    return bars


def _faster(rows: Sequence[Row], level: float, kind: str, times: float, most_bytes: float, where: str) -> Bar:
    what = f"recall@10 {level:.2f} on {where}, {'in batches' if kind == 'batch' else 'single calls'}"
    theirs = _fastest(_reaching(rows, level, ours=False), level, kind)
    lean_enough = [row for row in _reaching(rows, level, ours=True) if row["bytes_per_vector"] <= most_bytes]
    ours = _fastest(lean_enough, level, kind)
    limit = "" if most_bytes == float("inf") else f", at most {most_bytes:,.0f} bytes"
    if theirs is None:
        return bar(what, "some peer that reaches it", "none does", ours is not None)
    wanted = f"{times:g} times {_named(theirs)}, {_qps(theirs, level, kind):,.0f} a second{limit}"
    if ours is None:
        return bar(what, wanted, "no index of so few bytes reaches it", False)
    ratio = _qps(ours, level, kind) / _qps(theirs, level, kind)
    said = f"{ratio:.2f} times: {_qps(ours, level, kind):,.0f} by {ours['name']}, {ours['bytes_per_vector']:,.0f} bytes"
    return bar(what, wanted, said, ratio >= times)


def build_bars(rows: Sequence[Row], name: str, scaling: dict[str, float]) -> list[Bar]:
    """Time to build the graph `name`, beside the fastest peer whose recall reaches the highest level."""
    ours = next(row for row in rows if row["name"] == name)
    peers = _reaching(rows, LEVELS[-1], ours=False)
    wanted = f"at most {BUILD} times the fastest peer that reaches recall@10 {LEVELS[-1]}"
    what, seconds = f"{name}, built on one thread", ours["build"]["cpu_s"]
    if peers:
        least: Callable[[Row], float] = lambda row: row["build"]["cpu_s"]  # noqa: E731
        theirs = min(peers, key=least)
        share = seconds / least(theirs)
        said = f"{share:.2f} times: {seconds:.1f} s beside {least(theirs):.1f} s of {_named(theirs)}"
        reached = share <= BUILD and ours in _reaching(rows, LEVELS[-1], ours=True)
        bars = [bar(what, wanted, said, reached)]
    else:
        bars = [bar(what, wanted, "no peer reaches it", True)]
    share = scaling["build"] / scaling["registers"]
    idle = scaling["registers"] >= IDLE * scaling["threads"]  # else others had the cores, and nothing is shown
    bars.append(
        bar(
            f"{name}, built on {scaling['threads']} threads",
            f"at least {SCALING} of what a loop in registers gains by them, {scaling['registers']:.2f} times",
            f"{share:.2f} of it: {scaling['build']:.2f} times" + ("" if idle else ", but the cores were not free"),
            idle and share >= SCALING,
        )
    )
    return bars


def filter_bars(rows: Sequence[Row]) -> list[Bar]:
    return [
        bar(
            f"{row['index']}, {row['allowed']:.1%} allowed, {row['which']}",
            f"recall@10 at least {FILTERED_RECALL}; at most {FILTERED_TIME} times the better of no filter and a scan",
            " and ".join(
                f"{row[kind]['recall']:.4f}, {row[kind]['share']:.2f} times ({_spoken(kind)})" for kind in KINDS
            ),
            all(row[kind]["recall"] >= FILTERED_RECALL and row[kind]["share"] <= FILTERED_TIME for kind in KINDS),
        )
        for row in rows
    ]


def churn_bars(rows: Sequence[Row]) -> list[Bar]:
    return [
        bar(
            f"{row['index']}, half of the rows removed and as many added",
            f"recall@10 at most {CHURN} below a fresh build's {row['fresh']:.4f}",
            f"{row['churned']:.4f}; {row['compacted']:.4f} after compact()",
            min(row["churned"], row["compacted"]) >= row["fresh"] - CHURN,
        )
        for row in rows
    ]


def scale_bars(rows: Sequence[Row]) -> list[Bar]:
    bars = []
    for row in rows:
        for kind in ("bytes", "build_s", "open_s"):
            ratio = row[kind]["measured"] / row[kind]["estimated"]
            what = f"{row['index']}, {row['rows']:,} rows, {kind.removesuffix('_s')}"
            said = f"{ratio:.2f} times: {row[kind]['measured']:,.4g} beside {row[kind]['estimated']:,.4g}"
            bars.append(bar(what, f"as estimated within {ESTIMATE:.0%}", said, abs(ratio - 1) <= ESTIMATE))
        cold = row["cold_s"]
        what = f"{row['index']}, {row['rows']:,} rows, cold open and first query"
        bars.append(bar(what, f"under {COLD_S} s", f"{cold:.3f} s", cold < COLD_S))
    return bars


def _reaching(rows: Sequence[Row], level: float, *, ours: bool) -> list[Row]:
    return [row for row in rows if (row["library"] == OURS) == ours and row["at"][f"{level:.2f}"]["batch"] is not None]


def _fastest(rows: Sequence[Row], level: float, kind: str) -> Row | None:
    return max(rows, key=lambda row: _qps(row, level, kind), default=None)


def _qps(row: Row, level: float, kind: str) -> float:
    found: float = row["at"][f"{level:.2f}"][kind]
    return found


def _named(row: Row) -> str:
    return f"{row['library']} {row['name']}"


def _spoken(kind: str) -> str:
    return "one of a batch" if kind == "batch" else "a single query"
