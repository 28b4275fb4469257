"""The tiles of the matrix products: a few coded rows against a few queries, all sums in registers.

In panels, queries are the lanes, 16 of them: numbers of a row are broadcast, so no sum is ever taken across lanes and
rows are unpacked as they lie. Panels of integers are interleaved by 4 bytes. In the channel tiles, rows are the lanes,
and numbers of a query, there a token, are broadcast.

In `float_tile` dimensions are the lanes, as in a plain dot product: the same sums for one query and for many.
"""

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qindex_kernels.cpu import vectors as v
from qindex_kernels.cpu.unpack import _is_literal
from qindex_kernels.cpu.vectors import F32, I8, I32, f32x16, i32x16, u8x64

UNROLL = 2  # steps of 4 bytes
CHANNEL_UNROLL = 4  # a block has no fewer


@contextmanager
def _loop(builder, count, step, starts):
    """A loop over 0, step, ... below `count` (once at least); yields the index, the carried values, and their list."""
    intp = count.type
    before = builder.block
    body = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(intp)
    index.add_incoming(intp(0), before)
    carried = [builder.phi(start.type) for start in starts]
    for value, start in zip(carried, starts, strict=True):
        value.add_incoming(start, before)
    results = list(carried)
    yield index, results
    following = builder.add(index, intp(step))
    index.add_incoming(following, builder.block)
    for value, result in zip(carried, results, strict=True):
        value.add_incoming(result, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    builder.position_at_end(after)


def _at(builder, base, *terms):
    """base + the sum of (number, factor) products."""
    for number, factor in terms:
        base = builder.add(base, builder.mul(number, base.type(factor)))
    return base


def _prefetch(builder, address):
    pointer = builder.inttoptr(address, I8.as_pointer())
    v.call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(2), I32(1))


@intrinsic(prefer_literal=True)
def add_integer_tile(
    typingctx, n_rows, n_panels, rows, row_stride, panels, panel_stride, quads, starts, start_stride, last, scales,
    scale_stride, steps, sums, sum_stride, ahead, ahead_step,
):  # fmt: skip
    """Part of a block: dots[r][p] = starts[r][p] + <row r, panel p>, for literal numbers of rows and panels.

    `rows` are unsigned bytes, `panels` signed ones, `quads` (even) the steps of 4 bytes; `starts` are int32, 16 a
    panel. If this is the last part of the block, sums[r][p] += float(dots[r][p]) * scale[r] * steps[p], where `scales`
    has one float32 a row and `steps` 16 a panel; else `sums` become the dots. What lies at `ahead` is asked for,
    `ahead_step` bytes each second step.
    """
    if not _is_literal(n_rows, n_panels):
        return None
    count, width = n_rows.literal_value, n_panels.literal_value

    def codegen(context, builder, signature, args):
        rows, row_stride, panels, panel_stride, quads, starts, start_stride, last, scales, scale_stride = args[2:12]
        steps, sums, sum_stride, ahead, ahead_step = args[12:]
        row_at = [_at(builder, rows, (row_stride, r)) for r in range(count)]
        panel_at = [_at(builder, panels, (panel_stride, p)) for p in range(width)]
        places = [(r, p) for r in range(count) for p in range(width)]
        first = [
            v.load(builder, _at(builder, starts, (start_stride, r), (starts.type(64), p)), i32x16.llvm)
            for r, p in places
        ]
        with _loop(builder, quads, UNROLL, first) as (quad, dots):
            _prefetch(builder, builder.add(ahead, builder.mul(builder.ashr(quad, quad.type(1)), ahead_step)))
            for u in range(UNROLL):
                here = builder.add(quad, quad.type(u))
                panel = [v.load(builder, _at(builder, at, (here, 64)), u8x64.llvm) for at in panel_at]
                for r in range(count):
                    four = v.splat(builder, v.peek(builder, _at(builder, row_at[r], (here, 4)), I32), 16)
                    four = builder.bitcast(four, u8x64.llvm)
                    for p in range(width):
                        dots[r * width + p] = v.dot_u8i8(builder, dots[r * width + p], four, panel[p])
        out = [_at(builder, sums, (sum_stride, r), (sums.type(64), p)) for r, p in places]
        with builder.if_else(builder.icmp_signed("!=", last, last.type(0))) as (then, otherwise):
            with then:
                step = [v.load(builder, _at(builder, steps, (steps.type(64), p)), f32x16.llvm) for p in range(width)]
                for i, (r, p) in enumerate(places):
                    scale = v.splat(builder, v.peek(builder, _at(builder, scales, (scale_stride, r)), F32), 16)
                    term = builder.fmul(builder.sitofp(dots[i], f32x16.llvm), scale)
                    term = builder.fmul(term, step[p])
                    v.store(builder, builder.fadd(v.load(builder, out[i], f32x16.llvm), term), out[i])
            with otherwise:
                for i, dot in enumerate(dots):
                    v.store(builder, dot, out[i])
        return context.get_dummy_value()

    return types.void(n_rows, n_panels, *[types.intp] * 15), codegen


def _channel_dots(builder, width, token_at, panels, quads, starts):
    """starts[t] + <token t, panel p> in int32, for the tokens at addresses and `width` panels: a list, token by token.

    Tokens are signed bytes, `panels` unsigned ones: for each of `quads` (whole fours) steps of 4 bytes, 64 bytes a
    panel. `starts` are addresses of one int32 a token.
    """
    first = [v.splat(builder, v.peek(builder, start, I32), 16) for start in starts for _ in range(width)]
    with _loop(builder, quads, CHANNEL_UNROLL, first) as (quad, dots):
        for u in range(CHANNEL_UNROLL):
            here = builder.add(quad, quad.type(u))
            line = _at(builder, panels, (here, 64 * width))
            panel = [v.load(builder, builder.add(line, line.type(64 * p)), u8x64.llvm) for p in range(width)]
            for t, at in enumerate(token_at):
                four = v.splat(builder, v.peek(builder, _at(builder, at, (here, 4)), I32), 16)
                four = builder.bitcast(four, u8x64.llvm)
                for p in range(width):
                    dots[t * width + p] = v.dot_u8i8(builder, dots[t * width + p], panel[p], four)
    return dots


def _lanes(builder, address, width):
    """16 float32 numbers for each panel."""
    return [v.load(builder, builder.add(address, address.type(64 * p)), f32x16.llvm) for p in range(width)]


def _broadcast(builder, address):
    """The float32 number at an address, in 16 lanes."""
    return v.splat(builder, v.peek(builder, address, F32), 16)


@intrinsic(prefer_literal=True)
def block_tile(
    typingctx, n_tokens, n_panels, has_zeros, has_steps, tokens, token_stride, panels, blocks, quads, last_quads,
    starts, totals, own, scales, zeros, steps, row_scales, biases, out, out_stride,
):  # fmt: skip
    """Rows with blocks: out[t][p] = sum * row_scales[p] + biases[p], where for each block in order

        sum += float(starts[t] + <token t, panel p>) * scales[p]  [* steps[t]]
        sum += totals[t] * zeros[p]                               [* steps[t]]

    Numbers of tokens and panels are literal, and so is whether there are zeros and steps of blocks; else `steps` has
    one float32 a token, with which its sum is multiplied. All sums stay in registers. Blocks have `quads` steps of 4
    bytes, the last `last_quads`. `starts` (int32), `totals` and steps of blocks (float32) lie block by block, those of
    a token `own` bytes behind those of the one before. `scales` and `zeros` have 16 a panel, block by block.
    """
    if not _is_literal(n_tokens, n_panels, has_zeros, has_steps):
        return None
    count, width, zeroed, stepped = (one.literal_value for one in (n_tokens, n_panels, has_zeros, has_steps))

    def codegen(context, builder, signature, args):
        tokens, token_stride, panels, blocks, quads, last_quads, starts, totals, own = args[4:13]
        scales, zeros, steps, row_scales, biases, out, out_stride = args[13:]
        intp = blocks.type
        owns = [builder.mul(own, intp(t)) for t in range(count)]
        last = builder.sub(blocks, intp(1))
        nothing = v.const(f32x16.llvm, 0.0)
        with _loop(builder, blocks, 1, [nothing] * (count * width)) as (b, sums):
            start = builder.mul(builder.mul(b, quads), intp(4))
            token_at = [_at(builder, builder.add(tokens, start), (token_stride, t)) for t in range(count)]
            here = builder.select(builder.icmp_signed("==", b, last), last_quads, quads)
            begins = [builder.add(_at(builder, starts, (b, 4)), one) for one in owns]
            panel = _at(builder, panels, (start, 16 * width))
            dots = _channel_dots(builder, width, token_at, panel, here, begins)
            scale = _lanes(builder, _at(builder, scales, (b, 64 * width)), width)
            zero = _lanes(builder, _at(builder, zeros, (b, 64 * width)), width) if zeroed else []
            for t in range(count):
                step = _broadcast(builder, builder.add(_at(builder, steps, (b, 4)), owns[t])) if stepped else None
                total = _broadcast(builder, builder.add(_at(builder, totals, (b, 4)), owns[t])) if zeroed else None
                for p in range(width):
                    i = t * width + p
                    terms = [builder.fmul(builder.sitofp(dots[i], f32x16.llvm), scale[p])]
                    if zeroed:
                        terms.append(builder.fmul(total, zero[p]))
                    for term in terms:
                        sums[i] = builder.fadd(sums[i], builder.fmul(term, step) if stepped else term)
        scale, bias = _lanes(builder, row_scales, width), _lanes(builder, biases, width)
        for t in range(count):
            step = None if stepped else _broadcast(builder, builder.add(steps, owns[t]))
            for p in range(width):
                total = sums[t * width + p] if stepped else builder.fmul(sums[t * width + p], step)
                total = builder.fadd(builder.fmul(total, scale[p]), bias[p])
                v.store(builder, total, _at(builder, out, (out_stride, t), (out.type(64), p)))
        return context.get_dummy_value()

    return types.void(n_tokens, n_panels, has_zeros, has_steps, *[types.intp] * 16), codegen


@intrinsic(prefer_literal=True)
def channel_tile(
    typingctx, n_tokens, n_panels, tokens, token_stride, panels, quads, starts, own, unit, steps, scales, biases, out,
    out_stride,
):  # fmt: skip
    """Rows without blocks: out[t][p] = float(starts[t] + <token t, panel p>) * unit * steps[t] * scales[p] + biases[p].

    Numbers of tokens and panels are literal. `starts` (int32) and `steps` (float32) of tokens lie `own` bytes apart.
    Rows of `out`, float32, begin `out_stride` bytes apart; `scales` and `biases` have 16 a panel.
    """
    if not _is_literal(n_tokens, n_panels):
        return None
    count, width = n_tokens.literal_value, n_panels.literal_value

    def codegen(context, builder, signature, args):
        tokens, token_stride, panels, quads, starts, own, unit, steps, scales, biases, out, out_stride = args[2:]
        token_at = [_at(builder, tokens, (token_stride, t)) for t in range(count)]
        dots = _channel_dots(
            builder, width, token_at, panels, quads, [_at(builder, starts, (own, t)) for t in range(count)]
        )
        scale, bias, unit = _lanes(builder, scales, width), _lanes(builder, biases, width), v.splat(builder, unit, 16)
        for t in range(count):
            step = _broadcast(builder, _at(builder, steps, (own, t)))
            for p in range(width):
                total = builder.fmul(builder.sitofp(dots[t * width + p], f32x16.llvm), unit)
                total = builder.fmul(builder.fmul(total, step), scale[p])
                v.store(builder, builder.fadd(total, bias[p]), _at(builder, out, (out_stride, t), (out.type(64), p)))
        return context.get_dummy_value()

    return types.void(n_tokens, n_panels, *[types.intp] * 6, types.float32, *[types.intp] * 5), codegen


@intrinsic(prefer_literal=True)
def add_float_tile(
    typingctx, n_rows, n_panels, rows, row_stride, panels, panel_stride, dims, scales, scale_stride, sums, sum_stride
):
    """sums[r][p] += <row r, panel p> * scale[r] in float32, for literal numbers of rows and panels; `dims` is even.

    A panel has 16 queries as lanes: 16 float32 numbers for each dimension. Each lane adds its products in order.
    """
    if not _is_literal(n_rows, n_panels):
        return None
    count, width = n_rows.literal_value, n_panels.literal_value

    def codegen(context, builder, signature, args):
        rows, row_stride, panels, panel_stride, dims, scales, scale_stride, sums, sum_stride = args[2:]
        row_at = [_at(builder, rows, (row_stride, r)) for r in range(count)]
        panel_at = [_at(builder, panels, (panel_stride, p)) for p in range(width)]
        with _loop(builder, dims, UNROLL, [v.const(f32x16.llvm, 0.0)] * (count * width)) as (d, dots):
            for u in range(UNROLL):
                here = builder.add(d, d.type(u))
                panel = [v.load(builder, _at(builder, at, (here, 64)), f32x16.llvm) for at in panel_at]
                for r in range(count):
                    number = v.splat(builder, v.peek(builder, _at(builder, row_at[r], (here, 4)), F32), 16)
                    for p in range(width):
                        i = r * width + p
                        dots[i] = v.call(builder, "llvm.fma.v16f32", f32x16.llvm, number, panel[p], dots[i])
        for r in range(count):
            scale = v.splat(builder, v.peek(builder, _at(builder, scales, (scale_stride, r)), F32), 16)
            for p in range(width):
                at = _at(builder, sums, (sum_stride, r), (sums.type(64), p))
                term = builder.fmul(dots[r * width + p], scale)
                v.store(builder, builder.fadd(v.load(builder, at, f32x16.llvm), term), at)
        return context.get_dummy_value()

    return types.void(n_rows, n_panels, *[types.intp] * 9), codegen


@intrinsic(prefer_literal=True)
def float_tile(typingctx, n_rows, n_queries, rows, row_stride, queries, query_stride, dim, out, out_stride):
    """out[r][q] = <row r, query q> for float32 rows and queries, padded with zeros to 16 numbers.

    16 lanes of fused multiply-adds, lane `l` adding the dimensions `l`, `l + 16`, ... in order, then halves of lanes
    added to halves.
    """
    if not _is_literal(n_rows, n_queries):
        return None
    count, width = n_rows.literal_value, n_queries.literal_value

    def codegen(context, builder, signature, args):
        rows, row_stride, queries, query_stride, dim, out, out_stride = args[2:]
        row_at = [_at(builder, rows, (row_stride, r)) for r in range(count)]
        query_at = [_at(builder, queries, (query_stride, q)) for q in range(width)]
        with _loop(builder, dim, 16, [v.const(f32x16.llvm, 0.0)] * (count * width)) as (d, sums):
            query = [v.load(builder, _at(builder, at, (d, 4)), f32x16.llvm) for at in query_at]
            for r in range(count):
                row = v.load(builder, _at(builder, row_at[r], (d, 4)), f32x16.llvm)
                for q in range(width):
                    i = r * width + q
                    sums[i] = v.call(builder, "llvm.fma.v16f32", f32x16.llvm, row, query[q], sums[i])
        for r in range(count):
            for q in range(width):
                at = _at(builder, out, (out_stride, r), (out.type(4), q))
                builder.store(v.tree_sum(builder, sums[r * width + q]), builder.inttoptr(at, F32.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(n_rows, n_queries, *[types.intp] * 7), codegen
