"""`import qindex` is light, and every public name is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qindex

ROOT = Path(__file__).parents[2]
HEAVY = ["faiss", "llvmlite", "numba", "nupunkt", "scipy", "sentence_transformers", "torch", "transformers"]


MODULES = [
    "",
    ".quantize",
    ".transform",
    ".index",
    ".lowbit",
    ".lowbit.plan",
    ".rerank",
    ".rerank.templates",
    ".kernels",
    ".opening",
    ".encode.adapter",
    ".encode.sentence",
    ".search.retriever",
    ".cli",
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_no_encoder_and_no_compiler(module: str) -> None:
    script = f"import sys, qindex{module}; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("name", qindex.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(qindex, name).__name__ == name
    assert name in dir(qindex)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'qindex' has no attribute 'IVFIndexes'"):
        _ = qindex.IVFIndexes
