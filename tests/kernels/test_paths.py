"""Every path of the compiled kernels is forced, each in a process of its own, with the checks of this folder.

Two other paths share out the checks of single number formats, since most of the time goes into compiling; those of all
formats on every path are `slow`. numba keeps compiled kernels by target, so the paths share one cache on disk and a
second run compiles nothing.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qindex_kernels.cpu.target import PATH

HERE = Path(__file__).parent
X86 = platform.machine() in ("x86_64", "AMD64")
# The path of this process is tested by the other files of this folder, and no machine runs more than it has.
OTHER_PATHS = {"avx512": ["avx2", "portable"], "avx2": ["portable"], "portable": []}[PATH] if X86 else []

CHECKS = [
    "test_equal.py",
    "test_parts.py",
    "test_rescore.py",
    "test_lists.py",
    "test_probe.py",
    "test_bounds.py",
    "test_batch.py",
    "test_matmul.py",
    "test_rotate.py",
    "test_layers.py",
    "test_walk.py",
    "test_one_hot.py",
    "test_symmetric.py",
    "test_reads.py",
    "test_fuzz.py",
    "test_instructions.py",
]
RUN_CHECKS = """
import sys, pytest
from qindex import kernels
assert kernels.path() == sys.argv[1], kernels.path()
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[2:]]))
"""
ANSWERS = """
import hashlib, sys
import numpy as np
from kernel_rows import INTEGER_KINDS, made
from test_door import coded
from qindex import kernels, layers
from qindex.types import Queries
exact, rounded, rng = hashlib.sha256(), hashlib.sha256(), np.random.default_rng(0)
for kind, tree in (("float32", "none"), ("e4m3", "mx"), ("int4", "affine"), ("nf4", "tables"), ("sign", "nv")):
    codes, x = coded(made(kind, 400, 150, rng, tree)), rng.standard_normal((7, 150)).astype(np.float32)
    queries = Queries(x, np.zeros(7))
    if sys.argv[1] != "reference":
        assert kernels.path() == sys.argv[1], kernels.path()
    for array in (*kernels.topk(queries, codes, 9, ids=np.arange(400)), kernels.scores(queries, codes)):
        exact.update(array.tobytes())
    if kind in INTEGER_KINDS:
        exact.update(kernels.matmul(x, codes, activations="int8-block").tobytes())
    rounded.update(kernels.matmul(x, codes).tobytes())
if sys.argv[1] == "reference":
    assert "numba" not in sys.modules
q, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((60, 4, 32), (9, 100)))
rounded.update(layers.attend(q, q[:, ::2], q[:, 1::2], np.array([[0, 60, 0, 60]]), scaling=0.2, right=0).tobytes())
for function in (layers.gelu, layers.silu, layers.tanh):
    rounded.update(function(x).tobytes())
exact.update(layers.layer_norm(x, x[0], x[1], 1e-5).tobytes() + layers.rms_norm(x, x[0], 1e-5).tobytes())
print(exact.hexdigest(), rounded.hexdigest())
"""


def start(script: str, path: str, *arguments: str, formats: str = "0/1") -> subprocess.Popen[str]:
    root = HERE.parents[1]
    folders = os.pathsep.join([str(HERE), str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", script, path, *arguments],
        env={**os.environ, "QINDEX_KERNELS": path, "QINDEX_CHECK_FORMATS": formats, "PYTHONPATH": folders},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


FILES = [str(HERE / name) for name in CHECKS]


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process for each other path, all started at once."""
    n = len(OTHER_PATHS)
    started = {path: start(RUN_CHECKS, path, *FILES, formats=f"{i}/{n}") for i, path in enumerate(OTHER_PATHS)}
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("path", ["avx2", "portable"])
def test_the_checks_hold_on_every_path(path: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    if path not in runs:
        pytest.skip(f"this machine's own path is {PATH}")
    output, _ = runs[path].communicate(timeout=1800)
    assert runs[path].returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHER_PATHS)
def test_the_checks_of_every_format_hold_on_every_path(path: str) -> None:
    process = start(RUN_CHECKS, path, *FILES)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output


def test_forced_paths_give_the_answers_of_the_reference_and_float_products_alike() -> None:
    started = {path: start(ANSWERS, path) for path in (PATH, *OTHER_PATHS, "reference")}
    answers = {}
    for path, process in started.items():
        output, _ = process.communicate(timeout=1800)
        assert process.returncode == 0, output
        answers[path] = output.split()
    assert len({exact for exact, _ in answers.values()}) == 1, answers
    assert len({rounded for path, (_, rounded) in answers.items() if path != "reference"}) == 1, answers
