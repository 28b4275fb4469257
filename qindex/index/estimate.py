"""What an index will take before it is built: bytes, and seconds to build and to open.

Bytes are exact but for what a quantizer has learnt (at most dim x dim numbers) and the header of a file.
Seconds are made of the constants below, which `benchmarks/ann.py --only constants` measures, on real vectors of 384
numbers and one thread: an Intel Xeon with AVX-512 VNNI at 2.5 GHz. `benchmarks/ann.py --only scale` checks both.
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
    "Float32": 3.0,
    "Float16": 8.0,
    "Float8": 34.0,
    "Int8": 20.0,
    "Int4": 68.0,
    "Binary": 11.0,
    "RaBitQ": 34.0,
    "LloydMax": 25.0,
    "Spectral": 100.0,
    "Microscaling": 42.0,
    "ProductQuantizer": 41.0,
}
CHECK_NS = 0.4  # to see that a number of a vector is finite
COMPARE_NS = 0.02  # a number of a row with that of a centroid
LINK_US = 200.0  # to link a row of 384 numbers among 100,000
LINK_GROWTH = 0.15  # by this power of the rows
LINK_FIXED = 200  # numbers that would take as long as what is the same for rows of any length
OPEN_S = 0.003
OPEN_NS = 0.5  # to check an id or a link

_THREADED = (RaBitQ, LloydMax)  # the others encode on one thread
_TRAIN_ROUNDS, _TRAIN_ROWS = 10, 64  # of k-means; the rows are of each list
_DEGREE, _ENTRIES = 32, 16


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
    degree: int | None = None,
    threads: int | None = None,
) -> Estimate:
    """What an index of n vectors of dim numbers takes. Arguments and defaults are those of `build`.

    `threads` are those that build it (default: those in use).
    """
    for name, value in (("n", n), ("dim", dim), ("nlist", nlist), ("degree", degree), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if index not in KINDS:
        raise ValueError(f'index must be "flat", "ivf" or "graph", got {index!r}')
    for name, value, of in (("nlist", nlist, "ivf"), ("degree", degree, "graph")):
        if value is not None and index != of:
            raise ValueError(f'{name} needs index="{of}", got index={index!r}')
    if quantizer is None:
        if index == "graph" and rescore is None:
            rescore = Int8()
        quantizer = Int4() if index == "graph" else Int8()
    threads = threads or in_use.count

    row_bytes = 8 + quantizer.bytes_per_vector(dim) + _second_bytes(quantizer, rescore, dim)
    seconds = n * dim * 1e-9 * (CHECK_NS + sum(_encode_ns(one, threads) for one in (quantizer, rescore) if one))
    checked, shared = n, 0  # numbers that loading looks at; bytes beside the rows
    if index == "ivf":
        nlist = nlist or default_lists(n)
        compared = n + _TRAIN_ROUNDS * min(n, _TRAIN_ROWS * nlist)
        seconds += compared * nlist * dim * COMPARE_NS * 1e-9 / threads
        shared = nlist * dim * 4 + (nlist + 1) * 8
    elif index == "graph":
        degree = degree or _DEGREE
        row_bytes += 4 * degree
        checked, shared = n * (1 + degree), 4 * _ENTRIES
        work = (dim + LINK_FIXED) / (384 + LINK_FIXED) * degree / _DEGREE * (n / 100_000) ** LINK_GROWTH
        seconds += n * LINK_US * 1e-6 * work / threads
    return Estimate(n * row_bytes + shared, seconds, OPEN_S + checked * OPEN_NS * 1e-9)


def default_lists(n: int) -> int:
    """How many lists an IVFIndex has if it is not told."""
    return max(1, round(4 * math.sqrt(n)))


def _second_bytes(quantizer: Quantizer, rescore: Quantizer | None, dim: int) -> int:
    """Bytes of a row's finer codes. Those of RaBitQ share their signs with a first stage of one bit."""
    if rescore is None:
        return 0
    n_bytes = rescore.bytes_per_vector(dim)
    if not isinstance(quantizer, RaBitQ) or not isinstance(rescore, RaBitQ) or quantizer.seed != rescore.seed:
        return n_bytes
    if quantizer.bits > 1 or not 2 <= rescore.bits <= 4:
        return n_bytes
    whole, without_signs = (math.ceil(dim * bits / 8) for bits in (rescore.bits, rescore.bits - 1))
    return n_bytes - whole + without_signs


def _encode_ns(quantizer: Quantizer, threads: int) -> float:
    """Of a number. What transforms take is left out."""
    if isinstance(quantizer, Chain):
        quantizer = quantizer.quantizer
    name = type(quantizer).__name__
    if name not in ENCODE_NS:
        raise ValueError(f"quantizer must be one of {', '.join(ENCODE_NS)} or a Chain with one, got {quantizer!r}")
    return ENCODE_NS[name] / (threads if isinstance(quantizer, _THREADED) else 1)
