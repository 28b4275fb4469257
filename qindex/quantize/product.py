"""ProductQuantizer: a vector in parts, each stored as the number of the nearest of 16 or 256 centroids."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex.formats import ONE_HOT4, ONE_HOT8, Format
from qindex.io import register
from qindex.memory import empty
from qindex.quantize.origin import check_seed
from qindex.quantize.rows import BLOCK, ROUNDED_UP, check_codes, check_dim, unfitted
from qindex.transform import moments
from qindex.transform.opq import check_n_codes, part_columns
from qindex.types import MAX_DIM, MAX_NORM, Codes, Queries, Vectors, as_vectors

_SAMPLE = 256  # vectors for each centroid
_ITERATIONS = 25  # of k-means
_AT_ONCE = 256  # distances of so many rows to all centroids of a part stay in the cache


@register("ProductQuantizer")
@dataclass(frozen=True, eq=False)
class ProductQuantizer:
    """`n_codes` codes of 4 or 8 `bits` a vector, each the number of the centroid nearest to a part of the vector.

    Parts are neighbouring dimensions, as equally many as can be. `fit` learns the centroids of each part by k-means.
    faiss runs it, on one thread, on at most 256 * 2 ** bits vectors that `seed` chooses: about 15 s with 8 bits and
    dim 384, 2 s with 4 bits. Parts of no more than 2 ** bits different values are kept exactly. Only `fit` needs faiss.

    `Chain(OPQ(48), ProductQuantizer(48))` is better by far where dimensions depend on each other. Codes of 4 bits are
    scanned faster, and twice as many of them are about as good as those of 8. The codebooks, 4 * dim * 2 ** bits bytes
    for all vectors together, belong to the quantizer.
    """

    n_codes: int = 48
    bits: int = 8
    seed: int = 0
    codebooks: NDArray[np.float32] | None = field(default=None, repr=False)  # (2 ** bits, dim) learnt

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, got {self.bits!r}")
        check_n_codes(self.n_codes)
        most = MAX_DIM >> self.bits
        if self.n_codes > most:
            raise ValueError(f"n_codes must be at most {most} with {self.bits} bits, got {self.n_codes}")
        check_seed(self.seed)
        if self.codebooks is not None:
            self._check_codebooks(self.codebooks)

    def _check_codebooks(self, books: NDArray[np.float32]) -> None:
        k = 1 << self.bits
        if (
            not isinstance(books, np.ndarray)
            or books.dtype != np.float32
            or books.ndim != 2
            or len(books) != k
            or books.shape[1] < self.n_codes
        ):
            got = f"{books.dtype} {books.shape}" if isinstance(books, np.ndarray) else repr(books)
            raise ValueError(f"codebooks must be float32 ({k}, dim) with a dim from {self.n_codes} on, got {got}")
        if not np.abs(books).max() <= MAX_NORM:
            raise ValueError(f"codebooks must hold numbers up to {MAX_NORM:.0e}, got {np.abs(books).max()}")

    @property
    def fitted(self) -> bool:
        return self.codebooks is not None

    def fit(self, vectors: Vectors) -> "ProductQuantizer":
        """A ProductQuantizer with the centroids of (n, dim) floats. ImportError without faiss."""
        vectors = as_vectors(vectors, nonempty=True)
        columns = part_columns(vectors.shape[1], self.n_codes)
        rng = np.random.default_rng(self.seed)
        sample = vectors[rng.permutation(len(vectors))[: _SAMPLE << self.bits]]
        books = _learnt(sample, columns, 1 << self.bits, rng.integers(1 << 31, size=self.n_codes))
        return replace(self, codebooks=books)

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim) floats -> n codes of the nearest centroids; of equally near ones, the first."""
        vectors = as_vectors(vectors, dim=self._books.shape[1])
        n, format = len(vectors), self._format
        dim = self.n_codes * format.span
        data = empty((n, format.row_bytes(dim)), np.uint8)
        for start in range(0, n, _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, n))
            data[part] = format.pack(self._nearest(vectors[part]))
        return Codes(data, format, dim, self.n_codes**0.5 * ROUNDED_UP)

    def _nearest(self, vectors: Vectors) -> NDArray[np.uint8]:
        """The number of the nearest centroid of each part: (n, dim) -> (n, n_codes)."""
        mean, measures = self._measures
        n, longest = len(vectors), measures.shape[1] - 1
        # BLAS adds up a single row in another order than many, and could choose another of two equally near centroids.
        rows = np.ones((-(-n // 16) * 16, self.n_codes, longest + 1))
        rows[:n, :, :longest] = self._in_parts(vectors - mean)
        codes, distances = np.empty((n, self.n_codes), np.uint8), np.empty((len(rows), 1 << self.bits))
        for part in range(self.n_codes):
            np.matmul(rows[:, part], measures[part], out=distances)
            codes[:, part] = distances[:n].argmin(axis=1)
        return codes

    def dequantize(self, codes: Codes) -> Vectors:
        """The centroids side by side: (n, dim) float32."""
        books = self._books
        check_codes(codes, self.quantize(np.empty((0, books.shape[1]), np.float32)))
        result = np.empty((len(codes), books.shape[1]), np.float32)
        for start in range(0, len(codes), BLOCK):
            numbers = codes.format.unpack(codes.data[start : start + BLOCK], codes.dim)
            for part, columns in enumerate(part_columns(books.shape[1], self.n_codes)):
                result[start : start + BLOCK, columns] = books[numbers[:, part], columns]
        return result

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim) floats -> their products with the centroids of each part, n_codes * 2 ** bits numbers each."""
        values = as_vectors(queries, "queries", self._books.shape[1])
        products = np.empty((len(values), self.n_codes, 1 << self.bits), np.float32)
        for block in moments.blocks(len(values)):
            # Not by BLAS: it adds up in another order for one query than for many.
            np.einsum("mps,psc->mpc", self._in_parts(values[block]), self._centroids, out=products[block])
        return Queries(products.reshape(len(values), -1), np.zeros(len(values)))

    def bytes_per_vector(self, dim: int) -> int:
        """n_codes with 8 bits, ceil(n_codes / 2) with 4."""
        check_dim("ProductQuantizer", dim, None if self.codebooks is None else self.codebooks.shape[1])
        part_columns(dim, self.n_codes)
        return self._format.row_bytes(self.n_codes * self._format.span)

    @property
    def _format(self) -> Format:
        return ONE_HOT4 if self.bits == 4 else ONE_HOT8

    @property
    def _books(self) -> NDArray[np.float32]:
        if self.codebooks is None:
            raise unfitted("ProductQuantizer")
        return self.codebooks

    def _in_parts(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(n, dim) -> (n, n_codes, longest part), with zeros behind the numbers of shorter parts."""
        size, longer = divmod(rows.shape[1], self.n_codes)
        if not longer:
            return rows.reshape(len(rows), self.n_codes, size)
        result = np.zeros((len(rows), self.n_codes, size + 1), rows.dtype)
        result[:, :longer] = rows[:, : longer * (size + 1)].reshape(len(rows), longer, size + 1)
        result[:, longer:, :size] = rows[:, longer * (size + 1) :].reshape(len(rows), self.n_codes - longer, size)
        return result

    @cached_property
    def _centroids(self) -> Vectors:
        """(n_codes, longest part, 2 ** bits)"""
        return np.ascontiguousarray(self._in_parts(self._books).transpose(1, 2, 0))

    @cached_property
    def _measures(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean of the centroids, (dim,), and what makes a row about it and a one half the square of its distance
        to each centroid, less what the row alone gives: (n_codes, longest part + 1, 2 ** bits)."""
        books = self._books.astype(np.float64)
        mean = books.mean(axis=0)
        about = self._in_parts(books - mean)
        halves = np.square(about).sum(axis=2, keepdims=True) / 2
        return mean, np.ascontiguousarray(np.concatenate([-about, halves], axis=2).transpose(1, 2, 0))


def _learnt(sample: Vectors, parts: list[slice], k: int, seeds: NDArray[np.int64]) -> Vectors:
    """The centroids of each part of (n, dim) vectors, by k-means: (k, dim)."""
    try:
        import faiss
    except ImportError:
        raise ImportError("fitting a ProductQuantizer needs faiss: pip install 'qindex[faiss]'") from None
    # faiss squares numbers in float32, so they should be about their mean, and about one.
    mean = moments.mean(sample)
    largest = max(float(np.abs(sample[block] - mean).max()) for block in moments.blocks(len(sample)))
    exponent = math.frexp(largest)[1]
    books = np.empty((k, sample.shape[1]), np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # results depend on their number
    try:
        for columns, seed in zip(parts, seeds, strict=True):
            different = _different(sample[:, columns], k)
            if different is not None:
                books[:, columns] = different[np.minimum(np.arange(k), len(different) - 1)]
                continue
            rows = np.ldexp(sample[:, columns] - mean[columns], -exponent).astype(np.float32)
            kmeans: Any = faiss.Kmeans(
                rows.shape[1],
                k,
                niter=_ITERATIONS,
                seed=int(seed),
                min_points_per_centroid=1,  # fewer make it print a warning
                max_points_per_centroid=len(rows),
            )
            kmeans.train(rows)
            books[:, columns] = np.ldexp(kmeans.centroids.astype(np.float64), exponent) + mean[columns]
    finally:
        faiss.omp_set_num_threads(threads)
    return books


def _different(rows: Vectors, most: int) -> Vectors | None:
    """The rows without repetition, in ascending order; None where there are more than `most`."""
    for some in (rows[: 4 * most], rows):  # in nearly all cases a few rows tell
        found = np.unique(some, axis=0)
        if len(found) > most:
            return None
    return found
