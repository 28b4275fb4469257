"""SIMD values as LLVM vectors of fixed width, and what intrinsics write with them.

LLVM splits a vector where registers are narrower. Target instructions stand only where they were measured faster,
behind `target.PATH`.
"""

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from qindex_kernels.cpu.target import PATH

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class Vector(types.Type):
    """A numba type that stands for one LLVM vector."""

    def __init__(self, name, element, lanes):
        self.llvm = ir.VectorType(element, lanes)
        super().__init__(name=f"qindex.{name}")


u8x64 = Vector("u8x64", I8, 64)  # 64 bytes, signed or not as the word says
i16x32 = Vector("i16x32", I16, 32)
i16x64 = Vector("i16x64", I16, 64)
i32x16 = Vector("i32x16", I32, 16)
f32x16 = Vector("f32x16", F32, 16)
f64x16 = Vector("f64x16", F64, 16)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.llvm)


def vec(element, lanes):
    return ir.VectorType(element, lanes)


def const(vector_type, value):
    return ir.Constant(vector_type, [value] * vector_type.count)


def call(builder, name, result, *args):
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def load(builder, address, vector_type):
    pointer = builder.inttoptr(address, vector_type.as_pointer())
    return builder.load(pointer, align=1)


def store(builder, value, address):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(vec(I32, len(lanes)), list(lanes)))


def slice(builder, a, start, stop):
    return shuffle(builder, a, a, range(start, stop))


def stride(builder, a, start, step):
    return shuffle(builder, a, a, range(start, a.type.count, step))


def join(builder, a, b):
    return shuffle(builder, a, b, range(a.type.count + b.type.count))


def transposed(builder, rows):
    """16 vectors of bytes, in each 16 of whose lanes lies a part of a row -> the columns, parts side by side."""
    count = rows[0].type.count
    low = [part + i // 2 + count * (i % 2) for part in range(0, count, 16) for i in range(16)]
    high = [place + 8 for place in low]
    for _ in range(4):
        pairs = zip(rows[:8], rows[8:], strict=True)
        rows = [shuffle(builder, a, b, places) for a, b in pairs for places in (low, high)]
    return rows


def splat(builder, scalar, lanes):
    vector = builder.insert_element(ir.Constant(vec(scalar.type, lanes), ir.Undefined), scalar, I32(0))
    return shuffle(builder, vector, vector, [0] * lanes)


def peek(builder, address, element):
    return builder.load(builder.inttoptr(address, element.as_pointer()), align=1)


def dot_u8i8(builder, acc, a, b):
    # AVX2's `vpmaddubsw` would saturate at 255 * 127 * 2 > 32,767: lesser targets widen to 16 bits first.
    if PATH == "avx512":
        a, b = builder.bitcast(a, i32x16.llvm), builder.bitcast(b, i32x16.llvm)
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, acc, a, b)
    wide = vec(I16, 64)
    a, b = builder.zext(a, wide), builder.sext(b, wide)
    if PATH == "avx2":
        pairs = [
            call(
                builder,
                "llvm.x86.avx2.pmadd.wd",
                vec(I32, 8),
                slice(builder, a, i, i + 16),
                slice(builder, b, i, i + 16),
            )
            for i in range(0, 64, 16)
        ]
        pairs = join(builder, join(builder, *pairs[:2]), join(builder, *pairs[2:]))
    else:
        products = builder.mul(builder.sext(a, vec(I32, 64)), builder.sext(b, vec(I32, 64)))
        pairs = builder.add(stride(builder, products, 0, 2), stride(builder, products, 1, 2))
    return builder.add(acc, builder.add(stride(builder, pairs, 0, 2), stride(builder, pairs, 1, 2)))


def group_sums(builder, rows, add):
    """Four vectors of 16 lanes -> the sums of each four lanes, by group and then by row."""

    def fold(a, b, low, high):
        return add(shuffle(builder, a, b, low), shuffle(builder, a, b, high))

    low = [16 * (i % 2) + 4 * (j // 4) + i // 2 for j in range(0, 16, 4) for i in range(4)]
    ab, cd = (fold(x, y, low, [i + 2 for i in low]) for x, y in (rows[:2], rows[2:]))
    low = [16 * (i // 2) + 4 * (j // 4) + i % 2 for j in range(0, 16, 4) for i in range(4)]
    return fold(ab, cd, low, [i + 2 for i in low])


def quad_sums(builder, rows, add):
    """Four vectors of 16 lanes -> one vector of their four sums."""
    sums = group_sums(builder, rows, add)
    sums = add(slice(builder, sums, 0, 8), slice(builder, sums, 8, 16))
    return add(slice(builder, sums, 0, 4), slice(builder, sums, 4, 8))


def tree_sum(builder, lanes):
    while lanes.type.count > 1:
        half = lanes.type.count // 2
        lanes = builder.fadd(slice(builder, lanes, 0, half), slice(builder, lanes, half, 2 * half))
    return builder.extract_element(lanes, I32(0))


def largest(builder, lanes):
    """The largest of the lanes."""
    while lanes.type.count > 1:
        half = lanes.type.count // 2
        low, high = slice(builder, lanes, 0, half), slice(builder, lanes, half, 2 * half)
        lanes = builder.select(builder.fcmp_ordered(">", low, high), low, high)
    return builder.extract_element(lanes, I32(0))
