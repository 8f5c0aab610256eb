"""Encoders of the published shapes with random weights: for measuring speed and agreement, which need no real ones.

Knows shapes and a seed; the weights mean nothing.
"""
from __future__ import annotations

import torch

from virnucpro.models.dnabert_s import DnabertConfig, DnabertModel
from virnucpro.models.encoder import assign_weights
from virnucpro.models.esm2 import build_esm2, set_inv_freq

ESM2_SHAPES = {  # layers, width, heads
    "3B": (36, 2560, 40),
    "650M": (33, 1280, 20),
}
DNABERT_S_SHAPE = DnabertConfig(vocab_size=4096, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                intermediate_size=3072)


def random_esm2(shape: str, device: torch.device | str, dtype: torch.dtype, layers: int | None = None, seed: int = 0):
    """An EsmModel of a published shape; the same values, rounded, for every dtype of one device kind and seed."""
    from transformers import EsmConfig

    depth, width, heads = ESM2_SHAPES[shape]
    model = build_esm2(EsmConfig(
        vocab_size=33, hidden_size=width, num_hidden_layers=layers or depth, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=1026, position_embedding_type="rotary", token_dropout=True,
        pad_token_id=1, mask_token_id=32, layer_norm_eps=1e-5, emb_layer_norm_before=False,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    _fill(model, device, dtype, seed)
    set_inv_freq(model, torch.device(device))
    return model


def random_dnabert_s(device: torch.device | str, dtype: torch.dtype, seed: int = 0) -> DnabertModel:
    """A DnabertModel of DNABERT-S's shape."""
    with torch.device("meta"):
        model = DnabertModel(DNABERT_S_SHAPE)
    _fill(model, device, dtype, seed)
    return model


def _fill(model: torch.nn.Module, device, dtype: torch.dtype, seed: int) -> None:
    """Normal weights of standard deviation 0.02 (LayerNorm scales around 1), drawn on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    values = {}
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, device=device, generator=generator).mul_(0.02)
        scale = name.lower().endswith(("layernorm.weight", "layer_norm_after.weight"))
        values[name] = (value + 1.0 if scale else value).to(dtype)
    assign_weights(model, values, torch.device(device), dtype, "random weights")
