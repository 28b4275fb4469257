"""Number formats as values: how many bits a number takes and which real level each code stands for.

A format knows nothing of scales, rows or vectors. Quantizers choose codes, kernels read them, and both ask the
format what a code means, so each rule (rounding, saturation, bit order) is written once, here.

Bit order of packed formats: little-endian, the first dimension in the lowest bit.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["float", "small_float", "integer", "sign"]


@dataclass(frozen=True)
class Format:
    """A number format: `bits` a number, `levels[code]` the real value of a code (formats of up to 8 bits)."""

    name: str
    bits: int
    kind: Kind
    mantissa_bits: int = 0  # small floats
    min_exponent: int = 0  # small floats: exponent of the smallest normal number
    max_value: float = float("inf")  # the largest finite magnitude; encode saturates to it

    def row_bytes(self, dim: int) -> int:
        """Bytes that one row of `dim` packed numbers takes."""
        return (dim * self.bits + 7) // 8

    @cached_property
    def levels(self) -> NDArray[np.float32]:
        """The value of every code: (2 ** bits,) float32. NaN codes of small floats decode to NaN."""
        if self.kind == "sign":
            return np.array([-1.0, 1.0], np.float32)
        if self.kind == "integer":
            return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
        if self.kind != "small_float":
            raise ValueError(f"{self.name} has too many codes for a table of levels")
        magnitude = np.arange(128)
        exponent = np.maximum(magnitude >> self.mantissa_bits, 1)
        mantissa = magnitude - ((exponent - 1) << self.mantissa_bits)
        values = np.ldexp(mantissa.astype(np.float32), exponent - 1 + self.min_exponent - self.mantissa_bits)
        values[values > self.max_value] = np.nan
        if self.name != "e4m3":  # e4m3 (fn) has no infinities; the others are IEEE-like
            values[(1 << (7 - self.mantissa_bits)) - 1 << self.mantissa_bits] = np.inf
        return np.concatenate([values, -values])

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round to the nearest level (ties to even), saturate, and pack: (n, dim) -> (n, row_bytes(dim)).

        Zero counts as positive in the sign format. The values must be finite.
        """
        if self.kind == "sign":
            return np.packbits(values >= 0, axis=1, bitorder="little")
        if self.kind == "integer":
            codes: NDArray[Any] = np.clip(np.rint(values), -128, 127).astype(np.int8)
        elif self.kind == "small_float":
            codes = self._encode_small_float(values)
        else:
            codes = np.clip(values, -self.max_value, self.max_value).astype(f"<f{self.bits // 8}")
        return np.ascontiguousarray(codes).view(np.uint8)

    def _encode_small_float(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        magnitude = np.minimum(np.abs(values), np.float32(self.max_value))
        smallest_normal = np.ldexp(np.float32(1), self.min_exponent)
        exponent = np.frexp(np.maximum(magnitude, smallest_normal))[1] - 1
        # In units of the last mantissa bit: rint is the rounding to nearest even, and a carry into the next binade
        # is the carry of this integer sum.
        steps = np.rint(np.ldexp(magnitude, self.mantissa_bits - exponent)).astype(np.int32)
        codes = ((exponent - self.min_exponent) << self.mantissa_bits) + steps
        signed: NDArray[np.uint8] = (codes | np.where(np.signbit(values), 128, 0)).astype(np.uint8)
        return signed

    def decode(self, packed: NDArray[np.uint8], dim: int) -> NDArray[np.float32]:
        """The levels behind packed codes: (n, row_bytes(dim)) uint8 -> (n, dim) float32, exactly."""
        if self.kind == "sign":
            bits = np.unpackbits(packed, axis=1, count=dim, bitorder="little")
            return self.levels[bits]
        if self.kind == "float":
            return np.ascontiguousarray(packed).view(f"<f{self.bits // 8}").astype(np.float32)
        return self.levels[packed]


FLOAT32 = Format("float32", 32, "float", max_value=float(np.finfo(np.float32).max))
FLOAT16 = Format("float16", 16, "float", max_value=65504.0)
E4M3 = Format("e4m3", 8, "small_float", mantissa_bits=3, min_exponent=-6, max_value=448.0)
E5M2 = Format("e5m2", 8, "small_float", mantissa_bits=2, min_exponent=-14, max_value=57344.0)
E3M4 = Format("e3m4", 8, "small_float", mantissa_bits=4, min_exponent=-2, max_value=15.5)
INT8 = Format("int8", 8, "integer", max_value=127.0)
SIGN = Format("sign", 1, "sign", max_value=1.0)

FORMATS: dict[str, Format] = {f.name: f for f in (FLOAT32, FLOAT16, E4M3, E5M2, E3M4, INT8, SIGN)}
