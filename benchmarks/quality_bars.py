"""What qindex should reach beside the others, and whether it did."""

from collections.abc import Sequence
from typing import Any

from quality_measures import Found, Shares, interval
from quality_systems import budgets

SAMPLES = 10_000
PEERS = ("faiss", "turbovec", "scalable-vs")

# The recall@10 that each of BUDGETS should give on minilm-100k.
FLOORS = (0.77, 0.89, 0.94, 0.965, 0.985, 0.997)


def bar(what: str, wanted: str, found: str, passed: bool) -> dict[str, Any]:
    print(f"  {'pass' if passed else 'FAIL'}: {what}: {found} (wanted {wanted})", flush=True)
    return {"what": what, "wanted": wanted, "found": found, "passed": bool(passed)}


def best(found: Sequence[Found], families: Sequence[str], n_bytes: float) -> Found | None:
    """The system with the highest recall among those whose codes alone take no more bytes."""
    fit = [one for one in found if one.system.compared and one.system.family in families and one.n_bytes <= n_bytes]
    return max(fit, key=lambda one: float(one.shares.mean()), default=None)


def recall_bars(found: Sequence[Found], dim: int, where: str, *, floors: bool) -> list[dict[str, Any]]:
    """At each budget: recall@10 above the best peer beyond the interval, and with `floors` at least the floor."""
    bars = []
    for n_bytes, floor in zip(budgets(dim), FLOORS, strict=True):
        what = f"recall@10 on {where}, at most {n_bytes} bytes"
        ours, theirs = best(found, ["qindex"], n_bytes), best(found, PEERS, n_bytes)
        wanted, reached = [f"at least {floor}"] if floors else [], True
        if theirs is not None:
            wanted.append(f"above {theirs.system.family} {theirs.system.name}, {theirs.shares.mean():.4f}")
        if ours is None:
            bars.append(bar(what, "; ".join(wanted), "no system of so few bytes", False))
            continue
        mean = float(ours.shares.mean())
        said = [f"{mean:.4f} by {ours.system.name}"]
        if floors:
            reached = mean >= floor
        if theirs is not None:
            difference = interval([ours.shares - theirs.shares], SAMPLES)
            said.append(points(difference))
            reached = reached and difference["low"] > 0
        bars.append(bar(what, "; ".join(wanted), ", ".join(said), reached))
    return bars


def keeping_bars(kept: dict[str, dict[str, Shares]], dim: int) -> list[dict[str, Any]]:
    """Whether decoded int8 keeps float32's best ten better than float8 and raw int8 do, and half the axes too.

    `kept` has the shares of each system by set and by name. Each set counts by itself.
    """
    raw = "sentence-transformers int8"
    pairs = [("Int8()", 'Float8("e4m3")'), ("Int8()", raw), (half_the_axes(dim), raw)]
    bars = []
    for ours, theirs in pairs:
        differences = {where: interval([by[ours] - by[theirs]], SAMPLES) for where, by in kept.items()}
        said = "; ".join(f"{where} {points(difference)}" for where, difference in differences.items())
        reached = all(difference["mean"] > 0 for difference in differences.values())
        bars.append(bar(f"float32's best ten kept, {ours}", f"more than {theirs} on every set", said, reached))
    return bars


def half_the_axes(dim: int) -> str:
    return f'Chain(PCA({dim // 2}), Float8("e4m3"))'


def points(difference: dict[str, float]) -> str:
    """A difference of shares times 100, with its interval."""
    mean, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} points ({low:+.2f} to {high:+.2f})"
