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
BLOCK_M = 64  # queries a program of the attention kernel


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
def _layer_norm_kernel(x, delta, shift, weight, bias, out, scale, width, eps,
                       ADD: tl.constexpr, SHIFT: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(shift + column, mask=inside, other=0.0)
    mean = tl.sum(value, axis=0) / width
    centred = tl.where(inside, value - mean, 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    y = centred * spread * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    y += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if QUANTIZE:
        step = tl.maximum(tl.max(tl.abs(y), axis=0), 1e-10) / 127.0
        tl.store(scale + row, step)
        tl.store(out + at, _round_int8(y / step), mask=inside)
    else:
        tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


def layer_norm(x, weight, bias, eps: float, out, *, delta=None, shift=None, scale=None):
    """LayerNorm of `x + delta + shift` over the last axis, in fp32; x, delta [T, H], shift [H] fp32; into `out` [T, H].

    With `scale` [T] fp32 the rows are written as int8 with their own step (row-wise symmetric).
    """
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _layer_norm_kernel[(rows,)](x, delta, shift, weight, bias, out, scale, width, eps, delta is not None,
                                shift is not None, scale is not None, block, num_warps=4 if block <= 4096 else 8)
    return out


# --------------------------------------------------------------------------------------------------- attention
@triton.jit
def _attention_kernel(qkv, bias, cos, sin, slopes, out, blocks, scale,
                      HEADS: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, ALIBI: tl.constexpr,
                      BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    head = tl.program_id(0)
    block = tl.program_id(1)
    start = tl.load(blocks + block * 3).to(tl.int64)
    length = tl.load(blocks + block * 3 + 1)
    first = tl.load(blocks + block * 3 + 2)
    WIDTH: tl.constexpr = HEADS * D
    HALF: tl.constexpr = D // 2
    row = first + tl.arange(0, BLOCK_M)
    row_inside = (row < length)[:, None]
    half = tl.arange(0, HALF)
    full = tl.arange(0, D)
    base = qkv + start * (3 * WIDTH) + head * D

    at = row[:, None] * (3 * WIDTH) + half[None, :]
    q1 = tl.load(base + at, mask=row_inside, other=0.0).to(tl.float32)
    q2 = tl.load(base + at + HALF, mask=row_inside, other=0.0).to(tl.float32)
    if BIAS:
        q1 += tl.load(bias + head * D + half)[None, :].to(tl.float32)
        q2 += tl.load(bias + head * D + HALF + half)[None, :].to(tl.float32)
        bk1 = tl.load(bias + WIDTH + head * D + half)[None, :].to(tl.float32)
        bk2 = tl.load(bias + WIDTH + head * D + HALF + half)[None, :].to(tl.float32)
    if ROPE:
        turn = row[:, None] * HALF + half[None, :]
        c = tl.load(cos + turn, mask=row_inside, other=0.0)
        s = tl.load(sin + turn, mask=row_inside, other=0.0)
        q1, q2 = q1 * c - q2 * s, q2 * c + q1 * s
    q1 = (q1 * scale).to(out.dtype.element_ty)
    q2 = (q2 * scale).to(out.dtype.element_ty)
    if ALIBI:
        slope = tl.load(slopes + head)

    top = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    for begin in range(0, length, BLOCK_N):
        key = begin + tl.arange(0, BLOCK_N)
        key_inside = key < length
        key_at = key[:, None] * (3 * WIDTH) + WIDTH + half[None, :]
        k1 = tl.load(base + key_at, mask=key_inside[:, None], other=0.0)
        k2 = tl.load(base + key_at + HALF, mask=key_inside[:, None], other=0.0)
        v = tl.load(base + key[:, None] * (3 * WIDTH) + 2 * WIDTH + full[None, :], mask=key_inside[:, None], other=0.0)
        if BIAS or ROPE:
            k1 = k1.to(tl.float32)
            k2 = k2.to(tl.float32)
            if BIAS:
                k1 += bk1
                k2 += bk2
            if ROPE:
                key_turn = key[:, None] * HALF + half[None, :]
                kc = tl.load(cos + key_turn, mask=key_inside[:, None], other=0.0)
                ks = tl.load(sin + key_turn, mask=key_inside[:, None], other=0.0)
                k1, k2 = k1 * kc - k2 * ks, k2 * kc + k1 * ks
            k1 = k1.to(out.dtype.element_ty)
            k2 = k2.to(out.dtype.element_ty)
        score = tl.dot(q1, tl.trans(k1))
        score = tl.dot(q2, tl.trans(k2), score)
        if ALIBI:
            score -= slope * tl.abs(row[:, None] - key[None, :]).to(tl.float32)
        score = tl.where(key_inside[None, :], score, -1e30)
        new_top = tl.maximum(top, tl.max(score, axis=1))
        fade = tl.exp2(top - new_top)
        p = tl.exp2(score - new_top[:, None])
        total = total * fade + tl.sum(p, axis=1)
        acc = acc * fade[:, None]
        acc = tl.dot(p.to(out.dtype.element_ty), v, acc)
        top = new_top
    acc = acc / total[:, None]
    if BIAS:
        acc += tl.load(bias + 2 * WIDTH + head * D + full)[None, :].to(tl.float32)
    at = (start + row)[:, None] * WIDTH + head * D + full[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=row_inside)


def attention_blocks(lengths, block_m: int) -> torch.Tensor:
    """Work list of the attention kernel: int32 [n, 3] of (first token of the sequence, its length, first query row)."""
    rows, start = [], 0
    for length in lengths:
        rows.extend((start, length, first) for first in range(0, length, block_m))
        start += length
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)


def attention(qkv, out, blocks, heads: int, *, bias=None, rope=None, slopes=None,
              block_m: int = BLOCK_M, block_n: int = 64, num_warps: int = 4, num_stages: int = 2):
    """Softmax attention within each sequence; qkv [T, 3H] as q | k | v, out [T, H], blocks from `attention_blocks`.

    rope: (cos, sin) fp32 [longest, D/2], turns q and k by their position in the sequence (halves convention).
    slopes: fp32 [heads], symmetric ALiBi: minus slope times distance. bias: [3H], added to q | k | v first.
    Rows outside every block are left as they are.
    """
    d = out.shape[1] // heads
    cos, sin = rope if rope is not None else (None, None)
    slopes = None if slopes is None else slopes * LOG2E
    _attention_kernel[(heads, blocks.shape[0])](
        qkv, bias, cos, sin, slopes, out, blocks, d**-0.5 * LOG2E, heads, d, rope is not None, slopes is not None,
        bias is not None, block_m, block_n, num_warps=num_warps, num_stages=num_stages)
    return out


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
def _quantize_kernel(x, out, scale, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * width + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-10) / 127.0
    tl.store(scale + row, step)
    tl.store(out + at, _round_int8(value / step), mask=inside)


def quantize_rows(x, out, scale):
    """Row-wise symmetric int8: out [T, W] int8, scale [T] fp32 (the step), from x [T, W]."""
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _quantize_kernel[(rows,)](x, out, scale, width, block, num_warps=4 if block <= 4096 else 8)
    return out, scale


# --------------------------------------------------------------------------------------------------- products
@triton.jit
def _epilogue(acc, row, column, row_scale, column_scale, bias, residual, m, n, GELU: tl.constexpr,
              RESIDUAL: tl.constexpr, INT8: tl.constexpr):
    y = acc.to(tl.float32)
    if INT8:
        y *= tl.load(row_scale + row, mask=row < m, other=0.0)[:, None]
        y *= tl.load(column_scale + column)[None, :]
    y += tl.load(bias + column)[None, :].to(tl.float32)
    if GELU:
        y = _gelu(y)
    if RESIDUAL:
        at = row.to(tl.int64)[:, None] * n + column[None, :]
        y += tl.load(residual + at, mask=(row < m)[:, None], other=0.0).to(tl.float32)
    return y


@triton.jit
def _product_kernel(a_desc, b_desc, out_desc, row_scale, column_scale, bias, residual, m, n,
                    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                    GROUP: tl.constexpr, SUBTILE: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr,
                    INT8: tl.constexpr, FLATTEN: tl.constexpr):
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
                              row_scale, column_scale, bias, residual, m, n, GELU, RESIDUAL, INT8)
                out_desc.store([begin_m, begin_n + part * NARROW], y.to(out_desc.dtype))
        else:
            y = _epilogue(acc, row, begin_n + tl.arange(0, BLOCK_N), row_scale, column_scale, bias, residual, m, n,
                          GELU, RESIDUAL, INT8)
            out_desc.store([begin_m, begin_n], y.to(out_desc.dtype))


def product(a, b, bias, out, *, scales=None, gelu: bool = False, residual=None, block=(128, 256, 128), group: int = 8,
            subtile: bool = True, flatten: bool = True, persistent: int = 1, num_warps: int = 8, num_stages: int = 4):
    """out <- epilogue(a @ b.T): + bias, then gelu, then + residual, in fp32; a [M, K], b [N, K], out [M, N].

    int8 operands are scaled first: scales = (fp32 [M], fp32 [N]). `persistent` programs a multiprocessor walk the tiles;
    0 starts one program a tile. N and K are multiples of the block; needs a GPU with tensor memory access (sm90).
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    (m, k), n = a.shape, b.shape[0]
    block_m, block_n, block_k = block
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, persistent * torch.cuda.get_device_properties(a.device).multi_processor_count) if persistent else tiles
    row_scale, column_scale = scales if scales is not None else (None, None)
    _product_kernel[(grid,)](
        TensorDescriptor.from_tensor(a, [block_m, block_k]), TensorDescriptor.from_tensor(b, [block_n, block_k]),
        TensorDescriptor.from_tensor(out, [block_m, block_n // 2 if subtile else block_n]),
        row_scale, column_scale, bias, residual, m, n, k, block_m, block_n, block_k, group, subtile, gelu,
        residual is not None, scales is not None, flatten, num_warps=num_warps, num_stages=num_stages)
    return out
