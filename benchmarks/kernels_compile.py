"""How long the first calls take: section `compile` of kernels.py, each measurement in a process of its own.

    python kernels_compile.py OP:FORMAT [OP:FORMAT ...]

makes these calls one after the other and prints the seconds of each, as JSON. What numba imports is loaded before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OPERATIONS = ("topk", "score_rows", "matmul", "matmul_int8")
# In a process of its own, with a warm cache: one format of each way to store numbers.
WARM_FORMATS = ("float32", "float16", "e4m3", "e2m3", "nf4", "int8", "sign", "int4", "int7")
COLD_BAR, WARM_BAR, WARMUP_BAR = 3.0, 0.3, 60.0


def compile_times(quick: bool) -> dict[str, Any]:
    """Cold and warm first calls of every kernel, and `qindex warmup`."""
    from qindex.formats import FORMATS
    from timing import shown

    formats = [name for name, format in FORMATS.items() if format.kind != "exponent"]
    if quick:
        formats = ["int8", "float32"]
    calls = [f"{op}:{name}" for name in formats for op in OPERATIONS if op != "matmul_int8" or _has_integers(name)]
    warm_calls = [call for call in calls if call.partition(":")[2] in WARM_FORMATS]
    with tempfile.TemporaryDirectory() as folder:
        cold = _first_calls(calls, folder)
        for call, seconds in cold.items():
            shown({"cold": call, "s": seconds})
        alone = {}
        for call in warm_calls:
            alone |= _first_calls([call], folder)
            shown({"warm, alone": call, "s": alone[call]})
    warmups = {}
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                started = time.perf_counter()
                command = [sys.executable, "-c", "from qindex.cli import app; app()", "warmup"]
                subprocess.run(command, env=_environment(folder), check=True, stdout=subprocess.DEVNULL)
                warmups[state] = round(time.perf_counter() - started, 2)
                shown({"warmup": state, "s": warmups[state]})
    return {
        "settings": {"bars_s": {"cold": COLD_BAR, "warm": WARM_BAR, "warmup": WARMUP_BAR}, "kernels": len(cold)},
        "cold_s": cold,
        "warm_s": alone,
        "warmup_s": warmups,
    }


def _has_integers(name: str) -> bool:
    from qindex.backend import has_integers

    return has_integers(name)


def _environment(cache: str) -> dict[str, str]:
    return os.environ | {"NUMBA_CACHE_DIR": cache}


def _first_calls(calls: list[str], cache: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), *calls]
    done = subprocess.run(command, env=_environment(cache), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(calls: list[str]) -> None:
    import numba  # noqa: F401  loaded, the kernels are compiled from the first call on
    import numpy as np

    from kernels_codes import random_codes, random_queries
    from qindex import kernels

    kernels.set_threads(1)
    rng = np.random.default_rng(0)
    seconds = {}
    for call in calls:
        op, _, name = call.partition(":")
        codes, queries = random_codes(name, 8, 64, rng), random_queries(1, 64, rng)
        ids = np.arange(len(codes))
        started = time.perf_counter()
        if op == "topk":
            kernels.topk(queries, codes, 3, ids=ids)
        elif op == "score_rows":
            kernels.score_rows(queries, codes, ids[None])
        else:
            kernels.matmul(queries.values, codes, activations="float32" if op == "matmul" else "int8")
        seconds[call] = round(time.perf_counter() - started, 4)
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
