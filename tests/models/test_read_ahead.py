"""A network that was read by a thread is the one that would have been read."""
from __future__ import annotations

import shutil

import pytest
import torch
from golden_run import GOLDEN

from virnucpro.models.dnabert_s import DnabertEncoder
from virnucpro.models.encoder import Encoder
from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.models.read_ahead import ReadAhead

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", [Esm2Encoder, DnabertEncoder])
def test_the_same_network_as_without(architecture: type[Encoder]):
    directory = GOLDEN / architecture.name
    ahead = ReadAhead(architecture, directory, CPU, "bf16").take()
    expected = architecture.read(directory, CPU, torch.bfloat16)
    assert ahead is not None
    for (name, found), wanted in zip(ahead.named_parameters(), expected.parameters(), strict=True):
        assert found.dtype == torch.bfloat16 and torch.equal(found, wanted), name
    encoder = architecture.load(directory, CPU, "bf16", ahead=lambda: ahead)
    assert encoder.model is ahead


def test_what_cannot_be_read_is_left_to_the_ordinary_way(tmp_path):
    shutil.copytree(GOLDEN / "esm2", tmp_path / "esm2")
    (tmp_path / "esm2" / "model.safetensors").write_bytes(b"cut")
    assert ReadAhead(Esm2Encoder, tmp_path / "esm2", CPU, "fp32").take() is None


def test_it_is_given_away_once():
    ahead = ReadAhead(DnabertEncoder, GOLDEN / "dnabert_s", CPU, "fp32")
    assert ahead.take() is not None and ahead.take() is None
