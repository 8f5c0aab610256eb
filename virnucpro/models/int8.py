"""ESM-2's layers with 8-bit products: weights and activations as int8, a step a row each, sums in int32.

Row-wise and dynamic: every row of activations is scaled by its own largest value, so a sequence does not depend on its
neighbours. Everything between the products is as in fused.py, in 16 bits and fp32.
"""
from __future__ import annotations

import torch

from virnucpro.models import kernels
from virnucpro.models.fused import FusedEsm2

TILE = {"block": (128, 128, 128), "flatten": False, "persistent": 0, "num_warps": 4, "num_stages": 3}


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [N, K] and its step fp32 [N], from a weight [N, K]: w ~ int8 * step."""
    step = weight.float().abs().amax(dim=1).clamp_min(1e-10) / 127.0
    return (weight.float() / step[:, None]).round().to(torch.int8), step


class Int8Esm2(FusedEsm2):
    """FusedEsm2 with int8 products; the first argument's weights may be freed afterwards."""

    def __init__(self, layers, heads, inv_freq, final_norm, eps, longest: int = 1024, out8: bool = True,
                 centred: bool = True):
        super().__init__(layers, heads, inv_freq, final_norm, eps, longest)
        self.out8, self.centred = out8, centred
        self.quantized = [{name: quantize_weight(getattr(w, name)) for name in ("qkv", "out", "up", "down")}
                          for w in self.layers]
        for q in self.quantized:
            q["down_sum"] = q["down"][0].sum(1, dtype=torch.int32).float() * q["down"][1]
        self.position = {id(w): i for i, w in enumerate(self.layers)}
        self._small8: dict[int, tuple[torch.Tensor, ...]] = {}

    def small8(self, rows: int, device):
        if rows not in self._small8:
            self._small8 = {rows: (torch.zeros(rows, self.hidden, dtype=torch.int8, device=device),
                                   torch.zeros(rows, self.wide, dtype=torch.int8, device=device),
                                   torch.zeros(rows, dtype=torch.float32, device=device),
                                   torch.zeros(rows, dtype=torch.float32, device=device))}
        return self._small8[rows]

    def layer(self, w, x, small, wide, spans) -> None:
        rows = x.shape[0]
        qkv = wide[:rows * 3 * self.hidden].view(rows, -1)
        inner = wide[:rows * self.wide].view(rows, -1)
        small8, wide8, scale, centre = self.small8(rows, x.device)
        q = self.quantized[self.position[id(w)]]
        kernels.layer_norm(x, *w.norm, self.eps, small8, shift=w.shift, scale=scale)
        kernels.product(small8, q["qkv"][0], qkv, scales=(scale, q["qkv"][1]), **TILE)
        kernels.attention(qkv, small, spans, self.heads, bias=w.qkv_bias, rope=self.rope)
        if self.out8:
            kernels.quantize_rows(small, small8, scale)
            kernels.product(small8, q["out"][0], x, scales=(scale, q["out"][1]), residual=x, **TILE)
        else:
            x.addmm_(small, w.out.t())
        kernels.layer_norm(x, *w.ffn_norm, self.eps, small8, shift=w.ffn_shift, scale=scale)
        kernels.product(small8, q["up"][0], inner, bias=w.up_bias, scales=(scale, q["up"][1]), gelu=True, **TILE)
        middle = (centre, q["down_sum"]) if self.centred else None
        kernels.quantize_rows(inner, wide8, scale, centre if self.centred else None)
        kernels.product(wide8, q["down"][0], x, scales=(scale, q["down"][1]), centre=middle, residual=x, **TILE)
