"""The training forward against the encoders that are shipped: same weights, same pooled vectors."""

import numpy as np
import pytest
import torch

from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.packing import pack
from virnucpro.training.bundle.batches import BatchShape, scoring_batches
from virnucpro.training.bundle.network import Thinning
from virnucpro.training.bundle.trainer import (
    RunningMean,
    TrainRules,
    learning_rate,
    moved,
    optimizers_for,
    part_rate,
    to_device,
)
from virnucpro.training.bundling import write_bundle
from virnucpro.training.saving import save_parts

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
            dna, protein, _, _ = network.features(
                to_device(batch.esm2, CPU), to_device(batch.dnabert_s, CPU), len(rows), len(rows)
            )
        for name, mine, which, column in (
            ("esm2", protein, tokenizers.esm2, 0),
            ("dnabert_s", dna, tokenizers.dnabert_s, 1),
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
    assert moved(np.zeros(2, np.int16), torch.device("meta")).device.type == "meta"


def test_rates_warm_up_fall_and_stop_apart():
    rules = TrainRules(learning_rate=1.0, warmup=0.1, dnabert_s_share=0.5, esm2_rate=0.5)
    assert learning_rate(0.05, rules) == pytest.approx(0.5) and learning_rate(
        0.1, rules
    ) == pytest.approx(1.0)
    assert learning_rate(1.0, rules) == pytest.approx(0.01)
    assert part_rate("dnabert_s", 0.5, rules) == pytest.approx(0.01)
    assert part_rate("esm2", 0.1, rules) == pytest.approx(0.5)


def test_every_parameter_has_one_optimizer_and_inner_matrices_have_muon(network):
    adamw, muon = optimizers_for(network, TrainRules(), fused=False)
    name_of = {id(p): name for name, p in network.named_parameters()}
    turned, others = (
        [name_of[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)
    )
    assert sorted(turned + others) == sorted(name_of.values())
    assert {
        "esm2.model.encoder.layer.0.attention.self.query.weight",
        "dnabert_s.model.encoder.layer.0.mlp.wo.weight",
        "classifier.hidden_layer.weight",
    } <= set(turned)
    assert not any(
        word in name
        for name in turned
        for word in ("embedding", "only", "tokens", "output_layer", "bias", "norm", "Norm")
    )
    assert all(
        group["weight_decay"] == 0 for group in adamw.param_groups if group["params"][0].ndim < 2
    )


def test_the_running_mean_swaps_and_restores(network):
    mean = RunningMean(network, 0.9)
    before = [p.clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    mean.swap()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    mean.swap()
    with torch.no_grad():
        for p, old in zip(network.parameters(), before, strict=True):
            p.copy_(old)


def test_thinning_drops_values_and_whole_rows_and_keeps_the_mean():
    torch.manual_seed(1)
    x = torch.ones(4000, 3, 5)
    thinned = Thinning(0.2, 0.5)
    assert torch.equal(thinned.eval()(x), x)
    out = thinned.train()(x)
    dropped = (out == 0).all(dim=2).all(dim=1).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.03)
    assert (out == 0).float().mean().item() == pytest.approx(1 - 0.5 * 0.8, abs=0.03)
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    thinned.values.fill_(0.0)
    thinned.branches.fill_(0.0)
    assert torch.equal(thinned(x), x)
