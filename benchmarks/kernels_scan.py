"""Scans and batches through `qindex.kernels.topk`: sections `scan`, `cache` and `batch` of kernels.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import peers_scan
from ceilings import OPERATIONS, float_peak, integer_peak, read
from kernels_codes import codes_of, many_codes, random_codes, random_queries, unit_vectors
from qindex import kernels
from qindex.types import Codes, Queries
from qindex_kernels.cpu.addresses import FORMATS as STORAGE
from qindex_kernels.cpu.inner import INTEGER_KINDS
from timing import medians, shown

K, SEED = 10, 0

BIG = (
    "int8", "int4", "int2", "sign", "e4m3", "e5m2", "float16", "float32", "mxfp4", "nvfp4", "int4g32", "table4",
)  # fmt: skip
SMALL = (
    "int8", "int7", "int6", "int5", "int4", "int3", "int2", "ternary", "sign", "half4", "half3", "half2", "e2m3",
    "e2m1", "table4", "table3", "table2", "mxint8", "mxfp4", "nvfp4", "int4g32", "int4g128",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    big_bytes: int = 1 << 30
    dims: tuple[int, ...] = (384, 1024)
    cached_rows: int = 10_000
    binary_rows: int = 4_000
    batch_rows: int = 200_000
    batches: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 9


QUICK = Sizes(1 << 22, (384,), 1_000, 1_000, 5_000, (1, 16), 3)


def scan(sizes: Sizes) -> dict[str, Any]:
    """One query against codes that no cache holds."""
    rng = np.random.default_rng(SEED)
    rows = []
    for dim in sizes.dims:
        for name in BIG:
            codes = many_codes(name, _rows_for(name, dim, sizes.big_bytes), dim, rng)
            search = topk([random_queries(1, dim, rng) for _ in range(sizes.rounds)], codes)
            seconds = medians({"topk": search, "read": reading(codes), "float": lambda i: float_peak()}, sizes.rounds)
            bandwidth = codes.data.nbytes / seconds["read"]
            row = {
                "format": name,
                "dim": dim,
                "rows": len(codes),
                "bytes_per_row": round(codes.nbytes / len(codes), 2),
                "query": "int8" if _has_integer_pass(codes) else "float32",
                "ms": round(seconds["topk"] * 1e3, 3),
                "gb_per_s": round(codes.nbytes / seconds["topk"] / 1e9, 2),
                "read_gb_per_s": round(bandwidth / 1e9, 2),
                "share_of_read": round(codes.nbytes / bandwidth / seconds["topk"], 3),
            }
            if row["query"] == "float32":
                peak = OPERATIONS["float"] / seconds["float"]
                least = max(codes.nbytes / bandwidth, 2 * len(codes) * dim / peak)
                row |= {"float_gop_per_s": round(peak / 1e9, 1), "share_of_limit": round(least / seconds["topk"], 3)}
            rows.append(shown(row))
            del codes, search
    return {"settings": {"k": K, "codes_bytes": sizes.big_bytes, "queries": 1, "rounds": sizes.rounds}, "rows": rows}


def cache(sizes: Sizes) -> dict[str, Any]:
    """Rows that lie in the L2 or L3 cache: every format with a pass in integers, then beside the peers."""
    rng = np.random.default_rng(SEED)
    n, dim = sizes.cached_rows, 384
    rows = []
    for name in SMALL:
        codes = random_codes(name, n, dim, rng)
        for m in (1, 64):
            search = topk([random_queries(m, dim, rng) for _ in range(sizes.rounds)], codes)
            seconds = medians({"topk": search, "read": reading(codes)}, sizes.rounds)
            row = {
                "format": name,
                "queries": m,
                "bytes_per_row": round(codes.nbytes / n, 2),
                "ns_per_row": round(seconds["topk"] / n / m * 1e9, 3),
                "gb_per_s": round(codes.nbytes * m / seconds["topk"] / 1e9, 2),
                "read_gb_per_s": round(codes.data.nbytes / seconds["read"] / 1e9, 2),
            }
            rows.append(shown(row))
    settings = {"k": K, "rows": n, "dim": dim, "rounds": sizes.rounds}
    return {"settings": settings, "rows": rows, "peers": _beside_peers(sizes, rng)}


def _beside_peers(sizes: Sizes, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Our kernel and another library's on the same vectors."""
    shapes = [
        ("sign", "faiss IndexBinaryFlat", sizes.binary_rows, 512),
        ("sign", "faiss IndexBinaryFlat", sizes.binary_rows, 1024),
        ("int8", "numkong dots_packed", sizes.cached_rows, 384),
        ("e4m3", "usearch exact e4m3", sizes.cached_rows, 384),
    ]
    rows = []
    for name, library, n, dim in shapes:
        vectors = unit_vectors(n, dim, rng)
        codes = codes_of(name, vectors)
        for m in (1, 64):
            asked = unit_vectors(m, dim, rng)
            if "Binary" in library:  # it rounds queries to signs
                asked = np.where(asked >= 0, np.float32(1), np.float32(-1))
            ours = topk([Queries(asked, np.zeros(m))], codes)
            peer = _PEERS[library](vectors, asked)
            seconds = medians({"ours": ours, "peer": lambda i, peer=peer: peer()}, sizes.rounds)
            row = {
                "format": name,
                "peer": library,
                "rows": n,
                "dim": dim,
                "queries": m,
                "us": round(seconds["ours"] * 1e6, 2),
                "ns_per_row": round(seconds["ours"] / n / m * 1e9, 3),
                "peer_us": round(seconds["peer"] * 1e6, 2),
                "ratio": round(seconds["peer"] / seconds["ours"], 3),
            }
            rows.append(shown(row))
    return rows


def batch(sizes: Sizes) -> dict[str, Any]:
    """Many queries at once, beside libraries that compute all the products."""
    rng = np.random.default_rng(SEED)
    n, dim, most = sizes.batch_rows, 384, sizes.batches[-1]
    vectors = unit_vectors(n, dim, rng)
    asked = unit_vectors(most, dim, rng)
    rows = []
    for name, batches in (("int8", sizes.batches), ("float32", (most,)), ("sign", (most,))):
        codes = codes_of(name, vectors)
        for m in batches:
            ours = topk([Queries(asked[:m], np.zeros(m))], codes)
            kind = "integer" if _has_integer_pass(codes) else "float"
            peak = integer_peak if kind == "integer" else float_peak
            seconds = medians({"ours": ours, "peak": lambda i, peak=peak: peak()}, sizes.rounds, 5e-3)
            operations, highest = 2 * m * n * dim, OPERATIONS[kind] / seconds["peak"]
            row = {
                "format": name,
                "queries": m,
                "ms": round(seconds["ours"] * 1e3, 3),
                "gop_per_s": round(operations / seconds["ours"] / 1e9, 1),
                "peak": kind,
                "peak_gop_per_s": round(highest / 1e9, 1),
                "share_of_peak": round(operations / seconds["ours"] / highest, 3),
            }
            rows.append(shown(row))
        del codes
    ours = topk([Queries(asked, np.zeros(most))], codes_of("int8", vectors))
    peers = []
    for library in ("torch _int_mm and topk", "faiss IndexFlatIP", "numkong dots_packed"):
        peer = _PEERS[library](vectors, asked)
        seconds = medians({"ours": ours, "peer": lambda i, peer=peer: peer()}, sizes.rounds)
        row = {
            "format": "int8",
            "peer": library,
            "queries": most,
            "ms": round(seconds["ours"] * 1e3, 3),
            "peer_ms": round(seconds["peer"] * 1e3, 3),
            "ratio": round(seconds["peer"] / seconds["ours"], 3),
        }
        peers.append(shown(row))
        del peer
    settings = {"k": K, "rows": n, "dim": dim, "rounds": sizes.rounds}
    return {"settings": settings, "rows": rows, "peers": peers}


def topk(queries: list[Queries], codes: Codes) -> Callable[[int], Any]:
    """Searches for one of the queries after the other."""
    ids = np.arange(len(codes))
    return lambda i: kernels.topk(queries[i % len(queries)], codes, K, ids=ids)


def reading(codes: Codes) -> Callable[[int], None]:
    return lambda i: read(codes.data)


# What a library searches is the same vectors, in the form that it reads.
_PEERS: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], Callable[[], Any]]] = {
    "faiss IndexBinaryFlat": lambda rows, asked: peers_scan.faiss_hamming(_bits(rows), _bits(asked), K),
    "faiss IndexFlatIP": lambda rows, asked: peers_scan.faiss_flat_ip(rows, asked, K),
    "numkong dots_packed": lambda rows, asked: peers_scan.numkong_int8_dots(_int8(rows), _int8(asked)),
    "torch _int_mm and topk": lambda rows, asked: peers_scan.torch_int_mm_topk(_int8(rows), _int8(asked), K),
    "usearch exact e4m3": lambda rows, asked: peers_scan.usearch_e4m3(rows, asked, K),
}


def _bits(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.packbits(vectors >= 0, axis=1, bitorder="little")


def _int8(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors / largest * 127).astype(np.int8)


def _rows_for(name: str, dim: int, n_bytes: int) -> int:
    row_bytes = random_codes(name, 1, dim, np.random.default_rng(SEED)).data.shape[1]
    return -(-n_bytes // row_bytes)


def _has_integer_pass(codes: Codes) -> bool:
    return STORAGE[codes.format.name].kind in INTEGER_KINDS
