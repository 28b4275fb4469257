"""The GPU kernels, timed beside torch and the copy bandwidth of the same device.

    python benchmarks/gpu.py [--rows 3000000]

Needs a CUDA device; without one it says so and measures nothing. That the kernels answer as the CPU's do is for
`pytest -m cuda` to show; here the rows that a timed search finds must be the best under float64, and a product reports
its error. Times are medians of CUDA events. A search, ours and torch's, goes from queries in NumPy to the best rows on
the CPU; a product stays on the GPU, and its weights are rotated through memory, so that no cache holds them. Writes
benchmarks/results/gpu.json.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from environment import environment, write_result
from qindex import kernels
from qindex.device import DeviceCodes
from qindex.formats import FORMATS
from qindex.types import Queries
from qindex_kernels.layout import Level

DIM, K, SEED, CHUNK = 384, 10, 0, 100_000
BATCHES = (1, 256)
EXACT = 8  # queries whose best rows are checked
LAYER, BLOCK, TOKENS = 4096, 128, (1, 32, 512)
COPY_BYTES = 1 << 30
ROTATED_BYTES = 512 << 20  # of weights, several times the largest L2 cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: nothing is checked or measured here")
        return
    torch.manual_seed(SEED)
    bandwidth = copy_bandwidth()
    print(f"copy: {bandwidth / 1e9:.0f} GB/s", flush=True)
    searches = [row for kind in ("int8", "e4m3", "int4", "sign") for row in search(kind, arguments.rows, bandwidth)]
    layers = [row for kind in ("int4", "int8", "e4m3") for row in layer(kind, bandwidth)]
    write_result(
        "gpu",
        {
            "environment": {
                **environment(["numpy", "torch", "triton"]),
                "gpu": torch.cuda.get_device_name(),
                "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
                "cuda": torch.version.cuda,
            },
            "settings": {"rows": arguments.rows, "dim": DIM, "k": K, "layer": [LAYER, LAYER], "seed": SEED},
            "copy_gb_per_s": round(bandwidth / 1e9, 1),
            "topk": searches,
            "linear": layers,
        },
    )


def milliseconds(call: Callable[[int], Any], repeats: int = 50) -> float:
    """The median time of `call(i)`, i counting up, after as many that are not timed."""
    for i in range(repeats):
        call(i)
    times = []
    for i in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(i)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def beside(call: Callable[[int], Any]) -> float | None:
    """The time of one of torch's ways, None where this torch or this device has not got it."""
    try:
        return round(milliseconds(call), 4)
    except (RuntimeError, AttributeError) as error:
        print(f"  torch: {str(error).splitlines()[0]}")
        return None
    finally:
        torch.cuda.empty_cache()


def copy_bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (milliseconds(lambda i: target.copy_(source)) / 1e3)


def coded(kind: str, values: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Packed codes, scales (of rows, or float16 of blocks) and the decoded numbers of values (n, dim) on the device."""
    n, dim = values.shape
    size = block or dim
    grouped = values.view(n, dim // size, size)
    largest = {"int8": 127, "e4m3": 448, "int4": 7, "sign": 1}[kind]
    reach = grouped.abs().mean(2) if kind == "sign" else grouped.abs().amax(2) / largest
    scale = reach.half() if block else reach
    numbers = grouped / scale.float()[:, :, None]
    if kind == "e4m3":
        codes = numbers.to(torch.float8_e4m3fn)
        levels, packed = codes.float(), codes.view(torch.uint8).view(n, dim)
    elif kind == "int8":
        codes = numbers.round().clamp(-127, 127).to(torch.int8)
        levels, packed = codes.float(), codes.view(torch.uint8).view(n, dim)
    elif kind == "int4":
        levels = numbers.round().clamp(-8, 7)
        pairs = (levels.view(n, dim // 2, 2) + 8).to(torch.uint8)
        packed = pairs[..., 0] | (pairs[..., 1] << 4)
    else:
        levels = torch.where(numbers < 0, -1.0, 1.0)
        bits = (levels.view(n, dim // 8, 8) > 0).to(torch.uint8) << torch.arange(8, device="cuda", dtype=torch.uint8)
        packed = bits.sum(2, dtype=torch.uint8)
    return packed, scale if block else scale[:, 0], (levels * scale.float()[:, :, None]).view(n, dim)


def device_codes(
    kind: str, dim: int, packed: torch.Tensor, scale: torch.Tensor, block: int, max_norm: float
) -> DeviceCodes:
    """Codes that were made on the device."""
    from qindex_kernels.gpu.rows import DeviceRows

    if block:
        rows = DeviceRows(kind, dim, packed, levels=(Level("float16", block, scale),))
    else:
        rows = DeviceRows(kind, dim, packed, scale=scale, max_scale=float(scale.max()))
    return DeviceCodes(rows, FORMATS[kind], max_norm, None)


def search(kind: str, n: int, bandwidth: float) -> list[dict[str, Any]]:
    """Top 10 of n unit vectors, beside a bfloat16 product and torch.topk, and int8 products where rows are int8."""
    block = 32 if kind == "int4" else 0
    parts, max_norm = [], 0.0
    asked = torch.nn.functional.normalize(torch.randn(max(BATCHES), DIM)).numpy()
    exact = np.empty((EXACT, n))
    half = torch.empty((n, DIM), dtype=torch.bfloat16, device="cuda")
    for first in range(0, n, CHUNK):
        vectors = torch.nn.functional.normalize(torch.randn(min(CHUNK, n - first), DIM, device="cuda"))
        packed, scale, decoded = coded(kind, vectors, block)
        parts.append((packed, scale))
        half[first : first + len(vectors)] = vectors
        exact[:, first : first + len(vectors)] = (moved(asked[:EXACT]).double() @ decoded.double().T).cpu()
        max_norm = max(max_norm, float(torch.linalg.vector_norm(decoded.double(), dim=1).max()) * (1 + 1e-6))
    packed, scale = (torch.cat(arrays) for arrays in zip(*parts, strict=True))
    parts.clear()
    codes = device_codes(kind, DIM, packed, scale, block, max_norm)
    ids, numbers = torch.arange(n, device="cuda"), packed.view(torch.int8)
    wanted = np.sort(np.argpartition(-exact, K, axis=1)[:, :K])
    measured = []
    for m in BATCHES:
        values = asked[:m]
        queries = Queries(values, np.zeros(m))
        found = np.sort(kernels.topk(queries, codes, K, ids=ids)[0][:EXACT])
        assert np.array_equal(found, wanted[:m]), (kind, m)
        ms = milliseconds(lambda i, q=queries: kernels.topk(q, codes, K, ids=ids))
        torch_ms = {"bf16 + topk": beside(lambda i, q=values: best_of(moved(q).bfloat16() @ half.T))}
        if kind == "int8" and m > 16:  # fewer rows are refused by _int_mm
            torch_ms["_int_mm + topk"] = beside(
                lambda i, q=values: best_of(torch._int_mm((moved(q) * 127).round().to(torch.int8), numbers.T))
            )
        measured.append(
            {
                "format": kind,
                "block": block,
                "batch": m,
                "ms": round(ms, 4),
                "queries_per_s": round(m / ms * 1e3),
                "gb_per_s": round(codes.nbytes / ms / 1e6, 1),
                "share_of_copy": round(codes.nbytes / ms * 1e3 / bandwidth, 3),
                "torch_ms": torch_ms,
            }
        )
        print(measured[-1], flush=True)
    return measured


def moved(queries: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(queries).cuda()


def best_of(scores: torch.Tensor) -> list[torch.Tensor]:
    return [one.cpu() for one in scores.topk(K, dim=1)]


def layer(kind: str, bandwidth: float) -> list[dict[str, Any]]:
    """A square linear layer: our two ways, beside torch in bfloat16, int8 and float8."""
    block = BLOCK if kind == "int4" else 0
    weights = torch.randn(LAYER, LAYER, device="cuda")
    packed, scale, decoded = coded(kind, weights, block)
    copies = -(-ROTATED_BYTES // packed.nbytes)
    rotated = [device_codes(kind, LAYER, packed.clone(), scale.clone(), block, 0.0) for _ in range(copies)]
    half = [decoded.bfloat16() for _ in range(-(-ROTATED_BYTES // (2 * LAYER * LAYER)))]
    read = rotated[0].nbytes
    measured = []
    for m in TOKENS:
        x = torch.randn(m, LAYER, device="cuda")
        rounded, exact = x.bfloat16(), x.double() @ decoded.double().T
        for activations in ("float32",) if kind == "e4m3" else ("float32", "int8"):
            ms = milliseconds(lambda i, x=x, a=activations: kernels.matmul(x, rotated[i % copies], activations=a))
            error = (kernels.matmul(x, rotated[0], activations=activations) - exact).norm() / exact.norm()
            torch_ms = {"bf16": beside(lambda i, x=rounded: torch.nn.functional.linear(x, half[i % len(half)]))}
            if kind == "int8" and m > 16:
                codes = [codes.rows.data.view(torch.int8) for codes in rotated]
                asked = torch.randint(-127, 128, (m, LAYER), dtype=torch.int8, device="cuda")
                torch_ms["_int_mm"] = beside(lambda i, q=asked, c=codes: torch._int_mm(q, c[i % copies].T))
            if kind == "e4m3" and m % 16 == 0:
                floats = [codes.rows.data.view(torch.float8_e4m3fn) for codes in rotated]
                torch_ms["_scaled_mm"] = beside(scaled_product(x.to(torch.float8_e4m3fn), floats))
            measured.append(
                {
                    "format": kind,
                    "block": block,
                    "tokens": m,
                    "activations": activations,
                    "ms": round(ms, 4),
                    "gb_per_s": round(read / ms / 1e6, 1),
                    "share_of_copy": round(read / ms * 1e3 / bandwidth, 3),
                    "tflop_per_s": round(2 * m * LAYER * LAYER / ms / 1e9, 2),
                    "relative_error": float(f"{error.item():.2e}"),  # of the product with the decoded weights
                    "torch_ms": torch_ms,
                }
            )
            print(measured[-1], flush=True)
    return measured


def scaled_product(x: torch.Tensor, weights: list[torch.Tensor]) -> Callable[[int], Any]:
    one = torch.ones((), device="cuda")
    return lambda i: torch._scaled_mm(
        x, weights[i % len(weights)].T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
    )


if __name__ == "__main__":
    main()
