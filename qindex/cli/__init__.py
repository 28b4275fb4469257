"""The command line. Commands import what is slow to import when they need it."""

from qindex.cli import collections, machine, measuring  # noqa: F401 - which add their commands
from qindex.cli.app import app

__all__ = ["app"]
