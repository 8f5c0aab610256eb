import contextlib

import numpy as np
import pytest
import torch

from recipes.mini.teachers import Distillation, Teachers, distances
from virnucpro.training.bundle.batches import BatchShape, scoring_batches
from virnucpro.training.bundle.loader import input_on
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.trainer import TrainRules, weighted

CPU = torch.device("cpu")


def frames():
    rng = np.random.default_rng(2)
    lengths = [20, 21, 33, 64, 90, 120, 150, 166, 166]
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)).encode() for n in lengths]
    return proteins, ["".join(rng.choice(list("ACGT"), 3 * n + 1)).encode() for n in lengths]


def test_teachers_teach_their_mean_and_have_nothing_to_say_to_themselves(
    network, shape, tokenizers
):
    network.eval()
    torch.manual_seed(4)
    ((_, batch),) = scoring_batches(*frames(), tokenizers, BatchShape(9, 0, 384, 8, 8))
    given = input_on(CPU, batch)
    other = Network(shape).eval()
    alone, another, two = (
        Teachers(networks, compile=False)(given)
        for networks in ([network], [other], [network, other])
    )
    for mean, *parts in zip(two, alone, another, strict=True):
        assert torch.allclose(mean, sum(parts) / 2, atol=1e-6)
    with torch.no_grad():
        output = network(given)
    same, different = (distances(output, taught) for taught in (alone, another))
    assert set(same) == {"classifier", "esm2_only", "dnabert_s_only"}
    assert all(abs(float(v)) < 1e-6 for v in same.values()) and all(
        float(v) > 1e-4 for v in different.values()
    )


def test_a_network_with_teachers_learns_labels_and_what_is_taught(network, shape, tokenizers):
    ((_, batch),) = scoring_batches(*frames(), tokenizers, BatchShape(9, 0, 384, 8, 8))
    given = input_on(CPU, batch)
    rules, teachers = TrainRules(esm2_weight=2.0), Teachers([Network(shape)], compile=False)
    term = Distillation(teachers, rules, 0.25, contextlib.nullcontext)
    with torch.no_grad():
        output = network.eval()(given)
        loss, parts = term(torch.tensor(4.0), output, given)
    far = distances(output, teachers(given))
    assert loss.item() == pytest.approx(1.0 + weighted(far, rules).item())
    assert parts["taught_esm2_only"] == far["esm2_only"]
