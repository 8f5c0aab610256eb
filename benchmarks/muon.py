"""What an optimizer step of mini's training takes with Muon on stacks, and with torch's, matrix by
matrix.

    PYTHONPATH=. python benchmarks/muon.py        # for a GPU; a CPU without bfloat16 takes a minute
    a step

Gradient clipping, AdamW and the running mean of the weights included, as in `training.trainer`;
random gradients, no batches.
"""

from __future__ import annotations

import statistics
import time

import torch

from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.optimizers import RateRules, RunningMean, optimizers_for
from virnucpro.training.bundle.shape import NetworkShape


def torchs(mine: torch.optim.Optimizer) -> torch.optim.Muon:
    """torch's Muon for the matrices of ours."""
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in mine.param_groups]
    return torch.optim.Muon(groups, lr=mine.defaults["lr"], adjust_lr_fn="match_rms_adamw")


def milliseconds(step, device: torch.device) -> float:
    """Median of a step."""
    times, rounds = [], 20 if device.type == "cuda" else 1
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[rounds // 4 :])


def main() -> None:
    """Print both optimizers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Network(NetworkShape()).to(device)
    mean = RunningMean(network, 0.999)
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    adamw, muon = optimizers_for(network, RateRules(), fused=device.type == "cuda")
    for name, matrices in (("stacks", muon), ("torch.optim.Muon", torchs(muon))):

        def step(matrices=matrices):
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adamw.step()
            matrices.step()
            mean.update()

        print(
            f"{name}: {milliseconds(step, device):.1f} ms on"
            f" {torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}"
        )


if __name__ == "__main__":
    main()
