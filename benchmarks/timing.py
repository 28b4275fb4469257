"""Measuring calls in turns, and showing what was measured."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

MOST_SECONDS = 20.0


def medians(calls: dict[str, Callable[[int], Any]], rounds: int, least: float = 1e-3) -> dict[str, float]:
    """Median seconds of a call of each, measured in turns, so that all meet the machine in the same state.

    A call gets the number of its round. Short calls are repeated within a round until they take `least` seconds.
    Three rounds are enough where they take more than MOST_SECONDS.
    """
    repeats = {}
    for name, call in calls.items():
        call(0)
        started = time.perf_counter()
        call(0)
        repeats[name] = max(1, int(least / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    first = time.perf_counter()
    for i in range(rounds):
        if i >= 3 and time.perf_counter() - first > MOST_SECONDS:
            break
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call(i)
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return {name: float(np.median(times)) for name, times in seconds.items()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The row, which is printed on one line."""
    print("  " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row
