"""Benchmarks of several sections: which are asked for, in what process they run, and their result, kept by section."""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import environment


def asked(
    description: str,
    sections: Sequence[str],
    started_with: Mapping[str, str],
    sizes: Mapping[str, tuple[int, str]] | None = None,
) -> tuple[list[str], bool, dict[str, int]]:
    """The sections that the command line names (default: all), whether the run is a quick one, and the sizes.

    `sizes` are further numbers that it may name, each with what it is by default and what it is for.

    Starts the process again where its environment lacks `started_with`, which libraries read when they are loaded. The
    result of a quick run, whose figures mean nothing, goes to the folder for temporary files.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    sizes = sizes or {}
    for name, (default, what) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default {default:,})")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(sections):
        parser.error(f"--only must name some of {', '.join(sections)}, got {', '.join(sorted(unknown))}")
    if any(os.environ.get(name) != value for name, value in started_with.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | started_with)
    if arguments.quick:
        environment.RESULTS = Path(tempfile.gettempdir()) / "qindex-quick"
    return chosen, arguments.quick, {name: getattr(arguments, name) for name in sizes}


def run(
    name: str,
    description: str,
    sections: Mapping[str, int],
    packages: Callable[[str], Sequence[str]],
    started_with: Mapping[str, str],
    measured: Callable[[str, bool], dict[str, Any]] | None = None,
) -> None:
    """Measure the sections that are asked for, each on its number of threads, into `results/NAME.json`.

    `measured(section, quick)` does it; without, the function of that name in `NAME_SECTION.py`.
    """
    chosen, quick, _ = asked(description, list(sections), started_with)
    import torch

    import qindex

    torch.set_grad_enabled(False)
    for section in chosen:
        print(section, flush=True)
        threads = sections[section]
        qindex.set_threads(threads)
        torch.set_num_threads(threads)
        started = time.perf_counter()
        if measured is None:
            found = importlib.import_module(f"{name}_{section}").measured(quick)
        else:
            found = measured(section, quick)
        found["settings"] = {"threads": threads, "quick": quick, **found.get("settings", {})}
        described = {
            "environment": environment.environment(packages(section)),
            "seconds": round(time.perf_counter() - started),
        }
        result = earlier(name)
        result[section] = described | found
        environment.write_result(name, result)
    print(f"written to {environment.RESULTS / f'{name}.json'}")


def earlier(name: str) -> dict[str, Any]:
    """What `results/NAME.json` holds; nothing where there is no such file."""
    file = environment.RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
