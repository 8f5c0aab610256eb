"""Both encoders as they are trained: their forwards on rows that hold several sequences each.

Parameters live in the very modules that are shipped (transformers' EsmModel and this package's
DnabertModel), so saving is writing their state; only the forward differs, because training wants
one shape, a backward pass and dropout. `tests/training/bundle/test_network.py` holds both forwards
together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

from virnucpro.models.dnabert_s import DnabertConfig, DnabertModel, alibi_slopes
from virnucpro.training.bundle.shape import NetworkShape


class TokenTensors(NamedTuple):
    """`batches.PackedTokens` on the device; all [R, L] but the last two, [M]."""

    tokens: torch.Tensor
    segment: torch.Tensor
    pooled: torch.Tensor
    scale: torch.Tensor
    masked: torch.Tensor
    target: torch.Tensor


class BranchDropout(nn.Module):
    """Dropout of single values and of a row's whole branch.

    The rates are tensors, so that changing them does not compile again.
    """

    values: torch.Tensor
    branches: torch.Tensor

    def __init__(self, values: float, branches: float):
        super().__init__()
        self.register_buffer("values", torch.tensor(values), persistent=False)
        self.register_buffer("branches", torch.tensor(branches), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [R, L, width], the output of a branch."""
        if not self.training:
            return x
        kept = torch.rand(x.shape, device=x.device) >= self.values
        rows = torch.rand((x.shape[0], 1, 1), device=x.device) >= self.branches
        return x * ((kept & rows) / ((1 - self.values) * (1 - self.branches))).to(x.dtype)


class PackedEsm2(nn.Module):
    """EsmModel's forward on packed rows.

    Rotary angles need no restart at a sequence's start: only differences of positions count.
    """

    def __init__(self, shape: NetworkShape):
        super().__init__()
        from transformers import EsmConfig, EsmModel

        self.model = EsmModel(EsmConfig(**shape.esm2_config()), add_pooling_layer=False)
        self.heads = shape.esm2_heads
        self.dropout = BranchDropout(shape.dropout, shape.depth_dropout)

    def rotary_angles(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [L, D] of the rotary angles.

        Not within the forward: compiled, it would compute them for every head.
        """
        width = self.model.config.hidden_size // self.heads
        rate = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
        angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), rate)
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos(), angle.sin()

    def forward(
        self,
        tokens: torch.Tensor,
        scale: torch.Tensor,
        mask: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        """Hidden states [R, L, width] of tokens [R, L].

        `scale` [R, L]: factor of each embedding. `mask` [R, 1, L, L]: added to the attention's
        scores. `cos`, `sin`: `rotary_angles` of the length.
        """
        hidden = (
            fn.embedding(tokens, self.model.embeddings.word_embeddings.weight) * scale.unsqueeze(-1)
        ).to(mask.dtype)
        width = hidden.shape[-1] // self.heads
        for layer in self.model.encoder.layer:
            inner = layer.attention.LayerNorm(hidden)
            attention = layer.attention.self
            query, key, value = (
                part(inner).unflatten(-1, (self.heads, width)).transpose(1, 2)
                for part in (attention.query, attention.key, attention.value)
            )  # [R, H, L, D] each
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
            mixed = fn.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=width**-0.5
            )
            mixed = layer.attention.output.dense(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + self.dropout(mixed)
            inner = fn.gelu(layer.intermediate.dense(layer.LayerNorm(hidden)))
            hidden = hidden + self.dropout(layer.output.dense(inner))
        return self.model.encoder.emb_layer_norm_after(hidden)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `x` [R, H, L, D], computed in fp32, given back in x's dtype."""
    a, b = x.float().chunk(2, dim=-1)
    return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)


class PackedDnabert(nn.Module):
    """DnabertModel's forward on packed rows. ALiBi too counts differences of positions only."""

    slopes: torch.Tensor

    def __init__(self, shape: NetworkShape):
        super().__init__()
        config = shape.dnabert_s_config()
        self.model = DnabertModel(
            DnabertConfig(**{k: config[k] for k in DnabertConfig.__dataclass_fields__})
        )
        self.heads = shape.dnabert_s_heads
        self.dropout = BranchDropout(shape.dropout, shape.depth_dropout)
        self.register_buffer("slopes", torch.tensor(alibi_slopes(self.heads)), persistent=False)
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def bias(self, mask: torch.Tensor) -> torch.Tensor:
        """ALiBi and the mask [R, 1, L, L] in one [R, H, L, L]."""
        position = torch.arange(mask.shape[-1], device=mask.device)
        distance = (position[:, None] - position[None, :]).abs()
        alibi = (-self.slopes[:, None, None] * distance).to(mask.dtype)  # [H, L, L]
        return torch.where(mask == 0, alibi, mask)

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Hidden states [R, L, width] of tokens [R, L]; `bias` as of the method of that name."""
        hidden = self.model.embeddings(tokens).to(bias.dtype)
        for layer in self.model.encoder.layer:  # type: ignore[union-attr]  # a ModuleList
            packed = layer.attention["self"]["Wqkv"](hidden).unflatten(-1, (3, self.heads, -1))
            query, key, value = (packed[..., i, :, :].transpose(1, 2) for i in range(3))
            mixed = fn.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            output = layer.attention["output"]
            mixed = output["dense"](mixed.transpose(1, 2).flatten(2))
            hidden = output["LayerNorm"](self.dropout(mixed) + hidden).to(bias.dtype)
            gate, up = layer.mlp["gated_layers"](hidden).chunk(2, dim=-1)
            inner = layer.mlp["wo"](fn.gelu(gate) * up)
            hidden = layer.mlp["layernorm"](self.dropout(inner) + hidden).to(bias.dtype)
        return hidden


def attention_mask(segment: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[R, 1, L, L] to add to attention's scores: 0 within a sequence, else the least number.

    `segment` [R, L] says which sequence a place belongs to. Empty places look at each other, so
    that no softmax is empty.
    """
    same = (segment[:, :, None] == segment[:, None, :]).unsqueeze(1)
    return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill_(
        ~same, torch.finfo(dtype).min
    )


def segment_means(hidden: torch.Tensor, rows: TokenTensors, n: int) -> torch.Tensor:
    """Mean of each sequence's pooled tokens, float32 [n, width]."""
    where = torch.where(rows.pooled, rows.segment, n).flatten()  # n: tokens of no sequence
    total = torch.zeros(n + 1, hidden.shape[-1], device=hidden.device)
    total = total.index_add(0, where, hidden.flatten(0, 1).float())
    count = torch.zeros(n + 1, device=hidden.device).index_add(
        0, where, torch.ones_like(where, dtype=torch.float32)
    )
    return total[:n] / count[:n, None].clamp(min=1)
