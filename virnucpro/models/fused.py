"""The fast path of both encoders on NVIDIA GPUs: library products, and one Triton kernel for all that lies between two.

ESM-2, a layer: LayerNorm | q, k, v in one product | attention with bias, RoPE and scale | product onto the residual |
LayerNorm | product | bias and GELU | product onto the residual. Knows weights and order; the kernels are in kernels.py,
the plain path it is tested against in esm2.py and dnabert_s.py.

A product adds to the residual inside the library (beta = 1), which leaves no room for its bias. The biases of all
residual branches so far are therefore kept apart, as one fp32 row (`shift`) that the next LayerNorm adds: the same sum.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from virnucpro.models import kernels


@dataclass(frozen=True, slots=True)
class EsmLayerWeights:
    """One layer's weights in the compute dtype; `shift_*` fp32 [H]: residual biases that came before each LayerNorm."""

    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: torch.Tensor  # [3H, H], q | k | v
    qkv_bias: torch.Tensor
    out: torch.Tensor
    ffn_norm: tuple[torch.Tensor, torch.Tensor]
    up: torch.Tensor
    up_bias: torch.Tensor
    down: torch.Tensor
    shift: torch.Tensor
    ffn_shift: torch.Tensor


def esm_layers(layers, heads: int) -> tuple[list[EsmLayerWeights], torch.Tensor]:
    """The weights of stock EsmLayers, rearranged, and the shift before the final LayerNorm. Copies q, k and v only."""
    first = layers[0].attention.self.query.weight
    shift = torch.zeros(first.shape[0], dtype=torch.float32, device=first.device)
    found = []
    for layer in layers:
        own, output = layer.attention.self, layer.attention.output.dense
        qkv, qkv_bias = (torch.cat([kernels.pairs_together(getattr(own.query, part), heads),
                                    kernels.pairs_together(getattr(own.key, part), heads),
                                    getattr(own.value, part)]) for part in ("weight", "bias"))
        middle = shift + output.bias.float()
        found.append(EsmLayerWeights(
            (layer.attention.LayerNorm.weight, layer.attention.LayerNorm.bias), qkv, qkv_bias, output.weight,
            (layer.LayerNorm.weight, layer.LayerNorm.bias), layer.intermediate.dense.weight,
            layer.intermediate.dense.bias, layer.output.dense.weight, shift, middle))
        shift = middle + layer.output.dense.bias.float()
    return found, shift


def rope_tables(inv_freq: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of position times frequency, fp32 [longest, D/2]."""
    angles = torch.arange(longest, device=inv_freq.device).float()[:, None] * inv_freq.float()[None, :]
    return angles.cos(), angles.sin()


class FusedEsm2:
    """The stack of ESM-2 layers: residual stream in, final hidden states out."""

    def __init__(self, layers, heads: int, inv_freq: torch.Tensor, final_norm, eps: float, longest: int = 1024):
        self.layers, self.final_shift = esm_layers(layers, heads)
        self.heads, self.eps, self.final_norm = heads, eps, final_norm
        self.gelu_in_product = True
        self.rope = rope_tables(inv_freq, longest)
        self.hidden, self.wide = self.layers[0].out.shape[0], self.layers[0].up.shape[0]
        self._space: dict[int, tuple[torch.Tensor, ...]] = {}

    def workspace(self, tokens: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(small [T, H], wide [T, max(3H, FFN)]) buffers, made once a size; zero so that unused rows stay finite."""
        if tokens not in self._space:
            self._space = {tokens: (like.new_zeros(tokens, self.hidden),
                                    like.new_zeros(tokens * max(3 * self.hidden, self.wide)))}
        return self._space[tokens]

    def __call__(self, x: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
        """x [T, H], overwritten; sequences of `lengths` lie in it from the start, rows behind them mean nothing."""
        spans = kernels.spans(lengths).to(x.device, non_blocking=True)
        small, wide = self.workspace(x.shape[0], x)
        for layer in self.layers:
            self.layer(layer, x, small, wide, spans)
        return kernels.layer_norm(x, *self.final_norm, self.eps, small, shift=self.final_shift)

    def layer(self, w: EsmLayerWeights, x, small, wide, spans) -> None:
        rows = x.shape[0]
        qkv = wide[:rows * 3 * self.hidden].view(rows, -1)
        inner = wide[:rows * self.wide].view(rows, -1)
        kernels.layer_norm(x, *w.norm, self.eps, small, shift=w.shift)
        torch.mm(small, w.qkv.t(), out=qkv)
        kernels.attention(qkv, small, spans, self.heads, bias=w.qkv_bias, rope=self.rope)
        x.addmm_(small, w.out.t())
        kernels.layer_norm(x, *w.ffn_norm, self.eps, small, shift=w.ffn_shift)
        if self.gelu_in_product:
            kernels.product(small, w.up, inner, bias=w.up_bias, gelu=True, block=(128, 256, 64))
        else:
            torch.mm(small, w.up.t(), out=inner)
            kernels.gelu_(inner, w.up_bias)
        x.addmm_(inner, w.down.t())


class FusedDnabert:
    """The stack of DNABERT-S layers."""

    def __init__(self, layers, heads: int, slopes: torch.Tensor, eps: float):
        self.layers, self.heads, self.slopes, self.eps = layers, heads, slopes.float(), eps
        self._space: dict[int, tuple[torch.Tensor, ...]] = {}

    def workspace(self, tokens: int, like: torch.Tensor, width: int, wide: int) -> tuple[torch.Tensor, ...]:
        if tokens not in self._space:
            self._space = {tokens: (like.new_zeros(tokens, 3 * width), like.new_zeros(tokens, width),
                                    like.new_zeros(tokens, width), like.new_zeros(tokens, 2 * wide),
                                    like.new_zeros(tokens, wide))}
        return self._space[tokens]

    def __call__(self, x: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
        spans = kernels.spans(lengths).to(x.device, non_blocking=True)
        wide = self.layers[0].mlp["wo"].weight.shape[1]
        qkv, mixed, branch, gated, inner = self.workspace(x.shape[0], x, x.shape[1], wide)
        for layer in self.layers:
            own, output, mlp = layer.attention["self"]["Wqkv"], layer.attention["output"], layer.mlp
            torch.mm(x, own.weight.t(), out=qkv)
            kernels.attention(qkv, mixed, spans, self.heads, bias=own.bias, slopes=self.slopes)
            torch.mm(mixed, output["dense"].weight.t(), out=branch)
            norm = output["LayerNorm"]
            kernels.layer_norm(x, norm.weight, norm.bias, self.eps, x, delta=branch, shift=output["dense"].bias)
            torch.mm(x, mlp["gated_layers"].weight.t(), out=gated)
            kernels.gated_gelu(gated, inner)
            torch.mm(inner, mlp["wo"].weight.t(), out=branch)
            norm = mlp["layernorm"]
            kernels.layer_norm(x, norm.weight, norm.bias, self.eps, x, delta=branch, shift=mlp["wo"].bias)
        return x
