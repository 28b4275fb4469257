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

# Which numbers a row holds: the compile-time argument of `decode16`.
FLOAT32, FLOAT16, E4M3, E5M2, E3M4, INT8, SIGN = range(7)
BYTES_OF_16 = (64, 32, 16, 16, 16, 16, 2)  # by kind

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


def _join(builder, a, b):
    return _shuffle(builder, a, b, range(a.type.count + b.type.count))


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
def load_bytes(typingctx, address):
    """64 bytes."""
    return u8x64(types.intp), lambda context, builder, signature, args: _load(builder, args[0], u8x64.llvm)


@intrinsic
def load_f32(typingctx, address):
    """Sixteen float32 numbers."""
    return f32x16(types.intp), lambda context, builder, signature, args: _load(builder, args[0], f32x16.llvm)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, which need not be readable."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], I8.as_pointer())
        read, keep, data = I32(0), I32(3), I32(1)
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, keep, data)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _peek(name, numba_type, llvm_type, doc):
    def peek(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], llvm_type.as_pointer()), align=1)

        return numba_type(types.intp), codegen

    peek.__name__, peek.__doc__ = name, doc
    return intrinsic(peek)


peek_u8 = _peek("peek_u8", types.uint8, I8, "The byte at an address.")
peek_i64 = _peek("peek_i64", types.int64, I64, "The int64 number at an address.")
peek_f32 = _peek("peek_f32", types.float32, F32, "The float32 number at an address.")


@intrinsic
def any_at_least(typingctx, address, threshold):
    """Whether one of the sixteen float32 numbers at `address` reaches `threshold`."""

    def codegen(context, builder, signature, args):
        threshold = builder.insert_element(ir.Constant(f32x16.llvm, ir.Undefined), args[1], I32(0))
        reached = builder.fcmp_ordered(
            ">=", _load(builder, args[0], f32x16.llvm), _shuffle(builder, threshold, threshold, [0] * 16)
        )
        return builder.icmp_unsigned("!=", builder.bitcast(reached, I16), I16(0))

    return types.boolean(types.intp, types.float32), codegen


# --- int8 -----------------------------------------------------------------------------------------------------------


@intrinsic
def flip_sign_bits(typingctx, a):
    """int8 -> uint8 by adding 128 to each byte."""

    def codegen(context, builder, signature, args):
        return builder.xor(args[0], _const(u8x64.llvm, 0x80))

    return u8x64(u8x64), codegen


@intrinsic
def dot_u8i8(typingctx, acc, a, b):
    """Add to each int32 lane of `acc` the products of unsigned bytes `a` and signed bytes `b`.

    Which four products meet in a lane depends on the target; the sum of all lanes does not. AVX2 widens first:
    `vpmaddubsw` would saturate at 255 * 127 * 2 > 32,767.
    """

    def codegen(context, builder, signature, args):
        acc, a, b = args
        if PATH == "avx512":
            words = _vec(I32, 16)
            a, b = builder.bitcast(a, words), builder.bitcast(b, words)
            return _call(builder, "llvm.x86.avx512.vpdpbusd.512", words, acc, a, b)
        sums = []
        for start in range(0, 64, 16):
            wide_a = builder.zext(_slice(builder, a, start, start + 16), _vec(I16, 16))
            wide_b = builder.sext(_slice(builder, b, start, start + 16), _vec(I16, 16))
            if PATH == "avx2":
                sums.append(_call(builder, "llvm.x86.avx2.pmadd.wd", _vec(I32, 8), wide_a, wide_b))
            else:
                even = [_slice_even_odd(builder, w, 0) for w in (wide_a, wide_b)]
                odd = [_slice_even_odd(builder, w, 1) for w in (wide_a, wide_b)]
                products = [
                    builder.mul(builder.sext(x, _vec(I32, 8)), builder.sext(y, _vec(I32, 8))) for x, y in (even, odd)
                ]
                sums.append(builder.add(*products))
        low, high = builder.add(sums[0], sums[1]), builder.add(sums[2], sums[3])
        return builder.add(acc, _join(builder, low, high))

    return i32x16(i32x16, u8x64, u8x64), codegen


def _slice_even_odd(builder, a, parity):
    return _shuffle(builder, a, a, range(parity, a.type.count, 2))


@intrinsic
def keep_where_set(typingctx, address, a):
    """The bytes of `a` whose bit is set in the 64 bits at `address` (lowest bit first), zeros elsewhere."""

    def codegen(context, builder, signature, args):
        word = builder.load(builder.inttoptr(args[0], I64.as_pointer()), align=1)
        mask = builder.bitcast(word, _vec(I1, 64))
        return builder.select(mask, args[1], _const(u8x64.llvm, 0))

    return u8x64(types.intp, u8x64), codegen


def _quad_sums(builder, rows, add):
    """Four vectors of 16 lanes -> one vector of their four sums: two rounds of interleave-and-add, then fold."""

    def fold(a, b, low, high):
        return add(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))

    low = [16 * (i % 2) + 4 * (j // 4) + i // 2 for j in range(0, 16, 4) for i in range(4)]
    ab, cd = (fold(x, y, low, [i + 2 for i in low]) for x, y in (rows[:2], rows[2:]))
    low = [16 * (i // 2) + 4 * (j // 4) + i % 2 for j in range(0, 16, 4) for i in range(4)]
    sums = fold(ab, cd, low, [i + 2 for i in low])
    sums = add(_slice(builder, sums, 0, 8), _slice(builder, sums, 8, 16))
    return add(_slice(builder, sums, 0, 4), _slice(builder, sums, 4, 8))


@intrinsic
def store_sums_i32(typingctx, address, a, b, c, d):
    """Store the lane sums of four int32 vectors as four int32 numbers."""

    def codegen(context, builder, signature, args):
        _store(builder, _quad_sums(builder, args[1:], builder.add), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, i32x16, i32x16, i32x16, i32x16), codegen


# --- floats ---------------------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def decode16(typingctx, kind, row, group):
    """Numbers `16 * group` to `16 * group + 15` of the row at address `row`, as float32, exactly.

    The small floats come out as their level times `unit(kind)`, a power of two that callers undo once per row: their
    bits are moved into those of a float16, whose exponent has another bias.
    """
    if not isinstance(kind, types.IntegerLiteral):
        return None
    kind_type, kind = kind, kind.literal_value

    def codegen(context, builder, signature, args):
        address = builder.add(args[1], builder.mul(args[2], args[2].type(BYTES_OF_16[kind])))

        def load(element):
            return _load(builder, address, _vec(element, 16))

        if kind == FLOAT32:
            return load(F32)
        if kind == FLOAT16:
            return _half_to_f32(builder, load(I16))
        if kind == INT8:
            return builder.sitofp(builder.sext(load(I8), i32x16.llvm), f32x16.llvm)
        if kind == SIGN:
            bits = builder.load(builder.inttoptr(address, I16.as_pointer()), align=1)
            return builder.select(
                builder.bitcast(bits, _vec(I1, 16)), _const(f32x16.llvm, 1.0), _const(f32x16.llvm, -1.0)
            )
        # sign in bit 15, the other seven bits where float16 keeps the low end of its exponent and its mantissa
        shift = {E5M2: 8, E4M3: 7, E3M4: 6}[kind]
        words = builder.shl(builder.sext(load(I8), _vec(I16, 16)), _const(_vec(I16, 16), shift))
        keep = 0x8000 | ((0x7F << shift) & 0x7FFF)
        return _half_to_f32(builder, builder.and_(words, _const(_vec(I16, 16), keep)))

    return f32x16(kind_type, types.intp, types.intp), codegen


def _half_to_f32(builder, words):
    if PATH != "portable":
        return builder.fpext(builder.bitcast(words, _vec(F16, 16)), f32x16.llvm)
    # Without F16C `fpext` would be a library call per number. The exponent keeps its bits and gets its bias from the
    # product with 2 ** 112, which is exact, for subnormal numbers too.
    wide = builder.zext(words, i32x16.llvm)
    sign = builder.shl(builder.and_(wide, _const(i32x16.llvm, 0x8000)), _const(i32x16.llvm, 16))
    magnitude = builder.shl(builder.and_(wide, _const(i32x16.llvm, 0x7FFF)), _const(i32x16.llvm, 13))
    number = builder.bitcast(builder.or_(sign, magnitude), f32x16.llvm)
    return builder.fmul(number, _const(f32x16.llvm, 2.0**112))


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
        total = builder.fadd(*args)
        while total.type.count > 1:
            half = total.type.count // 2
            total = builder.fadd(_slice(builder, total, 0, half), _slice(builder, total, half, 2 * half))
        return builder.extract_element(total, I32(0))

    return types.float64(f64x16, f64x16), codegen
