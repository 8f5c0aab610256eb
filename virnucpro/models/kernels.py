"""Triton kernels of the fast path, and the thin functions that launch them.

Each kernel computes a row (or a sequence) from that row (or sequence) alone, in a fixed order and without atomics, so a
result never depends on what else is in the batch. Knows tensors and shapes; does not know models or weights.
Shapes: T tokens of a packed batch, H hidden width, D width of a head, S sequences.
"""
from __future__ import annotations

from functools import lru_cache

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
def _parts(width: int) -> tuple[int, int]:
    """A row as a power of two plus a masked rest (0: none): 2560 = 2048 + 512 wastes no lane, 4096 would waste a third."""
    most = 1 << (width.bit_length() - 1)
    return most, triton.next_power_of_2(width - most) if width > most else 0


@triton.jit
def _layer_norm_kernel(x, delta, shift, weight, bias, out, scale, width, eps,
                       ADD: tl.constexpr, SHIFT: tl.constexpr, QUANTIZE: tl.constexpr,
                       MOST: tl.constexpr, REST: tl.constexpr):
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
    y = value * spread * tl.load(weight + column).to(tl.float32) + tl.load(bias + column).to(tl.float32)
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


def layer_norm(x, weight, bias, eps: float, out, *, delta=None, shift=None, scale=None, num_warps: int = 4):
    """LayerNorm of `x + delta + shift` over the last axis, in fp32; x, delta [T, H], shift [H]; into `out` [T, H].

    With `scale` [T] fp32 the rows are written as int8 with their own step (row-wise symmetric).
    """
    rows, width = x.shape
    _layer_norm_kernel[(rows,)](x, delta, shift, weight, bias, out, scale, width, eps, delta is not None,
                                shift is not None, scale is not None, *_parts(width), num_warps=num_warps)
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
    _quantize_kernel[(rows,)](x, out, scale, width, most, rest, num_warps=num_warps or (4 if most <= 2048 else 8))
    return out, scale


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
def _queries(base, bias, cos, sin, row, length, HEADS: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
             BIAS: tl.constexpr, N: tl.constexpr, TYPE: tl.constexpr):
    """Rows of q (or of k, with base and bias moved there): loaded, biased, turned; zero behind the sequence."""
    column = tl.arange(0, D)
    inside = (row < length)[:, None]
    x = tl.load(base + row[:, None] * (3 * HEADS * D) + column[None, :], mask=inside, other=0.0)
    if BIAS or ROPE:
        x = x.to(tl.float32)
        if BIAS:
            x += tl.load(bias + column)[None, :].to(tl.float32)
        if ROPE:
            x = _turn(x, cos, sin, row, inside, N, D)
    return x.to(TYPE)


@triton.jit
def _scores(q, k, row, key, length, scale, slope, ALIBI: tl.constexpr, MASK: tl.constexpr):
    """q k^T, in base-2 units where ALIBI (else `scale` is still to come); keys behind the sequence far below all."""
    score = tl.dot(q, tl.trans(k))
    if ALIBI:
        score = score * scale - slope * tl.abs(row.to(tl.float32)[:, None] - key.to(tl.float32)[None, :])
    if MASK:
        score = tl.where((key < length)[None, :], score, -1e30)
    return score


@triton.jit
def _resident_kernel(qkv, bias, cos, sin, slopes, out, spans, scale, HEADS: tl.constexpr, D: tl.constexpr,
                     ROPE: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr):
    """A head of a sequence of at most BLOCKS (up to 3) times N tokens: all its keys and values stay on the chip."""
    TYPE: tl.constexpr = out.dtype.element_ty
    WIDTH: tl.constexpr = HEADS * D
    head = tl.program_id(0)
    sequence = tl.num_programs(1) - 1 - tl.program_id(1)
    start = tl.load(spans + 2 * sequence).to(tl.int64)
    length = tl.load(spans + 2 * sequence + 1)
    column = tl.arange(0, D)
    base = qkv + start * (3 * WIDTH) + head * D
    bias += head * D
    slope = tl.load(slopes + head) if ALIBI else 0.0
    factor = 1.0 if ALIBI else scale

    key = tl.arange(0, N)
    k0 = _queries(base + WIDTH, bias + WIDTH, cos, sin, key, length, HEADS, D, ROPE, BIAS and ROPE, N, TYPE)
    v0 = _queries(base + 2 * WIDTH, bias, cos, sin, key, length, HEADS, D, False, False, N, TYPE)
    if BLOCKS > 1:
        k1 = _queries(base + WIDTH, bias + WIDTH, cos, sin, N + key, length, HEADS, D, ROPE, BIAS and ROPE, N, TYPE)
        v1 = _queries(base + 2 * WIDTH, bias, cos, sin, N + key, length, HEADS, D, False, False, N, TYPE)
    if BLOCKS > 2:
        k2 = _queries(base + WIDTH, bias + WIDTH, cos, sin, 2 * N + key, length, HEADS, D, ROPE, BIAS and ROPE, N, TYPE)
        v2 = _queries(base + 2 * WIDTH, bias, cos, sin, 2 * N + key, length, HEADS, D, False, False, N, TYPE)
    for first in range(0, length, N):
        row = first + tl.arange(0, N)
        q = _queries(base, bias, cos, sin, row, length, HEADS, D, ROPE, BIAS, N, TYPE)
        s0 = _scores(q, k0, row, key, length, scale, slope, ALIBI, BLOCKS == 1)
        top = tl.max(s0, axis=1)
        if BLOCKS > 1:
            s1 = _scores(q, k1, row, N + key, length, scale, slope, ALIBI, BLOCKS == 2)
            top = tl.maximum(top, tl.max(s1, axis=1))
        if BLOCKS > 2:
            s2 = _scores(q, k2, row, 2 * N + key, length, scale, slope, ALIBI, True)
            top = tl.maximum(top, tl.max(s2, axis=1))
        top = (top * factor)[:, None]
        p = tl.exp2(s0 * factor - top)
        total = tl.sum(p, axis=1)
        acc = tl.dot(p.to(TYPE), v0)
        if BLOCKS > 1:
            p = tl.exp2(s1 * factor - top)
            total += tl.sum(p, axis=1)
            acc = tl.dot(p.to(TYPE), v1, acc)
        if BLOCKS > 2:
            p = tl.exp2(s2 * factor - top)
            total += tl.sum(p, axis=1)
            acc = tl.dot(p.to(TYPE), v2, acc)
        acc = acc * (1.0 / total)[:, None]
        if BIAS:
            acc += tl.load(bias + 2 * WIDTH + column)[None, :].to(tl.float32)
        at = row[:, None] * WIDTH + column[None, :]
        tl.store(out + start * WIDTH + head * D + at, acc.to(TYPE), mask=(row < length)[:, None])


@triton.jit
def _streaming_kernel(qkv, bias, cos, sin, slopes, out, spans, scale, HEADS: tl.constexpr, D: tl.constexpr,
                      ROPE: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, N: tl.constexpr):
    """A head of a sequence of any length: a running softmax over blocks of keys, which are turned first, in place."""
    TYPE: tl.constexpr = out.dtype.element_ty
    WIDTH: tl.constexpr = HEADS * D
    head = tl.program_id(0)
    sequence = tl.num_programs(1) - 1 - tl.program_id(1)
    start = tl.load(spans + 2 * sequence).to(tl.int64)
    length = tl.load(spans + 2 * sequence + 1)
    column = tl.arange(0, D)
    base = qkv + start * (3 * WIDTH) + head * D
    bias += head * D
    slope = tl.load(slopes + head) if ALIBI else 0.0
    factor = 1.0 if ALIBI else scale
    if ROPE:  # no other program reads these keys
        for begin in range(0, length, N):
            key = begin + tl.arange(0, N)
            k = _queries(base + WIDTH, bias + WIDTH, cos, sin, key, length, HEADS, D, ROPE, BIAS, N, TYPE)
            at = key[:, None] * (3 * WIDTH) + column[None, :]
            tl.store(base + WIDTH + at, k, mask=(key < length)[:, None])
        tl.debug_barrier()
    for first in range(0, length, N):
        row = first + tl.arange(0, N)
        q = _queries(base, bias, cos, sin, row, length, HEADS, D, ROPE, BIAS, N, TYPE)
        top = tl.full([N], -1e30, tl.float32)
        total = tl.zeros([N], tl.float32)
        acc = tl.zeros([N, D], tl.float32)
        for begin in range(0, length, N):
            key = begin + tl.arange(0, N)
            k = _queries(base + WIDTH, bias, cos, sin, key, length, HEADS, D, False, False, N, TYPE)
            v = _queries(base + 2 * WIDTH, bias, cos, sin, key, length, HEADS, D, False, False, N, TYPE)
            score = _scores(q, k, row, key, length, scale, slope, ALIBI, True)
            new_top = tl.maximum(top, tl.max(score, axis=1) * factor)
            fade = tl.exp2(top - new_top)
            p = tl.exp2(score * factor - new_top[:, None])
            total = total * fade + tl.sum(p, axis=1)
            acc = tl.dot(p.to(TYPE), v, acc * fade[:, None])
            top = new_top
        acc = acc * (1.0 / total)[:, None]
        if BIAS:
            acc += tl.load(bias + 2 * WIDTH + column)[None, :].to(tl.float32)
        at = row[:, None] * WIDTH + column[None, :]
        tl.store(out + start * WIDTH + head * D + at, acc.to(TYPE), mask=(row < length)[:, None])


BLOCK = 64  # queries and keys at a time
REGISTERS = {1: 128, 2: 128, 3: 168, 0: 128}  # a thread; one warp more or less on a multiprocessor decides


def spans(lengths, device: torch.device | str) -> tuple[tuple[int, torch.Tensor], ...]:
    """The sequences of a packed batch by kernel: (blocks of keys, or 0 for more than 3; int32 [S, 2] of first token, length).

    Which kernel serves a sequence depends on its own length alone.
    """
    table = torch.tensor(lengths, dtype=torch.int32)
    table = torch.stack((table.cumsum(0, dtype=torch.int32) - table, table), dim=1)
    blocks = (table[:, 1] + (BLOCK - 1)) // BLOCK
    kinds = torch.where(blocks > 3, 0, blocks)
    order = kinds.argsort(stable=True)
    counts = torch.bincount(kinds, minlength=4).tolist()
    parts = table[order].to(device, non_blocking=True).split(counts)
    return tuple((kind, part) for kind, part in enumerate(parts) if len(part))


def attention(qkv, out, spans, heads: int, *, bias=None, rope=None, slopes=None):
    """Softmax attention within each sequence; qkv [T, 3H] as q | k | v, out [T, H], spans from `spans`.

    rope: (cos, sin) fp32 [longest, D/2]; q and k hold the columns of a pair side by side (see `pairs_together`), and k
    may be overwritten. slopes: fp32 [heads], symmetric ALiBi: minus slope times distance. bias: [3H], added to
    q | k | v first (without RoPE the keys' bias changes no result and is left out).
    Rows outside the sequences are left as they are.
    """
    d = out.shape[1] // heads
    cos, sin = rope if rope is not None else (out, out)
    slopes, alibi = (out, False) if slopes is None else (slopes * LOG2E, True)
    for blocks, table in spans:
        kernel, own = (_resident_kernel, (blocks, BLOCK)) if blocks else (_streaming_kernel, (BLOCK,))
        kernel[(heads, table.shape[0])](
            qkv, qkv if bias is None else bias, cos, sin, slopes, out, table, d**-0.5 * LOG2E, heads, d,
            rope is not None, alibi, bias is not None, *own, num_warps=4, num_stages=1, maxnreg=REGISTERS[blocks])
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


# --------------------------------------------------------------------------------------------------- products
@triton.jit
def _epilogue(acc, row, column, row_scale, column_scale, bias, residual, m, n,
              BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, INT8: tl.constexpr):
    y = acc.to(tl.float32)
    inside = column < n
    if INT8:
        y *= tl.load(row_scale + row, mask=row < m, other=0.0)[:, None]
        y *= tl.load(column_scale + column, mask=inside, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias + column, mask=inside, other=0.0)[None, :].to(tl.float32)
    if GELU:
        y = _gelu(y)
    if RESIDUAL:
        at = row.to(tl.int64)[:, None] * n + column[None, :]
        y += tl.load(residual + at, mask=(row < m)[:, None] & inside[None, :], other=0.0).to(tl.float32)
    return y


@triton.jit
def _product_kernel(a_desc, b_desc, out_desc, row_scale, column_scale, bias, residual, m, n,
                    K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                    GROUP: tl.constexpr, SUBTILE: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr,
                    RESIDUAL: tl.constexpr, INT8: tl.constexpr, FLATTEN: tl.constexpr):
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
                              row_scale, column_scale, bias, residual, m, n, BIAS, GELU, RESIDUAL, INT8)
                out_desc.store([begin_m, begin_n + part * NARROW], y.to(out_desc.dtype))
        else:
            y = _epilogue(acc, row, begin_n + tl.arange(0, BLOCK_N), row_scale, column_scale, bias, residual, m, n,
                          BIAS, GELU, RESIDUAL, INT8)
            out_desc.store([begin_m, begin_n], y.to(out_desc.dtype))


@lru_cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def product(a, b, out, *, bias=None, scales=None, gelu: bool = False, residual=None, block=(128, 256, 128), group: int = 8,
            subtile: bool = True, flatten: bool = True, persistent: int = 1, num_warps: int = 8, num_stages: int = 4):
    """out <- epilogue(a @ b.T): + bias, then gelu, then + residual, in fp32; a [M, K], b [N, K], out [M, N].

    int8 operands are scaled first: scales = (fp32 [M], fp32 [N]). `persistent` programs a multiprocessor walk the tiles;
    0 starts one program a tile. Rows of a, b and out are multiples of 16 bytes; needs a GPU with tensor memory access (sm90).
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    (m, k), n = a.shape, b.shape[0]
    block_m, block_n, block_k = block
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, persistent * multiprocessors(a.device)) if persistent else tiles
    row_scale, column_scale = scales if scales is not None else (None, None)
    _product_kernel[(grid,)](
        TensorDescriptor.from_tensor(a, [block_m, block_k]), TensorDescriptor.from_tensor(b, [block_n, block_k]),
        TensorDescriptor.from_tensor(out, [block_m, block_n // 2 if subtile else block_n]),
        row_scale, column_scale, bias, residual, m, n, k, block_m, block_n, block_k, group, subtile,
        bias is not None, gelu, residual is not None, scales is not None, flatten, num_warps=num_warps, num_stages=num_stages)
    return out
