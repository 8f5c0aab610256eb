"""The weights of an ESM-2, by the names of transformers' EsmModel, without its code: importing that
takes seconds, which only the stock layers are worth.

Knows what config.json may say; computes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from virnucpro.models.config import Config
from virnucpro.models.weights import without_values

TOKENS, PAD, MASK = 33, 1, 32  # the alphabet of every ESM-2, and ids in it
# training masked tokens, and the embeddings are scaled by the share that it left
TOKEN_DROPOUT = 1.0 - 0.15 * 0.8
NUMBERS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
NOT_IN_ESM2 = (
    "emb_layer_norm_before",
    "is_decoder",
    "is_folding_model",
    "add_cross_attention",
    "quantization_config",
)


@dataclass(frozen=True, slots=True)
class Esm2Config:
    """The numbers that shape the network; everything else is as in every ESM-2."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-5
    pad_token_id: int = PAD

    @classmethod
    def read(cls, directory: Path) -> Esm2Config:
        """Raises ModelError where config.json is another architecture's."""
        config = Config(directory)
        config.expect("model_type", ("esm",))
        config.expect("position_embedding_type", ("rotary",))
        config.expect("token_dropout", (True,))
        config.expect("vocab_size", (TOKENS,))
        config.expect("pad_token_id", (PAD,))
        config.expect("mask_token_id", (MASK,))
        config.expect("hidden_act", ("gelu", None))
        config.expect("rope_theta", (10000.0, 10000, None))
        for name in NOT_IN_ESM2:
            config.expect(name, (False, None))
        numbers: dict[str, Any] = {name: config.number(name) for name in NUMBERS}
        config.head_width(numbers["hidden_size"], numbers["num_attention_heads"])
        return cls(**numbers, layer_norm_eps=config.epsilon("layer_norm_eps", 1e-5))

    def for_transformers(self) -> Any:
        """The same as an EsmConfig."""
        from transformers import EsmConfig

        return EsmConfig(
            **asdict(self),
            vocab_size=TOKENS,
            mask_token_id=MASK,
            position_embedding_type="rotary",
            token_dropout=True,
            emb_layer_norm_before=False,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            architectures=["EsmModel"],
        )


class Esm2Model(nn.Module):
    """Weights alone; made without values, on the meta device."""

    def __init__(self, config: Esm2Config):
        super().__init__()
        self.config = config
        with without_values():
            self.embeddings = _group(word_embeddings=nn.Embedding(TOKENS, config.hidden_size))
            self.encoder = _group(
                layer=nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers)),
                emb_layer_norm_after=_norm(config),
            )
        self.rotary_embeddings = nn.Module()
        self.rotary_embeddings.register_buffer("inv_freq", None, persistent=False)


def _layer(config: Esm2Config) -> nn.Module:
    width, inner = config.hidden_size, config.intermediate_size
    own = _group(**{name: nn.Linear(width, width) for name in ("query", "key", "value")})
    output = _group(dense=nn.Linear(width, width))
    return _group(
        attention=_group(self=own, output=output, LayerNorm=_norm(config)),
        intermediate=_group(dense=nn.Linear(width, inner)),
        output=_group(dense=nn.Linear(inner, width)),
        LayerNorm=_norm(config),
    )


def _norm(config: Esm2Config) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


def _group(**modules: nn.Module) -> nn.Module:
    group = nn.Module()
    for name, module in modules.items():
        group.add_module(name, module)
    return group


def to_stock(model: Any) -> Any:
    """The EsmModel with the weights of `model`, whose layers it takes over: none is in memory
    twice. An EsmModel is given back as it is.
    """
    if not isinstance(model, Esm2Model):
        return model
    from transformers import EsmModel

    inv_freq: Any = model.rotary_embeddings.inv_freq
    with without_values():
        stock: Any = EsmModel(model.config.for_transformers(), add_pooling_layer=False)
    stock.contact_head = None  # features do not need it
    stock.load_state_dict(model.state_dict(), strict=False, assign=True)
    model.encoder.layer = nn.ModuleList()
    stock.requires_grad_(False)
    stock.rotary_embeddings.inv_freq = inv_freq
    positions = torch.arange(model.config.max_position_embeddings, device=inv_freq.device)
    stock.embeddings.position_ids = positions.expand((1, -1))
    return stock.eval()
