"""DNABERT-S on NVIDIA GPUs: library products, one Triton kernel for all that lies between two, and
one launch a batch where batches have the same shape.

Knows weights and order; the plain path that it is tested against is in models/dnabert_s.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from virnucpro.models.fast import kernels
from virnucpro.models.fast.cuda_graphs import ROWS, Graphs, Recorder, even_tables, split_tables
from virnucpro.models.fast.layer_weights import affine, take_layers
from virnucpro.models.packing import PackedBatch


class Space(NamedTuple):
    """Buffers of one batch: its tokens, its sequences, and what is computed of them."""

    ids: torch.Tensor  # int64 [T]
    table: torch.Tensor  # int32 [sequences, 2]
    x: torch.Tensor  # [T, H], the hidden states
    qkv: torch.Tensor  # [T, 3H]
    mixed: torch.Tensor  # [T, H]
    branch: torch.Tensor  # [T, H]
    gated: torch.Tensor  # [T, 2 FFN]
    inner: torch.Tensor  # [T, FFN]


class FusedDnabert:
    """A forward for DnabertEncoder: a packed batch to final hidden states [T, H], in a buffer that
    the next call overwrites.
    """

    def __init__(self, model: Any, slopes: torch.Tensor):
        embeddings = model.embeddings
        self.tokens, self.token_type = (
            embeddings.word_embeddings.weight,
            embeddings.token_type_embeddings.weight[0],
        )
        self.first_norm, self.slopes = affine(embeddings.LayerNorm), slopes.float()
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
        self._space: Space | None = None

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Final hidden states [T, hidden]."""
        space = self.space(len(batch.tokens))
        spans, shape = even_tables(kernels.spans(batch.lengths, "cpu"))
        space.ids.copy_(batch.tokens)
        space.table[: len(spans)].copy_(spans, non_blocking=True)
        self.graphs.run(shape, partial(self.forward, shape, space))
        return space.x

    def forward(self, shape: tuple[tuple[int, int], ...], space: Space) -> None:
        """space.x <- final hidden states of `space.ids`; `space.table` and `shape` are as from
        `even_tables`, the other buffers are scratch.
        """
        ids, table, x, qkv, mixed, branch, gated, inner = space
        torch.index_select(self.tokens, 0, ids, out=x)
        kernels.layer_norm(x, *self.first_norm, self.eps, x, shift=self.token_type)
        spans = split_tables(table, shape)
        for first, dense, norm, gate, last, last_norm in self.layers:
            torch.mm(x, first.weight.t(), out=qkv)
            kernels.attention(qkv, mixed, spans, self.heads, bias=first.bias, slopes=self.slopes)
            torch.mm(mixed, dense.weight.t(), out=branch)
            kernels.layer_norm(x, *affine(norm), self.eps, x, delta=branch, shift=dense.bias)
            torch.mm(x, gate.weight.t(), out=gated)
            kernels.gated_gelu(gated, inner)
            torch.mm(inner, last.weight.t(), out=branch)
            kernels.layer_norm(x, *affine(last_norm), self.eps, x, delta=branch, shift=last.bias)

    def space(self, rows: int) -> Space:
        """Buffers of `forward`, kept from batch to batch (graphs know them by address); zero as in
        FusedEsm2.
        """
        if self._space is None or len(self._space.x) != rows:
            self.graphs.forget()
            self._space = None  # its memory is free before new memory is taken
            new, width, wide = self.tokens.new_zeros, self.width, self.wide
            self._space = Space(
                new(rows, dtype=torch.int64),
                # no more sequences than tokens; of four kinds, each with less than ROWS empty ones
                new(rows + 4 * ROWS, 2, dtype=torch.int32),
                *(new(rows, n) for n in (width, 3 * width, width, width, 2 * wide, wide)),
            )
        return self._space
