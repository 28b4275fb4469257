"""Indexes over quantized vectors, one file an index."""

from qindex.index.flat import FlatIndex
from qindex.index.graph import GraphIndex
from qindex.index.ivf import IVFIndex

__all__ = ["FlatIndex", "GraphIndex", "IVFIndex"]
