"""ESM-2 against its authors' own code, random weights copied over by name."""

from __future__ import annotations

import random

import pytest
import torch
from golden_run import embed, protein_ids

from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.tools.random_models import random_esm2

esm = pytest.importorskip("esm", reason="needs the package fair-esm")

NAMES = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "LayerNorm": "final_layer_norm",
}


def authors_name(name: str) -> str:
    if name.startswith("encoder.layer."):
        _, _, layer, rest = name.split(".", 3)
        module, kind = rest.rsplit(".", 1)
        return f"layers.{layer}.{NAMES[module]}.{kind}"
    return name.replace("embeddings.word_embeddings", "embed_tokens").replace(
        "encoder.emb_layer_norm", "emb_layer_norm"
    )


@pytest.fixture(scope="module", params=["off", "auto"])
def both(request):
    model = random_esm2("tiny", "cpu", torch.float32)
    values = torch.Generator().manual_seed(3)
    # larger than at initialization, so that attention is far from uniform
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=values) * 0.3)
    authors = esm.ESM2(num_layers=2, embed_dim=32, attention_heads=4).eval()
    authors_state = authors.state_dict()
    authors_state |= {authors_name(name): tensor for name, tensor in model.named_parameters()}
    authors.load_state_dict(
        {name: tensor for name, tensor in authors_state.items() if name in authors.state_dict()}
    )
    return Esm2Encoder(model, torch.device("cpu"), "fp32", request.param), authors


@torch.inference_mode()
def authors_mean(authors, protein: str) -> torch.Tensor:
    tokens = torch.from_numpy(protein_ids(protein)).long()[None]
    return authors(tokens, repr_layers=[2])["representations"][2][0, 1:-1].mean(0)


def test_every_length_in_mixed_batches(both):
    encoder, authors = both
    letters = random.Random(1)
    lengths = [1, 1, 2, 3, 5, 14, 30, 31, 33, 99, 166, 166, 400, 1022]
    letters.shuffle(lengths)
    proteins = ["".join(letters.choices("ACDEFGHIKLMNPQRSTVWYX", k=length)) for length in lengths]
    wanted = torch.stack([authors_mean(authors, protein) for protein in proteins])
    assert wanted.std() > 0.1
    torch.testing.assert_close(
        embed(encoder, list(map(protein_ids, proteins)), 2048), wanted, atol=2e-5, rtol=0
    )
