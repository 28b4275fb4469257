"""Indexes over quantized vectors, one file an index."""

from qindex.index.flat import FlatIndex

__all__ = ["FlatIndex"]
