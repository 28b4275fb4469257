"""Number formats as values: how many bits a number takes and which real level each code stands for.

A format knows nothing of scales, rows or vectors. Quantizers choose codes, kernels read them, and both ask the
format what a code means, so each rule (rounding, saturation, bit order) is written once, here.

A code of `bits` bits lies in planes of 1, 2, 4 or 8 bits, its lowest bits in the first. In a packed row the planes come
one behind the other, each little-endian: the first dimension in the lowest bits, filled up to whole bytes. A code
stands for one number; in the one-hot formats, for `span` of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "float",  # IEEE float32 and float16
    "small_float",  # sign, exponent, mantissa in 8 bits or fewer
    "integer",  # two's complement in 8 bits; in fewer, code c stands for c - 2 ** (bits - 1)
    "half_integer",  # code c stands for c - (2 ** bits - 1) / 2: as many levels above zero as below, and no zero
    "ternary",  # codes 0, 1, 2 for -1, 0, 1
    "sign",  # codes 0, 1 for -1, 1
    "table",  # any levels, the same for all rows
    "codebook",  # any int8 levels, kept beside the codes (`Codes.tables`)
    "exponent",  # code c stands for 2 ** (c - 127): a format of scales
    "one_hot",  # one code for 2 ** bits numbers: number c of them is 1, the others are 0
]

# Widths of the planes that a code of so many bits lies in.
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,), 16: (16,), 32: (32,)}


@dataclass(frozen=True)
class Format:
    """A number format: `bits` a number, `levels[code]` the real value of a code (formats of up to 8 bits)."""

    name: str
    bits: int
    kind: Kind
    mantissa_bits: int = 0  # small floats
    min_exponent: int = 0  # small floats: exponent of the smallest normal number
    max_value: float = float("inf")  # the largest finite magnitude; encode saturates to it
    table: tuple[float, ...] = ()  # table formats: the level of each code, ascending

    @property
    def span(self) -> int:
        """Numbers that one code stands for."""
        return 1 << self.bits if self.kind == "one_hot" else 1

    def row_bytes(self, dim: int) -> int:
        """Bytes that one row of `dim` packed numbers takes. ValueError unless `dim` is a multiple of `span`."""
        if dim % self.span:
            raise ValueError(f"dim must be a multiple of {self.span} for {self.name}, got {dim}")
        return sum((dim // self.span * width + 7) // 8 for width in PLANES[self.bits])

    @cached_property
    def levels(self) -> NDArray[np.float32]:
        """The value of every code: (2 ** bits,) float32. NaN codes of small floats decode to NaN."""
        codes = np.arange(1 << self.bits) if self.bits <= 8 else np.empty(0)
        match self.kind:
            case "sign":
                return np.array([-1.0, 1.0], np.float32)
            case "ternary":
                return np.array([-1.0, 0.0, 1.0, 0.0], np.float32)  # code 3 is never written
            case "integer" if self.bits == 8:
                return codes.astype(np.uint8).view(np.int8).astype(np.float32)
            case "integer":
                return (codes - (1 << self.bits - 1)).astype(np.float32)
            case "half_integer":
                return (codes - ((1 << self.bits) - 1) / 2).astype(np.float32)
            case "table":
                return np.array(self.table, np.float32)
            case "exponent":
                return np.append(np.ldexp(np.float32(1), codes[:-1] - 127), np.float32(np.nan)).astype(np.float32)
            case "small_float":
                return self._small_float_levels()
            case "codebook":
                raise ValueError(f"the levels of {self.name} lie beside the codes, in Codes.tables")
            case "one_hot":
                raise ValueError(f"a code of {self.name} stands for {self.span} numbers: use decode")
        raise ValueError(f"{self.name} has too many codes for a table of levels")

    def _small_float_levels(self) -> NDArray[np.float32]:
        magnitude = np.arange(1 << self.bits - 1)
        exponent = np.maximum(magnitude >> self.mantissa_bits, 1)
        mantissa = magnitude - ((exponent - 1) << self.mantissa_bits)
        values = np.ldexp(mantissa.astype(np.float32), exponent - 1 + self.min_exponent - self.mantissa_bits)
        values[values > self.max_value] = np.nan
        if self.bits == 8 and self.name != "e4m3":  # e4m3 (fn) has no infinities; the other two are IEEE-like
            values[(1 << (7 - self.mantissa_bits)) - 1 << self.mantissa_bits] = np.inf
        return np.concatenate([values, -values])

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round to the nearest level, saturate, and pack: (n, dim) -> (n, row_bytes(dim)).

        Ties go to the even code, in ternary to zero, and between the levels of a table to the lower one.
        Zero counts as positive in the sign format. Scales in the exponent format are rounded up, so that what they
        divide does not saturate. A one-hot code is that of the largest number, the first of equals. The values must be
        finite.
        """
        if self.kind == "float":
            floats = np.clip(values, -self.max_value, self.max_value).astype(f"<f{self.bits // 8}")
            return np.ascontiguousarray(floats).view(np.uint8)
        return self.pack(self._codes(values))

    def _codes(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        codes: NDArray[Any]
        match self.kind:
            case "sign":
                codes = values >= 0
            case "small_float":
                return self._small_float_codes(values)
            case "table":
                codes = places(values, self.levels)
            case "exponent":
                fraction, exponent = np.frexp(values)  # 2 ** (exponent - 1) is the value itself where fraction is 1/2
                codes = np.where(values > 0, np.clip(exponent - (fraction == 0.5) + 127, 0, 254), 0)
            case "codebook":
                raise ValueError(f"{self.name} rounds to levels of its own for each row or block: use pack(codes)")
            case "one_hot":
                codes = values.reshape(len(values), values.shape[1] // self.span, self.span).argmax(axis=2)
            case "ternary":
                codes = np.clip(np.rint(values), -1, 1) + 1
            case _:  # a grid of step 1
                shift = np.float32(0.5 if self.kind == "half_integer" else 0)
                half = 1 << self.bits - 1
                codes = np.clip(np.rint(values - shift), -half, half - 1) + (half if self.bits < 8 else 0)
        return codes.astype(np.int16).astype(np.uint8)

    def _small_float_codes(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        magnitude = np.minimum(np.abs(values), np.float32(self.max_value))
        smallest_normal = np.ldexp(np.float32(1), self.min_exponent)
        exponent = np.frexp(np.maximum(magnitude, smallest_normal))[1] - 1
        # In units of the last mantissa bit: rint is the rounding to nearest even, and a carry into the next binade
        # is the carry of this integer sum.
        steps = np.rint(np.ldexp(magnitude, self.mantissa_bits - exponent)).astype(np.int32)
        codes = ((exponent - self.min_exponent) << self.mantissa_bits) + steps
        signed: NDArray[np.uint8] = (codes | np.where(np.signbit(values), 1 << self.bits - 1, 0)).astype(np.uint8)
        return signed

    def nearest(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The level that `encode` rounds each number to, numbers no larger than the largest: any shape, float32."""
        nearest: NDArray[np.float32]
        match self.kind:
            case "integer":
                nearest = np.rint(values)
            case "half_integer":
                nearest = np.rint(values - np.float32(0.5)) + np.float32(0.5)
            case "small_float":
                normal = np.maximum(np.abs(values), np.ldexp(np.float32(1), self.min_exponent))
                # The exponent bits alone are the power of two below a number; `unit` is one of its last mantissa bit.
                power = (normal.view(np.int32) & 0x7F80_0000).view(np.float32)
                unit = power * np.ldexp(np.float32(1), -self.mantissa_bits)
                nearest = np.copysign(np.rint(values / unit) * unit, values)
            case _:
                nearest = self.levels[self._codes(values)]
        return nearest

    def decode(self, packed: NDArray[np.uint8], dim: int) -> NDArray[np.float32]:
        """The levels behind packed codes: (n, row_bytes(dim)) uint8 -> (n, dim) float32, exactly."""
        if self.kind == "float":
            return np.ascontiguousarray(packed).view(f"<f{self.bits // 8}").astype(np.float32)
        if self.kind == "one_hot":
            places = np.arange(self.span, dtype=np.uint8)
            ones: NDArray[np.bool_] = self.unpack(packed, dim)[:, :, None] == places
            return ones.reshape(len(packed), dim).astype(np.float32)
        return self.levels[self.unpack(packed, dim)]

    def pack(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes of `bits` bits, (n, dim // span) uint8, as packed rows (n, row_bytes(dim))."""
        planes = []
        for width in PLANES[self.bits]:
            planes.append(_packed(codes & np.uint8((1 << width) - 1), width))
            codes = codes >> np.uint8(min(width, 7))
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=1)

    def unpack(self, packed: NDArray[np.uint8], dim: int) -> NDArray[np.uint8]:
        """The codes of packed rows: (n, row_bytes(dim)) -> (n, dim // span) uint8."""
        count = dim // self.span
        codes = np.zeros((len(packed), count), np.uint8)
        start = shift = 0
        for width in PLANES[self.bits]:
            stop = start + (count * width + 7) // 8
            codes |= _unpacked(packed[:, start:stop], width, count) << shift
            start, shift = stop, shift + width
        return codes


def places(values: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Which of up to 256 ascending levels is nearest to each number; between two, the lower one. Any shape."""
    codes = np.zeros(values.shape, np.uint8)
    for midpoint in (levels[1:] + levels[:-1]) / 2:  # as many levels lie below a number as midpoints do
        codes += values > midpoint
    return codes


def _packed(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Codes of 1, 2, 4 or 8 bits, little-endian in bytes."""
    if width == 8:
        return np.ascontiguousarray(codes)
    if width == 1:
        return np.packbits(codes, axis=1, bitorder="little")
    in_byte = 8 // width
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % in_byte)))
    result = padded[:, ::in_byte].copy()
    for i in range(1, in_byte):
        result |= padded[:, i::in_byte] << (i * width)
    return result


def _unpacked(packed: NDArray[np.uint8], width: int, dim: int) -> NDArray[np.uint8]:
    if width == 8:
        return packed
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    codes: NDArray[np.uint8] = (packed[:, :, None] >> shifts) & np.uint8((1 << width) - 1)
    return codes.reshape(len(packed), packed.shape[1] * len(shifts))[:, :dim]


def _small_float(name: str, bits: int, mantissa_bits: int, min_exponent: int, max_value: float) -> Format:
    return Format(name, bits, "small_float", mantissa_bits, min_exponent, max_value)


FLOAT32 = Format("float32", 32, "float", max_value=float(np.finfo(np.float32).max))
FLOAT16 = Format("float16", 16, "float", max_value=65504.0)

E4M3 = _small_float("e4m3", 8, 3, -6, 448.0)
E5M2 = _small_float("e5m2", 8, 2, -14, 57344.0)
E3M4 = _small_float("e3m4", 8, 4, -2, 15.5)
E2M3 = _small_float("e2m3", 6, 3, 0, 7.5)
E3M2 = _small_float("e3m2", 6, 2, -2, 28.0)
E2M1 = _small_float("e2m1", 4, 1, 0, 6.0)

SIGN = Format("sign", 1, "sign", max_value=1.0)
TERNARY = Format("ternary", 2, "ternary", max_value=1.0)
INT2, INT3, INT4, INT5, INT6, INT7, INT8 = (
    Format(f"int{bits}", bits, "integer", max_value=2.0 ** (bits - 1) - 1) for bits in range(2, 9)
)
HALF2, HALF3, HALF4 = (
    Format(f"half{bits}", bits, "half_integer", max_value=2.0 ** (bits - 1) - 0.5) for bits in (2, 3, 4)
)

# Quantiles of a normal distribution with an exact zero, from -1 to 1: QLoRA (arXiv 2305.14314), appendix E.
NF4 = Format(
    "nf4", 4, "table", max_value=1.0,
    table=(
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
)  # fmt: skip
TABLE2, TABLE3, TABLE4 = (Format(f"table{bits}", bits, "codebook", max_value=127.0) for bits in (2, 3, 4))

# What a code of a product quantizer says: which of 16, or 256, centroids a part of the vector is near to.
ONE_HOT4, ONE_HOT8 = (Format(f"onehot{bits}", bits, "one_hot", max_value=1.0) for bits in (4, 8))

E8M0 = Format("e8m0", 8, "exponent", max_value=2.0**127)

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        FLOAT32, FLOAT16, E4M3, E5M2, E3M4, E2M3, E3M2, E2M1, SIGN, TERNARY, INT2, INT3, INT4, INT5, INT6, INT7, INT8,
        HALF2, HALF3, HALF4, NF4, TABLE2, TABLE3, TABLE4, ONE_HOT4, ONE_HOT8, E8M0,
    )
}  # fmt: skip

# What the numbers beside the codes (scales and zeros of blocks) may be stored in.
SCALE_FORMATS = (FLOAT32, FLOAT16, E4M3, E8M0)
