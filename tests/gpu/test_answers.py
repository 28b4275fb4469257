"""What codes on a device give is what the reference says: without a GPU, where Triton's interpreter runs the kernels in
NumPy, and on a GPU where there is one.

Triton decides when it is imported whether it interprets, so the checks (`answers.py`, `door.py`) have processes of
their own. Without a GPU, `test_compile.py` shows that the kernels compile for one.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qindex.device import why_no_gpu

CHECKS = [str(Path(__file__).with_name(name)) for name in ("answers.py", "door.py")]
MISSING = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]


def run_checks(interpret: str, which: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", which, *CHECKS],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr


without_both = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed: pip install 'qindex[gpu]'")


@without_both
def test_interpreted_kernels_answer_as_the_reference() -> None:
    run_checks("1", "not slow")


@without_both
@pytest.mark.slow
def test_interpreted_kernels_answer_as_the_reference_for_formats_like_those_of_other_checks() -> None:
    run_checks("1", "slow")


@pytest.mark.cuda
def test_a_gpu_answers_as_the_reference() -> None:
    if reason := why_no_gpu():
        pytest.skip(f"no GPU here: {reason}")
    run_checks("0")
