"""Lets the checks of this folder import what they share: `clustered_rows`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
