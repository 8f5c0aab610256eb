"""Muon (Jordan et al. 2024) with updates as large as AdamW's (Liu et al. 2025, arXiv 2502.16982),
matrices of one shape at a time.

`torch.optim.Muon` turns one matrix after another, 22 launches each; mini has 58 of them, too small
to fill a GPU, so that it took longer than they need (recipes/mini/STUDY.md). Step for step the same
arithmetic, on stacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as in torch.optim.Muon
ITERATIONS = 5
LEAST_NORM = 1e-7


def turned(matrices: torch.Tensor) -> torch.Tensor:
    """Each of [N, A, B] with its singular values brought near one, bfloat16: five Newton-Schulz
    iterations.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Of matrices only; `lr` and `weight_decay` as in AdamW."""

    def __init__(
        self, params: Iterable, lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            stacks: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    stacks.setdefault(p.shape, []).append(p)
            for shape, params in stacks.items():
                grads = [p.grad for p in params]
                kept = [
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params
                ]
                torch._foreach_lerp_(kept, grads, 1 - group["momentum"])
                updates = turned(
                    torch.stack(torch._foreach_lerp(grads, kept, group["momentum"]))
                ).float()
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    params,
                    list(updates.unbind(0)),
                    alpha=-group["lr"] * 0.2 * math.sqrt(max(shape)),
                )
