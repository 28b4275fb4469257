"""`qindex.load`: open any saved thing. It imports whatever can be saved, so that `io` knows every kind."""

import qindex.encode.shards
import qindex.index
import qindex.quantize  # noqa: F401
from qindex.io import load, verify

__all__ = ["load", "verify"]
