"""From packed rows to numbers, in registers.

All functions take a tile: the rows `row` (N,) that are `present` (N,), the `WIDTH` dimensions from `start` (a multiple
of 16), and give (N, WIDTH). Nothing is read outside a row: what lies beyond its last byte counts as code 0, what a
block beyond the last one has counts as 0. Numbers equal those of `reference.numbers` to the bit, where products and
sums are not contracted (compile with enable_fp_fusion=False).
"""

import triton
import triton.language as tl


@triton.jit
def codes(rows, FORM: tl.constexpr, row, present, start, WIDTH: tl.constexpr):
    """The codes, uint8."""
    byte = start * FORM.bits // 8 + tl.arange(0, WIDTH * FORM.bits // 8)
    at = row.to(tl.int64)[:, None] * rows.row_bytes + byte[None, :]
    packed = tl.load(rows.data + at, mask=present[:, None] & (byte < rows.row_bytes)[None, :], other=0)
    # The first dimension lies in the lowest bits, so halves interleave into order.
    if FORM.bits <= 4:
        packed = tl.interleave(packed & 15, packed >> 4)
    if FORM.bits <= 2:
        packed = tl.interleave(packed & 3, packed >> 2)
    if FORM.bits <= 1:
        packed = tl.interleave(packed & 1, packed >> 1)
    return packed


@triton.jit
def table_levels(rows, FORM: tl.constexpr, row, present, start, WIDTH: tl.constexpr):
    """The entries of the level table that the codes name, as stored."""
    N: tl.constexpr = row.shape[0]
    entry = tl.reshape(codes(rows, FORM, row, present, start, WIDTH).to(tl.int32), (N * WIDTH,))
    table = tl.load(rows.table + tl.arange(0, 16))
    return tl.reshape(tl.gather(table, entry, 0), (N, WIDTH))


@triton.jit
def integers(rows, FORM: tl.constexpr, row, present, start, WIDTH: tl.constexpr):
    """Levels over FORM.unit, int8, of formats that are integers times a unit."""
    if FORM.family == "table":
        result = table_levels(rows, FORM, row, present, start, WIDTH)
    elif FORM.family == "e2m1":
        code = codes(rows, FORM, row, present, start, WIDTH)
        # Eight magnitudes of four bits each: 0 1 2 3 4 6 8 12.
        magnitude = ((0xC8643210 >> ((code & 7).to(tl.uint32) * 4)) & 15).to(tl.int8)
        result = tl.where(code >= 8, -magnitude, magnitude)
    else:
        result = codes(rows, FORM, row, present, start, WIDTH).to(tl.int8, bitcast=True) * FORM.step + FORM.low
    return result


@triton.jit
def small_floats(code, SHIFT: tl.constexpr, UNIT: tl.constexpr):
    """Floats of 8 bits, by shifting them into a float16 whose exponent then lacks a constant: exact, on any target."""
    code = code.to(tl.uint16)
    return (((code & 128) << 8) | ((code & 127) << SHIFT)).to(tl.float16, bitcast=True).to(tl.float32) * UNIT


@triton.jit
def levels(rows, FORM: tl.constexpr, row, present, start, WIDTH: tl.constexpr):
    """Levels, before any scale, float32."""
    if FORM.family == "table":
        result = table_levels(rows, FORM, row, present, start, WIDTH).to(tl.float32)
    elif FORM.family == "small_float":
        result = small_floats(codes(rows, FORM, row, present, start, WIDTH), FORM.shift, FORM.unit)
    else:
        result = integers(rows, FORM, row, present, start, WIDTH).to(tl.float32) * FORM.unit
    return result


@triton.jit
def block_numbers(array, stride, KIND: tl.constexpr, row, mask, index):
    """Stored numbers of blocks `index` (G,) of the rows, (N, G) float32."""
    stored = tl.load(array + row.to(tl.int64)[:, None] * stride + index[None, :], mask=mask, other=0)
    if KIND == "e4m3":
        result = small_floats(stored, 7, 256.0)
    elif KIND == "e8m0":
        bits = stored.to(tl.uint32) << 23
        result = tl.where(bits == 0, 1 << 22, bits).to(tl.float32, bitcast=True)  # code 0 is the subnormal 2 ** -127
    else:
        result = stored.to(tl.float32)
    return result


@triton.jit
def block_scales(rows, FORM: tl.constexpr, row, mask, block):
    """The product of the scale tree for finest blocks `block` (G,), (N, G) float32."""
    # Before 3.7, Triton wants a string that it passes on wrapped.
    scale = block_numbers(rows.level0, rows.level0_stride, tl.constexpr(FORM.level0), row, mask, block)
    if FORM.level1 != "":
        coarser = block * FORM.block // FORM.size1
        scale *= block_numbers(rows.level1, rows.level1_stride, tl.constexpr(FORM.level1), row, mask, coarser)
    return scale


@triton.jit
def block_zeros(rows, FORM: tl.constexpr, row, mask, block):
    """The zeros of blocks `block` (G,), (N, G) float32."""
    return block_numbers(rows.zero, rows.zero_stride, tl.constexpr(FORM.zero), row, mask, block)


@triton.jit
def numbers(rows, FORM: tl.constexpr, row, present, start, WIDTH: tl.constexpr):
    """Decoded numbers without the row scale, float32; start is a multiple of WIDTH."""
    result = levels(rows, FORM, row, present, start, WIDTH)
    if FORM.block:
        N: tl.constexpr = row.shape[0]
        # The tile holds whole blocks, or lies within one, or else (blocks of 48, say) every dimension looks up its own.
        SHARED: tl.constexpr = FORM.block if WIDTH % FORM.block == 0 else WIDTH if FORM.block % WIDTH == 0 else 1
        GROUPS: tl.constexpr = WIDTH // SHARED
        block = (start + tl.arange(0, GROUPS) * SHARED) // FORM.block
        mask = present[:, None] & (block * FORM.block < rows.dim)[None, :]
        result = tl.reshape(result, (N, GROUPS, SHARED))
        if FORM.level0 != "":
            result *= block_scales(rows, FORM, row, mask, block)[:, :, None]
        if FORM.zero != "":
            result += block_zeros(rows, FORM, row, mask, block)[:, :, None]
        result = tl.reshape(result, (N, WIDTH))
    return result
