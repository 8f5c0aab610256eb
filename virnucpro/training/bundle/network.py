"""The network while it is trained: both encoders on rows of packed sequences, the classifier, and
the auxiliary heads.

Parameters live in the very modules that are shipped (transformers' EsmModel and this package's
DnabertModel), so saving is writing their state; only the forward differs, because training wants
one shape, a backward pass and dropout. `tests/training/test_network.py` holds both forwards
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from virnucpro.models.dnabert_s import DnabertConfig, DnabertModel, alibi_slopes
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

    def esm2_config(self) -> dict:
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

    def dnabert_s_config(self) -> dict:
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


class RowTensors(NamedTuple):
    """`batches.Rows` on the device; all [R, L] but the last two, [M]."""

    tokens: torch.Tensor
    segment: torch.Tensor
    pooled: torch.Tensor
    scale: torch.Tensor
    masked: torch.Tensor
    target: torch.Tensor


class Answers(NamedTuple):
    logits: torch.Tensor  # [frames, 2] of the classifier
    esm2_logits: torch.Tensor  # [frames + fragments, 2] from the protein alone
    dnabert_s_logits: torch.Tensor  # [frames, 2] from the nucleotides alone
    esm2_loss: torch.Tensor  # masked-language-model losses
    dnabert_s_loss: torch.Tensor


class Thinning(nn.Module):
    """Dropout of single values and of a row's whole branch.

    The rates are tensors: changing them compiles nothing anew.
    """

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


class Esm2Rows(nn.Module):
    """EsmModel's forward on rows of several sequences.

    Rotary angles need no restart: only differences count.
    """

    def __init__(self, shape: NetworkShape):
        super().__init__()
        from transformers import EsmConfig, EsmModel

        self.model = EsmModel(EsmConfig(**shape.esm2_config()), add_pooling_layer=False)
        self.heads, self.thinned = shape.esm2_heads, Thinning(shape.dropout, shape.depth_dropout)

    def turns(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
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
        """Hidden states [R, L, width] of tokens [R, L]; `mask` [R, 1, L, L], added to the
        attention's scores; `turns` of the length.
        """
        hidden = (
            F.embedding(tokens, self.model.embeddings.word_embeddings.weight) * scale.unsqueeze(-1)
        ).to(mask.dtype)
        width = hidden.shape[-1] // self.heads
        for layer in self.model.encoder.layer:
            inner = layer.attention.LayerNorm(hidden)
            query, key, value = (
                part(inner).unflatten(-1, (self.heads, width)).transpose(1, 2)
                for part in (
                    layer.attention.self.query,
                    layer.attention.self.key,
                    layer.attention.self.value,
                )
            )  # [R, H, L, D] each
            query, key = rotated(query, cos, sin), rotated(key, cos, sin)
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=width**-0.5
            )
            mixed = layer.attention.output.dense(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + self.thinned(mixed)
            inner = F.gelu(layer.intermediate.dense(layer.LayerNorm(hidden)))
            hidden = hidden + self.thinned(layer.output.dense(inner))
        return self.model.encoder.emb_layer_norm_after(hidden)


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, in fp32, back in x's dtype."""
    a, b = x.float().chunk(2, dim=-1)
    return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)


class DnabertRows(nn.Module):
    """DnabertModel's forward on rows of several sequences. ALiBi too counts differences only."""

    def __init__(self, shape: NetworkShape):
        super().__init__()
        config = shape.dnabert_s_config()
        self.model = DnabertModel(
            DnabertConfig(**{k: config[k] for k in DnabertConfig.__dataclass_fields__})
        )
        self.heads, self.thinned = (
            shape.dnabert_s_heads,
            Thinning(shape.dropout, shape.depth_dropout),
        )
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
        """Hidden states [R, L, width] of tokens [R, L]."""
        hidden = self.model.embeddings(tokens).to(bias.dtype)
        for layer in self.model.encoder.layer:
            packed = layer.attention["self"]["Wqkv"](hidden).unflatten(-1, (3, self.heads, -1))
            query, key, value = (packed[..., i, :, :].transpose(1, 2) for i in range(3))
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            output = layer.attention["output"]
            mixed = output["dense"](mixed.transpose(1, 2).flatten(2))
            hidden = output["LayerNorm"](self.thinned(mixed) + hidden).to(bias.dtype)
            gate, up = layer.mlp["gated_layers"](hidden).chunk(2, dim=-1)
            inner = layer.mlp["wo"](F.gelu(gate) * up)
            hidden = layer.mlp["layernorm"](self.thinned(inner) + hidden).to(bias.dtype)
        return hidden


class MLP(nn.Module):
    """The original's classifier, with its names."""

    def __init__(self, width: int, hidden: int, classes: int = 2, dropout: float = 0.5):
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.output_layer(self.dropout(F.relu(self.bn1(self.hidden_layer(features)))))


class TokenHead(nn.Module):
    """Predicts masked tokens from hidden states; thrown away after training."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.gelu(self.dense(hidden))), embedding, self.bias)


class Network(nn.Module):
    """Everything that is trained.

    `compiled(...)` replaces the encoders' forwards by compiled ones.
    """

    def __init__(self, shape: NetworkShape):
        super().__init__()
        self.shape = shape
        self.esm2, self.dnabert_s = Esm2Rows(shape), DnabertRows(shape)
        width = shape.dnabert_s_width + shape.esm2_width
        self.classifier = MLP(width, shape.hidden, dropout=shape.classifier_dropout)
        self.esm2_only, self.dnabert_s_only = (
            nn.Linear(shape.esm2_width, 2),
            nn.Linear(shape.dnabert_s_width, 2),
        )
        self.esm2_tokens = TokenHead(shape.esm2_width, len(ESM2_VOCABULARY))
        self.dnabert_s_tokens = TokenHead(shape.dnabert_s_width, shape.dna_vocabulary)
        self.dnabert_s_fixed = False

    def features(
        self,
        esm2: RowTensors,
        dnabert_s: RowTensors,
        n: int,
        n_all: int,
        encoders: tuple | None = None,
    ):
        """(pooled nucleotides [n, w1], pooled proteins [n_all, w2], hidden states of both)."""
        run_esm2, run_dnabert_s = encoders or (self.esm2, self.dnabert_s)
        dtype = (
            torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float32
        )
        turns = self.esm2.turns(esm2.tokens.shape[1], esm2.tokens.device)
        esm2_hidden = run_esm2(esm2.tokens, esm2.scale, apart(esm2.segment, dtype), *turns)
        bias = self.dnabert_s.bias(apart(dnabert_s.segment, dtype))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.dnabert_s_fixed):
            dna_hidden = run_dnabert_s(dnabert_s.tokens, bias)
        return (
            segment_means(dna_hidden, dnabert_s, n),
            segment_means(esm2_hidden, esm2, n_all),
            dna_hidden,
            esm2_hidden,
        )

    def judge(
        self, dna: torch.Tensor, protein: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of pooled features: of both together, of proteins and of nucleotides alone."""
        both = torch.cat([dna, protein[: len(dna)]], dim=1)  # nucleotides first
        return self.classifier(both), self.esm2_only(protein), self.dnabert_s_only(dna)

    def forward(
        self, esm2: RowTensors, dnabert_s: RowTensors, n: int, n_all: int, encoders=None
    ) -> Answers:
        dna, protein, dna_hidden, esm2_hidden = self.features(esm2, dnabert_s, n, n_all, encoders)
        return Answers(
            *self.judge(dna, protein),
            token_loss(
                self.esm2_tokens,
                esm2_hidden,
                esm2,
                self.esm2.model.embeddings.word_embeddings.weight,
            ),
            dna_hidden.new_zeros(())
            if self.dnabert_s_fixed
            else token_loss(
                self.dnabert_s_tokens,
                dna_hidden,
                dnabert_s,
                self.dnabert_s.model.embeddings.word_embeddings.weight,
            ),
        )

    def fix_dnabert_s(self) -> None:
        """From now on DNABERT-S and its own heads learn nothing."""
        self.dnabert_s_fixed = True
        for module in (self.dnabert_s, self.dnabert_s_only, self.dnabert_s_tokens):
            module.requires_grad_(False)

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        """The shipped tensors, by part, with the published names."""
        # not the rotary frequencies: rounded to half they turn by 0.1 rad at a protein's end, and
        # every loader knows them
        esm2 = {k: v for k, v in self.esm2.model.state_dict().items() if "inv_freq" not in k}
        classifier = {
            k: v for k, v in self.classifier.state_dict().items() if "num_batches" not in k
        }
        heads = {
            f"{n}.{k}": v
            for n in ("esm2_only", "dnabert_s_only")
            for k, v in getattr(self, n).state_dict().items()
        }
        return {
            "esm2": esm2,
            "dnabert_s": self.dnabert_s.model.state_dict(),
            "classifier": classifier,
            "heads": heads,
        }

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Encoders as they will be shipped: rounded to fp16, computed in fp32."""
        for encoder in (self.esm2.model, self.dnabert_s.model):
            for p in encoder.parameters():
                p.copy_(p.half().float())


def apart(segment: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[R, 1, L, L] to add to attention's scores: 0 within a sequence, else the least number. Places
    that hold nothing look at each other, so that no softmax is empty.
    """
    same = (segment[:, :, None] == segment[:, None, :]).unsqueeze(1)
    return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill_(
        ~same, torch.finfo(dtype).min
    )


def segment_means(hidden: torch.Tensor, rows: RowTensors, n: int) -> torch.Tensor:
    """Mean of each sequence's pooled tokens, float32 [n, width]."""
    where = torch.where(rows.pooled, rows.segment, n).flatten()  # n: tokens of no sequence
    total = torch.zeros(n + 1, hidden.shape[-1], device=hidden.device)
    total = total.index_add(0, where, hidden.flatten(0, 1).float())
    count = torch.zeros(n + 1, device=hidden.device).index_add(
        0, where, torch.ones_like(where, dtype=torch.float32)
    )
    return total[:n] / count[:n, None].clamp(min=1)


def token_loss(
    head: TokenHead, hidden: torch.Tensor, rows: RowTensors, embedding: torch.Tensor
) -> torch.Tensor:
    if not len(rows.masked):
        return hidden.new_zeros(())
    logits = head(hidden.flatten(0, 1)[rows.masked], embedding)
    return F.cross_entropy(logits.float(), rows.target)
