"""Every dispatch path of the compiled kernels is forced, each in a process of its own, with the checks of this folder.

numba keeps compiled kernels by target, so the paths share one cache on disk and a second run compiles nothing.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qindex_kernels.cpu.target import PATH

X86 = platform.machine() in ("x86_64", "AMD64")
TARGETS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+popcnt,+sse4.2"},
    "portable": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}
# The path of this process is tested by the other files of this folder, and no machine runs more than it has.
OTHER_PATHS = {"avx512": ["avx2", "portable"], "avx2": ["portable"], "portable": []}[PATH] if X86 else []

CHECKS = ["test_equal.py", "test_reads.py"]
SCRIPT = """
import sys, pytest
from qindex_kernels.cpu.target import PATH
assert PATH == sys.argv[1], PATH
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process for each other path, all started at once."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    files = [str(Path(__file__).with_name(name)) for name in CHECKS]
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", SCRIPT, name, *files],
            env={**os.environ, **TARGETS[name], "PYTHONPATH": path},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in OTHER_PATHS
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", TARGETS)
def test_the_checks_hold_on_every_path(name: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    if name not in runs:
        pytest.skip(f"this machine's own path is {PATH}")
    output, _ = runs[name].communicate(timeout=600)
    assert runs[name].returncode == 0, output
