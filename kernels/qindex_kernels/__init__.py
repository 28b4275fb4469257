"""Kernels over plain arrays: `reference` in NumPy, `cpu` in numba. Private to qindex, which imports them by its door.

Nothing here knows a class of qindex, reads the environment or keeps state. kernels/README.md gives the layouts.
"""
