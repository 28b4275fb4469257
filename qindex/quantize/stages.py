"""Two stages that share their signs: a scan over `RaBitQ(1)`, and the bits that `RaBitQ(2)` to `RaBitQ(4)` add to it.

A number of `b` bits on the grid ..., -1/2, 1/2, ... is `2 ** (b - 2)` times its sign plus a number of `b - 1` bits on
the same grid. Both quantizers round in the same axes about the same mean, so their signs are equal: an index keeps them
once, with the factor of one bit, and beside them the remainder with the factor of all bits.
"""

import dataclasses

import numpy as np

from qindex.formats import FORMATS, SIGN, Format
from qindex.quantize.rabitq import RaBitQ
from qindex.quantize.rows import ROUNDED_UP
from qindex.types import Codes, Part, Quantizer, Queries, row_norms


def share_signs(coarse: Quantizer, fine: Quantizer | None) -> bool:
    """Whether the codes of `coarse` are the signs of those of `fine`."""
    if not isinstance(coarse, RaBitQ) or not isinstance(fine, RaBitQ) or coarse.bits != 1 or not 2 <= fine.bits <= 4:
        return False
    a, b = coarse.origin, fine.origin
    return a is not None and b is not None and a.is_like(b)


def remainder(codes: Codes, bits: int) -> Codes:
    """What codes of `RaBitQ(bits)` hold beside the signs."""
    format = _format(bits)
    rest = codes.format.unpack(codes.data, codes.dim) & np.uint8((1 << bits - 1) - 1)
    data = format.pack(rest)
    # As `joined` rows: a remainder of one bit stands for halves, whose unit is in the query.
    lengths = np.sqrt(row_norms(format.decode(data, codes.dim)) ** 2 + codes.dim)
    norms = lengths * codes.scales[0].values[:, 0]
    return dataclasses.replace(codes, data=data, format=format, max_norm=float(norms.max(initial=0)) * ROUNDED_UP)


def restored(signs: Codes, rest: Codes, bits: int) -> Codes:
    """The codes of `RaBitQ(bits)` of which `remainder` is what is left."""
    format = FORMATS[f"half{bits}"]
    leading = SIGN.unpack(signs.data, signs.dim).astype(np.uint8) << np.uint8(bits - 1)
    return dataclasses.replace(rest, data=format.pack(leading | rest.format.unpack(rest.data, rest.dim)), format=format)


def joined(signs: Codes, rest: Codes) -> Codes:
    """Rows that hold the signs and, behind them, the remainder."""
    whole_row = dataclasses.replace(rest.scales[0], size=-(-2 * rest.dim // 16) * 16)
    return dataclasses.replace(
        rest,
        data=signs.data,
        format=SIGN,
        dim=2 * rest.dim,
        scales=(whole_row,),
        more=(Part(rest.data, rest.format, rest.dim),),
    )


def for_joined(queries: Queries, bits: int) -> Queries:
    """Queries as `RaBitQ` prepares them, for `joined` rows: each number comes twice."""
    signs, rest = np.float32(2.0 ** (bits - 2)), np.float32(0.5 if bits == 2 else 1)
    return Queries(np.hstack([queries.values * signs, queries.values * rest]), queries.offset)


def _format(bits: int) -> Format:
    return SIGN if bits == 2 else FORMATS[f"half{bits - 1}"]
