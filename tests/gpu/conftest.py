"""Lets the checks of this folder import `kernel_rows` and `fences`, which they share with tests/kernels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
