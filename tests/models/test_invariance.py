"""A sequence's embedding has the same bits whatever it is packed with, at any batch size and number
of threads (CPU; fp32 and bf16).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_run import embed

from virnucpro.models.dnabert_s import DnabertEncoder
from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.tools.random_models import random_dnabert_s, random_esm2

CPU = torch.device("cpu")
BF16 = torch.bfloat16
ENCODERS = {
    "esm2 of 32": lambda: Esm2Encoder(random_esm2("tiny", CPU, torch.float32), CPU, "fp32"),
    "stock esm2 of 32": lambda: Esm2Encoder(
        random_esm2("tiny", CPU, torch.float32), CPU, "fp32", compile="off"
    ),
    "esm2 of 320": lambda: Esm2Encoder(
        shallow(random_esm2("mini", CPU, torch.float32)), CPU, "fp32"
    ),
    "esm2 of 320 in bf16": lambda: Esm2Encoder(
        shallow(random_esm2("mini", CPU, BF16)), CPU, "bf16"
    ),
    "dnabert_s of 48": lambda: DnabertEncoder(
        random_dnabert_s("tiny", CPU, torch.float32), CPU, "fp32"
    ),
    "dnabert_s of 256": lambda: DnabertEncoder(
        shallow(random_dnabert_s("mini", CPU, torch.float32)), CPU, "fp32"
    ),
    "dnabert_s of 256 in bf16": lambda: DnabertEncoder(
        shallow(random_dnabert_s("mini", CPU, BF16)), CPU, "bf16"
    ),
}


def shallow(model):
    del model.encoder.layer[2:]
    return model


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_bits_do_not_depend_on_neighbours_batch_size_or_threads(make, threads):
    encoder = make()
    numbers = np.random.default_rng(5)
    lengths = [3, 3, *range(3, 36, 2), *numbers.integers(36, 172, 14), 167, 167, 167, 600]
    sequences = [np.r_[0, numbers.integers(4, 24, length - 2), 2] for length in lengths]
    threads(1)
    first = embed(encoder, sequences, 1100)
    for tokens, count in ((1100, 2), (2048, 1), (2047, 3), (4096, 5)):
        threads(count)
        shuffled = numbers.permutation(len(sequences))
        again = torch.empty_like(first)
        again[torch.from_numpy(shuffled)] = embed(encoder, [sequences[i] for i in shuffled], tokens)
        assert torch.equal(again, first), (
            f"differs with {tokens} tokens a batch and {count} threads"
        )
