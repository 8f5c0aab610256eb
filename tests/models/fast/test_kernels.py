"""Each kernel against the same mathematics in fp32 torch.

Needs an NVIDIA GPU, or triton with TRITON_INTERPRET=1 (slow; its interpreter mixes up bf16, so fp16
there).
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="needs triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("needs an NVIDIA GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from virnucpro.models.fast import esm2 as fused  # noqa: E402
from virnucpro.models.fast import kernels  # noqa: E402
from virnucpro.models.fast.layer_weights import pairs_together, quantize_weight, rope_tables  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
TYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
LENGTHS = (1, 5, 64, 70, 130, 192, 193, 300)
hopper = pytest.mark.skipif(
    not INTERPRETED and torch.cuda.get_device_capability() != (9, 0),
    reason="tiles are tuned for Hopper GPUs",
)


@pytest.fixture
def normal():
    generator = torch.Generator(DEVICE).manual_seed(0)
    return lambda *shape, dtype=torch.float32: torch.randn(
        *shape, generator=generator, device=DEVICE
    ).to(dtype)


def off_by(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted).norm() / wanted.norm()).item()


def tolerance(dtype: torch.dtype) -> float:
    return 1e-3 if dtype == torch.float16 else 6e-3


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_attention_on_cuda(normal, dtype, width, kind):
    heads = 2
    hidden, tokens = heads * width, sum(LENGTHS) + 10
    qkv, bias = normal(tokens, 3 * hidden, dtype=dtype), normal(3 * hidden, dtype=dtype)
    rope = (
        rope_tables(1e4 ** -(torch.arange(0, width, 2, device=DEVICE) / width), 512)
        if kind == "rope"
        else None
    )
    slopes = None if rope else torch.tensor([0.5, 0.0625], device=DEVICE)
    wanted = plain_attention(qkv.float() + bias.float(), heads, rope, slopes)
    if rope:
        query, key, value = qkv.chunk(3, dim=1)
        qkv = torch.cat(
            [pairs_together(query.t(), heads).t(), pairs_together(key.t(), heads).t(), value], dim=1
        ).contiguous()
        bias = torch.cat(
            [pairs_together(part, heads) if i < 2 else part for i, part in enumerate(bias.chunk(3))]
        )
    found = torch.full((tokens, hidden), 7.0, dtype=dtype, device=DEVICE)
    kernels.attention(
        qkv, found, kernels.spans(LENGTHS, DEVICE), heads, bias=bias, rope=rope, slopes=slopes
    )
    used = sum(LENGTHS)
    assert off_by(found[:used], wanted[:used]) < tolerance(dtype)
    assert (found[used:] == 7).all()  # rows behind the sequences stay as they are


def test_empty_sequences_are_nothing_to_attention_on_cuda(normal):
    heads, width, tokens = 2, 16, sum(LENGTHS) + 10
    qkv, bias = (
        normal(tokens, 3 * heads * width, dtype=torch.float16),
        normal(3 * heads * width, dtype=torch.float16),
    )
    slopes = torch.tensor([0.5, 0.0625], device=DEVICE)
    spans, found = kernels.spans(LENGTHS, DEVICE), []
    for tables in (spans, [(kind, functional.pad(table, (0, 0, 0, 3))) for kind, table in spans]):
        out = torch.full((tokens, heads * width), 7.0, dtype=torch.float16, device=DEVICE)
        found.append(kernels.attention(qkv, out, tables, heads, bias=bias, slopes=slopes))
    assert {kind for kind, _ in spans} == {0, 1, 2, 3}
    assert torch.equal(*found)


def plain_attention(qkv: torch.Tensor, heads: int, rope, slopes) -> torch.Tensor:
    out, start = torch.zeros(len(qkv), qkv.shape[1] // 3, device=qkv.device), 0
    for length in LENGTHS:
        query, key, value = qkv[start : start + length].view(length, 3, heads, -1).unbind(1)
        if rope:
            query, key = (turn(x, *(table[:length, None] for table in rope)) for x in (query, key))
        score = torch.einsum("ihd,jhd->hij", query, key) * query.shape[-1] ** -0.5
        if slopes is not None:
            place = torch.arange(length, device=qkv.device)
            score -= slopes[:, None, None] * (place[:, None] - place[None]).abs()
        out[start : start + length] = torch.einsum(
            "hij,jhd->ihd", score.softmax(-1), value
        ).flatten(1)
        start += length
    return out


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [64, 320, 2560])
def test_layer_norm_on_cuda(normal, dtype, width):
    x, delta, weight, bias = (
        normal(*shape, dtype=dtype) for shape in ((9, width), (9, width), (width,), (width,))
    )
    shift = normal(width)
    wanted = functional.layer_norm(
        x.float() + delta.float() + shift, (width,), weight.float(), bias.float(), 1e-5
    )
    found = kernels.layer_norm(x, weight, bias, 1e-5, torch.empty_like(x), delta=delta, shift=shift)
    assert off_by(found, wanted) < tolerance(dtype)
    rounded, step = (
        torch.empty(9, width, dtype=torch.int8, device=DEVICE),
        torch.empty(9, device=DEVICE),
    )
    kernels.layer_norm(x, weight, bias, 1e-5, rounded, delta=delta, shift=shift, scale=step)
    assert ((rounded * step[:, None] - wanted).abs() <= 0.51 * step[:, None]).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_gelu_on_cuda(normal, dtype):
    x, bias = 3 * normal(7, 640, dtype=dtype), normal(640, dtype=dtype)
    assert off_by(
        kernels.gelu_(x.clone(), bias), functional.gelu(x.float() + bias.float())
    ) < tolerance(dtype)
    far = torch.linspace(-30, 30, 640, device=DEVICE)[None].contiguous()
    assert (
        (kernels.gelu_(far.clone()) - functional.gelu(far)).abs() / far.abs().clamp_min(1)
    ).max() < 6e-5
    gated = kernels.gated_gelu(x, torch.empty(7, 320, dtype=dtype, device=DEVICE))
    assert off_by(gated, functional.gelu(x[:, :320].float()) * x[:, 320:].float()) < tolerance(
        dtype
    )


@pytest.mark.parametrize("width", [64, 320, 10240])
def test_rounded_rows_on_cuda(normal, width):
    x = normal(5, width, dtype=torch.float16)
    x[3] = 0
    rounded, step = kernels.quantize_rows(
        x, torch.empty(5, width, dtype=torch.int8, device=DEVICE), torch.empty(5, device=DEVICE)
    )
    assert ((rounded * step[:, None] - x.float()).abs() <= 0.51 * step[:, None]).all()
    assert rounded.abs().max() == 127


@hopper
@pytest.mark.parametrize("rows, columns, inner", [(256, 256, 256), (200, 192, 320)])
@pytest.mark.parametrize("end", ["bias", "gelu", "residual"])
def test_product_on_cuda(normal, rows, columns, inner, end):
    a, b, out = (
        normal(rows, inner),
        normal(columns, inner),
        torch.empty(rows, columns, dtype=torch.float16, device=DEVICE),
    )
    bias, residual = (
        normal(columns, dtype=torch.float16),
        normal(rows, columns, dtype=torch.float16),
    )
    given = {
        "bias": {"bias": bias},
        "gelu": {"bias": bias, "gelu": True},
        "residual": {"residual": residual},
    }[end]
    finish = {
        "bias": lambda y: y + bias,
        "gelu": lambda y: functional.gelu(y + bias),
        "residual": lambda y: y + residual,
    }[end]
    # a residual beside four stages is more than a multiprocessor holds
    tile = fused.DOWN_TILE if end == "residual" else fused.UP_TILE
    sixteen = kernels.product(a.half(), b.half(), out, **given, **tile)
    assert off_by(sixteen, finish(a.half().float() @ b.half().float().t())) < 1e-3
    weight, step = quantize_weight(b), torch.empty(rows, device=DEVICE)
    a8, _ = kernels.quantize_rows(
        a.half(), torch.empty(rows, inner, dtype=torch.int8, device=DEVICE), step
    )
    eight = kernels.product(
        a8,
        weight.values,
        out,
        scales=(step, weight.step),
        **given,
        block=(128, 128, 128),
        num_warps=4,
        num_stages=3,
    )
    exact = (a8.double() @ weight.values.double().t()).float() * step[:, None] * weight.step
    assert off_by(eight, finish(exact)) < 1e-3
