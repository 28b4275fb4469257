"""Which kernels a process uses: those that numba compiles, once they begin to pay, or NumPy's.

- numba is the rule. Loading it costs most of a second, so a process's first few megabytes of work (a search from the
  command line) run in NumPy; once those sum up to what loading costs, numba is loaded.
- NumPy also serves where numba's compiler is disabled (NUMBA_DISABLE_JIT=1).
- QINDEX_KERNELS=reference, portable, avx2 or avx512 forces a path; it is read once, before numba is loaded.
"""

import functools
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from qindex.formats import FORMATS
from qindex_kernels.layout import Level, Listed, Rows, Runs
from qindex_kernels.rotor import Rotor, Steps

logger = logging.getLogger(__name__)

# Where the definitions of a module of kernels are, if not in reference.py.
_REFERENCES = {
    "walk": "reference_graph",
    "link": "reference_graph",
    "layers": "reference_layers",
    "attend": "reference_layers",
}

# NumPy scores about 30 MB of codes a second, so this much takes as long as loading numba and one cached kernel.
_NUMPY_BYTES = 16 << 20

# What numba must be told to compile for less than this machine has.
_TARGETS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+popcnt,+sse4.2"},
    "portable": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


class Loader:
    """Chooses between the compiled kernels and NumPy, and loads the former when they begin to pay."""

    def __init__(self) -> None:
        self._numpy_bytes_left = _NUMPY_BYTES
        self._ready: dict[tuple[str, str], Callable[..., Any]] = {}

    def function(self, module: str, name: str, kind: str, work_bytes: float) -> Callable[..., Any]:
        """The kernel `name`, compiled for rows of a format where `work_bytes` make loading the compiler worth it."""
        if (name, kind) in self._ready:
            return self._ready[name, kind]
        if not self.compiled(work_bytes):
            return _imported(f"qindex_kernels.{_REFERENCES.get(module, 'reference')}", name)
        function = _imported(f"qindex_kernels.cpu.{module}", name)
        started = time.perf_counter()
        _call_on_few_rows(function, name, kind)
        seconds = time.perf_counter() - started
        if seconds > 1:
            logger.info("compiled %s for %s rows in %.1f s; `qindex warmup` compiles all", name, kind, seconds)
        self._ready[name, kind] = function
        return function

    def compiled(self, work_bytes: float) -> bool:
        """Whether work of this size is for the compiled kernels."""
        if self._ready:
            return True
        if forced() == "reference" or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
            return False
        if "numba" not in sys.modules and forced() is None:
            self._numpy_bytes_left -= int(min(work_bytes, _NUMPY_BYTES + 1))
            if self._numpy_bytes_left >= 0:
                return False
        path()
        return True


loader = Loader()


@functools.cache
def forced() -> str | None:
    """What QINDEX_KERNELS says, or None."""
    wanted = os.environ.get("QINDEX_KERNELS")
    known = ("reference", "portable", "avx2", "avx512")
    if wanted is not None and wanted not in known:
        raise ValueError(f"QINDEX_KERNELS must be one of {', '.join(known)}, got {wanted!r}")
    return wanted


@functools.cache
def path() -> str:
    """The instruction set of the compiled kernels: `avx512`, `avx2` or `portable`. Loads numba."""
    wanted = forced()
    if wanted in _TARGETS and "numba" not in sys.modules:
        os.environ.update(_TARGETS[wanted])
    found: str = importlib.import_module("qindex_kernels.cpu.target").PATH
    if wanted not in (None, "reference", found):
        way_out = "set it before numba is imported" if wanted in _TARGETS else "this machine lacks the instructions"
        raise ValueError(f"QINDEX_KERNELS={wanted} cannot be had, numba compiles for {found}: {way_out}, or unset it")
    return found


def _imported(module: str, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _call_on_few_rows(function: Callable[..., Any], name: str, kind: str, block: int = 0) -> None:
    """Call a kernel in every way that is compiled by itself: with few and with many queries."""
    if name == "largest":
        function(np.zeros((1, 1), np.float32), 1)
        return
    if name == "rotate":
        one = np.ones((1, 1), np.float32)
        function(Rotor((Steps(one, np.zeros(1, np.intp)),)), one.copy(), False)
        return
    if name in LAYERS:
        _call_on_one_token(function, name)
        return
    format, levels = FORMATS[kind], (Level("float32", block, np.ones(1, np.float32)),) if block else ()
    dim, tables = format.span, np.zeros((1, 1 << format.bits), np.int8) if format.kind == "codebook" else None
    rows = Rows(kind, dim, np.zeros((1, format.row_bytes(dim)), np.uint8), levels=levels, tables=tables)
    first = np.zeros((1, 1), np.int64)
    for m in (1, 8):
        x, offset = np.zeros((m, dim), np.float32), np.zeros(m)
        match name:
            case "topk":
                function(rows, x, offset, first[0], None, 1, 1.0)
            case "topk_symmetric":
                function(rows, x + 1, offset, first[0], None, 1, 1.0, np.zeros((m, 1), np.uint8))
            case "score_rows":
                function(rows, x[:1], offset[:1], first)
            case "topk_lists":
                runs, probes = Runs(np.array([0, 1]), first[0], first[0] + 1), np.zeros((m, 1), np.int32)
                function(rows, x, offset, runs, probes, None, first[0], None, 1, 1.0)
            case "search_lists":
                runs, data = Runs(np.array([0, 1]), first[0], first[0] + 1), np.zeros((1, 64), np.uint8)
                centres, queries = Rows("int8", 64, data, np.ones(1, np.float32)), np.zeros((1, 64), np.float32)
                some = Listed(rows, 1.0, centres, None, runs, 0.0, None, first[0], None)
                function(some, queries, (x[:1], offset[:1]), None, 1, 1, 1)
            case "rescore":
                function(rows, x[:1], offset[:1], first, x[:1], offset[:1], first[0], 1)
            case "Walks":
                walks = function(rows, rows, np.zeros((1, 1), np.int32), np.zeros(1, np.int32), first[0])
                walks(x[:1], x[:1], offset[:1], 1, 8, 8)
            case "link":
                rows = Rows(kind, dim, rows.data, np.ones(1, np.float32))
                function(rows, np.ones(1, np.float32), np.zeros((1, 1), np.int32), np.zeros(1, np.int32),
                         np.zeros(2, np.int64), np.zeros(1, np.int32), 1, 0, 1.0, 1, 8, slice(0, 1))  # fmt: skip
            case "matmul":
                function(rows, x)
            case "matmul_int8":
                function(rows, x, 0)


def _call_on_one_token(function: Callable[..., Any], name: str) -> None:
    one = np.ones((1, 1), np.float32)
    match name:
        case "attend":
            function(one[None], one[None], one[None], np.array([[0, 1, 0, 1]]), 1.0, -1, -1, one[None].copy())
        case "layer_norm":
            function(one, one[0], one[0], 1.0, one.copy())
        case "rms_norm":
            function(one, one[0], 1.0, one.copy())
        case _:
            function(one, one.copy())


# What layers.py calls, and the modules that have it; all of it is float32.
LAYERS = {
    "attend": "attend",
    "layer_norm": "layers",
    "rms_norm": "layers",
    "gelu": "layers",
    "gelu_tanh": "layers",
    "silu": "layers",
    "tanh": "layers",
}

_MODULES = {
    "topk": "topk",
    "topk_symmetric": "symmetric",
    "topk_lists": "lists",
    "largest": "lists",
    "search_lists": "probe",
    "score_rows": "score_rows",
    "rescore": "score_rows",
    "Walks": "walk",
    "link": "link",
    "matmul": "matmul",
    "matmul_int8": "matmul",
}


def warmup(progress: bool | None = None) -> None:
    """Compile every kernel for this machine, or load it from disk. `progress=None` shows a bar on a terminal."""
    kinds = [kind for kind, format in FORMATS.items() if format.kind != "exponent"]
    names = [(name, kind) for kind in kinds for name in _MODULES if _exists(name, kind)]
    names += [(name, "float32") for name in ("rotate", *LAYERS)]
    for name, kind in tqdm(names, desc="kernels", unit="kernel", disable=None if progress is None else not progress):
        function = loader.function((_MODULES | LAYERS).get(name, name), name, kind, float("inf"))
        if name in ("topk", "matmul_int8") and FORMATS[kind].kind != "one_hot":
            _call_on_few_rows(function, name, kind, block=64)


def _exists(name: str, kind: str) -> bool:
    """Whether there is such a kernel for rows of a format."""
    if name == "matmul":
        return FORMATS[kind].kind != "one_hot"
    if name == "largest":  # it takes no rows
        return kind == "float32"
    if name == "link":
        return kind == "int8"
    if name == "topk_symmetric":
        return kind in ("sign", "half2")
    return name != "matmul_int8" or has_integers(kind)


def has_integers(kind: str) -> bool:
    """Whether the levels of a format are small integers times a unit (nf4's nearly are), as int8 products need."""
    return FORMATS[kind].kind not in ("float", "small_float", "exponent", "one_hot") or kind in ("e2m1", "e2m3")
