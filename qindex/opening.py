"""`qindex.load`: open any saved thing. It imports whatever can be saved, so that `io` knows every kind."""

from typing import Any

import qindex.encode.adapter
import qindex.encode.shards
import qindex.index
import qindex.lowbit.plan
import qindex.lowbit.recipes
import qindex.quantize
import qindex.rerank.fusion  # noqa: F401
from qindex import io
from qindex.io import PathLike, verify

__all__ = ["load", "verify"]


def load(path: PathLike, *, verify: bool = False) -> Any:
    """Open an index, a quantizer, a quantized model, or whatever else was saved; see `qindex.io.load`."""
    if io.read_header(path)["kind"] == "lowbit.Checkpoint":
        import qindex.lowbit.checkpoint  # noqa: F401 - which needs torch
    return io.load(path, verify=verify)
