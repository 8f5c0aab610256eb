"""The stacked Muon against torch's, matrix by matrix."""

import pytest
import torch

from virnucpro.training.muon import Muon

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
