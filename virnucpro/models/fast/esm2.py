"""ESM-2 on NVIDIA GPUs: library products, and one Triton kernel for all that lies between two.

A layer: LayerNorm | q, k, v in one product | attention with bias, RoPE and scale | product
onto the residual | LayerNorm | product with bias and GELU | product onto the residual. Knows
weights and order; the kernels are in `kernels`, the plain path that it is tested against in
models/esm2.py.

A product onto the residual leaves no room for its bias. The biases of all residual branches so far
are therefore kept apart, as one fp32 row (`shift`) which the next LayerNorm adds: the same sum, and
no pass over the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from virnucpro.models.esm2_model import TOKEN_DROPOUT
from virnucpro.models.fast import kernels
from virnucpro.models.fast.layer_weights import (
    EsmLayerWeights,
    affine,
    esm_layer_weights,
    rope_tables,
    take_layers,
)
from virnucpro.models.packing import PackedBatch

UP_TILE: dict[str, Any] = {"block": (128, 256, 64), "num_stages": 4}
DOWN_TILE: dict[str, Any] = {"block": (128, 256, 64), "num_stages": 3}


class Space(NamedTuple):
    """Buffers of one batch, kept from batch to batch; `qkv` and `inner` share memory."""

    x: torch.Tensor  # [T, H], the residual
    small: torch.Tensor  # [T, H]
    qkv: torch.Tensor  # [T, 3H]
    inner: torch.Tensor  # [T, FFN]


Watch = Callable[[str, torch.Tensor], None]  # name of a product, its input


class FusedEsm2:
    """A forward for Esm2Encoder: a packed batch to final hidden states [T, H]. Takes the model's
    layers over.
    """

    def __init__(self, model: Any, longest: int):
        config, norm = model.config, model.encoder.emb_layer_norm_after
        self.heads, self.hidden, self.wide = (
            config.num_attention_heads,
            config.hidden_size,
            config.intermediate_size,
        )
        self.eps, self.final_norm = config.layer_norm_eps, affine(norm)
        self.tokens = model.embeddings.word_embeddings.weight * TOKEN_DROPOUT
        self.rope = rope_tables(model.rotary_embeddings.inv_freq, longest)
        self.hopper = torch.cuda.is_available() and torch.cuda.get_device_capability(
            norm.weight.device
        ) == (9, 0)
        self._space: Space | None = None
        self.layers: list[Any] = []  # as `prepare` gives them
        shift = torch.zeros(self.hidden, dtype=torch.float32, device=norm.weight.device)
        for layer in take_layers(model.encoder):
            weights = esm_layer_weights(layer, self.heads, shift)
            shift = weights.end_shift
            self.layers.append(self.prepare(weights))
        self._space = None

    def prepare(self, weights: EsmLayerWeights) -> Any:
        """A layer as it is kept."""
        return weights

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Final hidden states [T, hidden]."""
        return self.through(self.layer, self.layers, batch)

    def through(
        self, layer: Callable[[Any, Space, Any], None], layers: list, batch: PackedBatch
    ) -> torch.Tensor:
        """Final hidden states of `batch` by `layer(weights, space, spans)` for each of `layers`."""
        space = self.space(len(batch.tokens))
        torch.index_select(self.tokens, 0, batch.tokens, out=space.x)
        spans = kernels.spans(batch.lengths, space.x.device)
        for weights in layers:
            layer(weights, space, spans)
        return kernels.layer_norm(
            space.x,
            *self.final_norm,
            self.eps,
            torch.empty_like(space.x),
            shift=layers[-1].end_shift,
        )

    def space(self, rows: int) -> Space:
        """The buffers for T = `rows` tokens.

        Zero at first: attention leaves the rows behind the last sequence as they are, and they
        should stay finite.
        """
        if self._space is None or len(self._space.x) != rows:
            self._space = None  # its memory is free before new memory is taken
            wide = self.tokens.new_zeros(rows * max(3 * self.hidden, self.wide))
            self._space = Space(
                self.tokens.new_zeros(rows, self.hidden),
                self.tokens.new_zeros(rows, self.hidden),
                wide[: rows * 3 * self.hidden].view(rows, -1),
                wide[: rows * self.wide].view(rows, -1),
            )
        return self._space

    def layer(self, w: Any, space: Space, spans: Any) -> None:
        """space.x <- layer(space.x); the other buffers are scratch."""
        self.layer_in_16_bits(w, space, spans, _unwatched)

    def layer_in_16_bits(self, w: EsmLayerWeights, space: Space, spans: Any, watch: Watch) -> None:
        """As `layer`, in the compute dtype; `watch` sees what goes into each product."""
        x, small, qkv, inner = space
        kernels.layer_norm(x, *w.norm, self.eps, small, shift=w.shift)
        watch("qkv", small)
        torch.mm(small, w.qkv.t(), out=qkv)
        kernels.attention(qkv, small, spans, self.heads, bias=w.qkv_bias, rope=self.rope)
        watch("out", small)
        x.addmm_(small, w.out.t())
        kernels.layer_norm(x, *w.ffn_norm, self.eps, small, shift=w.ffn_shift)
        watch("up", small)
        if self.hopper:
            kernels.product(small, w.up, inner, bias=w.up_bias, gelu=True, **UP_TILE)
        else:
            torch.mm(small, w.up.t(), out=inner)
            kernels.gelu_(inner, w.up_bias)
        watch("down", inner)
        if self.hopper:
            kernels.product(inner, w.down, x, residual=x, **DOWN_TILE)
        else:
            x.addmm_(inner, w.down.t())


def _unwatched(name: str, values: torch.Tensor) -> None:
    pass
