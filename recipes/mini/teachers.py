"""Networks that teach: their mean answers are one more term of the loss of the network that learns.

Hinton and others, 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as fn

from virnucpro.training.bundle.network import Network, NetworkInput, NetworkOutput
from virnucpro.training.bundle.trainer import SUPERVISED, TrainRules, weighted

TEMPERATURE = 2.0  # logits are divided by it


class Teachers:
    """Trained networks whose mean answers another one learns."""

    def __init__(self, networks: Sequence[Network], compile: bool):
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self.encoders = [n.compiled_encoders() if compile else None for n in networks]

    @torch.no_grad()
    def __call__(self, batch: NetworkInput) -> tuple[torch.Tensor, ...]:
        """What is taught of each of the logits of `Network.classify`."""
        found = [
            network.features(batch, encoders)
            for network, encoders in zip(self.networks, self.encoders, strict=True)
        ]
        every = [
            network.classify(of.dna, of.protein)
            for network, of in zip(self.networks, found, strict=True)
        ]
        return tuple(
            torch.stack([logits.float() for logits in part]).mean(0)
            for part in zip(*every, strict=True)
        )


def distances(output: NetworkOutput, taught: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    """How far the output is from what Teachers taught, by the names of SUPERVISED."""

    def distance(logits, target):
        warm = fn.log_softmax(logits.float() / TEMPERATURE, dim=1)
        return (
            fn.kl_div(warm, fn.softmax(target / TEMPERATURE, dim=1), reduction="batchmean")
            * TEMPERATURE**2
        )

    mine = (output.logits, output.esm2_logits, output.dnabert_s_logits)
    return {name: distance(*pair) for name, *pair in zip(SUPERVISED, mine, taught, strict=True)}


class Distillation:
    """The loss term of a network with teachers: labels by `label_weight`, and the distance from
    what is taught.
    """

    def __init__(self, teachers: Teachers, rules: TrainRules, label_weight: float, autocast):
        self.teachers, self.rules = teachers, rules
        self.label_weight, self.autocast = label_weight, autocast

    def __call__(
        self,
        supervised: torch.Tensor,
        output: NetworkOutput,
        batch: NetworkInput,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(the loss, the distances as `taught_...`)."""
        with self.autocast():
            taught = self.teachers(batch)
        far = distances(output, taught)
        loss = self.label_weight * supervised + weighted(far, self.rules)
        return loss, {f"taught_{name}": value for name, value in far.items()}
