"""Lets the checks of this folder import `kernel_rows` and `fences`, which they share with tests/kernels."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a program of many rows as for one of few."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        monkeypatch.setattr("qindex_kernels.gpu.topk.ROWS_TO_SCORE", 64)
        monkeypatch.setattr("qindex_kernels.gpu.score_rows.ROWS", 64)
