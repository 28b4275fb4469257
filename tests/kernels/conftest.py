"""Lets the checks of this folder import what they share: `kernel_rows`, `topk_checks` and `fences`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
