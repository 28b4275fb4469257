"""Indexes over quantized vectors, one file an index."""

from qindex.index.flat import FlatIndex
from qindex.index.ivf import IVFIndex

__all__ = ["FlatIndex", "IVFIndex"]
