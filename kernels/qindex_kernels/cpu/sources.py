"""How kernels are compiled and kept.

numba checks a cached kernel against the file that defines it, not against the files it is built from: after an upgrade
that changes only a word of `simd`, it would go on using the old one. It does look at the cells of a closure, though.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

from numba import cfunc, njit, types

SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))

# A function that only kernels call: it needs no way in from Python, which would take as long to compile as the rest.
helper = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)

# The same, for what is called often: a call would copy all that is known of rows and queries.
inlined = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def inner_loop(n_arguments: int) -> Any:
    """For a function that kernels call by its address, with so many 64-bit integers; SOURCES must be in its closure."""
    return cfunc(types.void(*[types.intp] * n_arguments), cache=True)


def kernel(function: FunctionType) -> Callable[..., Any]:
    """A function that Python calls: compiled when first called, kept on disk under a key with SOURCES."""
    code = function.__code__.replace(co_freevars=("sources",))
    keyed = FunctionType(code, function.__globals__, function.__name__, None, (CellType(SOURCES),))
    keyed.__doc__ = function.__doc__
    compiled: Callable[..., Any] = njit(nogil=True, cache=True)(keyed)
    return compiled
