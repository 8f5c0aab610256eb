"""Fixtures: a tiny network, its shape and its tokenizers; a conftest.py imports them."""

import numpy as np
import pytest

from virnucpro.models.encoders import read_tokenizers
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.bundle.vocabulary import train_dna_tokenizer, write_esm2_tokenizer
from virnucpro.training.store import decode

SHAPE = NetworkShape(2, 32, 4, 64, 2, 48, 12, 64, 128, 24)


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizers")
    rng = np.random.default_rng(0)
    write_esm2_tokenizer(directory / "esm2")
    pieces = [decode(rng.integers(0, 4, 200).astype(np.uint8)).decode() for _ in range(200)]
    train_dna_tokenizer(pieces, SHAPE.dna_vocabulary, directory / "dnabert_s")
    return directory


@pytest.fixture(scope="session")
def tokenizers(tokenizer_directory):
    return read_tokenizers(
        {"esm2": tokenizer_directory / "esm2", "dnabert_s": tokenizer_directory / "dnabert_s"}
    )


@pytest.fixture(scope="session")
def shape():
    return SHAPE


@pytest.fixture(scope="session")
def network():
    import torch

    torch.manual_seed(0)
    made = Network(SHAPE).eval()
    with torch.no_grad():  # norms and biases away from 1 and 0, so that a mistake in them shows
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made
