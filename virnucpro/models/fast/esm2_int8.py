"""ESM-2 with 8-bit products: weights and activations as int8, a step a row each, sums in int32.

Row-wise, symmetric and dynamic: every row of activations is scaled by its own largest value, so a
sequence does not depend on its neighbours. Everything between the products is as in esm2.py, in 16
bits and fp32.

A rounded weight errs the same way for every token, which a mean over tokens does not average out.
What it errs by on the mean input is added back to the bias; the means come from random proteins
sent through the 16-bit layers at load. What is then left averages out over the residues of a
protein, and a very short one has too few: the 16-bit layers are kept for those (models/esm2.py says
which).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from virnucpro.models.fast import kernels
from virnucpro.models.fast.esm2 import FusedEsm2, Space
from virnucpro.models.fast.layer_weights import (
    EsmLayerWeights,
    Quantized,
    correction,
    quantize_weight,
)
from virnucpro.models.packing import PackedBatch

# two programs a multiprocessor
SMALL_TILE: dict[str, Any] = {"block": (128, 128, 128), "num_warps": 4, "num_stages": 3}
TILES: dict[str, dict[str, Any]] = {
    "qkv": SMALL_TILE | {"flatten": True, "persistent": 2},
    "up": SMALL_TILE | {"flatten": True, "persistent": 2},
    "out": {
        "block": (128, 256, 128),
        "num_warps": 8,
        "num_stages": 3,
        "flatten": True,
        "persistent": 1,
    },
    "down": SMALL_TILE | {"flatten": False, "persistent": 0, "group": 16},
}
CALIBRATION = (24, 168)  # sequences, tokens each
# Share of each residue among proteins (UniProt), in the order of ESM-2's ids 4 to 23.
RESIDUES = "LAGVSERTIDPKQNFYMHWC"
SHARES = (
    9.65,
    8.26,
    7.07,
    6.87,
    6.61,
    6.74,
    5.53,
    5.35,
    5.93,
    5.46,
    4.72,
    5.82,
    3.93,
    4.06,
    3.86,
    2.92,
    2.41,
    2.27,
    1.10,
    1.38,
)


@dataclass(frozen=True, slots=True)
class Int8LayerWeights:
    """As EsmLayerWeights, with int8 products and the corrections in biases (fp32) and shifts."""

    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: Quantized
    qkv_bias: torch.Tensor
    out: Quantized
    ffn_norm: tuple[torch.Tensor, torch.Tensor]
    up: Quantized
    up_bias: torch.Tensor
    down: Quantized
    shift: torch.Tensor
    ffn_shift: torch.Tensor
    end_shift: torch.Tensor


class Int8Esm2(FusedEsm2):
    """A forward for Esm2Encoder with int8 products, and another in 16 bits.

    Takes the model's layers over.
    """

    def __init__(self, model: Any, longest: int):
        self._space8: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._state: dict[str, torch.Tensor] = {}
        self.layers16: list[EsmLayerWeights] = []
        super().__init__(model, longest)
        self._state = {}

    def in_16_bits(self, batch: PackedBatch) -> torch.Tensor:
        """As a call, without rounding to int8."""
        return self.through(super().layer, self.layers16, batch)

    def prepare(self, w: EsmLayerWeights) -> Int8LayerWeights:
        """Quantize a layer, and send the calibrating proteins through its 16-bit form for the next
        one.
        """
        count, length = CALIBRATION
        space = self.space(count * length)
        if not self._state:
            space.x.copy_(self.tokens[calibrating_tokens(count, length).to(space.x.device)])
            self._state["extra"] = torch.zeros_like(w.shift)
        means: dict[str, torch.Tensor] = {}
        self.layer_in_16_bits(
            w,
            space,
            kernels.spans((length,) * count, space.x.device),
            watch=lambda name, values: means.update({name: values.mean(0, dtype=torch.float32)}),
        )
        found = {name: quantize_weight(getattr(w, name)) for name in means}
        lacks = {name: correction(getattr(w, name), found[name], means[name]) for name in means}
        before = self._state["extra"]
        middle = before + lacks["out"]
        self._state["extra"] = after = middle + lacks["down"]
        self.layers16.append(w)
        return Int8LayerWeights(
            w.norm,
            found["qkv"],
            w.qkv_bias.float() + lacks["qkv"],
            found["out"],
            w.ffn_norm,
            found["up"],
            w.up_bias.float() + lacks["up"],
            found["down"],
            w.shift + before,
            w.ffn_shift + middle,
            w.end_shift + after,
        )

    def layer(self, w: Any, space: Space, spans: Any) -> None:
        """As in 16 bits, with the products in int8; w: Int8LayerWeights."""
        (norm, norm_bias), (ffn_norm, ffn_bias) = w.norm, w.ffn_norm
        x, small, qkv, inner = space
        small8, inner8, scale = self.space8(x, inner)
        kernels.layer_norm(x, norm, norm_bias, self.eps, small8, shift=w.shift, scale=scale)
        _product("qkv", w.qkv, small8, scale, qkv)
        kernels.attention(qkv, small, spans, self.heads, bias=w.qkv_bias, rope=self.rope)
        kernels.quantize_rows(small, small8, scale)
        _product("out", w.out, small8, scale, x, residual=x)
        kernels.layer_norm(x, ffn_norm, ffn_bias, self.eps, small8, shift=w.ffn_shift, scale=scale)
        _product("up", w.up, small8, scale, inner, bias=w.up_bias, gelu=True)
        kernels.quantize_rows(inner, inner8, scale)
        _product("down", w.down, inner8, scale, x, residual=x)

    def space8(
        self, x: torch.Tensor, inner: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Buffers for int8 rows [T, H] and [T, FFN], and their steps."""
        if self._space8 is None or len(self._space8[0]) != len(x):
            self._space8 = None
            self._space8 = (
                torch.zeros_like(x, dtype=torch.int8),
                torch.zeros_like(inner, dtype=torch.int8),
                x.new_zeros(len(x), dtype=torch.float32),
            )
        return self._space8


def _product(name: str, weight: Quantized, rows, scale, out, **epilogue) -> None:
    kernels.product(
        rows, weight.values, out, scales=(scale, weight.step), **TILES[name], **epilogue
    )


def calibrating_tokens(count: int, length: int) -> torch.Tensor:
    """`count` random proteins of `length` tokens end to end, always the same: int64 [count *
    length].
    """
    shares = np.array(SHARES) / sum(SHARES)
    tokens = np.random.default_rng(2).choice(np.arange(4, 24), size=(count, length), p=shares)
    tokens[:, 0], tokens[:, -1] = 0, 2
    return torch.from_numpy(tokens.reshape(-1))
