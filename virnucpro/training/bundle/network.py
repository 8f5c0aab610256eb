"""The network while it is trained: both encoders, the classifier, and the auxiliary heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

from virnucpro.training.bundle.encoders import (
    PackedDnabert,
    PackedEsm2,
    TokenTensors,
    attention_mask,
    segment_means,
)
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.bundle.vocabulary import ESM2_VOCABULARY

# compiled forwards of ESM-2 and DNABERT-S, used in place of the network's own
Encoders = tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]


class NetworkInput(NamedTuple):
    """A batch on the device, without its labels."""

    esm2: TokenTensors
    dnabert_s: TokenTensors
    n_frames: int
    n_proteins: int  # frames, then protein fragments


class Features(NamedTuple):
    """What the encoders give."""

    dna: torch.Tensor  # [frames, w1] pooled nucleotides
    protein: torch.Tensor  # [proteins, w2] pooled proteins
    dna_hidden: torch.Tensor  # [R, L, w1]
    esm2_hidden: torch.Tensor  # [R, L, w2]


class NetworkOutput(NamedTuple):
    """Logits (others, virus), and the losses of masked tokens."""

    logits: torch.Tensor  # [frames, 2] of the classifier
    esm2_logits: torch.Tensor  # [proteins, 2] from the protein alone
    dnabert_s_logits: torch.Tensor  # [frames, 2] from the nucleotides alone
    esm2_loss: torch.Tensor
    dnabert_s_loss: torch.Tensor


class MLP(nn.Module):
    """The original's classifier, with its names."""

    def __init__(self, width: int, hidden: int, classes: int = 2, dropout: float = 0.5):
        super().__init__()
        self.hidden_layer = nn.Linear(width, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of features [n, width]."""
        return self.output_layer(self.dropout(fn.relu(self.bn1(self.hidden_layer(features)))))


class TokenHead(nn.Module):
    """Predicts masked tokens from hidden states; thrown away after training."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits [n, vocabulary] of hidden states [n, width]; `embedding` [vocabulary, width]."""
        return fn.linear(self.norm(fn.gelu(self.dense(hidden))), embedding, self.bias)


class Network(nn.Module):
    """Everything that is trained."""

    def __init__(self, shape: NetworkShape):
        super().__init__()
        self.shape = shape
        self.esm2, self.dnabert_s = PackedEsm2(shape), PackedDnabert(shape)
        width = shape.dnabert_s_width + shape.esm2_width
        self.classifier = MLP(width, shape.hidden, dropout=shape.classifier_dropout)
        self.esm2_only = nn.Linear(shape.esm2_width, 2)
        self.dnabert_s_only = nn.Linear(shape.dnabert_s_width, 2)
        self.esm2_tokens = TokenHead(shape.esm2_width, len(ESM2_VOCABULARY))
        self.dnabert_s_tokens = TokenHead(shape.dnabert_s_width, shape.dna_vocabulary)
        self.dnabert_s_fixed = False

    def compiled_encoders(self) -> Encoders:
        """Both encoders' forwards, compiled."""
        return (
            torch.compile(self.esm2, dynamic=False),
            torch.compile(self.dnabert_s, dynamic=False),
        )

    def features(self, batch: NetworkInput, encoders: Encoders | None = None) -> Features:
        """Pooled vectors and hidden states of a batch."""
        esm2, dnabert_s = batch.esm2, batch.dnabert_s
        run_esm2, run_dnabert_s = encoders or (self.esm2, self.dnabert_s)
        dtype = (
            torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float32
        )
        angles = self.esm2.rotary_angles(esm2.tokens.shape[1], esm2.tokens.device)
        mask = attention_mask(esm2.segment, dtype)
        esm2_hidden = run_esm2(esm2.tokens, esm2.scale, mask, *angles)
        bias = self.dnabert_s.bias(attention_mask(dnabert_s.segment, dtype))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.dnabert_s_fixed):
            dna_hidden = run_dnabert_s(dnabert_s.tokens, bias)
        return Features(
            segment_means(dna_hidden, dnabert_s, batch.n_frames),
            segment_means(esm2_hidden, esm2, batch.n_proteins),
            dna_hidden,
            esm2_hidden,
        )

    def classify(
        self, dna: torch.Tensor, protein: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of pooled vectors: of both together, of proteins and of nucleotides alone."""
        both = torch.cat([dna, protein[: len(dna)]], dim=1)  # nucleotides first
        return self.classifier(both), self.esm2_only(protein), self.dnabert_s_only(dna)

    def forward(self, batch: NetworkInput, encoders: Encoders | None = None) -> NetworkOutput:
        """Logits and masked-token losses of a batch."""
        found = self.features(batch, encoders)
        logits = self.classify(found.dna, found.protein)
        esm2_words = self.esm2.model.embeddings.word_embeddings.weight
        esm2_loss = token_loss(self.esm2_tokens, found.esm2_hidden, batch.esm2, esm2_words)
        if self.dnabert_s_fixed:
            dnabert_s_loss = found.dna_hidden.new_zeros(())
        else:
            words = self.dnabert_s.model.embeddings.word_embeddings.weight
            dnabert_s_loss = token_loss(
                self.dnabert_s_tokens, found.dna_hidden, batch.dnabert_s, words
            )
        return NetworkOutput(*logits, esm2_loss, dnabert_s_loss)

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


def token_loss(
    head: TokenHead, hidden: torch.Tensor, rows: TokenTensors, embedding: torch.Tensor
) -> torch.Tensor:
    """Mean cross entropy of the masked tokens; 0 where there are none."""
    if not len(rows.masked):
        return hidden.new_zeros(())
    logits = head(hidden.flatten(0, 1)[rows.masked], embedding)
    return fn.cross_entropy(logits.float(), rows.target)
