"""Kernels that see one row at a time: LayerNorm, GELU, rounding to int8."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x):
    """The erf GELU in fp32, to 5e-5 of max(1, |x|): erf(x / sqrt 2) = x P(x^2) on |x| <= 4.25 (a
    minimax fit), +-1 beyond.

    A polynomial because the library's erf would cost more than the product whose result it is
    applied to.
    """
    t = tl.minimum(tl.maximum(x, -4.25), 4.25)
    u = t * t
    p = 9.094154596045456e-11 * u - 9.030614478433563e-09
    p = p * u + 3.9723204281472135e-07
    p = p * u - 1.0295032552676275e-05
    p = p * u + 1.7697832663543522e-04
    p = p * u - 2.1581563632935286e-03
    p = p * u + 1.9437558948993683e-02
    p = p * u - 1.3238056004047394e-01
    p = p * u + 7.976384162902832e-01
    half = 0.5 * tl.maximum(x, -4.25)
    return half + half * (t * p)


@triton.jit
def _round_int8(x):
    """Nearest integer, halves away from zero, as int8; |x| <= 127."""
    return (x + tl.where(x >= 0, 0.5, -0.5)).to(tl.int8)


def _parts(width: int) -> tuple[int, int]:
    """A row as a power of two plus a masked rest (0: none): 2560 = 2048 + 512 wastes no lane, 4096
    would waste a third.
    """
    most = 1 << (width.bit_length() - 1)
    return most, triton.next_power_of_2(width - most) if width > most else 0


@triton.jit
def _layer_norm_kernel(
    x,
    delta,
    shift,
    weight,
    bias,
    out,
    scale,
    width,
    eps,
    ADD: tl.constexpr,
    SHIFT: tl.constexpr,
    QUANTIZE: tl.constexpr,
    MOST: tl.constexpr,
    REST: tl.constexpr,
):
    row = tl.program_id(0)
    begin = row.to(tl.int64) * width
    column = tl.arange(0, MOST)
    value = tl.load(x + begin + column).to(tl.float32)
    if ADD:
        value += tl.load(delta + begin + column).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + column).to(tl.float32)
    total = tl.sum(value, axis=0)
    if REST > 0:
        column2 = MOST + tl.arange(0, REST)
        inside = column2 < width
        value2 = tl.load(x + begin + column2, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            value2 += tl.load(delta + begin + column2, mask=inside, other=0.0).to(tl.float32)
        if SHIFT:
            value2 += tl.load(shift + column2, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(value2, axis=0)
    mean = total / width
    value -= mean
    square = tl.sum(value * value, axis=0)
    if REST > 0:
        value2 = tl.where(inside, value2 - mean, 0.0)
        square += tl.sum(value2 * value2, axis=0)
    spread = tl.rsqrt(square / width + eps)
    y = value * spread * tl.load(weight + column).to(tl.float32) + tl.load(bias + column).to(
        tl.float32
    )
    if REST > 0:
        y2 = value2 * spread * tl.load(weight + column2, mask=inside, other=0.0).to(tl.float32)
        y2 += tl.load(bias + column2, mask=inside, other=0.0).to(tl.float32)
    if QUANTIZE:
        top = tl.max(tl.abs(y), axis=0)
        if REST > 0:
            top = tl.maximum(top, tl.max(tl.abs(y2), axis=0))
        top = tl.maximum(top, 1e-10)
        tl.store(scale + row, top / 127.0)
        tl.store(out + begin + column, _round_int8(y * (127.0 / top)))
        if REST > 0:
            tl.store(out + begin + column2, _round_int8(y2 * (127.0 / top)), mask=inside)
    else:
        tl.store(out + begin + column, y.to(out.dtype.element_ty))
        if REST > 0:
            tl.store(out + begin + column2, y2.to(out.dtype.element_ty), mask=inside)


def layer_norm(
    x, weight, bias, eps: float, out, *, delta=None, shift=None, scale=None, num_warps: int = 4
):
    """LayerNorm of `x + delta + shift` over the last axis, in fp32; x, delta [T, H], shift [H];
    into `out` [T, H].

    With `scale` [T] fp32 the rows are written as int8 with their own step (row-wise symmetric).
    """
    rows, width = x.shape
    _layer_norm_kernel[(rows,)](
        x,
        delta,
        shift,
        weight,
        bias,
        out,
        scale,
        width,
        eps,
        delta is not None,
        shift is not None,
        scale is not None,
        *_parts(width),
        num_warps=num_warps,
    )
    return out


@triton.jit
def _quantize_kernel(x, out, scale, width, MOST: tl.constexpr, REST: tl.constexpr):
    row = tl.program_id(0)
    begin = row.to(tl.int64) * width
    column = tl.arange(0, MOST)
    value = tl.load(x + begin + column).to(tl.float32)
    top = tl.max(tl.abs(value), axis=0)
    if REST > 0:
        column2 = MOST + tl.arange(0, REST)
        inside = column2 < width
        value2 = tl.load(x + begin + column2, mask=inside, other=0.0).to(tl.float32)
        top = tl.maximum(top, tl.max(tl.abs(value2), axis=0))
    top = tl.maximum(top, 1e-10)
    tl.store(scale + row, top / 127.0)
    tl.store(out + begin + column, _round_int8(value * (127.0 / top)))
    if REST > 0:
        tl.store(out + begin + column2, _round_int8(value2 * (127.0 / top)), mask=inside)


def quantize_rows(x, out, scale, num_warps: int | None = None):
    """Row-wise symmetric int8: x [T, W] ~ out [T, W] int8 * scale [T] fp32."""
    rows, width = x.shape
    most, rest = _parts(width)
    _quantize_kernel[(rows,)](
        x, out, scale, width, most, rest, num_warps=num_warps or (4 if most <= 2048 else 8)
    )
    return out, scale


@triton.jit
def _gelu_kernel(x, bias, width, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    value = tl.load(x + at, mask=inside).to(tl.float32)
    if BIAS:
        value += tl.load(bias + column, mask=inside).to(tl.float32)
    tl.store(x + at, gelu(value).to(x.dtype.element_ty), mask=inside)


def gelu_(x, bias=None):
    """x <- gelu(x + bias), in place; x [T, W], bias [W]."""
    rows, width = x.shape
    block = min(triton.next_power_of_2(width), 2048)
    _gelu_kernel[(rows, triton.cdiv(width, block))](
        x, bias, width, bias is not None, block, num_warps=4
    )
    return x


@triton.jit
def _gated_gelu_kernel(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * 2 * width + column, mask=inside).to(tl.float32)
    value = tl.load(x + row * 2 * width + width + column, mask=inside).to(tl.float32)
    tl.store(out + row * width + column, (gelu(gate) * value).to(out.dtype.element_ty), mask=inside)


def gated_gelu(x, out):
    """out [T, W] <- gelu(first half) * second half of x [T, 2W]."""
    rows, width = out.shape
    block = min(triton.next_power_of_2(width), 1024)
    _gated_gelu_kernel[(rows, triton.cdiv(width, block))](x, out, width, block, num_warps=4)
    return out
