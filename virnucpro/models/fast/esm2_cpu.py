"""The ESM-2 network on the CPU, with fewer passes over memory than the stock one; the same function
of the same weights.

q, k and v in one product; RoPE as one complex multiplication in place (the rows of q and k are
reordered so that the two numbers it turns lie side by side; the product of q and k does not see
their order); one kernel for the erf GELU; residuals added in place. Does not know how weights are
loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import gelu, layer_norm, linear

from virnucpro.models.attention import grouped_attention
from virnucpro.models.packing import PackedBatch


class Layer(NamedTuple):
    """One layer's weights; each pair is (weight, bias)."""

    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: tuple[torch.Tensor, torch.Tensor]  # [3W, W], q | k | v
    out: tuple[torch.Tensor, torch.Tensor]
    ffn_norm: tuple[torch.Tensor, torch.Tensor]
    up: tuple[torch.Tensor, torch.Tensor]
    down: tuple[torch.Tensor, torch.Tensor]


class CpuEsm2:
    """A stock EsmModel's layers, rearranged; called with a packed batch, gives final hidden states
    [T, W].

    Takes over the weights of q, k and v, so that they are in memory once: `model` itself cannot be
    called any more.
    """

    def __init__(self, model: Any):
        config = model.config
        self.embeddings, self.rotary, self.final_norm = (
            model.embeddings,
            model.rotary_embeddings,
            model.encoder.emb_layer_norm_after,
        )
        self.width, self.heads, self.eps = (
            config.hidden_size,
            config.num_attention_heads,
            config.layer_norm_eps,
        )
        self.layers = [self._rearranged(layer) for layer in model.encoder.layer]

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        x = self.embeddings(batch.tokens[None], position_ids=batch.positions[None])[0]
        angles = batch.positions[:, None].float() * self.rotary.inv_freq
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]  # complex64 [T, 1, D/2]
        for layer in self.layers:
            x.add_(linear(self._attention(layer, x, turn, batch), *layer.out))
            inner = linear(layer_norm(x, (self.width,), *layer.ffn_norm, self.eps), *layer.up)
            x.add_(linear(gelu(inner), *layer.down))
        return self.final_norm(x)

    def _attention(
        self, layer: Layer, x: torch.Tensor, turn: torch.Tensor, batch: PackedBatch
    ) -> torch.Tensor:
        qkv = linear(layer_norm(x, (self.width,), *layer.norm, self.eps), *layer.qkv)
        heads = qkv.unflatten(1, (3 * self.heads, -1))  # [T, 3H, D]
        turned = heads[:, : 2 * self.heads].float()  # in fp32 itself: no copy
        torch.view_as_complex(turned.unflatten(2, (-1, 2))).mul_(turn)
        query, key = turned.to(heads.dtype).split(self.heads, dim=1)
        value = heads[:, 2 * self.heads :]
        return grouped_attention(query, key, value, batch.groups, query.shape[-1] ** -0.5).flatten(
            1
        )

    def _rearranged(self, layer: Any) -> Layer:
        own, output = layer.attention.self, layer.attention.output.dense
        side_by_side = torch.arange(self.width).view(self.heads, 2, -1).transpose(1, 2).flatten()
        q, k, v = own.query, own.key, own.value
        qkv = (
            torch.cat([q.weight[side_by_side], k.weight[side_by_side], v.weight]),
            torch.cat([q.bias[side_by_side], k.bias[side_by_side], v.bias]),
        )
        own.query = own.key = own.value = None
        return Layer(
            _pair(layer.attention.LayerNorm),
            qkv,
            _pair(output),
            _pair(layer.LayerNorm),
            _pair(layer.intermediate.dense),
            _pair(layer.output.dense),
        )


def _pair(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight, module.bias
