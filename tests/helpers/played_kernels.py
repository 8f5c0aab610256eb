"""The Triton kernels by plain torch, so that the order in which the fast path calls them is tested
where there is neither a GPU nor Triton. Signatures and meaning as in models/fast/kernels.
"""

from __future__ import annotations

import torch
from torch.nn import functional

LONGEST_RESIDENT = 192  # tokens; longer sequences are another kernel's


def spans(lengths, device):
    table, start = {0: [], 1: []}, 0
    for length in lengths:
        table[int(length <= LONGEST_RESIDENT)].append((start, length))
        start += length
    return tuple(
        (kind, torch.tensor(rows, dtype=torch.int32, device=device))
        for kind, rows in table.items()
        if rows
    )


def attention(qkv, out, spans, heads, *, bias=None, rope=None, slopes=None):
    width = out.shape[1] // heads
    for _, table in spans:
        for start, length in table.tolist():
            if length == 0:
                continue
            rows = qkv[start : start + length].float()
            if bias is not None:
                rows = rows + bias.float()
            q, k, v = rows.view(length, 3, heads, width).permute(1, 2, 0, 3)  # [heads, length, D]
            if rope is not None:
                cos, sin = (part[:length] for part in rope)
                q, k = (_turned(x, cos, sin) for x in (q, k))
            score = q @ k.transpose(1, 2) * width**-0.5
            if slopes is not None:
                place = torch.arange(length)
                score = score - slopes[:, None, None] * (place[:, None] - place[None]).abs()
            mixed = score.softmax(-1) @ v
            out[start : start + length] = mixed.transpose(0, 1).reshape(length, -1).to(out.dtype)
    return out


def _turned(x, cos, sin):
    """RoPE of pairs that lie side by side."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def layer_norm(x, weight, bias, eps, out, *, delta=None, shift=None, scale=None, num_warps=4):
    row = x.float()
    row = row if delta is None else row + delta.float()
    row = row if shift is None else row + shift.float()
    row = functional.layer_norm(row, row.shape[-1:], weight.float(), bias.float(), eps)
    if scale is not None:
        quantize_rows(row, out, scale)
    else:
        out.copy_(row)
    return out


def quantize_rows(x, out, scale, num_warps=None):
    scale.copy_(x.float().abs().amax(1).clamp_min(1e-10) / 127)
    out.copy_((x.float() / scale[:, None]).round())
    return out, scale


def gelu_(x, bias):
    return x.copy_(functional.gelu(x.float() + bias.float()))


def gated_gelu(gated, out):
    gate, up = gated.float().chunk(2, dim=1)
    return out.copy_(functional.gelu(gate) * up)


def product(a, b, out, *, bias=None, scales=None, gelu=False, residual=None, **_):
    found = a.float() @ b.float().t()
    if scales is not None:
        found = found * scales[0][:, None] * scales[1]
    if bias is not None:
        found = found + bias.float()
    if gelu:
        found = functional.gelu(found)
    if residual is not None:
        found = found + residual.float()
    return out.copy_(found)
