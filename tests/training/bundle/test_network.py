"""The training forward against the encoders that are shipped: same weights, same pooled vectors."""

import numpy as np
import pytest
import torch

from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.packing import pack
from virnucpro.training.bundle.batches import BatchShape, scoring_batches
from virnucpro.training.bundle.encoders import BranchDropout
from virnucpro.training.bundle.loader import input_on, tensor_on
from virnucpro.training.bundle.save import save_parts, write_bundle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(2)
    lengths = [20, 21, 33, 64, 90, 120, 150, 166, 166]
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)).encode() for n in lengths]
    return proteins, ["".join(rng.choice(list("ACGT"), 3 * n + 1)).encode() for n in lengths]


@pytest.fixture(scope="module")
def shipped(network, shape, tokenizer_directory, tmp_path_factory):
    parts, bundle = tmp_path_factory.mktemp("parts"), tmp_path_factory.mktemp("bundle")
    network.round_to_half()
    save_parts(network, parts)
    write_bundle(
        bundle, parts, tokenizer_directory / "dnabert_s", shape, {"name": "t", "chunk_length": 500}
    )
    return parts, bundle


def test_pooled_vectors_equal_those_of_the_shipped_encoders(network, shipped, tokenizers, frames):
    _, bundle = shipped
    small = BatchShape(4, 0, 384, 2, 3)  # several batches, several sequences a row
    encoders = {
        "esm2": load_esm2(bundle / "esm2", "cpu", "fp32"),
        "dnabert_s": load_dnabert_s(bundle / "dnabert_s", "cpu", "fp32"),
    }
    seen = []
    for rows, batch in scoring_batches(*frames, tokenizers, small):
        with torch.no_grad():
            found = network.features(input_on(CPU, batch))
        for name, mine, which, column in (
            ("esm2", found.protein, tokenizers["esm2"], 0),
            ("dnabert_s", found.dna, tokenizers["dnabert_s"], 1),
        ):
            for j, i in enumerate(rows):
                if batch.weight[j] == 0:
                    continue
                ids = np.asarray(which([frames[column][i]])[0], dtype=np.int64)
                theirs = encoders[name].embed(pack([ids], len(ids) + 8, encoders[name].pad_id))[0]
                assert torch.allclose(theirs, mine[j], atol=1e-4), (name, i)
        seen += [i for j, i in enumerate(rows) if batch.weight[j]]
    assert sorted(seen) == list(range(len(frames[0])))


def test_arrays_go_to_a_device_of_any_kind():
    assert tensor_on(torch.device("meta"), np.zeros(2, np.int16)).device.type == "meta"


def test_branch_dropout_drops_values_and_whole_rows_and_keeps_the_mean():
    torch.manual_seed(1)
    x = torch.ones(4000, 3, 5)
    dropout = BranchDropout(0.2, 0.5)
    assert torch.equal(dropout.eval()(x), x)
    out = dropout.train()(x)
    dropped = (out == 0).all(dim=2).all(dim=1).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.03)
    assert (out == 0).float().mean().item() == pytest.approx(1 - 0.5 * 0.8, abs=0.03)
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    dropout.values.fill_(0.0)
    dropout.branches.fill_(0.0)
    assert torch.equal(dropout(x), x)
