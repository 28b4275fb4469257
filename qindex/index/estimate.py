"""What an index will take before it is built: bytes, and seconds to build and to open.

Bytes are exact but for what a quantizer has learnt (at most dim x dim numbers) and the header of a file.

Seconds are made of the constants below, of an Intel Xeon with AVX-512 VNNI at 2.5 GHz and real vectors of 384 numbers,
as `benchmarks/ann.py --only constants` measured them: processor time of one thread, and the clock for opening and for
what more threads gain. LINK_GROWTH is that from 100,000 to 400,000 rows of a generator; what is built of more is
extrapolated. `--only scale` checks the sums.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from qindex.quantize import Chain, Int4, Int8, LloydMax, RaBitQ
from qindex.threads import threads as in_use
from qindex.types import Quantizer

Kind = Literal["flat", "ivf", "graph"]
KINDS: tuple[Kind, ...] = ("flat", "ivf", "graph")

ENCODE_NS = {  # to encode a number of a vector
    "Float32": 7.6,
    "Float16": 19.7,
    "Float8": 34.5,
    "Int8": 14.6,
    "Int4": 64.2,
    "Binary": 9.9,
    **dict(zip((f"RaBitQ({b})" for b in range(1, 9)), (12.3, 36.3, 43.0, 31.0, 46.7, 48.2, 48.6, 43.8), strict=True)),
    **dict(zip((f"LloydMax({b})" for b in range(1, 5)), (13.5, 21.2, 24.9, 27.4), strict=True)),
    "Spectral": 131.4,
    "Microscaling": 62.2,
    "ProductQuantizer": 65.2,
}
COMPARE_NS = 0.0234  # a number of a row with that of a centroid
SECOND_NS = 58.9  # a number of a row, to find the second of its lists
LINK_US = 239.1  # to link a row of 384 numbers among 100,000
LINK_GROWTH = 0.135  # by this power of the rows
LINK_THREADS = 0.5  # by this power of the threads
LINK_FIXED = 454  # numbers that would take as long as what is the same for rows of any length
OPEN_S = 0.0113
OPEN_NS = 3.16  # to check an id

_THREADED = (RaBitQ, LloydMax)  # the others encode on one thread
_ROUNDS, _SAMPLE, _SMALLEST_SAMPLE = 12, 64, 16_384  # of k-means; the sample is of each list
DEGREE, _ENTRIES = 32, 16


class Estimate(NamedTuple):
    """What an index takes."""

    n_bytes: int  # in memory and in a file
    build_s: float
    open_s: float


def estimate(
    n: int,
    dim: int,
    *,
    index: Kind = "flat",
    quantizer: Quantizer | None = None,
    rescore: Quantizer | None = None,
    nlist: int | None = None,
    spill: bool = False,
    degree: int | None = None,
    threads: int | None = None,
) -> Estimate:
    """What an index of n vectors of dim numbers takes. Arguments and defaults are those of `build`.

    `threads` are those that build it (default: those in use). With metric "l2", each code of a row has 4 bytes more.
    """
    for name, value in (("n", n), ("dim", dim), ("nlist", nlist), ("degree", degree), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if index not in KINDS:
        raise ValueError(f'index must be "flat", "ivf" or "graph", got {index!r}')
    for name, value, of in (("nlist", nlist, "ivf"), ("degree", degree, "graph")):
        if value is not None and index != of:
            raise ValueError(f'{name} needs index="{of}", got index={index!r}')
    if spill and (index != "ivf" or rescore is None):
        raise ValueError(f'spill needs index="ivf" and rescore, got index={index!r} and rescore={rescore!r}')
    if index == "graph" and quantizer is None and rescore is None:
        quantizer, rescore = Int4(), Int8()
    quantizer = quantizer or Int8()
    threads = threads or in_use.count

    second = 0 if rescore is None else rescore.bytes_per_vector(dim) - _shared_bytes(quantizer, rescore, dim, index)
    row_bytes = 8 + quantizer.bytes_per_vector(dim) + second
    seconds = n * dim * 1e-9 * sum(_encode_ns(one, threads) for one in (quantizer, rescore) if one)
    shared = 0  # bytes beside the rows
    if index == "ivf":
        nlist = nlist or default_lists(n)
        seconds += compared_rows(n, nlist) * nlist * dim * COMPARE_NS * 1e-9 / threads
        # Of each list an int8 centroid with scale and offset, a radius, and where its rows are.
        shared = nlist * (dim + 3 * 4 + 3 * 8) + 8
        if spill:
            row_bytes += quantizer.bytes_per_vector(dim) + 4
            seconds += n * dim * 1e-9 * (_encode_ns(quantizer, threads) + SECOND_NS / threads)
            shared += nlist * 3 * 8 + 8
    elif index == "graph":
        degree = degree or DEGREE
        row_bytes += 4 * degree
        shared = 4 * _ENTRIES
        work = (dim + LINK_FIXED) / (384 + LINK_FIXED) * degree / DEGREE * (n / 100_000) ** LINK_GROWTH
        seconds += n * LINK_US * 1e-6 * work / threads**LINK_THREADS
    return Estimate(n * row_bytes + shared, seconds, OPEN_S + n * OPEN_NS * 1e-9)


def default_lists(n: int) -> int:
    """How many lists an IVFIndex has if it is not told."""
    return max(1, min(n, round(4 * math.sqrt(n))))


def compared_rows(n: int, nlist: int) -> int:
    """How many rows are compared with all centroids to build lists."""
    return n + _ROUNDS * min(n, max(_SAMPLE * nlist, _SMALLEST_SAMPLE))


def _shared_bytes(quantizer: Quantizer, rescore: Quantizer, dim: int, index: Kind) -> int:
    """Of a row's finer codes, those that are its coarser ones: the signs of RaBitQ, unless lists code residuals."""
    if not isinstance(quantizer, RaBitQ) or not isinstance(rescore, RaBitQ) or index == "ivf":
        return 0
    if quantizer.seed != rescore.seed or quantizer.bits > 1 or not 2 <= rescore.bits <= 4:
        return 0
    return math.ceil(dim * rescore.bits / 8) - math.ceil(dim * (rescore.bits - 1) / 8)


def encode_name(quantizer: Quantizer) -> str:
    """The name in ENCODE_NS; of a Chain that of its quantizer, since transforms take little beside it."""
    if isinstance(quantizer, Chain):
        return encode_name(quantizer.quantizer)
    name = type(quantizer).__name__
    return f"{name}({quantizer.bits})" if isinstance(quantizer, (RaBitQ, LloydMax)) else name


def _encode_ns(quantizer: Quantizer, threads: int) -> float:
    """Of a number."""
    name = encode_name(quantizer)
    if name not in ENCODE_NS:
        raise ValueError(f"quantizer must be of {', '.join(ENCODE_NS)} or a Chain with one, got {quantizer!r}")
    return ENCODE_NS[name] / (threads if isinstance(quantizer, _THREADED) else 1)
