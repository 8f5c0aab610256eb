"""The same promises on an NVIDIA GPU: the original's features in fp32, agreement in 16 bits, bits
that do not depend on neighbours.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_run import GOLDEN, embed, protein_ids, read_fasta

from virnucpro.models.choices import compute_dtype
from virnucpro.models.dnabert_s import DnabertEncoder, load_dnabert_s
from virnucpro.models.esm2 import Esm2Encoder, load_esm2
from virnucpro.tools.random_models import random_dnabert_s, random_esm2

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
DEVICE = torch.device("cuda")
MAKERS = {
    "esm2": lambda precision: Esm2Encoder(
        random_esm2("mini", DEVICE, compute_dtype(precision)), DEVICE, precision
    ),
    "dnabert_s": lambda precision: DnabertEncoder(
        random_dnabert_s("mini", DEVICE, compute_dtype(precision)), DEVICE, precision
    ),
}


def cuda_embed(encoder, sequences, tokens: int) -> torch.Tensor:
    from golden_run import batches

    return torch.cat(
        [encoder.embed(batch.to(DEVICE)) for batch in batches(sequences, tokens, encoder.pad_id)]
    ).cpu()


def some_sequences() -> list[np.ndarray]:
    numbers = np.random.default_rng(5)
    lengths = [3, 3, *range(3, 36, 2), *numbers.integers(36, 172, 60), *[168] * 30, 600, 1024]
    return [np.r_[0, numbers.integers(4, 24, length - 2), 2] for length in lengths]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_bits_do_not_depend_on_neighbours(name, precision):
    encoder, sequences = MAKERS[name](precision), some_sequences()
    first = cuda_embed(encoder, sequences, 4096)
    assert torch.isfinite(first).all()
    for seed in (1, 2):
        shuffled = np.random.default_rng(seed).permutation(len(sequences))
        again = torch.empty_like(first)
        again[torch.from_numpy(shuffled)] = cuda_embed(
            encoder, [sequences[i] for i in shuffled], 4096
        )
        differ = (again != first).any(1).nonzero().flatten().tolist()
        assert not differ, (
            f"lengths {[len(sequences[i]) for i in differ]} differ, by"
            f" {(again - first).abs().max():.1e}"
        )


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_point_where_fp32_points(name, precision):
    sequences = some_sequences()
    wanted, found = (
        cuda_embed(MAKERS[name]("fp32"), sequences, 4096),
        cuda_embed(MAKERS[name](precision), sequences, 4096),
    )
    assert torch.cosine_similarity(wanted, found).min() >= 0.999


def test_fp32_is_what_the_cpu_computes():
    proteins = [
        protein_ids(protein)
        for protein in read_fasta(GOLDEN / "expected" / "frames_protein.faa").values()
    ]
    for load, part in ((load_esm2, "esm2"), (load_dnabert_s, "dnabert_s")):
        wanted = embed(load(GOLDEN / part, "cpu", "fp32"), proteins)
        found = cuda_embed(load(GOLDEN / part, DEVICE, "fp32"), proteins, 2048)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
