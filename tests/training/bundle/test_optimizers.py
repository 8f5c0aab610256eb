"""The stacked Muon against torch's, matrix by matrix; rates, groups and the running mean."""

import pytest
import torch

from virnucpro.training.bundle.optimizers import (
    Muon,
    RateRules,
    RunningMean,
    learning_rate,
    optimizers_for,
    part_rate,
)

SHAPES = [(32, 32), (32, 32), (128, 32), (32, 128), (128, 32), (32, 32)]


def test_steps_are_those_of_torch():
    torch.manual_seed(4)
    mine = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    before = [p.detach().clone() for p in mine]
    optimizers = (
        Muon(mine, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, start in zip(mine, theirs, before, strict=True):
        assert (b - start).norm() > 0.1
        assert (a - b).norm() < 1e-2 * (b - start).norm()  # its iterations are in bfloat16


def test_what_has_no_gradient_stays_and_the_momentum_is_kept():
    p, still = (torch.nn.Parameter(torch.eye(8)) for _ in range(2))
    optimizer = Muon([p, still], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(still, torch.eye(8)) and not torch.equal(p, torch.eye(8))
    assert optimizer.state_dict()["state"][0]["momentum_buffer"].mean() == pytest.approx(0.05)


def test_rates_warm_up_fall_and_stop_apart():
    rules = RateRules(learning_rate=1.0, warmup=0.1, dnabert_s_share=0.5, esm2_rate=0.5)
    assert learning_rate(0.05, rules) == pytest.approx(0.5) and learning_rate(
        0.1, rules
    ) == pytest.approx(1.0)
    assert learning_rate(1.0, rules) == pytest.approx(0.01)
    assert part_rate("dnabert_s", 0.5, rules) == pytest.approx(0.01)
    assert part_rate("esm2", 0.1, rules) == pytest.approx(0.5)


def test_every_parameter_has_one_optimizer_and_inner_matrices_have_muon(network):
    adamw, muon = optimizers_for(network, RateRules(), fused=False)
    name_of = {id(p): name for name, p in network.named_parameters()}
    inner, others = (
        [name_of[id(p)] for group in o.param_groups for p in group["params"]] for o in (muon, adamw)
    )
    assert sorted(inner + others) == sorted(name_of.values())
    assert {
        "esm2.model.encoder.layer.0.attention.self.query.weight",
        "dnabert_s.model.encoder.layer.0.mlp.wo.weight",
        "classifier.hidden_layer.weight",
    } <= set(inner)
    assert not any(
        word in name
        for name in inner
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
