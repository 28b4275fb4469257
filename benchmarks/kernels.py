"""How near the CPU kernels come to what the machine can do, and how they stand beside other libraries.

    python benchmarks/kernels.py [--only scan,linear] [--quick]

Sections, each with ceilings measured in its own run; a run of some leaves the others in the result as they were:

    ceilings   bandwidth of reading memory, peak rates of the integer and the float instruction
    scan       one query against 1 GiB of codes
    cache      rows that lie in the cache
    batch      many queries at once
    linear     linear layers, with weights that no cache holds
    compile    first calls, and `qindex warmup`

One thread. All libraries get memory in huge pages, as NumPy does: the script starts itself again with what must be set
before a process starts. Writes benchmarks/results/kernels.json; a quick run, whose figures mean nothing, writes to the
folder for temporary files instead.
"""

import time
from typing import Any

import environment
from sections import asked, earlier

SECTIONS = ("ceilings", "scan", "cache", "batch", "linear", "compile")
PACKAGES = ["numpy", "numba", "llvmlite"]
PEER_PACKAGES = {
    "cache": ["faiss-cpu", "usearch", "numkong"],
    "batch": ["faiss-cpu", "numkong", "torch"],
    "linear": ["torch", "onnxruntime", "openvino", "llama-cpp-python"],
}
STARTED_WITH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def main() -> None:
    chosen, quick, _ = asked(__doc__, SECTIONS, STARTED_WITH)
    import qindex
    from qindex import kernels

    qindex.set_threads(1)
    for name in chosen:
        print(name, flush=True)
        started = time.perf_counter()
        measured = section(name, quick)
        described = {"path": kernels.path(), "threads": 1, "started_with": STARTED_WITH, "quick": quick}
        measured["settings"] = described | measured.get("settings", {})
        packages = environment.environment(PACKAGES + PEER_PACKAGES.get(name, []))
        write_section(name, {"environment": packages, "seconds": round(time.perf_counter() - started), **measured})
    print(f"written to {environment.RESULTS / 'kernels.json'}")


def section(name: str, quick: bool) -> dict[str, Any]:
    """Measure one section. What it needs is imported here: after the process has been started again."""
    if name == "ceilings":
        return ceilings(1 << 26 if quick else 1 << 30)
    if name == "compile":
        import kernels_compile

        return kernels_compile.compile_times(quick)
    if name == "linear":
        import kernels_linear

        return kernels_linear.linear(kernels_linear.QUICK if quick else kernels_linear.Sizes())
    import kernels_scan

    sizes = kernels_scan.QUICK if quick else kernels_scan.Sizes()
    measured: dict[str, Any] = getattr(kernels_scan, name)(sizes)
    return measured


def ceilings(n_bytes: int) -> dict[str, Any]:
    import numpy as np

    from ceilings import OPERATIONS, float_peak, integer_peak, read
    from timing import medians, shown

    data = np.ones(n_bytes, np.uint8)
    calls = {"read": lambda i: read(data), "integer": lambda i: integer_peak(), "float": lambda i: float_peak()}
    seconds = medians(calls, 15, 2e-2)
    found = {
        "read_gb_per_s": round(n_bytes / seconds["read"] / 1e9, 2),
        "integer_gop_per_s": round(OPERATIONS["integer"] / seconds["integer"] / 1e9, 1),
        "float_gop_per_s": round(OPERATIONS["float"] / seconds["float"] / 1e9, 1),
    }
    return {"settings": {"read_bytes": n_bytes}, **shown(found)}


def write_section(name: str, measured: dict[str, Any]) -> None:
    """Write results/kernels.json with this section made new."""
    after = earlier("kernels") | {name: measured}
    environment.write_result("kernels", {name: after[name] for name in SECTIONS if name in after})


if __name__ == "__main__":
    main()
