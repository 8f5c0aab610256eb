"""Softmax attention within the sequences of a packed batch, with what comes before it (bias, RoPE)
or into it (ALiBi).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2E = 1.4426950408889634


@triton.jit
def _turn(x, cos, sin, position, inside, N: tl.constexpr, D: tl.constexpr):
    """RoPE of x [N, D] fp32 whose pairs are neighbours: columns 2i and 2i + 1 turn by position
    times frequency i.
    """
    HALF: tl.constexpr = D // 2
    at = position[:, None] * HALF + tl.arange(0, HALF)[None, :]
    c = tl.load(cos + at, mask=inside, other=0.0)
    s = tl.load(sin + at, mask=inside, other=0.0)
    even, odd = x.reshape(N, HALF, 2).split()
    return tl.join(even * c - odd * s, odd * c + even * s).reshape(N, D)


@triton.jit
def _queries(
    base,
    bias,
    cos,
    sin,
    row,
    length,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    ROPE: tl.constexpr,
    BIAS: tl.constexpr,
    N: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Rows of q (or of k, with base and bias moved there): loaded, biased, turned; zero behind the
    sequence.
    """
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
    """q k^T, in base-2 units where ALIBI (else `scale` is still to come); keys behind the sequence
    far below all.
    """
    score = tl.dot(q, tl.trans(k))
    if ALIBI:
        score = score * scale - slope * tl.abs(
            row.to(tl.float32)[:, None] - key.to(tl.float32)[None, :]
        )
    if MASK:
        score = tl.where((key < length)[None, :], score, -1e30)
    return score


@triton.jit
def _resident_kernel(
    qkv,
    bias,
    cos,
    sin,
    slopes,
    out,
    spans,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    ROPE: tl.constexpr,
    ALIBI: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCKS: tl.constexpr,
    N: tl.constexpr,
):
    """A head of a sequence of at most BLOCKS (up to 3) times N tokens: all its keys and values stay
    on the chip.
    """
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
    k0 = _queries(
        base + WIDTH, bias + WIDTH, cos, sin, key, length, HEADS, D, ROPE, BIAS and ROPE, N, TYPE
    )
    v0 = _queries(base + 2 * WIDTH, bias, cos, sin, key, length, HEADS, D, False, False, N, TYPE)
    if BLOCKS > 1:
        k1 = _queries(
            base + WIDTH,
            bias + WIDTH,
            cos,
            sin,
            N + key,
            length,
            HEADS,
            D,
            ROPE,
            BIAS and ROPE,
            N,
            TYPE,
        )
        v1 = _queries(
            base + 2 * WIDTH, bias, cos, sin, N + key, length, HEADS, D, False, False, N, TYPE
        )
    if BLOCKS > 2:
        k2 = _queries(
            base + WIDTH,
            bias + WIDTH,
            cos,
            sin,
            2 * N + key,
            length,
            HEADS,
            D,
            ROPE,
            BIAS and ROPE,
            N,
            TYPE,
        )
        v2 = _queries(
            base + 2 * WIDTH, bias, cos, sin, 2 * N + key, length, HEADS, D, False, False, N, TYPE
        )
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
def _streaming_kernel(
    qkv,
    bias,
    cos,
    sin,
    slopes,
    out,
    spans,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    ROPE: tl.constexpr,
    ALIBI: tl.constexpr,
    BIAS: tl.constexpr,
    N: tl.constexpr,
):
    """A head of a sequence of any length: a running softmax over blocks of keys, which are turned
    first, in place.
    """
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
            k = _queries(
                base + WIDTH, bias + WIDTH, cos, sin, key, length, HEADS, D, ROPE, BIAS, N, TYPE
            )
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
            v = _queries(
                base + 2 * WIDTH, bias, cos, sin, key, length, HEADS, D, False, False, N, TYPE
            )
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
# a thread; one warp more or less on a multiprocessor decides
REGISTERS = {1: 128, 2: 128, 3: 168, 0: 128}


def spans(lengths, device: torch.device | str) -> tuple[tuple[int, torch.Tensor], ...]:
    """The sequences of a packed batch by kernel: (blocks of keys, or 0 for more than 3; int32 [S,
    2] of first token, length).

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
    """Softmax attention within each sequence; qkv [T, 3H] as q | k | v, out [T, H], spans from
    `spans`.

    rope: (cos, sin) fp32 [longest, D/2]; q and k hold the columns of a pair side by side (see
    `pairs_together`), and k may be overwritten. slopes: fp32 [heads], symmetric ALiBi: minus slope
    times distance. bias: [3H], added to q | k | v first (without RoPE the keys' bias changes no
    result and is left out). Rows outside the sequences are left as they are.
    """
    d = out.shape[1] // heads
    cos, sin = rope if rope is not None else (out, out)
    slopes, alibi = (out, False) if slopes is None else (slopes * LOG2E, True)
    for blocks, table in spans:
        kernel, own = (
            (_resident_kernel, (blocks, BLOCK)) if blocks else (_streaming_kernel, (BLOCK,))
        )
        kernel[(heads, table.shape[0])](
            qkv,
            qkv if bias is None else bias,
            cos,
            sin,
            slopes,
            out,
            table,
            d**-0.5 * LOG2E,
            heads,
            d,
            rope is not None,
            alibi,
            bias is not None,
            *own,
            num_warps=4,
            num_stages=1,
            maxnreg=REGISTERS[blocks],
        )
    return out
