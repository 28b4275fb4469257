"""The vector vocabulary: small words over fixed-width SIMD values, as numba intrinsics that emit LLVM vector IR.

Every other CPU kernel is ordinary numba code over these words. A vector has the same number of lanes on every machine
(512 bits, or two such halves for float64) and LLVM splits it where registers are narrower, so a kernel is written once
and lane sums come out alike everywhere. Target instructions stand only where they were measured faster, behind
`target.PATH`.

Words that load take an address (an integer). Bounds are the caller's duty.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from qindex_kernels.cpu.target import PATH

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class Vector(types.Type):
    """A numba type that stands for one LLVM vector."""

    def __init__(self, name, element, lanes):
        self.llvm = ir.VectorType(element, lanes)
        super().__init__(name=f"qindex.{name}")


u8x64 = Vector("u8x64", I8, 64)  # 64 bytes, signed or not as the word says
i32x16 = Vector("i32x16", I32, 16)
f32x16 = Vector("f32x16", F32, 16)
f64x16 = Vector("f64x16", F64, 16)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def _vec(element, lanes):
    return ir.VectorType(element, lanes)


def _const(vector_type, value):
    return ir.Constant(vector_type, [value] * vector_type.count)


def _call(builder, name, result, *args):
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def _load(builder, address, vector_type):
    pointer = builder.inttoptr(address, vector_type.as_pointer())
    return builder.load(pointer, align=1)


def _store(builder, value, address):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(_vec(I32, len(lanes)), list(lanes)))


def _slice(builder, a, start, stop):
    return _shuffle(builder, a, a, range(start, stop))


def _stride(builder, a, start, step):
    return _shuffle(builder, a, a, range(start, a.type.count, step))


def _join(builder, a, b):
    return _shuffle(builder, a, b, range(a.type.count + b.type.count))


def _splat(builder, scalar, lanes):
    vector = builder.insert_element(ir.Constant(_vec(scalar.type, lanes), ir.Undefined), scalar, I32(0))
    return _shuffle(builder, vector, vector, [0] * lanes)


def _peek(builder, address, element):
    return builder.load(builder.inttoptr(address, element.as_pointer()), align=1)


# --- zeros, loads, stores -------------------------------------------------------------------------------------------


@intrinsic
def zero_i32(typingctx):
    """Sixteen int32 zeros."""
    return i32x16(), lambda context, builder, signature, args: _const(i32x16.llvm, 0)


@intrinsic
def zero_f32(typingctx):
    """Sixteen float32 zeros."""
    return f32x16(), lambda context, builder, signature, args: _const(f32x16.llvm, 0.0)


@intrinsic
def zero_f64(typingctx):
    """Sixteen float64 zeros."""
    return f64x16(), lambda context, builder, signature, args: _const(f64x16.llvm, 0.0)


@intrinsic
def ones_u8(typingctx):
    """Sixty-four bytes of one."""
    return u8x64(), lambda context, builder, signature, args: _const(u8x64.llvm, 1)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, which need not be readable."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], I8.as_pointer())
        read, keep, data = I32(0), I32(3), I32(1)
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, keep, data)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _scalar_words(name, numba_type, llvm_type):
    def peek(typingctx, address):
        return numba_type(types.intp), lambda context, builder, signature, args: _peek(builder, args[0], llvm_type)

    def poke(typingctx, address, value):
        def codegen(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], llvm_type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, numba_type), codegen

    peek.__name__, peek.__doc__ = f"peek_{name}", f"The {numba_type} at an address."
    poke.__name__, poke.__doc__ = f"poke_{name}", f"Write a {numba_type} to an address."
    return intrinsic(peek), intrinsic(poke)


peek_u8, _ = _scalar_words("u8", types.uint8, I8)
peek_i8, poke_i8 = _scalar_words("i8", types.int8, I8)
peek_i32, poke_i32 = _scalar_words("i32", types.int32, I32)
peek_i64, poke_i64 = _scalar_words("i64", types.int64, I64)
peek_f32, poke_f32 = _scalar_words("f32", types.float32, F32)
peek_f64, poke_f64 = _scalar_words("f64", types.float64, F64)


def _vector_words(name, vector):
    def load(typingctx, address):
        return vector(types.intp), lambda context, builder, signature, args: _load(builder, args[0], vector.llvm)

    def store(typingctx, address, value):
        def codegen(context, builder, signature, args):
            _store(builder, args[1], args[0])
            return context.get_dummy_value()

        return types.void(types.intp, vector), codegen

    load.__name__, load.__doc__ = f"load_{name}", f"The {vector.name} at an address."
    store.__name__, store.__doc__ = f"store_{name}", f"Write a {vector.name} to an address."
    return intrinsic(load), intrinsic(store)


load_bytes, store_bytes = _vector_words("bytes", u8x64)
load_i32, store_i32 = _vector_words("i32", i32x16)
load_f32, store_f32 = _vector_words("f32", f32x16)


# --- int8 -----------------------------------------------------------------------------------------------------------


@intrinsic
def dot_u8i8(typingctx, acc, a, b):
    """Add to each int32 lane of `acc` its four products of unsigned bytes of `a` and signed bytes of `b`."""

    def codegen(context, builder, signature, args):
        return _dot_u8i8(builder, *args)

    return i32x16(i32x16, u8x64, u8x64), codegen


def _dot_u8i8(builder, acc, a, b):
    # AVX2's `vpmaddubsw` would saturate at 255 * 127 * 2 > 32,767: lesser targets widen to 16 bits first.
    if PATH == "avx512":
        a, b = builder.bitcast(a, i32x16.llvm), builder.bitcast(b, i32x16.llvm)
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, acc, a, b)
    wide = _vec(I16, 64)
    a, b = builder.zext(a, wide), builder.sext(b, wide)
    if PATH == "avx2":
        pairs = [
            _call(
                builder,
                "llvm.x86.avx2.pmadd.wd",
                _vec(I32, 8),
                _slice(builder, a, i, i + 16),
                _slice(builder, b, i, i + 16),
            )
            for i in range(0, 64, 16)
        ]
        pairs = _join(builder, _join(builder, *pairs[:2]), _join(builder, *pairs[2:]))
    else:
        products = builder.mul(builder.sext(a, _vec(I32, 64)), builder.sext(b, _vec(I32, 64)))
        pairs = builder.add(_stride(builder, products, 0, 2), _stride(builder, products, 1, 2))
    return builder.add(acc, builder.add(_stride(builder, pairs, 0, 2), _stride(builder, pairs, 1, 2)))


@intrinsic
def add_differences(typingctx, acc, a, b, mask):
    """Add to the int32 lanes of `acc` twice the number of bits that differ at two addresses, where a mask has ones."""

    def codegen(context, builder, signature, args):
        a, b, mask = (_load(builder, address, u8x64.llvm) for address in args[1:])
        bits = builder.and_(builder.xor(a, b), mask)
        counts = _call(builder, "llvm.ctpop.v64i8", u8x64.llvm, bits)
        return _dot_u8i8(builder, args[0], counts, _const(u8x64.llvm, 2))

    return i32x16(i32x16, types.intp, types.intp, types.intp), codegen


def _group_sums(builder, rows, add):
    """Four vectors of 16 lanes -> the sums of each four lanes, by group and then by row."""

    def fold(a, b, low, high):
        return add(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))

    low = [16 * (i % 2) + 4 * (j // 4) + i // 2 for j in range(0, 16, 4) for i in range(4)]
    ab, cd = (fold(x, y, low, [i + 2 for i in low]) for x, y in (rows[:2], rows[2:]))
    low = [16 * (i // 2) + 4 * (j // 4) + i % 2 for j in range(0, 16, 4) for i in range(4)]
    return fold(ab, cd, low, [i + 2 for i in low])


def _quad_sums(builder, rows, add):
    """Four vectors of 16 lanes -> one vector of their four sums."""
    sums = _group_sums(builder, rows, add)
    sums = add(_slice(builder, sums, 0, 8), _slice(builder, sums, 8, 16))
    return add(_slice(builder, sums, 0, 4), _slice(builder, sums, 4, 8))


@intrinsic
def part_sums(typingctx, a, b, c, d):
    """The sums of each four lanes of `a`, then of `b`, `c` and `d`."""

    def codegen(context, builder, signature, args):
        sums = _group_sums(builder, args, builder.add)
        return _shuffle(builder, sums, sums, [4 * group + row for row in range(4) for group in range(4)])

    return i32x16(i32x16, i32x16, i32x16, i32x16), codegen


@intrinsic
def pair_sums(typingctx, a, b):
    """The sums of each two lanes of `a`, then of `b`."""

    def codegen(context, builder, signature, args):
        even, odd = (_shuffle(builder, *args, range(start, 32, 2)) for start in (0, 1))
        return builder.add(even, odd)

    return i32x16(i32x16, i32x16), codegen


@intrinsic
def store_sums_i32(typingctx, address, a, b, c, d):
    """Store the lane sums of four int32 vectors as four int32 numbers."""

    def codegen(context, builder, signature, args):
        _store(builder, _quad_sums(builder, args[1:], builder.add), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, i32x16, i32x16, i32x16, i32x16), codegen


# --- floats ---------------------------------------------------------------------------------------------------------


@intrinsic
def scaled(typingctx, a, factor):
    """Each lane times one number."""

    def codegen(context, builder, signature, args):
        return builder.fmul(args[0], _splat(builder, args[1], 16))

    return f32x16(f32x16, types.float32), codegen


@intrinsic
def shifted(typingctx, a, term):
    """Each lane plus one number."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], _splat(builder, args[1], 16))

    return f32x16(f32x16, types.float32), codegen


@intrinsic
def add_i32(typingctx, a, b):
    """a + b in int32."""
    return i32x16(i32x16, i32x16), lambda context, builder, signature, args: builder.add(*args)


@intrinsic
def splat_i32(typingctx, number):
    """Sixteen times one int32 number."""
    return i32x16(types.int32), lambda context, builder, signature, args: _splat(builder, args[0], 16)


@intrinsic
def splat_f32(typingctx, number):
    """Sixteen times one float32 number."""
    return f32x16(types.float32), lambda context, builder, signature, args: _splat(builder, args[0], 16)


@intrinsic
def first_lane(typingctx, a):
    """The first of sixteen float32 numbers."""
    return types.float32(f32x16), lambda context, builder, signature, args: builder.extract_element(args[0], I32(0))


@intrinsic
def first_lanes(typingctx, a, n):
    """The first n lanes; zeros in the others."""

    def codegen(context, builder, signature, args):
        places = ir.Constant(i32x16.llvm, list(range(16)))
        kept = builder.icmp_signed("<", places, _splat(builder, builder.trunc(args[1], I32), 16))
        return builder.select(kept, args[0], _const(f32x16.llvm, 0.0))

    return f32x16(f32x16, types.intp), codegen


@intrinsic
def load_first(typingctx, address, n):
    """The first n, but no more than sixteen, float32 numbers at an address, and zeros; nothing behind them is read."""

    def codegen(context, builder, signature, args):
        places = ir.Constant(i32x16.llvm, list(range(16)))
        kept = builder.icmp_signed("<", places, _splat(builder, builder.trunc(args[1], I32), 16))
        pointer = builder.inttoptr(args[0], f32x16.llvm.as_pointer())
        name, none = "llvm.masked.load.v16f32.p0", _const(f32x16.llvm, 0.0)
        return _call(builder, name, f32x16.llvm, pointer, I32(1), kept, none)

    return f32x16(types.intp, types.intp), codegen


@intrinsic
def lanes_at(typingctx, a, places):
    """Lane `i` of the result is lane `places[i]`, modulo 16, of `a`."""

    def codegen(context, builder, signature, args):
        a, places = args
        if PATH == "avx512":
            return _call(builder, "llvm.x86.avx512.permvar.sf.512", f32x16.llvm, a, places)
        if PATH == "avx2":
            half = _vec(F32, 8)
            halves = []
            for start in (0, 8):
                place = _slice(builder, places, start, start + 8)
                low, high = (
                    _call(builder, "llvm.x86.avx2.permps", half, _slice(builder, a, i, i + 8), place) for i in (0, 8)
                )
                in_high = builder.icmp_unsigned("!=", builder.and_(place, _const(place.type, 8)), _const(place.type, 0))
                halves.append(builder.select(in_high, high, low))
            return _join(builder, *halves)
        places = builder.and_(places, _const(places.type, 15))
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
        total = builder.add(dots, builder.mul(totals, _splat(builder, factor, 16)))
        return builder.sitofp(total, f32x16.llvm)

    return f32x16(i32x16, i32x16, types.int32), codegen


@intrinsic
def transpose(typingctx, address, stride, out):
    """Write 16 rows of 16 float32 numbers, which lie `stride` bytes apart, as the 16 columns, one behind the other."""

    def codegen(context, builder, signature, args):
        source, stride, out = args
        addresses = [builder.add(source, builder.mul(stride, stride.type(i))) for i in range(16)]
        rows = [_load(builder, address, f32x16.llvm) for address in addresses]
        # Butterfly: in each round, rows `bit` apart exchange the lanes in which that bit of the column is not theirs.
        for bit in (8, 4, 2, 1):
            for i in range(16):
                if not i & bit:
                    a, b = rows[i], rows[i | bit]
                    low = [lane if not lane & bit else 16 + lane - bit for lane in range(16)]
                    high = [lane + bit if not lane & bit else 16 + lane for lane in range(16)]
                    rows[i], rows[i | bit] = _shuffle(builder, a, b, low), _shuffle(builder, a, b, high)
        for i, row in enumerate(rows):
            _store(builder, row, builder.add(out, out.type(64 * i)))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def larger_size(typingctx, a, b):
    """The larger of a and abs(b) in each lane; a is not negative."""

    def codegen(context, builder, signature, args):
        size = _call(builder, "llvm.fabs.v16f32", f32x16.llvm, args[1])
        return builder.select(builder.fcmp_ordered(">", size, args[0]), size, args[0])

    return f32x16(f32x16, f32x16), codegen


@intrinsic
def largest_lane(typingctx, a):
    """The largest of the sixteen numbers."""

    def codegen(context, builder, signature, args):
        lanes = args[0]
        while lanes.type.count > 1:
            half = lanes.type.count // 2
            low, high = _slice(builder, lanes, 0, half), _slice(builder, lanes, half, 2 * half)
            lanes = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return builder.extract_element(lanes, I32(0))

    return types.float32(f32x16), codegen


@intrinsic
def store_quotients(typingctx, address, a, step):
    """Store a / step, rounded half to even, as sixteen int8 numbers."""

    def codegen(context, builder, signature, args):
        quotients = builder.fdiv(args[1], _splat(builder, args[2], 16))
        whole = _call(builder, "llvm.rint.v16f32", f32x16.llvm, quotients)
        _store(builder, builder.trunc(builder.fptosi(whole, i32x16.llvm), _vec(I8, 16)), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, f32x16, types.float32), codegen


@intrinsic
def add_scaled(typingctx, acc, sums, scales):
    """`acc + float(sums) * scales`, fused where the target fuses."""

    def codegen(context, builder, signature, args):
        acc, sums, scales = args
        return _call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, builder.sitofp(sums, f32x16.llvm), scales, acc)

    return f32x16(f32x16, i32x16, f32x16), codegen


@intrinsic
def sum_f32(typingctx, a, b):
    """a + b in float32."""
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def times(typingctx, a, b):
    """a * b in float32."""
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def fma_f32(typingctx, acc, a, b):
    """`acc + a * b` in float32, fused where the target fuses."""

    def codegen(context, builder, signature, args):
        acc, a, b = args
        return _call(builder, "llvm.fmuladd.v16f32", f32x16.llvm, a, b, acc)

    return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def store_sums_f32(typingctx, address, a, b, c, d):
    """Store the lane sums of four float32 vectors as four float32 numbers."""

    def codegen(context, builder, signature, args):
        _store(builder, _quad_sums(builder, args[1:], builder.fadd), args[0])
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
        return builder.fadd(acc, builder.fmul(a, b))

    return f64x16(f64x16, f32x16, f32x16), codegen


@intrinsic
def sum_f64(typingctx, a, b):
    """The sum of 32 float64 lanes, in one fixed order: halves are added to halves until one number is left."""

    def codegen(context, builder, signature, args):
        return _tree_sum(builder, builder.fadd(*args))

    return types.float64(f64x16, f64x16), codegen


def _tree_sum(builder, lanes):
    while lanes.type.count > 1:
        half = lanes.type.count // 2
        lanes = builder.fadd(_slice(builder, lanes, 0, half), _slice(builder, lanes, half, 2 * half))
    return builder.extract_element(lanes, I32(0))


def _comparison(builder, numbers, thresholds):
    return builder.zext(builder.bitcast(builder.fcmp_ordered(">=", numbers, thresholds), I16), I64)


@intrinsic
def at_least(typingctx, address, threshold):
    """Which of the sixteen float32 numbers at an address reach a threshold, as the bits of a number."""

    def codegen(context, builder, signature, args):
        return _comparison(builder, _load(builder, args[0], f32x16.llvm), _splat(builder, args[1], 16))

    return types.int64(types.intp, types.float32), codegen


@intrinsic
def reaching(typingctx, address, term, thresholds):
    """Which of the sixteen float32 numbers at an address, plus a term, reach the thresholds at another."""

    def codegen(context, builder, signature, args):
        sums, thresholds = _load(builder, args[0], f32x16.llvm), _load(builder, args[2], f32x16.llvm)
        return _comparison(builder, builder.fadd(sums, _splat(builder, args[1], 16)), thresholds)

    return types.int64(types.intp, types.float32, types.intp), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """The place of the lowest set bit; `bits` is not zero."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.cttz.i64", I64, args[0], I1(1))

    return types.int64(types.int64), codegen
