"""From packed codes to registers: unsigned bytes for integer sums, or 16 float32 numbers.

Words take the kind of a row as a literal, so each inner loop holds the code of one kind.
Packing: kernels/README.md.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.sources import inlined
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.vectors import F16, F32, I1, I8, I16, I32, f32x16, i32x16, u8x64

# Which numbers a row holds. BITSn is an integer of n bits: a place in a table of levels (2 to 4 bits), or a number.
# SPLIT2 and SPLIT4 are BITS2 and BITS4 read in another order, without tables, and MASKED1 to MASKED4 are codes of signs
# and half-integers that are not taken apart (below). ONE_HOT4 and ONE_HOT8 have one code for 16, or 256, numbers, of
# which it makes one 1 (lookups.py).
FLOAT32, FLOAT16, E4M3, E5M2, E3M4, E3M2, E2M3, NF4, INT8 = range(9)
BITS1, BITS2, BITS3, BITS4, BITS5, BITS6, BITS7, SPLIT2, SPLIT4, MASKED1, MASKED2, MASKED4 = range(9, 21)
ONE_HOT4, ONE_HOT8 = range(21, 23)

# The widths of the planes that the codes of a kind lie in.
PLANES = (
    (32,), (16,), (8,), (8,), (8,), (4, 2), (4, 2), (4,), (8,), (1,), (2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1),
    (2,), (4,), (1,), (2,), (4,), (4,), (8,),
)  # fmt: skip

SPAN = {ONE_HOT4: 16, ONE_HOT8: 256}  # numbers that a code stands for, where they are many

TABLES = (BITS2, BITS3, BITS4)  # kinds whose levels are int8 numbers in memory

# Integer sums are of bytes u; the integer u - BIAS times INTEGER_UNIT (else 1) is the level. Those of nf4 are rounded,
# by 1 / 254 at most; the small floats of 8 bits have no such integers.
BIAS = {
    INT8: 128, BITS1: 1, BITS2: 128, BITS3: 128, BITS4: 128, BITS5: 16, BITS6: 32, BITS7: 64, E2M3: 64, NF4: 128,
    SPLIT2: 2, SPLIT4: 8, MASKED1: 1, MASKED2: 3, MASKED4: 15, ONE_HOT4: 0, ONE_HOT8: 0,
}  # fmt: skip
INTEGER_UNIT = {E2M3: 1 / 8, NF4: 1 / 127}

# Dimensions that an integer step takes. The split kinds load a register of codes and cut it by masks: of its 128 (256)
# dimensions first come those that are 0 modulo 2 (4), then those that are 1, ... Queries are put in this order too.
# Of one-hot codes, 16 and 8 bytes are read at once.
SPLIT_STEPS = {SPLIT2: 256, SPLIT4: 128}
STEPS = {**SPLIT_STEPS, ONE_HOT4: 32 * 16, ONE_HOT8: 8 * 256}
STEP = tuple(STEPS.get(kind, 64) for kind in range(len(PLANES)))

# The masked kinds broadcast the bytes of 64 dimensions to a register of 64 and keep one code in each: code `k` of each
# byte in the `k`-th share of the register, where it is still 2 ** (width * k) times too large. So are the four products
# that an integer dot product adds to a lane: a shift sets the sums right, once a row. Queries are dealt in that order.
MASKED = {MASKED1: 1, MASKED2: 2, MASKED4: 4}

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_E2M3_EIGHTHS = [m if e == 0 else (8 + m) << (e - 1) for e in range(4) for m in range(8)]


def _is_literal(*kinds):
    return all(isinstance(kind, types.IntegerLiteral) for kind in kinds)


# --- planes ---------------------------------------------------------------------------------------------------------


def _plane_starts(builder, kind, row, dim):
    """The address of each plane of a row."""
    starts = [row]
    for width in PLANES[kind][:-1]:
        bits = builder.add(builder.mul(dim, dim.type(width)), dim.type(7))
        starts.append(builder.add(starts[-1], builder.lshr(bits, dim.type(3))))
    return starts


def _plane(builder, width, start, at, count, shift=0):
    """`count` bytes with the bits of dimensions `at`, ... of one plane, shifted left. `at` is a multiple of `count`."""
    address = builder.add(start, builder.lshr(builder.mul(at, at.type(width)), at.type(3)))
    if width == 8:
        return v.load(builder, address, v.vec(I8, count))
    if width == 1:
        bits = builder.bitcast(v.peek(builder, address, ir.IntType(count)), v.vec(I1, count))
        return builder.select(bits, v.const(v.vec(I8, count), 1 << shift), v.const(v.vec(I8, count), 0))
    # A byte goes to as many bytes as it has codes, by doubling: shift a copy up, keep what belongs there.
    word = ir.IntType(64 // width)
    words = v.vec(word, count * width // 8)
    codes = builder.zext(v.load(builder, address, v.vec(I8, words.count)), words)
    for distance, kept in {4: [(4, 0x0F0F)], 2: [(12, 0x000F000F), (6, 0x03030303)]}[width]:
        copies = builder.or_(codes, builder.shl(codes, v.const(words, distance)))
        codes = builder.and_(copies, v.const(words, kept))
    if shift:
        codes = builder.shl(codes, v.const(words, shift))
    return builder.bitcast(codes, v.vec(I8, count))


def _codes(builder, kind, row, dim, at, count):
    """The codes of dimensions `at`, ... as unsigned bytes."""
    result, shift = None, 0
    for width, start in zip(PLANES[kind], _plane_starts(builder, kind, row, dim), strict=True):
        part = _plane(builder, width, start, at, count, shift)
        result = part if result is None else builder.or_(result, part)
        shift += width
    return result


# --- tables ---------------------------------------------------------------------------------------------------------


def lookup(builder, table, codes):
    """table[codes] for bytes; the first 16 bytes of `table` are the table, and the others repeat them."""
    count = codes.type.count
    if PATH == "avx512" and count == 64:
        return v.call(builder, "llvm.x86.avx512.pshuf.b.512", codes.type, table, codes)
    if PATH != "portable" and count == 16:
        return v.call(builder, "llvm.x86.ssse3.pshuf.b.128", codes.type, v.slice(builder, table, 0, 16), codes)
    if PATH == "avx2":
        half = v.vec(I8, 32)
        parts = [
            v.call(
                builder,
                "llvm.x86.avx2.pshuf.b",
                half,
                v.slice(builder, table, i, i + 32),
                v.slice(builder, codes, i, i + 32),
            )
            for i in (0, 32)
        ]
        return v.join(builder, *parts)
    entries = [v.shuffle(builder, table, table, [i] * count) for i in range(16)]
    return _choose(builder, entries, codes)


def _choose(builder, entries, codes):
    """entries[code] in each lane, by a tree of selects on the bits of the code: needs no shuffle of the target's."""
    while len(entries) > 1:
        bit = len(entries).bit_length() - 2
        half = len(entries) // 2
        is_set = _bit(builder, codes, bit)
        entries = [builder.select(is_set, high, low) for low, high in zip(entries[:half], entries[half:], strict=True)]
    return entries[0]


def _bit(builder, codes, bit):
    return builder.icmp_unsigned("!=", builder.and_(codes, v.const(codes.type, 1 << bit)), v.const(codes.type, 0))


def _constant_table(values):
    return ir.Constant(u8x64.llvm, [value & 0xFF for value in values] * (64 // len(values)))


@intrinsic(prefer_literal=True)
def load_table(typingctx, kind, address):
    """The levels of a kind at an address, as the other words want them: int8 + 128, repeated."""
    if not _is_literal(kind):
        return None
    bits = kind.literal_value - BITS1 + 1

    def codegen(context, builder, signature, args):
        if not 2 <= bits <= 4:
            return v.const(u8x64.llvm, 0)  # the levels of other kinds are their own
        entries = v.load(builder, args[1], v.vec(I8, 1 << bits))
        flipped = builder.xor(entries, v.const(entries.type, 0x80))
        return v.shuffle(builder, flipped, flipped, [i % (1 << bits) for i in range(64)])

    return u8x64(kind, types.intp), codegen


# --- bytes ----------------------------------------------------------------------------------------------------------


def _integer_steps(builder, kind, row, dim, at, table):
    """The integers, plus BIAS, of the STEP dimensions from `at` on: one vector of 64 bytes, or more for split kinds."""
    if kind not in BIAS:
        return [v.const(u8x64.llvm, 0)]  # only in branches that this kind never takes
    if kind in SPLIT_STEPS:
        (width,) = PLANES[kind]
        at = builder.lshr(builder.mul(at, at.type(width)), at.type(3))
        codes = v.load(builder, builder.add(row, at), v.vec(I16, 32))
        mask = v.const(u8x64.llvm, (1 << width) - 1)
        parts = [builder.lshr(codes, v.const(codes.type, shift)) for shift in range(0, 8, width)]
        return [builder.and_(builder.bitcast(part, u8x64.llvm), mask) for part in parts]
    if kind in MASKED:
        width = MASKED[kind]
        here = builder.add(row, builder.lshr(builder.mul(at, at.type(width)), at.type(3)))
        some = v.load(builder, here, v.vec(I8, 8 * width))
        masks = ir.Constant(u8x64.llvm, [_mask(width, lane) for lane in range(64)])
        return [builder.and_(v.shuffle(builder, some, some, [lane % (8 * width) for lane in range(64)]), masks)]
    if kind == BITS1:
        return [_plane(builder, 1, row, at, 64, shift=1)]
    codes = _codes(builder, kind, row, dim, at, 64)
    if kind == INT8:
        return [builder.xor(codes, v.const(u8x64.llvm, 0x80))]
    if kind in TABLES:
        return [lookup(builder, table, codes)]
    if kind == NF4:
        return [lookup(builder, _constant_table([round(127 * level) + 128 for level in NF4_LEVELS]), codes)]
    if kind == E2M3:
        low = builder.and_(codes, v.const(u8x64.llvm, 15))
        halves = [lookup(builder, _constant_table(_E2M3_EIGHTHS[i : i + 16]), low) for i in (0, 16)]
        size = builder.select(_bit(builder, codes, 4), halves[1], halves[0])
        middle = v.const(u8x64.llvm, 64)
        return [builder.select(_bit(builder, codes, 5), builder.sub(middle, size), builder.add(middle, size))]
    return [codes]


def _mask(width, lane):
    """The bits of the code that a lane of a masked kind keeps."""
    return (1 << width) - 1 << width * (lane // (8 * width))


def _shifts(width):
    """How many bits the sums of each lane of a masked kind are too large."""
    return ir.Constant(i32x16.llvm, [width * (4 * lane // (8 * width)) for lane in range(16)])


@intrinsic(prefer_literal=True)
def store_dots(typingctx, kind, address, a, b, c, d):
    """Store the sums that `add_dots` has of four rows as four int32 numbers."""
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        sums = list(args[2:])
        if value in MASKED:
            sums = [builder.ashr(one, _shifts(MASKED[value])) for one in sums]
        stored = v.quad_sums(builder, sums, builder.add)
        if value in MASKED:
            stored = builder.add(stored, stored)  # half-integers are halves of odd numbers: 2 * code - BIAS
        v.store(builder, stored, args[1])
        return context.get_dummy_value()

    return types.void(kind, types.intp, i32x16, i32x16, i32x16, i32x16), codegen


@intrinsic(prefer_literal=True)
def in_place(typingctx, kind, sums):
    """The int32 sums that `add_dots` has of a row, where codes of masked kinds count as they would in their place."""
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        return builder.ashr(args[1], _shifts(MASKED[value])) if value in MASKED else args[1]

    return i32x16(kind, i32x16), codegen


@intrinsic(prefer_literal=True)
def deal_masked(typingctx, kind, address):
    """Put 64 bytes of a query in the order of a masked kind, in place."""
    if not _is_literal(kind):
        return None
    piles = 8 // MASKED[kind.literal_value]

    def codegen(context, builder, signature, args):
        cards = v.load(builder, args[1], u8x64.llvm)
        dealt = [card for pile in range(piles) for card in range(pile, 64, piles)]
        v.store(builder, v.shuffle(builder, cards, cards, dealt), args[1])
        return context.get_dummy_value()

    return types.void(kind, types.intp), codegen


@intrinsic(prefer_literal=True)
def add_dots(typingctx, kind, sums, row, dim, at, table, query):
    """sums + the products of the integers of a row, plus BIAS, and the int8 query, of STEP dimensions from `at` on.

    Sums of masked kinds are not yet sums before `store_dots`. `at` is a multiple of STEP; `table` comes from
    `load_table`; the query lies in the order of the kind.
    """
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        _kind, sums, row, dim, at, table, query = args
        for i, codes in enumerate(_integer_steps(builder, value, row, dim, at, table)):
            here = builder.add(query, builder.add(at, at.type(64 * i)))
            sums = v.dot_u8i8(builder, sums, codes, v.load(builder, here, u8x64.llvm))
        return sums

    return i32x16(kind, i32x16, types.intp, types.intp, types.intp, u8x64, types.intp), codegen


@intrinsic(prefer_literal=True)
def store_integers(typingctx, kind, row, dim, at, table, out):
    """Write the integers, plus BIAS, of STEP dimensions from `at` on to `out + at`, in the order of the kind."""
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        _kind, row, dim, at, table, out = args
        for i, codes in enumerate(_integer_steps(builder, value, row, dim, at, table)):
            v.store(builder, codes, builder.add(out, builder.add(at, at.type(64 * i))))
        return context.get_dummy_value()

    return types.void(kind, types.intp, types.intp, types.intp, u8x64, types.intp), codegen


# --- 16 float32 numbers ---------------------------------------------------------------------------------------------

# Small floats move into the bits of a float16, whose exponent has another bias: a power of two that UNIT takes back.
_HALF_SHIFT = {E5M2: 8, E4M3: 7, E3M4: 6, E3M2: 8, E2M3: 7}
UNIT = {E4M3: 2.0**8, E3M4: 2.0**12, E3M2: 2.0**12, E2M3: 2.0**14}


@intrinsic(prefer_literal=True)
def decode16(typingctx, kind, row, dim, group, table):
    """Numbers `16 * group` to `16 * group + 15` of the row at address `row`, as float32, exactly.

    They are the levels divided by `UNIT[kind]`, a power of two that callers give back once a row.
    """
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        _kind, row, dim, group, table = args
        if value in (FLOAT32, FLOAT16):
            wide = value == FLOAT32
            address = builder.add(row, builder.mul(group, group.type(64 if wide else 32)))
            numbers = v.load(builder, address, v.vec(F32 if wide else I16, 16))
            return numbers if wide else _half_to_f32(builder, numbers)
        codes = _codes(builder, value, row, dim, builder.mul(group, group.type(16)), 16)
        if value in _HALF_SHIFT:
            return _half_to_f32(builder, _half_bits(builder, value, codes))
        if value == NF4:
            return _nf4(builder, codes)
        if value == BITS1:
            return builder.select(_bit(builder, codes, 0), v.const(f32x16.llvm, 1.0), v.const(f32x16.llvm, -1.0))
        if value in TABLES:
            codes = lookup(builder, table, codes)
        bias = 0 if value == INT8 else BIAS[value]
        extend = builder.sext if value == INT8 else builder.zext
        levels = extend(codes, v.vec(I32, 16))
        return builder.sitofp(builder.sub(levels, v.const(levels.type, bias)) if bias else levels, f32x16.llvm)

    return f32x16(kind, types.intp, types.intp, types.intp, u8x64), codegen


def _half_bits(builder, kind, codes):
    """The float16 whose sign is that of the code, and whose low bits are the others."""
    bits, shift = sum(PLANES[kind]), _HALF_SHIFT[kind]
    if bits < 8:
        codes = builder.shl(codes, v.const(codes.type, 8 - bits))
    # Signed extension fills all above with the sign; of what the shift leaves, bit 15 and the others' place are kept.
    words = builder.shl(builder.sext(codes, v.vec(I16, 16)), v.const(v.vec(I16, 16), shift - (8 - bits)))
    return builder.and_(words, v.const(words.type, 0x8000 | ((1 << bits - 1) - 1) << shift))


def _half_to_f32(builder, words):
    if PATH != "portable":
        return builder.fpext(builder.bitcast(words, v.vec(F16, 16)), f32x16.llvm)
    # Without F16C `fpext` would be a library call per number. The exponent keeps its bits and gets its bias from the
    # product with 2 ** 112, which is exact, for subnormal numbers too.
    wide = builder.zext(words, v.vec(I32, 16))
    sign = builder.shl(builder.and_(wide, v.const(wide.type, 0x8000)), v.const(wide.type, 16))
    magnitude = builder.shl(builder.and_(wide, v.const(wide.type, 0x7FFF)), v.const(wide.type, 13))
    number = builder.bitcast(builder.or_(sign, magnitude), f32x16.llvm)
    return builder.fmul(number, v.const(f32x16.llvm, 2.0**112))


def _nf4(builder, codes):
    indices = builder.zext(codes, v.vec(I32, 16))
    if PATH == "avx512":
        table = ir.Constant(f32x16.llvm, list(NF4_LEVELS))
        return v.call(builder, "llvm.x86.avx512.permvar.sf.512", f32x16.llvm, table, indices)
    return _choose(builder, [v.const(f32x16.llvm, level) for level in NF4_LEVELS], indices)


# --- block scales ---------------------------------------------------------------------------------------------------

# How the numbers of a level of a scale tree are stored.
SCALE_FLOAT32, SCALE_FLOAT16, SCALE_E4M3, SCALE_E8M0 = range(4)


@intrinsic(prefer_literal=True)
def scale16(typingctx, kind, address):
    """Sixteen block scales from an address on."""
    if not _is_literal(kind):
        return None
    value = kind.literal_value

    def codegen(context, builder, signature, args):
        address = args[1]
        if value == SCALE_FLOAT32:
            return v.load(builder, address, f32x16.llvm)
        if value == SCALE_FLOAT16:
            return _half_to_f32(builder, v.load(builder, address, v.vec(I16, 16)))
        codes = v.load(builder, address, v.vec(I8, 16))
        if value == SCALE_E4M3:
            return builder.fmul(
                _half_to_f32(builder, _half_bits(builder, E4M3, codes)), v.const(f32x16.llvm, UNIT[E4M3])
            )
        wide = builder.zext(codes, v.vec(I32, 16))
        normal = builder.shl(wide, v.const(wide.type, 23))
        is_zero = builder.icmp_unsigned("==", wide, v.const(wide.type, 0))
        return builder.bitcast(builder.select(is_zero, v.const(wide.type, 1 << 22), normal), f32x16.llvm)

    return f32x16(kind, types.intp), codegen


@inlined
def scales16(kind, address):
    """Sixteen numbers of a level of a scale tree, whose `kind` is known at run time."""
    if kind == SCALE_E8M0:
        return scale16(SCALE_E8M0, address)
    if kind == SCALE_FLOAT16:
        return scale16(SCALE_FLOAT16, address)
    if kind == SCALE_FLOAT32:
        return scale16(SCALE_FLOAT32, address)
    return scale16(SCALE_E4M3, address)
