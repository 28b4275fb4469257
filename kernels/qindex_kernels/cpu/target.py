"""Which instructions the compiled kernels may use, read from the target that numba really compiles for.

An x86 intrinsic that the target lacks makes LLVM abort the process, so the choice comes before any compilation. It
depends on nothing but numba's target, which is part of numba's cache key: a cached kernel always fits. To try a lesser
target, set numba's own NUMBA_CPU_NAME and NUMBA_CPU_FEATURES before the process starts.
"""

from typing import Literal

from numba.core.registry import cpu_target

Path = Literal["avx512", "avx2", "portable"]


def path() -> Path:
    """`avx512` (with BW, DQ, VL and VNNI), `avx2` (with FMA and F16C) or `portable` (plain LLVM vectors; NEON too)."""
    _triple, _cpu, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = {name[1:] for name in features.split(",") if name.startswith("+")}
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"} <= enabled:
        return "avx512"
    if {"avx2", "fma", "f16c"} <= enabled:
        return "avx2"
    return "portable"


PATH: Path = path()
