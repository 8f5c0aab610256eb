"""DNABERT-S: nucleotides to vectors; a post-LayerNorm BERT with ALiBi and gated feed-forward
layers, on packed batches.

Written after the published architecture (zhihan1996/DNABERT-S, itself MosaicBERT's), since the
hub's code does not load on current transformers. Parameter names are the published ones. Does not
know how attention is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from virnucpro.errors import ModelError
from virnucpro.models.attention import alibi_biases, grouped_attention
from virnucpro.models.choices import PLAIN, choose_fast_path
from virnucpro.models.config import Config
from virnucpro.models.encoder import Encoder, Forward, assign_weights
from virnucpro.models.fast.self_check import LEAST_COSINE, checked
from virnucpro.models.packing import LengthGroup, PackedBatch
from virnucpro.models.weights import ADVICE, read_state_dict, without_values
from virnucpro.settings import Choice

LAYERS = "DNABERT-S layers"
NUMBERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


@dataclass(frozen=True, slots=True)
class DnabertConfig:
    """The numbers of `config.json` that shape the network."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @classmethod
    def read(cls, directory: Path) -> DnabertConfig:
        """Raises ModelError where the file is no such configuration, or says that anything else
        is computed.
        """
        config = Config(directory)
        config.expect("model_type", ("bert",))
        config.expect("hidden_act", ("gelu", None))
        config.expect("is_decoder", (False, None))
        found = cls(
            **{name: config.number(name) for name in NUMBERS},
            type_vocab_size=config.number("type_vocab_size", 2),
            layer_norm_eps=config.epsilon("layer_norm_eps", 1e-12),
            pad_token_id=config.number("pad_token_id", 0),
        )
        config.head_width(found.hidden_size, found.num_attention_heads)
        if found.pad_token_id >= found.vocab_size:
            raise ModelError(f"{config.file}: pad_token_id is no token; {ADVICE}")
        return found


def alibi_slopes(heads: int) -> list[float]:
    """The usual slopes: a geometric series for powers of two; else those of the next lower power,
    then every other one of the next higher (12 heads: 2^-1 .. 2^-8, 2^-0.5, 2^-1.5, 2^-2.5,
    2^-3.5).
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return slopes if power == heads else slopes + alibi_slopes(2 * power)[0::2][: heads - power]


class DnabertModel(nn.Module):
    """Tokens [T] of a packed batch to hidden states [T, hidden]."""

    def __init__(self, config: DnabertConfig):
        super().__init__()
        self.config = config
        self.embeddings = DnabertEmbeddings(config)
        self.encoder: Any = nn.Module()
        self.encoder.layer = nn.ModuleList(
            DnabertLayer(config) for _ in range(config.num_hidden_layers)
        )

    def forward(self, batch: PackedBatch, slopes: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, hidden]; slopes: of ALiBi, [heads]."""
        hidden = self.embeddings(batch.tokens)
        biases = alibi_biases(slopes, batch.groups, hidden.dtype)
        for layer in self.encoder.layer:
            hidden = layer(hidden, batch.groups, biases)
        return hidden


class DnabertEmbeddings(nn.Module):
    """Tokens [T] to vectors [T, hidden]."""

    def __init__(self, config: DnabertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """fp32 or 16 bits, as the weights are."""
        # ALiBi stands for positions; every token is of type 0
        return self.LayerNorm(self.word_embeddings(tokens) + self.token_type_embeddings.weight[0])


class DnabertLayer(nn.Module):
    """Attention with ALiBi and a gated feed-forward part, each followed by its LayerNorm."""

    def __init__(self, config: DnabertConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.heads = heads
        self.attention: Any = nn.ModuleDict(
            {
                "self": nn.ModuleDict({"Wqkv": nn.Linear(width, 3 * width)}),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(width, width), "LayerNorm": _norm(config)}
                ),
            }
        )
        self.mlp: Any = nn.ModuleDict(
            {
                "gated_layers": nn.Linear(width, 2 * config.intermediate_size, bias=False),
                "wo": nn.Linear(config.intermediate_size, width),
                "layernorm": _norm(config),
            }
        )

    def forward(
        self, hidden: torch.Tensor, groups: tuple[LengthGroup, ...], biases: list[torch.Tensor]
    ) -> torch.Tensor:
        """[T, hidden] to the same; biases: of attention, one a group."""
        packed = self.attention["self"]["Wqkv"](hidden)  # [T, q | k | v]
        query, key, value = packed.unflatten(-1, (3, self.heads, -1)).unbind(1)  # [T, H, D] each
        mixed = grouped_attention(
            query, key, value, groups, query.shape[-1] ** -0.5, biases
        ).flatten(1)
        output = self.attention["output"]
        hidden = output["LayerNorm"](output["dense"](mixed).add_(hidden))
        gate, up = (linear(hidden, half) for half in self.mlp["gated_layers"].weight.chunk(2))
        inner = torch.ops.aten.gelu_(gate).mul_(up)  # in place: a CPU waits for memory here
        return self.mlp["layernorm"](self.mlp["wo"](inner).add_(hidden))


def _norm(config: DnabertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


def choose_forward(
    model: DnabertModel, device: torch.device, precision: str, compile: str
) -> tuple[Forward, tuple[Choice, ...]]:
    """The way the network is run, and why: the one place where a faster one takes the plain
    model's.
    """
    slopes = torch.tensor(alibi_slopes(model.config.num_attention_heads), device=device)
    width = model.config.hidden_size // model.config.num_attention_heads
    layers = choose_fast_path(LAYERS, device, precision, width, compile)

    def plain(batch: PackedBatch) -> torch.Tensor:
        return model(batch, slopes)

    if layers.value == PLAIN:
        return plain, (
            layers,
            Choice("DNABERT-S attention", "grouped", "ALiBi over groups of equal length"),
        )

    def fast() -> Forward:
        from virnucpro.models.fast.dnabert_s import FusedDnabert

        return FusedDnabert(model, slopes)

    pad = model.config.pad_token_id
    return checked(plain, fast, pad, device, skip=0, least_cosine=LEAST_COSINE[precision]), (
        layers,
    )


def read_dnabert_s(directory: Path, device: torch.device, dtype: torch.dtype) -> DnabertModel:
    """The network of a DNABERT-S directory (config.json and weights, names with or without
    `bert.`).
    """
    with without_values():
        model = DnabertModel(DnabertConfig.read(directory))
    assign_weights(model, read_state_dict(directory, prefix="bert."), device, dtype, directory)
    return model


class DnabertEncoder(Encoder):
    """A DnabertModel on packed batches: the mean of all tokens, with [CLS] and [SEP]."""

    name, layers, skip, shortest_int8 = "dnabert_s", LAYERS, 0, None
    read, choose_forward = staticmethod(read_dnabert_s), staticmethod(choose_forward)


load_dnabert_s = DnabertEncoder.load
