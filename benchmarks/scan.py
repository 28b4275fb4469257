"""How fast a flat index is scanned, beside the memory's read bandwidth and beside faiss and usearch.

    python benchmarks/scan.py [--rows 3000000] [--queries 20]

One thread, one query at a time, through the public `search`. The ceiling is a loop that only reads, measured in the
same run over the same bytes. Vectors are random with the falling spectrum of real embeddings, normalised, seeded.
Recall@10 is that of the float32 ranking of the same vectors. Writes benchmarks/results/scan.json.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import usearch.index
from numba import njit
from numpy.typing import NDArray

import qindex
from environment import environment, write_result
from qindex.evaluate.metrics import recall
from qindex.types import Codes
from qindex_kernels.cpu.simd import dot_u8i8, load_bytes, ones_u8, prefetch, store_sums_i32, zero_i32

DIM, K, SEED, CHUNK = 384, 10, 0, 50_000


@dataclass
class Measured:
    """One method: its name, whose it is, the bytes that a query reads of each vector, and its answers."""

    name: str
    made_by: str
    bytes_per_vector: int
    ids: NDArray[np.int64]
    seconds: list[float]


def vectors(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors whose variance falls along the axes of a random basis, as that of text embeddings does."""
    spectrum = (1 + np.arange(DIM)) ** -0.4
    made = (rng.standard_normal((n, DIM), dtype=np.float32) * spectrum.astype(np.float32)) @ BASIS
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


BASIS = np.linalg.qr(np.random.default_rng(SEED).standard_normal((DIM, DIM)))[0].astype(np.float32)


@njit(nogil=True)
def read(address, n_bytes):
    """Load every byte once, four registers at a time."""
    a, b, c, d, one = zero_i32(), zero_i32(), zero_i32(), zero_i32(), ones_u8()
    for at in range(address, address + n_bytes - 255, 256):
        for line in range(0, 256, 64):
            prefetch(at + 4096 + line)
        a, b = dot_u8i8(a, load_bytes(at), one), dot_u8i8(b, load_bytes(at + 64), one)
        c, d = dot_u8i8(c, load_bytes(at + 128), one), dot_u8i8(d, load_bytes(at + 192), one)
    sums = np.empty(4, np.int32)
    store_sums_i32(sums.ctypes.data, a, b, c, d)
    return sums


def ceiling(data: NDArray[np.uint8]) -> float:
    """Bytes a second of the best of several passes that only read."""
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        read(data.ctypes.data, data.nbytes)
        seconds.append(time.perf_counter() - started)
    return float(data.nbytes / np.median(seconds[2:]))


def timed(search: Callable[[int], NDArray[Any]], n_queries: int) -> tuple[NDArray[np.int64], list[float]]:
    search(0)
    ids, seconds = [], []
    for i in range(n_queries):
        started = time.perf_counter()
        found = search(i)
        seconds.append(time.perf_counter() - started)
        ids.append(np.asarray(found, np.int64).reshape(-1))
    return np.array(ids), seconds


def best_so_far(kept: Any, scores: NDArray[np.float32], first: int) -> Any:
    ids = np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape)
    scores, ids = np.hstack([kept[0], scores]), np.hstack([kept[1], ids])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--queries", type=int, default=20)
    arguments = parser.parse_args()
    n, m = arguments.rows, arguments.queries
    qindex.set_threads(1)
    faiss.omp_set_num_threads(1)

    rng = np.random.default_rng(SEED)
    queries, sample = vectors(m, rng), vectors(CHUNK, rng)
    quantizers = {
        "Int8()": qindex.Int8().fit(sample),
        'Int8("dim")': qindex.Int8("dim").fit(sample),
        'Float8("e4m3")': qindex.Float8("e4m3").fit(sample),
        'Float8("e5m2")': qindex.Float8("e5m2").fit(sample),
        'Float8("e3m4")': qindex.Float8("e3m4").fit(sample),
        "Binary()": qindex.Binary().fit(sample),
    }
    parts: dict[str, list[Codes]] = {name: [] for name in quantizers}
    sq8 = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    sq8.train(sample)
    binary = faiss.IndexBinaryFlat(DIM)
    int8_rows = np.empty((n, DIM), np.int8)
    truth: Any = (np.full((m, 0), 0, np.float32), np.full((m, 0), 0, np.int64))
    for first in range(0, n, CHUNK):
        block = vectors(min(CHUNK, n - first), rng)
        truth = best_so_far(truth, queries @ block.T, first)
        for name, quantizer in quantizers.items():
            parts[name].append(quantizer.quantize(block))
        sq8.add(block)
        binary.add(np.packbits(block > 0, axis=1))
        int8_rows[first : first + len(block)] = np.clip(np.rint(block * 600), -127, 127)
        print(f"\r{first + len(block):,} rows", end="", flush=True)
    print()

    measured: list[Measured] = []
    ceilings: dict[str, float] = {}
    for name, quantizer in quantizers.items():
        codes = Codes.concatenate(parts.pop(name))
        ceilings[name] = ceiling(codes.data)
        index = qindex.FlatIndex.from_codes(quantizer, codes)
        ids, seconds = timed(lambda i, index=index: index.search(queries[i : i + 1], K).ids, m)
        measured.append(Measured(name, "qindex", quantizer.bytes_per_vector(DIM), ids, seconds))
        print(f"{name}: {np.median(seconds) * 1e3:.1f} ms", flush=True)

    ids, seconds = timed(lambda i: sq8.search(queries[i : i + 1], K)[1], m)
    measured.append(Measured("SQ8 (QT_8bit)", "faiss", DIM, ids, seconds))
    signs = np.packbits(queries > 0, axis=1)
    ids, seconds = timed(lambda i: binary.search(signs[i : i + 1], K)[1], m)
    measured.append(Measured("IndexBinaryFlat", "faiss", DIM // 8, ids, seconds))
    int8_queries = np.clip(np.rint(queries * 600), -127, 127).astype(np.int8)
    for name, rows, asked, metric, width in (
        ("exact int8", int8_rows, int8_queries, "ip", DIM),
        ("exact b1", faiss.vector_to_array(binary.xb).reshape(n, -1), signs, "hamming", DIM // 8),
    ):
        options: dict[str, Any] = {"metric": metric, "exact": True, "threads": 1}
        if metric == "hamming":
            options["dtype"] = "b1"
        ids, seconds = timed(
            lambda i, rows=rows, asked=asked, options=options: usearch.index.search(rows, asked[i], K, **options).keys,
            min(m, 5),
        )
        measured.append(Measured(name, "usearch", width, ids, seconds))

    rows = []
    for one in measured:
        median = float(np.median(one.seconds))
        rate = one.bytes_per_vector * n / median
        top = ceilings.get(one.name) or ceilings["Binary()" if one.bytes_per_vector < DIM else "Int8()"]
        rows.append(
            {
                "name": one.name,
                "library": one.made_by,
                "bytes_per_vector": one.bytes_per_vector,
                "ms": round(median * 1e3, 2),
                "ms_min": round(min(one.seconds) * 1e3, 2),
                "gb_per_s": round(rate / 1e9, 2),
                "ceiling_gb_per_s": round(top / 1e9, 2),
                "share_of_ceiling": round(rate / top, 3),
                "recall_at_10": round(recall(one.ids, truth[1][: len(one.ids)]), 4),
            }
        )
        print(rows[-1])
    write_result(
        "scan",
        {
            "environment": environment(["numpy", "numba", "faiss-cpu", "usearch"]),
            "settings": {"rows": n, "dim": DIM, "k": K, "queries": m, "threads": 1, "seed": SEED},
            "ceiling_gb_per_s": round(ceilings["Int8()"] / 1e9, 2),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
