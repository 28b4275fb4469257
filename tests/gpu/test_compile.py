"""Every GPU kernel compiles to machine code for GPUs that are not here, by the very launches that ship.

A driver that stands in for CUDA's lets Triton compile what a call needs and then launches nothing.
"""

import os
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qindex.formats import FORMATS
from qindex_kernels.layout import Level, Rows

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'qindex[gpu]'")
triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'qindex[gpu]'")
MODULES = ("rows", "queries", "topk", "score_rows", "launch", "matmul")
gpu = types.SimpleNamespace(**{name: import_module(f"qindex_kernels.gpu.{name}") for name in MODULES})

pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET: nothing is compiled")

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}  # that one program may have; Triton refuses a kernel that takes more

N, DIM = 64, 384


class CompileOnly:
    """What Triton asks of a driver, for a GPU of some architecture that is not here."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.utils = types.SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": SHARED_BYTES[arch]},
            load_binary=lambda *kernel: (0, 0, 0, 0, 1024),
            unload_module=lambda module: None,
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        return lambda *arguments: None

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """The files of every kernel that was compiled, or found in Triton's cache, since the last look."""

    def __init__(self) -> None:
        self.files: list[dict[str, Path]] = []

    def __call__(self, *, metadata_group: dict[str, str], **rest: Any) -> None:
        self.files.append({Path(path).suffix: Path(path) for path in metadata_group.values()})


@pytest.fixture(params=SHARED_BYTES, ids=lambda arch: f"sm_{arch}")
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    seen = Compiled()
    monkeypatch.setattr(triton.knobs.compilation, "listener", seen)
    monkeypatch.setattr(triton.runtime.driver, "_active", CompileOnly(request.param))
    gpu.launch._ready.clear()  # nor is what another architecture runs
    return seen


def rows_of(kind: str, *levels: tuple[str, int], zero: bool = False) -> Any:
    def level(name: str, size: int) -> Level:
        dtype = {"float32": np.float32, "float16": np.float16}.get(name, np.uint8)
        return Level(name, size, np.ones((N, -(-DIM // size)), dtype))

    return gpu.rows.to_device(
        Rows(
            kind,
            DIM,
            np.zeros((N, FORMATS[kind].row_bytes(DIM)), np.uint8),
            scale=np.ones(N, np.float32),
            bias=None if levels else np.ones(N, np.float32),
            levels=tuple(level(*one) for one in levels),
            zero=level("float32", levels[0][1]) if zero else None,
            tables=np.zeros((1, 16), np.int8) if kind == "table4" else None,
        ),
        "cpu",
    )


def ptx_of(compiled: Compiled) -> str:
    """The assembly of the last kernel that was compiled; there is machine code beside it."""
    files = compiled.files[-1]
    compiled.files.clear()
    assert files[".cubin"].read_bytes().startswith(b"\x7fELF")
    return files[".ptx"].read_text()


def queries(m: int) -> Any:
    return torch.zeros((m, DIM))


FORMS: dict[str, tuple[Any, ...]] = {
    "int8": ("int8",),
    "sign": ("sign",),
    "e4m3": ("e4m3",),
    "int4": ("int4", ("float16", 128)),
    "mxfp4": ("e2m1", ("e8m0", 32)),
    "nvfp4": ("e2m1", ("e4m3", 16), ("float32", 384)),
    "nf4": ("nf4", ("float32", 64)),
}
# These differ from one above in numbers alone.
SAME_CODE = {"e5m2": ("e5m2",), "e3m4": ("e3m4",), "half4": ("half4", ("float32", 32)), "table4": ("table4",)}


def slow(*case: Any) -> Any:
    """A case whose code is nearly that of another."""
    return pytest.param(*case, marks=pytest.mark.slow)


def tensor_core(compiled_for: str) -> str:
    return "wgmma.mma_async" if "sm_90" in compiled_for else "mma.sync"


@pytest.mark.parametrize("form", [*FORMS, *map(slow, SAME_CODE)])
def test_gemv_compiles(form: str, compiled: Compiled) -> None:
    gpu.matmul.matmul(rows_of(*{**FORMS, **SAME_CODE}[form]), queries(1))
    assert "cp.async" in ptx_of(compiled)  # reads run ahead


def prepared(m: int, way: str) -> Any:
    """Queries that were rounded for a scan."""
    fast = queries(m).to({"float32": torch.float32, "int8": torch.int8, "bfloat16": torch.bfloat16}[way])
    double = torch.zeros(m, dtype=torch.float64)
    return gpu.queries.DeviceQueries(queries(m), double, double, fast, torch.ones(m) if way == "int8" else None)


@pytest.mark.parametrize("form", ["int8", "sign", "e4m3", slow("nvfp4")])
def test_the_scan_of_one_query_compiles(form: str, compiled: Compiled) -> None:
    gpu.topk.best_of_blocks(rows_of(*FORMS[form]), prepared(1, "float32"), torch.ones(N, dtype=torch.uint8))
    assert "cp.async" in ptx_of(compiled)


@pytest.mark.parametrize(
    ("form", "m", "way"),
    [
        ("int8", 16, "int8"), slow("int8", 64, "int8"), ("sign", 256, "int8"), ("e4m3", 16, "bfloat16"),
        slow("e4m3", 64, "bfloat16"), ("int4", 256, "bfloat16"), slow("nf4", 128, "bfloat16"),
    ],
)  # fmt: skip
def test_the_scan_of_many_queries_runs_on_tensor_cores(form: str, m: int, way: str, compiled: Compiled) -> None:
    gpu.topk.best_of_blocks(rows_of(*FORMS[form]), prepared(m, way), None)
    ptx = ptx_of(compiled)
    assert tensor_core(ptx) in ptx


@pytest.mark.parametrize("way", ["float32", "int8", "bfloat16"])
def test_preparing_queries_compiles(way: str, compiled: Compiled) -> None:
    rows = rows_of("int8")
    gpu.queries.prepared(rows, torch.ones(DIM), np.zeros((2, DIM), np.float32), np.zeros(2), way, 1.0)
    assert "sqrt.rn.f64" in ptx_of(compiled)


@pytest.mark.parametrize("form", [slow("int8"), "sign", "mxfp4"])
def test_the_other_steps_of_topk_compile(form: str, compiled: Compiled) -> None:
    rows, some = rows_of(*FORMS[form]), prepared(2, "float32")
    gpu.topk.ranked(rows, some, torch.zeros(2, 3), None, torch.zeros(N, dtype=torch.int64), 1, 2, 3)
    assert "mul.rn.f64" in compiled.files[0][".ptx"].read_text()
    assert ptx_of(compiled)
    gpu.score_rows.score_rows(rows, some.values, some.offset, torch.zeros((2, 3), dtype=torch.int64))
    assert "mul.rn.f64" in ptx_of(compiled)


@pytest.mark.parametrize(("form", "m"), [slow("int4", 2), ("e4m3", 8)])
def test_float_matmul_of_a_few_compiles(form: str, m: int, compiled: Compiled) -> None:
    gpu.matmul.matmul(rows_of(*FORMS[form]), queries(m))
    assert "mul.rn.f32" in ptx_of(compiled)


@pytest.mark.parametrize(
    ("form", "m"), [("int4", 32), slow("e4m3", 64), ("int8", 512), ("nf4", 512), slow("nvfp4", 64)]
)
def test_float_matmul_runs_on_tensor_cores(form: str, m: int, compiled: Compiled) -> None:
    gpu.matmul.matmul(rows_of(*FORMS[form], zero=form == "int4"), queries(m))
    ptx = ptx_of(compiled)
    assert tensor_core(ptx) in ptx
    assert "bf16" in ptx


@pytest.mark.parametrize(
    ("form", "m", "block_steps"),
    [
        ("int8", 1, False), ("int8", 512, False), slow("sign", 64, False), slow("int4", 1, True), ("int4", 512, True),
        slow("int4", 512, False), slow("nvfp4", 64, True), ("nf4", 64, False),
    ],
)  # fmt: skip
def test_int8_matmul_runs_on_tensor_cores_and_contracts_no_product_into_a_sum(
    form: str, m: int, block_steps: bool, compiled: Compiled
) -> None:
    rows = rows_of(*FORMS[form], zero=form == "int4")
    gpu.matmul.matmul_int8(rows, queries(m), rows.block if block_steps else 0)
    ptx = ptx_of(compiled)
    assert (tensor_core(ptx) if m > 32 else "mma.sync") in ptx
    assert "fma." not in ptx
