"""Linear layers through `qindex.kernels.matmul`, beside other libraries: section `linear` of kernels.py.

Calls rotate over layers with memory of their own, so many that no cache holds them. Between two calls another layer,
half a rotation away, is only read: that gives the bandwidth on the same arrays and leaves the caches as cold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ceilings import OPERATIONS, float_peak, integer_peak, read
from kernels_codes import random_codes
from peers_linear import Peer, linear_peers, missing_libraries, to_array
from qindex import kernels
from qindex.quantize.blocks import decode
from qindex.types import Codes
from qindex_kernels import reference
from timing import medians, shown

SEED = 0
SCHEMES = ("int8", "int4g128", "int4g32", "mxfp4", "nvfp4", "nf4", "int2g64")

# The peers of a family are timed in turns with what stores and multiplies likewise.
COUNTERPARTS = {
    "float32": ("int8", "float32"),
    "bf16": ("int8", "float32"),
    "w8a16": ("int8", "float32"),
    "w4a16": ("int4g128", "float32"),
    "w8a8": ("int8", "int8"),
    "w4a8": ("int4g128", "int8"),
}


@dataclass(frozen=True)
class Sizes:
    shapes: tuple[tuple[int, int], ...] = ((4096, 4096), (1024, 3072))
    rotated_bytes: int = 300 << 20
    batches: tuple[int, ...] = (1, 8, 32)
    peer_batches: tuple[int, ...] = (1, 32)
    rounds: int = 40  # at least, and at least once around


QUICK = Sizes(((256, 512),), 1 << 19, (1, 8), (1, 8), 5)


@dataclass(frozen=True)
class Layers:
    """Copies of one coded matrix, each in its own memory."""

    codes: list[Codes]

    def multiply(self, x: NDArray[np.float32], activations: Any) -> Callable[[int], NDArray[np.float32]]:
        return lambda i: kernels.matmul(x, self.codes[i % len(self.codes)], activations=activations)

    def reading(self) -> Callable[[int], None]:
        return lambda i: read(self.codes[(i + len(self.codes) // 2) % len(self.codes)].data)


def linear(sizes: Sizes) -> dict[str, Any]:
    """Time a call by weight bytes (one row) or by operations (many rows), and beside every peer."""
    rows: list[dict[str, Any]] = []
    peers: list[dict[str, Any]] = []
    for n, k in sizes.shapes:
        rng = np.random.default_rng(SEED)
        x = rng.standard_normal((max(sizes.batches), k), dtype=np.float32)
        counterparts = {}
        for name in SCHEMES:
            layers = _layers(name, n, k, sizes.rotated_bytes, rng)
            rows += _ours(name, layers, x, sizes)
            if any(name == scheme for scheme, _ in COUNTERPARTS.values()):
                counterparts[name] = layers
        n_layers = math.ceil(sizes.rotated_bytes / (n * k // 2))
        for peer in linear_peers(n, k, n_layers):
            peers += _beside(peer, counterparts, n, n_layers, x, sizes)
            del peer  # its layers, before the next ones are made
    for row in rows:
        row["ratios"] = _ratios(row, peers)
    settings = {
        "rotated_bytes": sizes.rotated_bytes,
        "seed": SEED,
        "missing": missing_libraries(),
    }
    return {"settings": settings, "rows": rows, "peers": peers}


def _layers(name: str, n: int, k: int, n_bytes: int, rng: np.random.Generator) -> Layers:
    few = random_codes(name, 256, k, rng)
    first = Codes.concatenate([few] * (n // len(few)))
    copies = math.ceil(n_bytes / first.nbytes)
    return Layers([first.with_rowwise([array.copy() for array in first.rowwise]) for _ in range(copies)])


def _ours(name: str, layers: Layers, x: NDArray[np.float32], sizes: Sizes) -> list[dict[str, Any]]:
    codes, n_layers = layers.codes[0], len(layers.codes)
    n, k = len(codes), codes.dim
    rows = []
    for activations in ("int8", "float32"):
        error = max(_checked(codes, x[:m], activations) for m in (2, 8))  # few rows of x, and many
        kind = "integer" if activations == "int8" else "float"
        peak = integer_peak if kind == "integer" else float_peak
        for m in sizes.batches:
            calls = {
                "ours": layers.multiply(x[:m], activations),
                "read": layers.reading(),
                "peak": lambda i, peak=peak: peak(),
            }
            seconds = medians(calls, max(sizes.rounds, n_layers), 0)
            bandwidth, highest = codes.data.nbytes / seconds["read"], OPERATIONS[kind] / seconds["peak"]
            operations = 2 * m * n * k
            row = {
                "n": n,
                "k": k,
                "weights": name,
                "activations": activations,
                "m": m,
                "weight_bytes": codes.nbytes,
                "us": round(seconds["ours"] * 1e6, 1),
                "gb_per_s": round(codes.nbytes / seconds["ours"] / 1e9, 2),
                "read_gb_per_s": round(bandwidth / 1e9, 2),
                "share_of_read": round(codes.nbytes / bandwidth / seconds["ours"], 3),
                "gop_per_s": round(operations / seconds["ours"] / 1e9, 1),
                "peak": kind,
                "peak_gop_per_s": round(highest / 1e9, 1),
                "share_of_peak": round(operations / highest / seconds["ours"], 3),
                "error": error,
            }
            rows.append(shown(row))
    return rows


def _checked(codes: Codes, x: NDArray[np.float32], activations: Any) -> float:
    """The error of the first rows against the product with the decoded weights. ValueError if the kernel is wrong."""
    some = codes[:48]
    found = kernels.matmul(x, some, activations=activations)
    if activations == "int8" and not np.array_equal(found, reference.matmul_int8(kernels._rows(some), x, 0)):
        raise ValueError(f"matmul of {codes.format.name} codes must equal the reference to the bit, but does not")
    return _error(found, x, decode(some))


def _beside(
    peer: Peer, counterparts: dict[str, Layers], n: int, n_layers: int, x: NDArray[np.float32], sizes: Sizes
) -> list[dict[str, Any]]:
    name, activations = COUNTERPARTS[peer.family]
    layers = counterparts[name]
    error = _error(to_array(peer.run(0, x)), x, peer.weights(0))
    rows = []
    for m in sizes.peer_batches:
        asked = np.ascontiguousarray(x[:m])
        for layer in range(n_layers):  # the first call of each layer may allocate
            peer.run(layer, asked)
        calls = {
            "peer": lambda i, asked=asked: peer.run(i % n_layers, asked),
            "ours": layers.multiply(asked, activations),
        }
        seconds = medians(calls, max(sizes.rounds, n_layers), 0)
        row = {
            "n": n,
            "k": x.shape[1],
            "peer": peer.name,
            "family": peer.family,
            "m": m,
            "weight_bytes": peer.weight_bytes,
            "us": round(seconds["peer"] * 1e6, 1),
            "gb_per_s": round(peer.weight_bytes / seconds["peer"] / 1e9, 2),
            "gop_per_s": round(2 * m * n * x.shape[1] / seconds["peer"] / 1e9, 1),
            "error": error,
            "counterpart": f"{name}, {activations} activations",
            "counterpart_us": round(seconds["ours"] * 1e6, 1),
            "ratio": round(seconds["peer"] / seconds["ours"], 3),
        }
        rows.append(shown(row))
    return rows


def _ratios(row: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each family, its fastest peer on the same shape and batch, and its time by ours."""
    found: dict[str, dict[str, Any]] = {}
    for family in COUNTERPARTS:
        alike = [p for p in peers if p["family"] == family and all(p[key] == row[key] for key in ("n", "k", "m"))]
        if alike:
            best = min(alike, key=lambda p: p["us"])
            found[family] = {"peer": best["peer"], "ratio": round(best["us"] / row["us"], 3)}
    return found


def _error(found: NDArray[np.float32], x: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    """How far products are from the exact ones: norm of the difference by the norm."""
    exact = x @ weights.T
    return float(f"{np.linalg.norm(found - exact) / np.linalg.norm(exact):.2e}")
