"""The ESM-2 network on the CPU, in fp32 or bf16, with fewer passes over memory than the stock one;
the same function of the same weights.

q, k and v in one product; RoPE as one complex multiplication in place (the rows of q and k are
reordered so that the two numbers it turns lie side by side; the product of q and k does not see
their order); one kernel for the erf GELU; residuals added in place; all but attention by blocks of
rows, so that what one product writes is in the cache when the next one reads it. Does not know how
weights are loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import layer_norm, linear

from virnucpro.models.attention import grouped_attention
from virnucpro.models.esm2_model import TOKEN_DROPOUT
from virnucpro.models.fast.layer_weights import affine, pairs_together
from virnucpro.models.packing import PackedBatch, row_blocks


class Layer(NamedTuple):
    """One layer's weights; each pair is (weight, bias)."""

    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: tuple[torch.Tensor, torch.Tensor]  # [3W, W], q | k | v
    out: tuple[torch.Tensor, torch.Tensor]
    ffn_norm: tuple[torch.Tensor, torch.Tensor]
    up: tuple[torch.Tensor, torch.Tensor]
    down: tuple[torch.Tensor, torch.Tensor]


class CpuEsm2:
    """The layers of an Esm2Model (or an EsmModel), rearranged; called with a packed batch, gives
    final hidden states [T, W].

    Takes over the weights of q, k and v, so that they are in memory once: `model` itself cannot be
    called any more.
    """

    def __init__(self, model: Any):
        config = model.config
        self.tokens = model.embeddings.word_embeddings.weight * TOKEN_DROPOUT
        self.inv_freq = model.rotary_embeddings.inv_freq
        self.final_norm = affine(model.encoder.emb_layer_norm_after)
        self.width, self.heads, self.eps = (
            config.hidden_size,
            config.num_attention_heads,
            config.layer_norm_eps,
        )
        self.layers = [self._rearranged(layer) for layer in model.encoder.layer]

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Final hidden states [T, hidden]."""
        x = self.tokens[batch.tokens]
        angles = batch.positions[:, None].float() * self.inv_freq
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]  # complex64 [T, 1, D/2]
        for layer in self.layers:
            mixed = self._attention(layer, x, turn, batch)
            for rows, attended in zip(row_blocks(x), row_blocks(mixed), strict=True):
                rows.add_(linear(attended, *layer.out))
                normed = layer_norm(rows, (self.width,), *layer.ffn_norm, self.eps)
                inner = torch.ops.aten.gelu_(linear(normed, *layer.up))
                rows.add_(linear(inner, *layer.down))
        return layer_norm(x, (self.width,), *self.final_norm, self.eps)

    def _attention(
        self, layer: Layer, x: torch.Tensor, turn: torch.Tensor, batch: PackedBatch
    ) -> torch.Tensor:
        weight, bias = layer.qkv
        qkv = x.new_empty(len(x), len(weight))
        for rows, out, angles in zip(*map(row_blocks, (x, qkv, turn)), strict=True):
            normed = layer_norm(rows, (self.width,), *layer.norm, self.eps)
            torch.addmm(bias, normed, weight.t(), out=out)
            both = out[:, : 2 * self.width].unflatten(1, (2 * self.heads, -1, 2))
            turned = both.float()  # in fp32 itself: no copy
            torch.view_as_complex(turned).mul_(angles)
            if turned is not both:
                both.copy_(turned)
        query, key, value = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)  # [T, H, D] each
        return grouped_attention(query, key, value, batch.groups, query.shape[-1] ** -0.5).flatten(
            1
        )

    def _rearranged(self, layer: Any) -> Layer:
        own, output = layer.attention.self, layer.attention.output.dense
        qkv, qkv_bias = (
            torch.cat(
                [
                    pairs_together(getattr(own.query, part), self.heads),
                    pairs_together(getattr(own.key, part), self.heads),
                    getattr(own.value, part),
                ]
            )
            for part in ("weight", "bias")
        )
        own.query = own.key = own.value = None
        return Layer(
            affine(layer.attention.LayerNorm),
            (qkv, qkv_bias),
            affine(output),
            affine(layer.LayerNorm),
            affine(layer.intermediate.dense),
            affine(layer.output.dense),
        )
