"""The fast path of both encoders on NVIDIA GPUs: library products, and one Triton kernel for all
that lies between two.

ESM-2, a layer: LayerNorm | q, k, v in one product | attention with bias, RoPE and scale | product
onto the residual | LayerNorm | product with bias and GELU | product onto the residual. Knows
weights and order; the kernels are in kernels.py, the plain path that it is tested against in
esm2.py and dnabert_s.py.

A product onto the residual leaves no room for its bias. The biases of all residual branches so far
are therefore kept apart, as one fp32 row (`shift`) which the next LayerNorm adds: the same sum, and
no pass over the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from virnucpro.models.fast import kernels
from virnucpro.models.fast.cuda_graphs import ROWS, Graphs, Recorder, apart, even_tables
from virnucpro.models.fast.layer_weights import (
    EsmLayerWeights,
    esm_layer_weights,
    norm_weights,
    rope_tables,
    take_layers,
)
from virnucpro.models.packing import PackedBatch

# ESM-2 scales its token embeddings by the share that training did not mask
TOKEN_DROPOUT = 1.0 - 0.15 * 0.8
UP_TILE = {"block": (128, 256, 64), "num_stages": 4}
DOWN_TILE = {"block": (128, 256, 64), "num_stages": 3}


class FusedEsm2:
    """A forward for Esm2Encoder: a packed batch to final hidden states [T, H]. Takes the model's
    layers over.
    """

    def __init__(self, model: torch.nn.Module, longest: int):
        config, norm = model.config, model.encoder.emb_layer_norm_after
        self.heads, self.hidden, self.wide = (
            config.num_attention_heads,
            config.hidden_size,
            config.intermediate_size,
        )
        self.eps, self.final_norm = config.layer_norm_eps, norm_weights(norm)
        self.tokens = model.embeddings.word_embeddings.weight * (
            TOKEN_DROPOUT if config.token_dropout else 1.0
        )
        self.rope = rope_tables(model.rotary_embeddings.inv_freq, longest)
        self.hopper = torch.cuda.is_available() and torch.cuda.get_device_capability(
            norm.weight.device
        ) == (9, 0)
        self._space: tuple[torch.Tensor, ...] = ()
        self.layers = []
        shift = torch.zeros(self.hidden, dtype=torch.float32, device=norm.weight.device)
        for layer in take_layers(model.encoder):
            weights = esm_layer_weights(layer, self.heads, shift)
            shift = weights.end_shift
            self.layers.append(self.prepare(weights))
        self._space = ()

    def prepare(self, weights: EsmLayerWeights):
        """A layer as it is kept."""
        return weights

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        return self.through(self.layer, self.layers, batch)

    def through(self, layer: Callable[..., None], layers: list, batch: PackedBatch) -> torch.Tensor:
        """Final hidden states of `batch` by way of `layer(weights, ...)` for each weights of
        `layers`.
        """
        x, *_ = space = self.space(len(batch.tokens))
        torch.index_select(self.tokens, 0, batch.tokens, out=x)
        spans = kernels.spans(batch.lengths, x.device)
        for weights in layers:
            layer(weights, *space, spans)
        return kernels.layer_norm(
            x, *self.final_norm, self.eps, torch.empty_like(x), shift=layers[-1].end_shift
        )

    def space(self, rows: int) -> tuple[torch.Tensor, ...]:
        """Buffers x, small [T, H], qkv [T, 3H] and inner [T, FFN] (these two share memory), kept
        from batch to batch.

        Zero at first: attention leaves the rows behind the last sequence as they are, and they
        should stay finite.
        """
        if not self._space or len(self._space[0]) != rows:
            self._space = ()
            wide = self.tokens.new_zeros(rows * max(3 * self.hidden, self.wide))
            self._space = (
                self.tokens.new_zeros(rows, self.hidden),
                self.tokens.new_zeros(rows, self.hidden),
                wide[: rows * 3 * self.hidden].view(rows, -1),
                wide[: rows * self.wide].view(rows, -1),
            )
        return self._space

    def layer(self, w: EsmLayerWeights, x, small, qkv, inner, spans, watch=None) -> None:
        """x <- layer(x); the others are scratch. `watch(name, input)` sees what goes into each
        product.
        """
        watch = watch or _unwatched
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


class FusedDnabert:
    """A forward for DnabertEncoder: a packed batch to final hidden states [T, H], in a buffer that
    the next call overwrites.
    """

    def __init__(self, model: torch.nn.Module, slopes: torch.Tensor):
        embeddings = model.embeddings
        self.tokens, self.token_type = (
            embeddings.word_embeddings.weight,
            embeddings.token_type_embeddings.weight[0],
        )
        self.first_norm, self.slopes = norm_weights(embeddings.LayerNorm), slopes.float()
        self.heads, self.eps = model.config.num_attention_heads, model.config.layer_norm_eps
        self.width, self.wide = model.config.hidden_size, model.config.intermediate_size
        self.layers = [
            (
                layer.attention["self"]["Wqkv"],
                layer.attention["output"]["dense"],
                layer.attention["output"]["LayerNorm"],
                layer.mlp["gated_layers"],
                layer.mlp["wo"],
                layer.mlp["layernorm"],
            )
            for layer in take_layers(model.encoder)
        ]
        self.graphs = Graphs(Recorder(slopes.device))
        self._space: tuple[torch.Tensor, ...] = ()

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        ids, table, x, *_ = space = self.space(len(batch.tokens))
        spans, shape = even_tables(kernels.spans(batch.lengths, "cpu"))
        ids.copy_(batch.tokens)
        table[: len(spans)].copy_(spans, non_blocking=True)
        self.graphs.run(shape, partial(self.forward, shape, *space))
        return x

    def forward(
        self, shape: tuple[tuple[int, int], ...], ids, table, x, qkv, mixed, branch, gated, inner
    ) -> None:
        """x <- final hidden states of the tokens `ids`; `table` and `shape` as from `even_tables`,
        the others are scratch.
        """
        torch.index_select(self.tokens, 0, ids, out=x)
        kernels.layer_norm(x, *self.first_norm, self.eps, x, shift=self.token_type)
        spans = apart(table, shape)
        for first, dense, norm, gate, last, last_norm in self.layers:
            torch.mm(x, first.weight.t(), out=qkv)
            kernels.attention(qkv, mixed, spans, self.heads, bias=first.bias, slopes=self.slopes)
            torch.mm(mixed, dense.weight.t(), out=branch)
            kernels.layer_norm(x, *norm_weights(norm), self.eps, x, delta=branch, shift=dense.bias)
            torch.mm(x, gate.weight.t(), out=gated)
            kernels.gated_gelu(gated, inner)
            torch.mm(inner, last.weight.t(), out=branch)
            kernels.layer_norm(
                x, *norm_weights(last_norm), self.eps, x, delta=branch, shift=last.bias
            )

    def space(self, rows: int) -> tuple[torch.Tensor, ...]:
        """Buffers of `forward`, kept from batch to batch (graphs know them by address); zero as in
        FusedEsm2.
        """
        if not self._space or len(self._space[0]) != rows:
            self.graphs.forget()
            self._space = ()
            new = self.tokens.new_zeros
            # no more sequences than tokens; of four kinds, each with less than ROWS empty ones
            # behind
            self._space = (
                new(rows, dtype=torch.int64),
                new(rows + 4 * ROWS, 2, dtype=torch.int32),
                *(
                    new(rows, width)
                    for width in (
                        self.width,
                        3 * self.width,
                        self.width,
                        self.width,
                        2 * self.wide,
                        self.wide,
                    )
                ),
            )
        return self._space


def _unwatched(name: str, values: torch.Tensor) -> None:
    pass
