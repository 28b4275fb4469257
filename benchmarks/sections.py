"""Benchmarks of several sections: which are asked for, in what process they run, and their result, kept by section."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import environment


def asked(description: str, sections: Sequence[str], started_with: Mapping[str, str]) -> tuple[list[str], bool]:
    """The sections that the command line names (default: all), and whether the run is a quick one.

    Starts the process again where its environment lacks `started_with`, which libraries read when they are loaded. The
    result of a quick run, whose figures mean nothing, goes to the folder for temporary files.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(sections):
        parser.error(f"--only must name some of {', '.join(sections)}, got {', '.join(sorted(unknown))}")
    if any(os.environ.get(name) != value for name, value in started_with.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | started_with)
    if arguments.quick:
        environment.RESULTS = Path(tempfile.gettempdir()) / "qindex-quick"
    return chosen, arguments.quick


def earlier(name: str) -> dict[str, Any]:
    """What `results/NAME.json` holds; nothing where there is no such file."""
    file = environment.RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
