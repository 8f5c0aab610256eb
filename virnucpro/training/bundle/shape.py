"""The sizes of a bundle's network, and the published form of its encoders' configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from virnucpro.training.bundle.vocabulary import ESM2_MASK, ESM2_PAD, ESM2_VOCABULARY


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a bundle; the defaults are mini's."""

    esm2_layers: int = 6
    esm2_width: int = 320
    esm2_heads: int = 5
    esm2_intermediate: int = 1280
    dnabert_s_layers: int = 4
    dnabert_s_width: int = 256
    dnabert_s_heads: int = 4
    dnabert_s_intermediate: int = 1024
    dna_vocabulary: int = 1024
    hidden: int = 512
    dropout: float = 0.1
    depth_dropout: float = 0.0  # of whole branches of a layer, row by row
    classifier_dropout: float = 0.5

    def esm2_config(self) -> dict[str, Any]:
        """`config.json` of the ESM-2."""
        return {
            "architectures": ["EsmModel"],
            "attention_probs_dropout_prob": 0.0,
            "emb_layer_norm_before": False,
            "esmfold_config": None,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": self.esm2_width,
            "initializer_range": 0.02,
            "intermediate_size": self.esm2_intermediate,
            "is_folding_model": False,
            "layer_norm_eps": 1e-05,
            "mask_token_id": ESM2_MASK,
            "max_position_embeddings": 1026,
            "model_type": "esm",
            "num_attention_heads": self.esm2_heads,
            "num_hidden_layers": self.esm2_layers,
            "pad_token_id": ESM2_PAD,
            "position_embedding_type": "rotary",
            "token_dropout": True,
            "use_cache": True,
            "vocab_list": None,
            "vocab_size": len(ESM2_VOCABULARY),
        }

    def dnabert_s_config(self) -> dict[str, Any]:
        """`config.json` of the DNABERT-S."""
        return {
            "alibi_starting_size": 512,
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": self.dnabert_s_width,
            "initializer_range": 0.02,
            "intermediate_size": self.dnabert_s_intermediate,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "model_type": "bert",
            "num_attention_heads": self.dnabert_s_heads,
            "num_hidden_layers": self.dnabert_s_layers,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "use_cache": True,
            "vocab_size": self.dna_vocabulary,
        }
