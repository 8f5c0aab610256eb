"""Triton kernels of the fast path, and the thin functions that launch them.

Each kernel computes a row (or a sequence) from that row (or sequence) alone, in a fixed order and without atomics, so a
result never depends on what else is in the batch. Knows tensors and shapes; does not know models or weights.
Shapes: T tokens of a packed batch, H hidden width, D width of a head, S sequences.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2E = 1.4426950408889634


@triton.jit
def _gelu(x):
    """The erf GELU in fp32, to 5e-5: erf(x / sqrt 2) = x P(x^2) on |x| <= 4.25 (a minimax fit), +-1 beyond.

    A polynomial because the library's erf would cost more than the product whose result it is applied to.
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


# --------------------------------------------------------------------------------------------------- LayerNorm
@triton.jit
def _layer_norm_kernel(x, delta, shift, weight, bias, out, scale, rows, width, eps, ROWS: tl.constexpr,
                       ADD: tl.constexpr, SHIFT: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    inside = column < width
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        moved = tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    first = tl.program_id(0) * ROWS
    begin = first.to(tl.int64) * width + column
    for i in range(0, tl.minimum(ROWS, rows - first)):
        at = begin + i * width
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        if SHIFT:
            value += moved
        mean = tl.sum(value, axis=0) / width
        centred = tl.where(inside, value - mean, 0.0)
        spread = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
        y = centred * spread * w + b
        if QUANTIZE:
            top = tl.maximum(tl.max(tl.abs(y), axis=0), 1e-10)
            tl.store(scale + first + i, top / 127.0)
            tl.store(out + at, _round_int8(y * (127.0 / top)), mask=inside)
        else:
            tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


def layer_norm(x, weight, bias, eps: float, out, *, delta=None, shift=None, scale=None, rows_each: int = 4,
               num_warps: int | None = None, num_stages: int = 2):
    """LayerNorm of `x + delta + shift` over the last axis, in fp32; x, delta [T, H], shift [H]; into `out` [T, H].

    With `scale` [T] fp32 the rows are written as int8 with their own step (row-wise symmetric).
    """
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _layer_norm_kernel[(triton.cdiv(rows, rows_each),)](
        x, delta, shift, weight, bias, out, scale, rows, width, eps, rows_each, delta is not None, shift is not None,
        scale is not None, block, num_warps=num_warps or (8 if block > 1024 else 4), num_stages=num_stages)
    return out


# --------------------------------------------------------------------------------------------------- attention
@triton.jit
def _turn(x, cos, sin, position, inside, N: tl.constexpr, D: tl.constexpr):
    """RoPE of x [N, D] fp32 whose pairs are neighbours: columns 2i and 2i + 1 turn by position times frequency i."""
    HALF: tl.constexpr = D // 2
    at = position[:, None] * HALF + tl.arange(0, HALF)[None, :]
    c = tl.load(cos + at, mask=inside, other=0.0)
    s = tl.load(sin + at, mask=inside, other=0.0)
    even, odd = x.reshape(N, HALF, 2).split()
    return tl.join(even * c - odd * s, odd * c + even * s).reshape(N, D)


@triton.jit
def _attend(q, k_base, v_base, key, row, length, scale, slope, top, total, acc, STRIDE: tl.constexpr, D: tl.constexpr,
            ALIBI: tl.constexpr, MASK: tl.constexpr):
    """One block of keys in the running softmax (base 2)."""
    at = key[:, None] * STRIDE + tl.arange(0, D)[None, :]
    inside = (key < length)[:, None]
    k = tl.load(k_base + at, mask=inside, other=0.0) if MASK else tl.load(k_base + at)
    v = tl.load(v_base + at, mask=inside, other=0.0) if MASK else tl.load(v_base + at)
    score = tl.dot(q, tl.trans(k))
    if ALIBI:
        score = score * scale - slope * tl.abs(row.to(tl.float32)[:, None] - key.to(tl.float32)[None, :])
    if MASK:
        score = tl.where((key < length)[None, :], score, -1e30)
    if ALIBI:
        new_top = tl.maximum(top, tl.max(score, axis=1))
        p = tl.exp2(score - new_top[:, None])
    else:
        new_top = tl.maximum(top, tl.max(score, axis=1) * scale)
        p = tl.exp2(score * scale - new_top[:, None])
    fade = tl.exp2(top - new_top)
    total = total * fade + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
    return new_top, total, acc


@triton.jit
def _attention_kernel(qkv, bias, cos, sin, slopes, out, spans, scale,
                      HEADS: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, ALIBI: tl.constexpr,
                      BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    head = tl.program_id(0)
    sequence = tl.num_programs(1) - 1 - tl.program_id(1)  # the longest lie last and begin first
    start = tl.load(spans + 2 * sequence).to(tl.int64)
    length = tl.load(spans + 2 * sequence + 1)
    WIDTH: tl.constexpr = HEADS * D
    STRIDE: tl.constexpr = 3 * WIDTH
    column = tl.arange(0, D)
    q_base = qkv + start * STRIDE + head * D
    k_base = q_base + WIDTH
    v_base = q_base + 2 * WIDTH
    if ROPE:  # turn the keys where they lie; no other program reads them
        for begin in range(0, length, BLOCK_N):
            key = begin + tl.arange(0, BLOCK_N)
            inside = (key < length)[:, None]
            at = key[:, None] * STRIDE + column[None, :]
            k = tl.load(k_base + at, mask=inside, other=0.0).to(tl.float32)
            if BIAS:
                k += tl.load(bias + WIDTH + head * D + column)[None, :].to(tl.float32)
            k = _turn(k, cos, sin, key, inside, BLOCK_N, D)
            tl.store(k_base + at, k.to(out.dtype.element_ty), mask=inside)
        tl.debug_barrier()
    slope = tl.load(slopes + head) if ALIBI else 0.0
    whole = length // BLOCK_N * BLOCK_N
    for first in range(0, length, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        row_inside = (row < length)[:, None]
        q = tl.load(q_base + row[:, None] * STRIDE + column[None, :], mask=row_inside, other=0.0).to(tl.float32)
        if BIAS:
            q += tl.load(bias + head * D + column)[None, :].to(tl.float32)
        if ROPE:
            q = _turn(q, cos, sin, row, row_inside, BLOCK_M, D)
        q = q.to(out.dtype.element_ty)
        top = tl.full([BLOCK_M], -1e30, tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, D], tl.float32)
        for begin in range(0, whole, BLOCK_N):
            top, total, acc = _attend(q, k_base, v_base, begin + tl.arange(0, BLOCK_N), row, length, scale, slope, top,
                                      total, acc, STRIDE, D, ALIBI, False)
        if whole < length:
            top, total, acc = _attend(q, k_base, v_base, whole + tl.arange(0, BLOCK_N), row, length, scale, slope, top,
                                      total, acc, STRIDE, D, ALIBI, True)
        acc = acc * (1.0 / total)[:, None]
        if BIAS:
            acc += tl.load(bias + 2 * WIDTH + head * D + column)[None, :].to(tl.float32)
        at = row[:, None] * WIDTH + column[None, :]
        tl.store(out + start * WIDTH + head * D + at, acc.to(out.dtype.element_ty), mask=row_inside)


def spans(lengths) -> torch.Tensor:
    """int32 [S, 2] of (first token, length) of the sequences of a packed batch."""
    table = torch.tensor(lengths, dtype=torch.int32)
    return torch.stack((table.cumsum(0, dtype=torch.int32) - table, table), dim=1)


def attention(qkv, out, spans, heads: int, *, bias=None, rope=None, slopes=None,
              block_m: int = 64, block_n: int = 64, num_warps: int = 4, num_stages: int = 1, maxnreg: int | None = None):
    """Softmax attention within each sequence; qkv [T, 3H] as q | k | v, out [T, H], spans from `spans`.

    rope: (cos, sin) fp32 [longest, D/2]; q and k hold the columns of a pair side by side (see `pairs_together`), and k
    is turned where it lies. slopes: fp32 [heads], symmetric ALiBi: minus slope times distance. bias: [3H], added to
    q | k | v first (without RoPE the keys' bias changes no result and is left out).
    Rows outside the sequences are left as they are.
    """
    d = out.shape[1] // heads
    cos, sin = rope if rope is not None else (None, None)
    slopes = None if slopes is None else slopes * LOG2E
    limit = {} if maxnreg is None else {"maxnreg": maxnreg}
    _attention_kernel[(heads, spans.shape[0])](
        qkv, bias, cos, sin, slopes, out, spans, d**-0.5 * LOG2E, heads, d, rope is not None, slopes is not None,
        bias is not None, block_m, block_n, num_warps=num_warps, num_stages=num_stages, **limit)
    return out


def pairs_together(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a q or k weight (or bias) [H, ...] so that RoPE's pairs (i, i + D/2) of each head become neighbours.

    Products of q with k do not change when the columns of both are put in another order.
    """
    d = weight.shape[0] // heads
    return weight.unflatten(0, (heads, 2, d // 2)).transpose(1, 2).reshape(weight.shape)


# --------------------------------------------------------------------------------------------------- element-wise
@triton.jit
def _gelu_kernel(x, bias, width, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    value = tl.load(x + at, mask=inside).to(tl.float32)
    if BIAS:
        value += tl.load(bias + column, mask=inside).to(tl.float32)
    tl.store(x + at, _gelu(value).to(x.dtype.element_ty), mask=inside)


def gelu_(x, bias=None):
    """x <- gelu(x + bias), in place; x [T, W], bias [W]."""
    rows, width = x.shape
    block = min(triton.next_power_of_2(width), 2048)
    _gelu_kernel[(rows, triton.cdiv(width, block))](x, bias, width, bias is not None, block, num_warps=4)
    return x


@triton.jit
def _gated_gelu_kernel(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * 2 * width + column, mask=inside).to(tl.float32)
    value = tl.load(x + row * 2 * width + width + column, mask=inside).to(tl.float32)
    tl.store(out + row * width + column, (_gelu(gate) * value).to(out.dtype.element_ty), mask=inside)


def gated_gelu(x, out):
    """out [T, W] <- gelu(first half) * second half of x [T, 2W]."""
    rows, width = out.shape
    block = min(triton.next_power_of_2(width), 1024)
    _gated_gelu_kernel[(rows, triton.cdiv(width, block))](x, out, width, block, num_warps=4)
    return out


@triton.jit
def _quantize_kernel(x, out, scale, centre, width, CENTRE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRE:
        high = tl.max(value, axis=0)
        low = tl.min(value, axis=0)
        middle = (high + low) * 0.5
        tl.store(centre + row, middle)
        value -= middle
        top = tl.maximum(high - middle, 1e-10)
    else:
        top = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-10)
    tl.store(scale + row, top / 127.0)
    tl.store(out + at, _round_int8(value * (127.0 / top)), mask=inside)


def quantize_rows(x, out, scale, centre=None):
    """Row-wise int8: x [T, W] ~ out [T, W] * scale [T] + centre [T]; without `centre` symmetric about zero.

    (With a centre the largest padded zero counts as a value of the row: meant for rows that reach both sides of zero.)
    """
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _quantize_kernel[(rows,)](x, out, scale, centre, width, centre is not None, block,
                              num_warps=4 if block <= 4096 else 8)
    return out, scale


# --------------------------------------------------------------------------------------------------- products
@triton.jit
def _epilogue(acc, row, column, row_scale, column_scale, centre, column_sum, bias, residual, m, n,
              BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, INT8: tl.constexpr, CENTRE: tl.constexpr):
    y = acc.to(tl.float32)
    if INT8:
        y *= tl.load(row_scale + row, mask=row < m, other=0.0)[:, None]
        y *= tl.load(column_scale + column)[None, :]
    if CENTRE:
        y += tl.load(centre + row, mask=row < m, other=0.0)[:, None] * tl.load(column_sum + column)[None, :]
    if BIAS:
        y += tl.load(bias + column)[None, :].to(tl.float32)
    if GELU:
        y = _gelu(y)
    if RESIDUAL:
        at = row.to(tl.int64)[:, None] * n + column[None, :]
        y += tl.load(residual + at, mask=(row < m)[:, None], other=0.0).to(tl.float32)
    return y


@triton.jit
def _product_kernel(a_desc, b_desc, out_desc, row_scale, column_scale, centre, column_sum, bias, residual, m, n,
                    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                    GROUP: tl.constexpr, SUBTILE: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr,
                    RESIDUAL: tl.constexpr, INT8: tl.constexpr, CENTRE: tl.constexpr, FLATTEN: tl.constexpr):
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    in_group = GROUP * tiles_n
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        first = (tile // in_group) * GROUP
        size = tl.minimum(tiles_m - first, GROUP)
        begin_m = (first + (tile % in_group) % size) * BLOCK_M
        begin_n = ((tile % in_group) // size) * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if INT8 else tl.float32)
        for k in range(0, K, BLOCK_K):
            a = a_desc.load([begin_m, k])
            b = b_desc.load([begin_n, k])
            acc = tl.dot(a, b.T, acc, out_dtype=tl.int32 if INT8 else tl.float32)
        row = begin_m + tl.arange(0, BLOCK_M)
        if SUBTILE:
            NARROW: tl.constexpr = BLOCK_N // 2
            left, right = acc.reshape(BLOCK_M, 2, NARROW).permute(0, 2, 1).split()
            for part in tl.static_range(2):
                y = _epilogue(left if part == 0 else right, row, begin_n + part * NARROW + tl.arange(0, NARROW),
                              row_scale, column_scale, centre, column_sum, bias, residual, m, n,
                              BIAS, GELU, RESIDUAL, INT8, CENTRE)
                out_desc.store([begin_m, begin_n + part * NARROW], y.to(out_desc.dtype))
        else:
            y = _epilogue(acc, row, begin_n + tl.arange(0, BLOCK_N), row_scale, column_scale, centre, column_sum,
                          bias, residual, m, n, BIAS, GELU, RESIDUAL, INT8, CENTRE)
            out_desc.store([begin_m, begin_n], y.to(out_desc.dtype))


def product(a, b, out, *, bias=None, scales=None, centre=None, gelu: bool = False, residual=None, block=(128, 256, 128), group: int = 8,
            subtile: bool = True, flatten: bool = True, persistent: int = 1, num_warps: int = 8, num_stages: int = 4):
    """out <- epilogue(a @ b.T): + bias, then gelu, then + residual, in fp32; a [M, K], b [N, K], out [M, N].

    int8 operands are scaled first: scales = (fp32 [M], fp32 [N]); centre = (fp32 [M], fp32 [N]): what the rows of `a`
    were centred on, and the row sums of `b` as scaled. `persistent` programs a multiprocessor walk the tiles;
    0 starts one program a tile. N and K are multiples of the block; needs a GPU with tensor memory access (sm90).
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    (m, k), n = a.shape, b.shape[0]
    block_m, block_n, block_k = block
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, persistent * torch.cuda.get_device_properties(a.device).multi_processor_count) if persistent else tiles
    row_scale, column_scale = scales if scales is not None else (None, None)
    middle, column_sum = centre if centre is not None else (None, None)
    _product_kernel[(grid,)](
        TensorDescriptor.from_tensor(a, [block_m, block_k]), TensorDescriptor.from_tensor(b, [block_n, block_k]),
        TensorDescriptor.from_tensor(out, [block_m, block_n // 2 if subtile else block_n]),
        row_scale, column_scale, middle, column_sum, bias, residual, m, n, k, block_m, block_n, block_k, group, subtile,
        bias is not None, gelu, residual is not None, scales is not None, centre is not None, flatten, num_warps=num_warps, num_stages=num_stages)
    return out
