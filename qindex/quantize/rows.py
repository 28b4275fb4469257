"""From vectors to `Codes` and back, block by block: the part that all quantizers share."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qindex.formats import Format
from qindex.memory import empty
from qindex.types import Codes, Vectors, row_norms

# Temporaries of a block stay in the cache; more rows at once only cost memory.
BLOCK = 4096

# Norms are float64 of float32 numbers; the bound stays one when it passes through float32.
ROUNDED_UP = 1 + 1e-6


def encode_rows(
    format: Format,
    vectors: Vectors,
    prepare: Callable[[Vectors], tuple[Vectors, NDArray[np.float32] | None]],
) -> Codes:
    """Codes of `vectors`. `prepare` maps a block of rows to the values to round and, if rows have one, their scale."""
    n, dim = vectors.shape
    data = empty((n, format.row_bytes(dim)), np.uint8)
    scale: NDArray[np.float32] | None = None
    max_norm = 0.0
    for start in range(0, max(n, 1), BLOCK):  # once for no rows, too: they may have scales
        block = slice(start, min(start + BLOCK, n))
        values, block_scale = prepare(vectors[block])
        data[block] = format.encode(values)
        norms = row_norms(format.decode(data[block], dim))
        if block_scale is not None:
            scale = np.empty(n, np.float32) if scale is None else scale
            scale[block] = block_scale
            norms = norms * block_scale
        max_norm = max(max_norm, float(norms.max(initial=0)))
    return Codes(data, format, dim, max_norm * ROUNDED_UP, scale)


def decode_rows(codes: Codes, format: Format, dim: int | None = None, *, scaled: bool = False) -> Vectors:
    """The (scaled) levels of codes that a quantizer for `format` (and `dim`, where it was fitted to one) made."""
    if codes.format != format or (dim is not None and codes.dim != dim):
        wanted = f"{format.name} codes" + (f" of dim {dim}" if dim is not None else "")
        raise ValueError(f"codes must be {wanted}, got {codes.format.name} codes of dim {codes.dim}")
    if (codes.scale is not None) != scaled:
        raise ValueError(f"codes must {'' if scaled else 'not '}have row scales for this quantizer: another made them")
    values = format.decode(codes.data, codes.dim)
    return values if codes.scale is None else values * codes.scale[:, None]


def row_dots(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """The product of each row with its fellow, (n,), summed in float32 in an order that no other row changes."""
    products: NDArray[np.float64] = np.einsum("ij,ij->i", a, b).astype(np.float64)
    return products


def check_codes(codes: Codes, like: Codes) -> None:
    """Refuse codes that a quantizer did not make: `like` are codes of its own."""
    if not like.is_like(dataclasses.replace(codes, offset=None)):  # an index adds offsets
        raise ValueError(
            f"codes must be {like.format.name} codes of dim {like.dim} as this quantizer makes them, got "
            f"{codes.format.name} codes of dim {codes.dim}: another made them"
        )


def unfitted(name: str) -> ValueError:
    """The error of using a quantizer that has yet to learn from data."""
    return ValueError(f"{name} must be fitted before use: call fitted = quantizer.fit(vectors) and use what it returns")


def check_dim(name: str, dim: int, fitted_dim: int | None = None) -> None:
    """Refuse a dim that is not positive, or not the one that the quantizer was fitted to."""
    if dim < 1 or (fitted_dim is not None and dim != fitted_dim):
        raise ValueError(f"dim must be {fitted_dim or 'positive'} for {name}, got {dim}")
