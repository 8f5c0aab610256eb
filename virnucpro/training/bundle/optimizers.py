"""What turns gradients into steps: Muon for inner matrices, AdamW for the rest, and their rates.

Muon (Jordan et al. 2024) has updates as large as AdamW's (Liu et al. 2025, arXiv 2502.16982).
`torch.optim.Muon` treats one matrix after another, 22 launches each; mini has 58 of them, too small
to fill a GPU. Here matrices of one shape are stacked; step for step the arithmetic is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from virnucpro.models.internals import foreach_add_, foreach_lerp, foreach_lerp_, foreach_mul_
from virnucpro.training.bundle.network import Network

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as in torch.optim.Muon
ITERATIONS = 5
LEAST_NORM = 1e-7


@dataclass(frozen=True)
class RateRules:
    """Learning rates over the budget, and how large steps may get."""

    learning_rate: float = 7e-4
    # factor of the learning rate for ESM-2 (lower when it starts from trained weights)
    esm2_rate: float = 1.0
    dnabert_s_rate: float = 1.0  # the same for DNABERT-S
    # share of the budget in which DNABERT-S learns; then its mean is kept fixed
    dnabert_s_share: float = 1.0
    warmup: float = 0.03  # share of the budget
    matrix_rate: float = 3.0  # factor of the learning rate for the matrices that Muon has
    weight_decay: float = 0.3
    clip: float = 1.0  # of the gradient's norm


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
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
        self, params: Iterable[Any], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares two overloads; this is both of them
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """One step; `closure`, if any, computes the gradients again and gives the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stacks: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    stacks.setdefault(p.shape, []).append(p)
            for params in stacks.values():
                self._step_stack(params, group)
        return loss

    def _step_stack(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        """The step of matrices of one shape."""
        grads = [p.grad for p in params if p.grad is not None]
        kept = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        foreach_lerp_(kept, grads, 1 - group["momentum"])
        directions = torch.stack(foreach_lerp(grads, kept, group["momentum"]))
        updates = orthogonalized(directions).float()
        foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        # 0.2 sqrt(longer side): as large as AdamW's updates are
        rate = group["lr"] * 0.2 * math.sqrt(max(params[0].shape))
        foreach_add_(params, list(updates.unbind(0)), alpha=-rate)


def optimizers_for(network: Network, rules: RateRules, fused: bool) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings, vectors and output layers, Muon for the matrices inside the encoders
    and the classifier.

    With Muon and more mini needs fewer frames (recipes/mini/STUDY.md). Groups by part (`esm2`,
    `dnabert_s`, `rest`), so that each can have its own rate; no decay on vectors.
    """
    inner: dict[tuple[str, bool], list[torch.Tensor]] = {}
    outer: dict[tuple[str, bool], list[torch.Tensor]] = {}
    for name, p in network.named_parameters():
        part = next((k for k in ("esm2", "dnabert_s") if name.startswith(f"{k}.")), "rest")
        is_inner = p.ndim == 2 and (
            ".encoder.layer." in name or name == "classifier.hidden_layer.weight"
        )
        (inner if is_inner else outer).setdefault((part, p.ndim >= 2), []).append(p)

    def groups(of: dict[tuple[str, bool], list[torch.Tensor]], factor: float) -> list[dict]:
        return [
            {
                "params": params,
                "part": part,
                "factor": factor,
                "weight_decay": rules.weight_decay if decayed else 0.0,
            }
            for (part, decayed), params in of.items()
        ]

    rate = rules.learning_rate
    return [
        torch.optim.AdamW(groups(outer, 1.0), lr=rate, betas=(0.9, 0.98), eps=1e-8, fused=fused),
        Muon(groups(inner, rules.matrix_rate), lr=rate),
    ]


def learning_rate(progress: float, rules: RateRules) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak; `progress` 0..1 of the budget."""
    if progress < rules.warmup:
        return rules.learning_rate * max(progress / rules.warmup, 0.01)
    t = min((progress - rules.warmup) / (1 - rules.warmup), 1.0)
    return rules.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * t)))


def part_rate(part: str, progress: float, rules: RateRules) -> float:
    """The learning rate of `esm2`, `dnabert_s` or `rest`."""
    if part == "dnabert_s":
        if not rules.dnabert_s_share:
            return 0.0
        within = min(progress / rules.dnabert_s_share, 1.0)
        return learning_rate(within, rules) * rules.dnabert_s_rate
    return learning_rate(progress, rules) * (rules.esm2_rate if part == "esm2" else 1.0)


def set_rates(
    optimizers: Iterable[torch.optim.Optimizer], progress: float, rules: RateRules
) -> None:
    """Give every group of parameters its rate at this point of the budget."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = part_rate(group["part"], progress, rules) * group["factor"]


class RunningMean:
    """Exponential mean of parameters (the mean over all steps while that is shorter)."""

    def __init__(self, network: Network, decay: float):
        self.decay, self.steps = decay, 0
        self.names = [name for name, _ in network.named_parameters()]
        self.live: list[torch.Tensor] = list(network.parameters())
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def freeze_to_mean(self, part: str) -> None:
        """Make the mean the live value of the parameters whose names start with `part`."""
        for name, live, mean in zip(self.names, self.live, self.mean, strict=True):
            if name.startswith(part):
                live.copy_(mean)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live parameters and the mean; call twice to restore."""
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)
