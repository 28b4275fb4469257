"""Recurrent binarization: each number of a code is a sign, refined by the signs of what the code so far leaves over.

After Binary Embedding-based Retrieval (arXiv 2302.08714). A vector f becomes v = T(f) = W (f - mean) + c, with a
perceptron of one hidden layer added to it where `hidden` is not 0, and each number of it a few signs:

    b_0 = sign(v)          b_u = b_(u-1) + 2^-u sign(v - step b_(u-1))          u = 1 .. bits - 1

A code is thus a number of an even grid for each dimension, and runs on the same kernels as any other of so many bits.
A linear decoder D takes it back: f ~ mean + D b. Three things are ours:

- The paper's residual f - D b is that of all numbers at once. Here they come group by group, and the error of those
  that are done, e = v - step b, is fed to those that follow: v_g <- v_g + F_g e. So errors go to directions in which
  queries hardly differ.
- A row is stretched before it is binarized until its code points as far along it as all codes do: <D^T f, b> =
  share * (|D^T f|^2 + BEYOND * rest), the rest being what of |f|^2 the decoder does not span. Otherwise rows differ in
  how much of them their codes keep, which moves all their scores and takes another two bytes to store.
- A float query needs no code: <q, D b> = <D^T q, b>.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qindex import kernels
from qindex.formats import FORMATS, SIGN, Format
from qindex.io import register
from qindex.quantize.floats import Float32
from qindex.quantize.origin import check_seed
from qindex.quantize.rabitq import round_to_grid, signs
from qindex.quantize.rows import ROUNDED_UP, check_codes, check_dim, row_dots, unfitted
from qindex.types import Codes, Queries, Vectors, as_vectors, row_norms

# How often a row is stretched anew. What is then missed of the share is about half a percent, and it was 3 before.
STRETCHES = 3

# Near vectors agree also in what the decoder does not span. Of 0, 0.15, 0.3 and 0.5, 0.15 and 0.3 found 0.4 points more
# of minilm-100k in half as many numbers than 0, by float queries, and as much by coded ones.
BEYOND = 0.2

# Rows at once: temporaries stay in the cache.
_ROWS = 2048


@register("RecurrentModel")
@dataclass(frozen=True, eq=False)
class RecurrentModel:
    """What training learns. Rows of `encoder` (W) and `decoder` (D^T) are the numbers of a code."""

    mean: NDArray[np.float32]  # (dim_in,)
    encoder: NDArray[np.float32]  # (dim, dim_in), in steps of the grid of levels
    bias: NDArray[np.float32]  # (dim,)
    feedback: NDArray[np.float32]  # (dim, dim): F, zero but below the groups on its diagonal
    group: int  # numbers at once
    decoder: NDArray[np.float32]  # (dim, dim_in)
    share: float  # of a row's squared length, how far its code points along it
    gain: float  # the inner product of two vectors by that of their levels
    inner: NDArray[np.float32] | None = None  # (hidden, dim_in + 1), the last column added
    outer: NDArray[np.float32] | None = None  # (dim, hidden)

    def __post_init__(self) -> None:
        dim, dim_in = self.encoder.shape if self.encoder.ndim == 2 else (0, 0)
        shapes: dict[str, Any] = {
            "encoder": (dim, dim_in), "mean": (dim_in,), "bias": (dim,), "feedback": (dim, dim),
            "decoder": (dim, dim_in),
        }  # fmt: skip
        if (self.inner is None) != (self.outer is None):
            raise ValueError("inner and outer must be given together: they are the layers of one perceptron")
        if self.inner is not None:
            shapes |= {"inner": (len(self.inner), dim_in + 1), "outer": (dim, len(self.inner))}
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape or not array.size or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite float32 {shape}, got {array.dtype} {array.shape}")
        if not isinstance(self.group, int) or self.group < 1:
            raise ValueError(f"group must be a positive integer, got {self.group!r}")
        for name in ("share", "gain"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be finite and above 0, got {getattr(self, name)!r}")

    @cached_property
    def _encoder_rows(self) -> Codes:
        return _rows(self.encoder)

    @cached_property
    def decoder_rows(self) -> Codes:
        return _rows(self.decoder)

    @cached_property
    def _perceptron(self) -> tuple[Codes, Codes] | None:
        return None if self.inner is None or self.outer is None else (_rows(self.inner), _rows(self.outer))

    @cached_property
    def _feedback_rows(self) -> list[Codes]:
        """What each group but the first takes of the errors before it."""
        starts = range(self.group, len(self.bias), self.group)
        return [_rows(self.feedback[start : start + self.group, :start]) for start in starts]

    def levels(self, vectors: Vectors, format: Format) -> Vectors:
        """(n, dim_in) float32 -> the levels of their codes (n, dim). A row's code depends on that row alone."""
        rows = vectors - self.mean
        read: Vectors = _product(rows, self._encoder_rows) + self.bias
        if self._perceptron is not None:
            inner, outer = self._perceptron
            ones = np.ones((len(rows), 1), np.float32)
            read = read + _product(np.maximum(_product(np.hstack([rows, ones]), inner), 0), outer)
        along = _product(rows, self.decoder_rows)
        spanned = row_dots(along, along)
        wanted = (spanned + BEYOND * np.maximum(row_dots(rows, rows) - spanned, 0)) * self.share
        stretch = np.ones(len(rows), np.float32)
        best = self._binarized(read, stretch, format)
        reached = row_dots(along, best)
        missed = np.abs(wanted - reached)
        for _ in range(STRETCHES):
            stretch *= np.clip(np.divide(wanted, reached, out=np.ones_like(wanted), where=reached > 0), 0.5, 2)
            found = self._binarized(read, stretch, format)
            reached = row_dots(along, found)
            nearer = np.abs(wanted - reached) < missed
            best[nearer] = found[nearer]
            missed = np.minimum(missed, np.abs(wanted - reached))
        return best

    def _binarized(self, read: Vectors, stretch: Vectors, format: Format) -> Vectors:
        left: Vectors = read * stretch[:, None]
        levels = np.empty_like(left)
        for start in range(0, left.shape[1], self.group):
            group = slice(start, start + self.group)
            if start:
                left[:, group] += _product(left[:, :start], self._feedback_rows[start // self.group - 1])
            own = left[:, group]
            levels[:, group] = signs(own) if format == SIGN else round_to_grid(own.copy(), format)
            own -= levels[:, group]
        return levels


@register("RecurrentBinary")
@dataclass(frozen=True, eq=False)
class RecurrentBinary:
    """Trained codes of `bits` (1 to 4) for each of `dim` numbers, and nothing beside them: ceil(dim * bits / 8) bytes.

    `dim` None is as many numbers as the vectors have; half as many in twice the bits are better where vectors vary in
    few directions. `hidden` adds a perceptron of that width. `fit` trains for about a minute and needs
    torch, nothing else does; `qindex.quantize.learning.train` has its choices.

    Float queries are scored against the decoded vectors. `symmetric` ones become codes, too: each score is then the
    product of two codes times a fitted number, of which kernels count the bits.
    """

    bits: int = 2
    dim: int | None = None
    hidden: int = 0
    symmetric: bool = False
    seed: int = 0
    model: RecurrentModel | None = field(default=None, repr=False)  # learnt

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 4:
            raise ValueError(f"bits must be an integer from 1 to 4, got {self.bits!r}")
        if self.dim is not None and (not isinstance(self.dim, int) or isinstance(self.dim, bool) or self.dim < 1):
            raise ValueError(f"dim must be a positive integer, or None for that of the vectors, got {self.dim!r}")
        if not isinstance(self.hidden, int) or isinstance(self.hidden, bool) or self.hidden < 0:
            raise ValueError(f"hidden must be an integer of at least 0, got {self.hidden!r}")
        check_seed(self.seed)
        if self.model is not None:
            found = None if not isinstance(self.model, RecurrentModel) else len(self.model.bias)
            if found is None or self.dim not in (None, found):
                raise ValueError(f"model must be learnt by fit for dim={self.dim}, got one for {found}")

    def fit(self, vectors: Vectors) -> "RecurrentBinary":
        """Trained on (n, dim) floats: see `qindex.quantize.learning.train`."""
        from qindex.quantize.learning import train

        return train(self, vectors)

    @property
    def fitted(self) -> bool:
        return self.model is not None

    def quantize(self, vectors: Vectors) -> Codes:
        """(n, dim_in) floats -> n codes."""
        model = self._learnt()
        vectors = as_vectors(vectors, dim=len(model.mean))
        format, dim = self.format, len(model.bias)
        data, max_norm = np.empty((len(vectors), format.row_bytes(dim)), np.uint8), 0.0
        for start in range(0, len(vectors), _ROWS):
            levels = model.levels(vectors[start : start + _ROWS], format)
            data[start : start + _ROWS] = format.encode(levels)
            max_norm = max(max_norm, float(row_norms(levels).max()))
        return Codes(data, format, dim, max_norm * ROUNDED_UP)

    def dequantize(self, codes: Codes) -> Vectors:
        """The decoder's vectors (n, dim_in) float32, which scores are products with."""
        model = self._learnt()
        check_codes(codes, self.quantize(np.empty((0, len(model.mean)), np.float32)))
        decoded: Vectors = codes.levels @ (model.decoder / np.float32(model.share)) + model.mean
        return decoded

    def prepare(self, queries: Vectors) -> Queries:
        """(m, dim_in) floats as the levels meet them: through the decoder, or as codes where they are `symmetric`."""
        model = self._learnt()
        queries = as_vectors(queries, "queries", len(model.mean))
        offset = queries.astype(np.float64) @ model.mean.astype(np.float64)
        if not self.symmetric:
            return Queries(_product(queries, model.decoder_rows) / np.float32(model.share), offset)
        return Queries.of_codes(self.quantize(queries), np.full(len(queries), model.gain, np.float32), offset)

    def bytes_per_vector(self, dim: int) -> int:
        """The packed codes."""
        check_dim("RecurrentBinary", dim, None if self.model is None else len(self.model.mean))
        return self.format.row_bytes(self.dim or (dim if self.model is None else len(self.model.bias)))

    @property
    def format(self) -> Format:
        """Of the codes."""
        return SIGN if self.bits == 1 else FORMATS[f"half{self.bits}"]

    def _learnt(self) -> RecurrentModel:
        if self.model is None:
            raise unfitted("RecurrentBinary")
        return self.model


def _rows(matrix: Vectors) -> Codes:
    return Float32().quantize(np.ascontiguousarray(matrix, np.float32))


def _product(rows: Vectors, matrix: Codes) -> Vectors:
    """rows @ matrix.T, each row by itself: a row's code must not depend on those beside it."""
    return kernels.matmul(np.ascontiguousarray(rows), matrix, activations="float32")
