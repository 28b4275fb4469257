"""The vector vocabulary: small words over fixed-width SIMD values, as numba intrinsics that emit LLVM vector IR.

Every other CPU kernel is ordinary numba code over these words. A vector has the same number of lanes on every machine
(512 bits, or two such halves for float64), so a kernel is written once and lane sums come out alike everywhere.

Words that load take an address (an integer). Bounds are the caller's duty.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.target import PATH
from qindex_kernels.cpu.vectors import F32, F64, I1, I8, I16, I32, I64, f32x16, f64x16, i32x16, u8x64

# --- zeros, loads, stores -------------------------------------------------------------------------------------------


@intrinsic
def zero_i32(typingctx):
    """Sixteen int32 zeros."""
    return i32x16(), lambda context, builder, signature, args: v.const(i32x16.llvm, 0)


@intrinsic
def zero_f32(typingctx):
    """Sixteen float32 zeros."""
    return f32x16(), lambda context, builder, signature, args: v.const(f32x16.llvm, 0.0)


@intrinsic
def zero_f64(typingctx):
    """Sixteen float64 zeros."""
    return f64x16(), lambda context, builder, signature, args: v.const(f64x16.llvm, 0.0)


@intrinsic
def ones_u8(typingctx):
    """Sixty-four bytes of one."""
    return u8x64(), lambda context, builder, signature, args: v.const(u8x64.llvm, 1)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, which need not be readable."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], I8.as_pointer())
        read, keep, data = I32(0), I32(3), I32(1)
        v.call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, keep, data)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _scalar_words(name, numba_type, llvm_type):
    def peek(typingctx, address):
        return numba_type(types.intp), lambda context, builder, signature, args: v.peek(builder, args[0], llvm_type)

    def poke(typingctx, address, value):
        def codegen(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], llvm_type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), codegen

    peek.__name__, peek.__doc__ = f"peek_{name}", f"The {numba_type} at an address."
    poke.__name__, poke.__doc__ = f"poke_{name}", f"Write a {numba_type} to an address."
    return intrinsic(peek), intrinsic(poke)


peek_u8, poke_u8 = _scalar_words("u8", types.uint8, I8)
peek_i8, poke_i8 = _scalar_words("i8", types.int8, I8)
peek_i16, poke_i16 = _scalar_words("i16", types.int16, I16)
peek_i32, poke_i32 = _scalar_words("i32", types.int32, I32)
peek_u32, poke_u32 = _scalar_words("u32", types.uint32, I32)
peek_i64, poke_i64 = _scalar_words("i64", types.int64, I64)
peek_f32, poke_f32 = _scalar_words("f32", types.float32, F32)
peek_f64, poke_f64 = _scalar_words("f64", types.float64, F64)


def _vector_words(name, vector):
    def load(typingctx, address):
        return vector(types.intp), lambda context, builder, signature, args: v.load(builder, args[0], vector.llvm)

    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            v.store(builder, args[1], args[0])
            return context.get_dummy_value()

        return types.void(types.intp, vector), codegen

    load.__name__, load.__doc__ = f"load_{name}", f"The {vector.name} at an address."
    store.__name__, store.__doc__ = f"store_{name}", f"Write a {vector.name} to an address."
    return intrinsic(load), intrinsic(store)


load_bytes, store_bytes = _vector_words("bytes", u8x64)
load_i32, store_i32 = _vector_words("i32", i32x16)
load_f32, store_f32 = _vector_words("f32", f32x16)


@intrinsic
def load_half(typingctx, address):
    """Thirty-two bytes at an address, and as many zeros: of those, what narrower registers compute is known before."""

    def codegen(context, builder, signature, args):
        half = v.vec(I8, 32)
        return v.join(builder, v.load(builder, args[0], half), v.const(half, 0))

    return u8x64(types.intp), codegen


@intrinsic
def gather(typingctx, start, rows, size):
    """The numbers of `size` (1, 2 or 4) bytes, side by side from an address on, of sixteen rows; zeros above them.

    `rows` is the address of their int32 numbers. Whole aligned words are read, so that no page is touched in vain.
    """

    def codegen(context, builder, signature, args):
        start, rows, size = args
        shift = builder.sub(I64(2), builder.lshr(size, I64(1)))  # numbers in a word, as a power of two
        inside = builder.lshr(builder.and_(start, I64(3)), builder.sub(I64(2), shift))
        places = builder.add(v.load(builder, rows, i32x16.llvm), v.splat(builder, builder.trunc(inside, I32), 16))
        shift = builder.trunc(shift, I32)
        words = builder.lshr(places, v.splat(builder, shift, 16))
        first = builder.inttoptr(builder.and_(start, I64(-4)), I32.as_pointer())
        pointers = builder.gep(first, [words], source_etype=I32)
        pointers.type = v.vec(I32.as_pointer(), 16)  # llvmlite takes it for one pointer
        mask, nothing = v.const(v.vec(I1, 16), 1), v.const(i32x16.llvm, 0)
        found = v.call(builder, "llvm.masked.gather.v16i32.v16p0", i32x16.llvm, pointers, I32(4), mask, nothing)
        last = builder.sub(builder.shl(I32(1), shift), I32(1))
        place = builder.and_(places, v.splat(builder, last, 16))
        return builder.lshr(found, builder.shl(place, v.splat(builder, builder.sub(I32(5), shift), 16)))

    return i32x16(types.intp, types.intp, types.intp), codegen


def _low_parts(name, number):
    def codegen(context, builder, signature, args):
        v.store(builder, builder.trunc(args[1], v.vec(number, 16)), args[0])
        return context.get_dummy_value()

    def store(typingctx, address, value):
        return types.void(types.intp, i32x16), codegen

    store.__name__, store.__doc__ = f"store_low_{name}", f"Write the lowest {number.width} bits of sixteen int32."
    return intrinsic(store)


store_low_i8, store_low_i16 = _low_parts("i8", I8), _low_parts("i16", I16)


# --- int8 -----------------------------------------------------------------------------------------------------------


@intrinsic
def dot_u8i8(typingctx, acc, a, b):
    """Add to each int32 lane of `acc` its four products of unsigned bytes of `a` and signed bytes of `b`."""

    def codegen(context, builder, signature, args):
        return v.dot_u8i8(builder, *args)

    return i32x16(i32x16, u8x64, u8x64), codegen


@intrinsic
def add_differences(typingctx, acc, a, b, mask):
    """Add to the int32 lanes of `acc` twice the number of bits that differ at two addresses, where a mask has ones."""

    def codegen(context, builder, signature, args):
        a, b, mask = (v.load(builder, address, u8x64.llvm) for address in args[1:])
        bits = builder.and_(builder.xor(a, b), mask)
        counts = v.call(builder, "llvm.ctpop.v64i8", u8x64.llvm, bits)
        return v.dot_u8i8(builder, args[0], counts, v.const(u8x64.llvm, 2))

    return i32x16(i32x16, types.intp, types.intp, types.intp), codegen


def _ones(builder, bits):
    """How many bits are set, in each 32 or, where the target cannot count those at once, in each byte."""
    if PATH == "avx512":
        return v.call(builder, "llvm.ctpop.v16i32", i32x16.llvm, builder.bitcast(bits, i32x16.llvm))
    return v.call(builder, "llvm.ctpop.v64i8", u8x64.llvm, bits)


def _add_counts(builder, acc, counts):
    """Add the counts of 512 bits to int32 lanes, whichever."""
    if PATH == "avx2":
        none, sums = v.const(v.vec(I8, 32), 0), v.vec(I64, 4)
        halves = (v.slice(builder, counts, i, i + 32) for i in (0, 32))
        counts = v.join(builder, *(v.call(builder, "llvm.x86.avx2.psad.bw", sums, half, none) for half in halves))
    elif PATH == "portable":
        for number in (I16, I32):  # neighbours are added in pairs
            pairs, half = v.vec(number, 512 // number.width), number.width // 2
            counts = builder.bitcast(counts, pairs)
            even = builder.and_(counts, v.const(pairs, (1 << half) - 1))
            counts = builder.add(even, builder.lshr(counts, v.const(pairs, half)))
    return builder.add(acc, builder.bitcast(counts, i32x16.llvm))


@intrinsic
def add_sign_distances(typingctx, acc, a, b, mask):
    """Add to the lanes of `acc` in how many bits `a` and `b` differ, where a mask has ones; to which lanes, is open."""

    def codegen(context, builder, signature, args):
        acc, a, b, mask = args
        return _add_counts(builder, acc, _ones(builder, builder.and_(builder.xor(a, b), mask)))

    return i32x16(i32x16, u8x64, u8x64, u8x64), codegen


@intrinsic
def add_half_distances(typingctx, acc, a, b, crossed, mask):
    """The same of numbers of two bits: 4 for high bits that differ, 1 for low ones, 2 for the high of one and the low
    of the other. `crossed` is b with the two bits of each number in each other's place.
    """

    def codegen(context, builder, signature, args):
        acc, a, b, crossed, mask = args
        straight = builder.and_(builder.xor(a, b), mask)
        crossed = builder.and_(builder.xor(a, crossed), mask)
        if PATH == "avx2":  # which would look up four bits at a time to count them: so the table weighs them, too
            counts = builder.add(_weighed(builder, straight, 1, 4), _weighed(builder, crossed, 2, 2))
            return _add_counts(builder, acc, counts)
        low, high = (_ones(builder, builder.and_(straight, v.const(u8x64.llvm, bits))) for bits in (0x55, 0xAA))
        counts = builder.add(_ones(builder, crossed), builder.add(high, high))
        return _add_counts(builder, acc, builder.add(low, builder.add(counts, counts)))

    return i32x16(i32x16, u8x64, u8x64, u8x64, u8x64), codegen


def _weighed(builder, bits, low, high):
    """The sum of the weights of the low and the high bits of numbers of two bits, in each byte."""
    pair, half, words = (0, low, high, low + high), v.vec(I8, 32), v.vec(I16, 32)
    table = ir.Constant(half, [pair[i & 3] + pair[i >> 2] for i in range(16)] * 2)
    upper = builder.bitcast(builder.lshr(builder.bitcast(bits, words), v.const(words, 4)), u8x64.llvm)
    sums = []
    for fours in (bits, upper):
        fours = builder.and_(fours, v.const(u8x64.llvm, 15))
        halves = (v.slice(builder, fours, i, i + 32) for i in (0, 32))
        sums.append(v.join(builder, *(v.call(builder, "llvm.x86.avx2.pshuf.b", half, table, one) for one in halves)))
    return builder.add(*sums)


@intrinsic
def store_part_sums(typingctx, address, stride, a, b, c, d):
    """Store the sums of the first four lanes of four vectors as four int32 numbers, and so on, `stride` bytes apart."""

    def codegen(context, builder, signature, args):
        address, stride, *rows = args
        sums = v.group_sums(builder, rows, builder.add)
        for part in range(4):
            at = builder.add(address, builder.mul(stride, stride.type(part)))
            v.store(builder, v.slice(builder, sums, 4 * part, 4 * part + 4), at)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, i32x16, i32x16, i32x16, i32x16), codegen


@intrinsic
def sum_of_lanes(typingctx, a):
    """The sum of sixteen int32 numbers."""

    def codegen(context, builder, signature, args):
        return v.call(builder, "llvm.vector.reduce.add.v16i32", I32, args[0])

    return types.int32(i32x16), codegen


@intrinsic(prefer_literal=True)
def deal(typingctx, address, piles):
    """Put `piles` (a literal) times 64 bytes into as many piles, as one deals cards: in place."""
    if not isinstance(piles, types.IntegerLiteral):
        return None
    n = piles.literal_value

    def codegen(context, builder, signature, args):
        places = [builder.add(args[0], args[0].type(64 * i)) for i in range(n)]
        cards = [v.load(builder, place, u8x64.llvm) for place in places]
        while len(cards) > 1:
            cards = [v.join(builder, *cards[i : i + 2]) for i in range(0, len(cards), 2)]
        for i, place in enumerate(places):
            v.store(builder, v.stride(builder, cards[0], i, n), place)
        return context.get_dummy_value()

    return types.void(types.intp, piles), codegen


@intrinsic
def store_sums_i32(typingctx, address, a, b, c, d):
    """Store the lane sums of four int32 vectors as four int32 numbers."""

    def codegen(context, builder, signature, args):
        v.store(builder, v.quad_sums(builder, args[1:], builder.add), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, i32x16, i32x16, i32x16, i32x16), codegen


# --- floats ---------------------------------------------------------------------------------------------------------


@intrinsic
def scaled(typingctx, a, factor):
    """Each lane times one number."""

    def codegen(context, builder, signature, args):
        return builder.fmul(args[0], v.splat(builder, args[1], 16))

    return f32x16(f32x16, types.float32), codegen


@intrinsic
def shifted(typingctx, a, term):
    """Each lane plus one number."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], v.splat(builder, args[1], 16))

    return f32x16(f32x16, types.float32), codegen


@intrinsic
def add_i32(typingctx, a, b):
    """a + b in int32."""
    return i32x16(i32x16, i32x16), lambda context, builder, signature, args: builder.add(*args)


@intrinsic
def times_i32(typingctx, a, b):
    """a * b in int32."""
    return i32x16(i32x16, i32x16), lambda context, builder, signature, args: builder.mul(*args)


@intrinsic
def splat_i32(typingctx, number):
    """Sixteen times one int32 number."""
    return i32x16(types.int32), lambda context, builder, signature, args: v.splat(builder, args[0], 16)


@intrinsic
def splat_f32(typingctx, number):
    """Sixteen times one float32 number."""
    return f32x16(types.float32), lambda context, builder, signature, args: v.splat(builder, args[0], 16)


@intrinsic
def first_lane(typingctx, a):
    """The first of sixteen float32 numbers."""
    return types.float32(f32x16), lambda context, builder, signature, args: builder.extract_element(args[0], I32(0))


@intrinsic
def first_lanes(typingctx, a, n):
    """The first n lanes; zeros in the others."""

    def codegen(context, builder, signature, args):
        places = ir.Constant(i32x16.llvm, list(range(16)))
        kept = builder.icmp_signed("<", places, v.splat(builder, builder.trunc(args[1], I32), 16))
        return builder.select(kept, args[0], v.const(f32x16.llvm, 0.0))

    return f32x16(f32x16, types.intp), codegen


@intrinsic
def load_first(typingctx, address, n):
    """The first n, but no more than sixteen, float32 numbers at an address, and zeros; nothing behind them is read."""

    def codegen(context, builder, signature, args):
        places = ir.Constant(i32x16.llvm, list(range(16)))
        kept = builder.icmp_signed("<", places, v.splat(builder, builder.trunc(args[1], I32), 16))
        pointer = builder.inttoptr(args[0], f32x16.llvm.as_pointer())
        name, none = "llvm.masked.load.v16f32.p0", v.const(f32x16.llvm, 0.0)
        return v.call(builder, name, f32x16.llvm, pointer, I32(1), kept, none)

    return f32x16(types.intp, types.intp), codegen


@intrinsic
def store_first(typingctx, address, a, n):
    """Store the first n, but no more than sixteen, lanes; nothing behind them is written."""

    def codegen(context, builder, signature, args):
        places = ir.Constant(i32x16.llvm, list(range(16)))
        kept = builder.icmp_signed("<", places, v.splat(builder, builder.trunc(args[2], I32), 16))
        pointer = builder.inttoptr(args[0], f32x16.llvm.as_pointer())
        v.call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), args[1], pointer, I32(1), kept)
        return context.get_dummy_value()

    return types.void(types.intp, f32x16, types.intp), codegen


@intrinsic
def hadamard16(typingctx, a):
    """`a` times the Hadamard matrix of 16 lanes: sums and differences of neighbours, of pairs, of fours, of halves."""

    def codegen(context, builder, signature, args):
        a = args[0]
        for bit in (1, 2, 4, 8):
            other = v.shuffle(builder, a, a, [lane ^ bit for lane in range(16)])
            sums, differences = builder.fadd(a, other), builder.fsub(other, a)
            a = v.shuffle(builder, sums, differences, [lane + 16 * bool(lane & bit) for lane in range(16)])
        return a

    return f32x16(f32x16), codegen


@intrinsic
def lanes_at(typingctx, a, places):
    """Lane `i` of the result is lane `places[i]`, modulo 16, of `a`."""

    def codegen(context, builder, signature, args):
        a, places = args
        if PATH == "avx512":
            return v.call(builder, "llvm.x86.avx512.permvar.sf.512", f32x16.llvm, a, places)
        if PATH == "avx2":
            half = v.vec(F32, 8)
            halves = []
            for start in (0, 8):
                place = v.slice(builder, places, start, start + 8)
                low, high = (
                    v.call(builder, "llvm.x86.avx2.permps", half, v.slice(builder, a, i, i + 8), place) for i in (0, 8)
                )
                in_high = builder.icmp_unsigned(
                    "!=", builder.and_(place, v.const(place.type, 8)), v.const(place.type, 0)
                )
                halves.append(builder.select(in_high, high, low))
            return v.join(builder, *halves)
        places = builder.and_(places, v.const(places.type, 15))
        result = ir.Constant(f32x16.llvm, ir.Undefined)
        for lane in range(16):
            number = builder.extract_element(a, builder.extract_element(places, I32(lane)))
            result = builder.insert_element(result, number, I32(lane))
        return result

    return f32x16(f32x16, i32x16), codegen


@intrinsic
def as_f32(typingctx, a):
    """int32 numbers as float32."""
    return f32x16(i32x16), lambda context, builder, signature, args: builder.sitofp(args[0], f32x16.llvm)


@intrinsic
def shifted_dots(typingctx, dots, totals, factor):
    """`dots + totals * factor` in int32, as float32."""

    def codegen(context, builder, signature, args):
        dots, totals, factor = args
        total = builder.add(dots, builder.mul(totals, v.splat(builder, factor, 16)))
        return builder.sitofp(total, f32x16.llvm)

    return f32x16(i32x16, i32x16, types.int32), codegen


@intrinsic
def transpose(typingctx, address, stride, out, out_stride):
    """Write 16 rows of 16 float32 numbers, which lie `stride` bytes apart, as 16 columns `out_stride` bytes apart."""

    def codegen(context, builder, signature, args):
        source, stride, out, out_stride = args
        addresses = [builder.add(source, builder.mul(stride, stride.type(i))) for i in range(16)]
        rows = [v.load(builder, address, f32x16.llvm) for address in addresses]
        # Butterfly: in each round, rows `bit` apart exchange the lanes in which that bit of the column is not theirs.
        for bit in (8, 4, 2, 1):
            for i in range(16):
                if not i & bit:
                    a, b = rows[i], rows[i | bit]
                    low = [lane if not lane & bit else 16 + lane - bit for lane in range(16)]
                    high = [lane + bit if not lane & bit else 16 + lane for lane in range(16)]
                    rows[i], rows[i | bit] = v.shuffle(builder, a, b, low), v.shuffle(builder, a, b, high)
        for i, row in enumerate(rows):
            v.store(builder, row, builder.add(out, builder.mul(out_stride, out.type(i))))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def larger_size(typingctx, a, b):
    """The larger of a and abs(b) in each lane; a is not negative. NaN is larger than all numbers."""

    def codegen(context, builder, signature, args):
        a, b = (builder.bitcast(one, i32x16.llvm) for one in args)
        size = builder.and_(b, v.const(i32x16.llvm, 0x7FFFFFFF))
        return builder.bitcast(builder.select(builder.icmp_signed(">", size, a), size, a), f32x16.llvm)

    return f32x16(f32x16, f32x16), codegen


@intrinsic
def largest_lane(typingctx, a):
    """The largest of sixteen numbers that are not negative, or NaN."""

    def codegen(context, builder, signature, args):
        largest = v.call(builder, "llvm.vector.reduce.smax.v16i32", I32, builder.bitcast(args[0], i32x16.llvm))
        return builder.bitcast(largest, F32)

    return types.float32(f32x16), codegen


# A product with the inverse and a quotient, of up to 127, differ by less than 2.5 * 2 ** -24 * 127.
_NEAR_HALF = 0.5 - 2.0**-14
# Added to a small number, it leaves the nearest integer in the lowest bits.
_ROUNDING = 1.5 * 2.0**23


@intrinsic
def quotients(typingctx, a, step, inverse):
    """a / step, of at most 127 in magnitude, rounded half to even, in int32; `inverse` is 1 / step.

    Divisions would take most of the time of rounding a query: only what may lie half-way between integers is divided.
    """

    def codegen(context, builder, signature, args):
        a, step, inverse = args[0], *(v.splat(builder, number, 16) for number in args[1:])
        rounding = v.const(f32x16.llvm, _ROUNDING)
        moved = v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, inverse, rounding)
        fast = builder.sub(builder.bitcast(moved, i32x16.llvm), v.const(i32x16.llvm, 0x4B400000))
        whole = builder.fsub(moved, rounding)
        error = v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, inverse, builder.fneg(whole))
        error = v.call(builder, "llvm.fabs.v16f32", f32x16.llvm, error)
        unsure = builder.bitcast(builder.fcmp_ordered(">", error, v.const(f32x16.llvm, _NEAR_HALF)), I16)
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", unsure, I16(0)), likely=False):
            divided = v.call(builder, "llvm.rint.v16f32", f32x16.llvm, builder.fdiv(a, step))
            slow, divided_in = builder.fptosi(divided, i32x16.llvm), builder.block
        result = builder.phi(i32x16.llvm)
        result.add_incoming(fast, before)
        result.add_incoming(slow, divided_in)
        return result

    return i32x16(f32x16, types.float32, types.float32), codegen


@intrinsic
def round_bytes(typingctx, sums, source, step, inverse, target):
    """Write 64 quotients, as `quotients`, to `target` as int8, of float32 numbers at `source`.

    Returns `sums`, int32, plus their sums by fours.
    """

    def codegen(context, builder, signature, args):
        sums, source, step, inverse, target = args
        numbers = [v.load(builder, builder.add(source, source.type(64 * i)), f32x16.llvm) for i in range(4)]
        step, inverse = v.splat(builder, step, 16), v.splat(builder, inverse, 16)
        rounding, largest, fast = v.const(f32x16.llvm, _ROUNDING), None, []
        for a in numbers:
            moved = v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, inverse, rounding)
            whole = builder.fsub(moved, rounding)
            error = v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, inverse, builder.fneg(whole))
            error = v.call(builder, "llvm.fabs.v16f32", f32x16.llvm, error)
            larger = error if largest is None else builder.fcmp_ordered(">", error, largest)
            largest = error if largest is None else builder.select(larger, error, largest)
            fast.append(builder.bitcast(moved, i32x16.llvm))  # only their lowest bytes are taken
        unsure = builder.bitcast(builder.fcmp_ordered(">", largest, v.const(f32x16.llvm, _NEAR_HALF)), I16)
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", unsure, I16(0)), likely=False):
            slow = []
            for a in numbers:
                divided = v.call(builder, "llvm.rint.v16f32", f32x16.llvm, builder.fdiv(a, step))
                slow.append(builder.fptosi(divided, i32x16.llvm))
            divided_in = builder.block
        parts = []
        for quick, exact in zip(fast, slow, strict=True):
            part = builder.phi(i32x16.llvm)
            part.add_incoming(quick, before)
            part.add_incoming(exact, divided_in)
            parts.append(part)
        parts = [builder.trunc(part, v.vec(I8, 16)) for part in parts]
        codes = v.join(builder, v.join(builder, *parts[:2]), v.join(builder, *parts[2:]))
        v.store(builder, codes, target)
        return v.dot_u8i8(builder, sums, v.const(u8x64.llvm, 1), codes)

    return i32x16(i32x16, types.intp, types.float32, types.float32, types.intp), codegen


@intrinsic
def steps_of(typingctx, sizes):
    """The steps of 16 largest magnitudes: 127 steps each, but 1 where that is not a normal number."""

    def codegen(context, builder, signature, args):
        steps = builder.fdiv(args[0], v.const(f32x16.llvm, 127.0))
        small = builder.fcmp_ordered("<", steps, v.const(f32x16.llvm, 2.0**-126))
        return builder.select(small, v.const(f32x16.llvm, 1.0), steps)

    return f32x16(f32x16), codegen


@intrinsic
def inverses_of(typingctx, a):
    """1 / a in float32."""
    return f32x16(f32x16), lambda context, builder, signature, args: builder.fdiv(v.const(f32x16.llvm, 1.0), args[0])


@intrinsic
def add_scaled(typingctx, acc, sums, scales):
    """`acc + float(sums) * scales`, fused where the target fuses."""

    def codegen(context, builder, signature, args):
        acc, sums, scales = args
        return v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, builder.sitofp(sums, f32x16.llvm), scales, acc)

    return f32x16(f32x16, i32x16, f32x16), codegen


@intrinsic
def sum_f32(typingctx, a, b):
    """a + b in float32."""
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def difference_f32(typingctx, a, b):
    """a - b in float32."""
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def times(typingctx, a, b):
    """a * b in float32."""
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def fma_f32(typingctx, acc, a, b):
    """`acc + a * b` in float32, fused where the target fuses."""

    def codegen(context, builder, signature, args):
        acc, a, b = args
        return v.call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, b, acc)

    return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def store_sums_f32(typingctx, address, a, b, c, d):
    """Store the lane sums of four float32 vectors as four float32 numbers."""

    def codegen(context, builder, signature, args):
        v.store(builder, v.quad_sums(builder, args[1:], builder.fadd), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16, f32x16, f32x16, f32x16), codegen


@intrinsic
def add_products_f64(typingctx, acc, a, b):
    """`acc + a * b` in float64, lane by lane. A product of two float32 numbers is exact in float64, so the result is
    the same whether or not the target fuses.
    """

    def codegen(context, builder, signature, args):
        acc, a, b = args
        a, b = builder.fpext(a, f64x16.llvm), builder.fpext(b, f64x16.llvm)
        return v.call(builder, "llvm.fmuladd.v16f64", f64x16.llvm, a, b, acc)

    return f64x16(f64x16, f32x16, f32x16), codegen


@intrinsic
def sum_f64(typingctx, a, b):
    """The sum of 32 float64 lanes, in one fixed order: halves are added to halves until one number is left."""

    def codegen(context, builder, signature, args):
        return v.tree_sum(builder, builder.fadd(*args))

    return types.float64(f64x16, f64x16), codegen


def _comparison(builder, numbers, thresholds):
    return builder.zext(builder.bitcast(builder.fcmp_ordered(">=", numbers, thresholds), I16), I64)


@intrinsic
def nonzero_bytes(typingctx, at):
    """Which of 64 bytes at an address are not 0, as the bits of a number."""

    def codegen(context, builder, signature, args):
        found = v.load(builder, args[0], v.vec(I8, 64))
        return builder.bitcast(builder.icmp_signed("!=", found, v.splat(builder, I8(0), 64)), I64)

    return types.int64(types.intp), codegen


@intrinsic
def at_least(typingctx, address, threshold):
    """Which of the sixteen float32 numbers at an address reach a threshold, as the bits of a number."""

    def codegen(context, builder, signature, args):
        return _comparison(builder, v.load(builder, args[0], f32x16.llvm), v.splat(builder, args[1], 16))

    return types.int64(types.intp, types.float32), codegen


@intrinsic
def at_most(typingctx, address, number):
    """Which of the sixteen int32 numbers at an address are not above another, as the bits of a number."""

    def codegen(context, builder, signature, args):
        numbers = v.load(builder, args[0], i32x16.llvm)
        found = builder.icmp_signed("<=", numbers, v.splat(builder, args[1], 16))
        return builder.zext(builder.bitcast(found, I16), I64)

    return types.int64(types.intp, types.int32), codegen


@intrinsic
def reaching(typingctx, address, term, thresholds):
    """Which of the sixteen float32 numbers at an address, plus a term, reach the thresholds at another."""

    def codegen(context, builder, signature, args):
        sums, thresholds = v.load(builder, args[0], f32x16.llvm), v.load(builder, args[2], f32x16.llvm)
        return _comparison(builder, builder.fadd(sums, v.splat(builder, args[1], 16)), thresholds)

    return types.int64(types.intp, types.float32, types.intp), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """The place of the lowest set bit; `bits` is not zero."""

    def codegen(context, builder, signature, args):
        return v.call(builder, "llvm.cttz.i64", I64, args[0], I1(1))

    return types.int64(types.int64), codegen


@intrinsic
def bits_set(typingctx, bits):
    """How many bits are set."""

    def codegen(context, builder, signature, args):
        return v.call(builder, "llvm.ctpop.i64", I64, args[0])

    return types.int64(types.int64), codegen
