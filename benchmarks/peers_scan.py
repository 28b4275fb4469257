"""Exhaustive scans by other libraries, one thread.

Each function takes the rows and the queries in the form that the library reads, prepares whatever a user would keep
between searches, and returns the search alone: a call without arguments.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def faiss_hamming(rows: NDArray[np.uint8], queries: NDArray[np.uint8], k: int = 10) -> Callable[[], Ids]:
    """Nearest by differing bits, of rows (n, bits / 8) to queries (m, bits / 8): (m, k) ids."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(rows.shape[1] * 8)
    index.add(rows)
    return lambda: index.search(queries, k)[1]


def faiss_flat_ip(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int = 10) -> Callable[[], Ids]:
    """Largest float32 inner products, of rows (n, dim) with queries (m, dim): (m, k) ids."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)

    def search() -> Ids:
        # By default faiss leaves batches under m * dim = 128,000 to single dot products, ten times slower than BLAS.
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1 if len(queries) >= 20 else before
        found = index.search(queries, k)[1]
        faiss.cvar.distance_compute_blas_threshold = before
        return found

    return search


def numkong_int8_dots(rows: NDArray[np.int8], queries: NDArray[np.int8]) -> Callable[[], Any]:
    """All int8 dot products, of packed rows (n, dim) with queries (m, dim): (m, n) int32, without a top k."""
    import numkong

    packed = numkong.dots_pack(rows)
    scores = numkong.zeros((len(queries), len(rows)), dtype="int32")
    return lambda: numkong.dots_packed(queries, packed, out=scores)


def usearch_e4m3(rows: NDArray[np.float32], queries: NDArray[np.float32], k: int = 10) -> Callable[[], Ids]:
    """Largest inner products of float8 (e4m3) rows (n, dim) and queries (m, dim), by exact search: (m, k) ids."""
    import ml_dtypes
    import usearch.index

    codes, asked = (x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8) for x in (rows, queries))
    settings: dict[str, Any] = {"metric": "ip", "exact": True, "threads": 1, "dtype": "e4m3"}
    return lambda: usearch.index.search(codes, asked, k, **settings).keys.astype(np.int64).reshape(len(queries), -1)


def torch_int_mm_topk(rows: NDArray[np.int8], queries: NDArray[np.int8], k: int = 10) -> Callable[[], Ids]:
    """Largest int8 dot products, of rows (n, dim) with queries (m, dim): (m, k) ids."""
    import torch

    torch.set_num_threads(1)
    columns, asked = torch.from_numpy(rows).T, torch.from_numpy(queries)
    # Kept, because the pages of a new matrix of this size cost more time than the product.
    scores = torch.empty((len(queries), len(rows)), dtype=torch.int32)
    return lambda: torch._int_mm(asked, columns, out=scores).topk(k).indices.numpy()
