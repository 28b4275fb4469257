"""Lets the tests of this folder import each other, and the networks of tests/lowbit."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: nothing here may reach for the network

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "lowbit")]
