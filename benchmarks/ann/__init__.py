"""Indexes that search a part of the vectors, of qindex and of other libraries: one file a library.

Each file has an `Engine` for what its library offers, and a list of those that are measured.
"""
