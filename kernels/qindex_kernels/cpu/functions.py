"""exp, erf, tanh and the sigmoid of sixteen float32 numbers, as words for kernels.

The same steps in the same order as in `reference_layers`, which says where the coefficients are from.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.vectors import f32x16, i32x16
from qindex_kernels.reference_layers import (
    ERF_DENOMINATOR,
    ERF_LIMIT,
    ERF_NUMERATOR,
    EXP,
    EXP_LOWEST,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDER,
    SQRT_HALF,
    TANH,
    TANH_SMALL,
    TWO_SQRT_2_BY_PI,
)


def _of(number):
    return v.const(f32x16.llvm, float(number))


def _fma(builder, a, b, c):
    """a * b + c"""
    return v.call(builder, "llvm.fma.v16f32", f32x16.llvm, a, b, c)


def _polynomial(builder, x, coefficients):
    """The first of which belongs to the highest power."""
    result = _of(coefficients[0])
    for coefficient in coefficients[1:]:
        result = _fma(builder, result, x, _of(coefficient))
    return result


def _abs(builder, x):
    return v.call(builder, "llvm.fabs.v16f32", f32x16.llvm, x)


def larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def exp_of_negative(builder, x):
    """exp(x) for x up to 0, -inf too: x / ln 2 is a whole number, the exponent, and a rest, for a polynomial."""
    vanishes = builder.fcmp_ordered("<", x, _of(EXP_LOWEST))
    rounded = _fma(builder, x, _of(LOG2_E), _of(ROUNDER))
    whole = builder.fsub(rounded, _of(ROUNDER))
    rest = _fma(builder, whole, _of(-LN2_HIGH), x)
    rest = _fma(builder, whole, _of(-LN2_LOW), rest)
    power = builder.bitcast(_polynomial(builder, rest, EXP), i32x16.llvm)
    exponent = builder.shl(builder.bitcast(rounded, i32x16.llvm), v.const(i32x16.llvm, 23))
    return builder.select(vanishes, _of(0), builder.bitcast(builder.add(power, exponent), f32x16.llvm))


def _sigmoid(builder, x):
    e = exp_of_negative(builder, builder.fneg(_abs(builder, x)))
    positive = builder.fcmp_ordered(">=", x, _of(0))
    return builder.fdiv(builder.select(positive, _of(1), e), builder.fadd(e, _of(1)))


def _erf(builder, x):
    x = builder.select(builder.fcmp_ordered(">", x, _of(ERF_LIMIT)), _of(ERF_LIMIT), x)
    x = larger(builder, x, _of(-ERF_LIMIT))
    square = builder.fmul(x, x)
    above = builder.fmul(x, _polynomial(builder, square, ERF_NUMERATOR))
    return builder.fdiv(above, _polynomial(builder, square, ERF_DENOMINATOR))


def _gelu(builder, x):
    half = builder.fmul(x, _of(0.5))
    return _fma(builder, half, _erf(builder, builder.fmul(x, _of(SQRT_HALF))), half)


def _gelu_tanh(builder, x):
    square = builder.fmul(x, x)
    inner = builder.fmul(x, _polynomial(builder, square, (TWO_SQRT_2_BY_PI * 0.044715, TWO_SQRT_2_BY_PI)))
    return builder.fmul(x, _sigmoid(builder, inner))


def _silu(builder, x):
    return builder.fmul(x, _sigmoid(builder, x))


def _tanh(builder, x):
    size = _abs(builder, x)
    e = exp_of_negative(builder, builder.fmul(size, _of(-2)))
    large = builder.fdiv(builder.fsub(_of(1), e), builder.fadd(e, _of(1)))
    square = builder.fmul(x, x)
    small = _fma(builder, builder.fmul(size, square), _polynomial(builder, square, TANH), size)
    result = builder.select(builder.fcmp_ordered("<", size, _of(TANH_SMALL)), small, large)
    return v.call(builder, "llvm.copysign.v16f32", f32x16.llvm, result, x)


def _word(function, name, doc):
    def word(typingctx, x):
        return f32x16(f32x16), lambda context, builder, signature, args: function(builder, *args)

    word.__name__, word.__doc__ = name, doc
    return intrinsic(word)


gelu_f32 = _word(_gelu, "gelu_f32", "x times the normal distribution function of x.")
gelu_tanh_f32 = _word(_gelu_tanh, "gelu_tanh_f32", "Its approximation by a tanh.")
silu_f32 = _word(_silu, "silu_f32", "x * sigmoid(x).")
tanh_f32 = _word(_tanh, "tanh_f32", "tanh(x).")


@intrinsic
def keep_lanes(typingctx, a, first, last, other):
    """The lanes from `first` to `last` of a; `other` in the others."""

    def codegen(context, builder, signature, args):
        a, first, last, other = args
        places = ir.Constant(i32x16.llvm, list(range(16)))
        first, last = (v.splat(builder, builder.trunc(bound, v.I32), 16) for bound in (first, last))
        kept = builder.and_(builder.icmp_signed(">=", places, first), builder.icmp_signed("<=", places, last))
        return builder.select(kept, a, v.splat(builder, other, 16))

    return f32x16(f32x16, types.intp, types.intp, types.float32), codegen


@intrinsic
def sum_of_lanes_f32(typingctx, a):
    """The sum of sixteen lanes: halves are added to halves."""
    return types.float32(f32x16), lambda context, builder, signature, args: v.tree_sum(builder, args[0])
