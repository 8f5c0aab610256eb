"""Weights of the stock layers in the order, and in the number format, that the fast path multiplies
them in.

Knows the stock layers' parts; plain torch, no kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class EsmLayerWeights:
    """One layer in the compute dtype.

    The shifts are fp32 [H]: residual biases before each LayerNorm, and after all.
    """

    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: torch.Tensor  # [3H, H], q | k | v, RoPE's pairs side by side
    qkv_bias: torch.Tensor
    out: torch.Tensor
    ffn_norm: tuple[torch.Tensor, torch.Tensor]
    up: torch.Tensor
    up_bias: torch.Tensor
    down: torch.Tensor
    shift: torch.Tensor
    ffn_shift: torch.Tensor
    end_shift: torch.Tensor


def esm_layer_weights(layer: Any, heads: int, shift: torch.Tensor) -> EsmLayerWeights:
    """The weights of a stock EsmLayer, rearranged; q, k and v are copied, the others shared."""
    own, output = layer.attention.self, layer.attention.output.dense
    qkv, qkv_bias = (
        torch.cat(
            [
                pairs_together(getattr(own.query, part), heads),
                pairs_together(getattr(own.key, part), heads),
                getattr(own.value, part),
            ]
        )
        for part in ("weight", "bias")
    )
    ffn_shift = shift + output.bias.float()
    return EsmLayerWeights(
        affine(layer.attention.LayerNorm),
        qkv,
        qkv_bias,
        output.weight,
        affine(layer.LayerNorm),
        layer.intermediate.dense.weight,
        layer.intermediate.dense.bias,
        layer.output.dense.weight,
        shift,
        ffn_shift,
        ffn_shift + layer.output.dense.bias.float(),
    )


def take_layers(holder: Any) -> Iterator[Any]:
    """The layers of `holder.layer`, which gives them up one by one: no weight stays on the device
    twice.
    """
    layers = list(holder.layer)
    holder.layer = torch.nn.ModuleList()
    while layers:
        yield layers.pop(0)


def pairs_together(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a q or k weight (or bias) [H, ...] so that RoPE's pairs (i, i + D/2) of each head
    become neighbours.

    Products of q with k do not change when the columns of both are put in another order.
    """
    d = weight.shape[0] // heads
    return weight.unflatten(0, (heads, 2, d // 2)).transpose(1, 2).reshape(weight.shape)


def rope_tables(inv_freq: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of position times frequency, fp32 [longest, D/2]."""
    angles = (
        torch.arange(longest, device=inv_freq.device).float()[:, None] * inv_freq.float()[None, :]
    )
    return angles.cos(), angles.sin()


def affine(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a norm or a linear layer."""
    return module.weight, module.bias


@dataclass(frozen=True, slots=True)
class Quantized:
    """w [N, K] ~ values int8 * step fp32 [N]."""

    values: torch.Tensor
    step: torch.Tensor


def quantize_weight(weight: torch.Tensor) -> Quantized:
    """[N, K] to int8, each row scaled by its own largest value."""
    step = weight.float().abs().amax(dim=1).clamp_min(1e-10) / 127.0
    return Quantized((weight.float() / step[:, None]).round().to(torch.int8), step)


def correction(weight: torch.Tensor, quantized: Quantized, mean: torch.Tensor) -> torch.Tensor:
    """What `quantized` lacks on the mean input [K]: fp32 [N]."""
    return (weight.float() - quantized.values.float() * quantized.step[:, None]) @ mean
