"""The training loop: batches from worker processes, one loss of five, a running mean of the
weights, a budget in time.

Supervised and masked-language losses are one sum, so a short budget is never split between
pre-training and fine-tuning. Through Accelerate, for its devices and precisions; in one process.
Resumable from `state.pt`.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as fn

from virnucpro.errors import ModelError, one_line
from virnucpro.files import writing
from virnucpro.training.bundle.batches import Batch, BatchMaker
from virnucpro.training.bundle.loader import Batches, input_on, loader, tensor_on
from virnucpro.training.bundle.network import Encoders, Network, NetworkInput, NetworkOutput
from virnucpro.training.bundle.optimizers import RateRules, RunningMean, optimizers_for, set_rates

if TYPE_CHECKING:
    from accelerate import Accelerator

LONGEST_REASON = 60  # characters of an error of torch; that of other weights names each of them
UNTIMED_STEPS = 3  # at the start: compiling is not training
MEAN_OF = 50  # steps: what a report's losses are the mean of
SUPERVISED = ("classifier", "esm2_only", "dnabert_s_only")


@dataclass(frozen=True)
class TrainRules(RateRules):
    """How long, how fast and by which losses. Stops at `seconds` of training or `steps`."""

    seconds: float = 480.0
    steps: int = 10**9
    smoothing: float = 0.05  # of labels
    pretrain: float = 0.0  # share of the budget in which only masked tokens are learned
    # weight of the classifier that sees proteins only: of the encoders ESM-2 is the slower and the
    # one to trust more
    esm2_weight: float = 3.0
    dnabert_s_weight: float = 0.3  # of the one that sees nucleotides only
    token_weight: float = 0.5  # of the masked-language losses
    mean_decay: float = 0.999
    seed: int = 1
    workers: int = 14
    report_every: float = 45.0  # seconds
    save_every: float = 120.0  # seconds
    compile: bool = False


# (supervised loss, output, what the network was given) -> (the loss to use in its place, what to
# report of it by name)
LossTerm = Callable[
    [torch.Tensor, NetworkOutput, NetworkInput], tuple[torch.Tensor, dict[str, torch.Tensor]]
]


def losses(
    output: NetworkOutput, batch: Batch, rules: TrainRules, device: torch.device
) -> dict[str, torch.Tensor]:
    """The five parts, each a mean over its examples."""
    label, weight = tensor_on(device, batch.virus), tensor_on(device, batch.weight)
    n = batch.n_frames

    def supervised(logits: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        smoothing = rules.smoothing
        each = fn.cross_entropy(logits.float(), y, reduction="none", label_smoothing=smoothing)
        return (each * w).mean()

    return {
        "classifier": supervised(output.logits, label[:n], weight[:n]),
        "esm2_only": supervised(output.esm2_logits, label, weight),
        "dnabert_s_only": supervised(output.dnabert_s_logits, label[:n], weight[:n]),
        "esm2_tokens": output.esm2_loss,
        "dnabert_s_tokens": output.dnabert_s_loss,
    }


def weighted(parts: dict[str, torch.Tensor], rules: TrainRules) -> torch.Tensor:
    """The sum of `parts`, by name one of each of SUPERVISED, as the rules weigh them."""
    weights = (1.0, rules.esm2_weight, rules.dnabert_s_weight)
    terms = [weight * parts[name] for weight, name in zip(weights, SUPERVISED, strict=True)]
    return terms[0] + terms[1] + terms[2]


@dataclass
class Progress:
    """What a report sees."""

    step: int
    seconds: float
    frames: int
    rate: float  # frames a second since the last report
    parts: dict[str, float]  # losses by name


class Training:
    """A network on its way: optimizers, running mean, and how far it has come."""

    def __init__(
        self,
        network: Network,
        rules: TrainRules,
        accelerator: Accelerator,
        encoders: Encoders | None,
        loss_term: LossTerm | None,
    ):
        self.network, self.rules, self.accelerator = network, rules, accelerator
        self.encoders, self.loss_term = encoders, loss_term
        self.device = accelerator.device
        network.to(self.device).train()
        self.optimizers = optimizers_for(network, rules, fused=self.device.type == "cuda")
        self.mean = RunningMean(network, rules.mean_decay)
        self.step, self.frames, self.seconds = 0, 0, 0.0

    def load(self, path: Path) -> None:
        """Go on from a saved state. ModelError: not of this training."""
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(saved["network"])
            for optimizer, kept in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            for live, value in zip(self.mean.mean, saved["mean"], strict=True):
                live.copy_(value)
            self.mean.steps, self.step = saved["mean_steps"], saved["step"]
            self.seconds, self.frames = saved["seconds"], saved["frames"]
            fixed = saved["dnabert_s_fixed"]
        except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            why = one_line(str(error))[:LONGEST_REASON]
            raise ModelError(
                f"{path}: not of this training ({why}...); start without --resume, or give the"
                " --size it had"
            ) from error
        if fixed:
            self.network.fix_dnabert_s()

    def save(self, path: Path, seconds: float) -> None:
        """Keep all that `load` needs, whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "mean": self.mean.mean,
            "mean_steps": self.mean.steps,
            "dnabert_s_fixed": self.network.dnabert_s_fixed,
            "step": self.step,
            "seconds": seconds,
            "frames": self.frames,
        }
        with writing(path) as stream:
            torch.save(state, stream)

    def prepare(self) -> None:
        """Hand the network and its optimizers to Accelerate."""
        if self.rules.compile and self.encoders is None:
            self.encoders = self.network.compiled_encoders()
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.network, *self.optimizers)

    def take_step(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        """Learn from a batch at this share of the budget; gives the parts of the loss."""
        rules = self.rules
        batch_input = input_on(self.device, batch)
        output = self.wrapped(batch_input, self.encoders)
        parts = losses(output, batch, rules, self.device)
        supervised = weighted(parts, rules)
        if self.loss_term is not None:
            supervised, more = self.loss_term(supervised, output, batch_input)
            parts |= more
        tokens = parts["esm2_tokens"] + parts["dnabert_s_tokens"]
        if progress < rules.pretrain:
            total = supervised * 0.0 + tokens  # every parameter keeps a gradient
        else:
            total = supervised + rules.token_weight * tokens
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), rules.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.mean.update()
        self.step += 1
        self.frames += batch.n_frames
        return parts

    def follow_schedule(self, progress: float) -> None:
        """Rates at this share of the budget; DNABERT-S stops learning at its own share."""
        set_rates(self.optimizers, progress, self.rules)
        if progress >= self.rules.dnabert_s_share and not self.network.dnabert_s_fixed:
            self.mean.freeze_to_mean("dnabert_s")
            self.network.fix_dnabert_s()


class Clock:
    """Seconds of training. A new one's begin to count after UNTIMED_STEPS."""

    def __init__(self, training: Training):
        self.training = training
        self.began = time.monotonic() - training.seconds
        self.counts = training.step > 0

    @property
    def seconds(self) -> float:
        """Of training, since its very start."""
        return time.monotonic() - self.began

    def progress(self) -> float:
        """The share of the budget that is used, by time or by steps."""
        step, rules = self.training.step, self.training.rules
        if not self.counts and step == UNTIMED_STEPS:
            self.began, self.counts = time.monotonic(), True
        return max(self.seconds / rules.seconds if self.counts else 0.0, step / rules.steps)


class Reports:
    """Gathers losses and says now and then what they are."""

    def __init__(self, training: Training, clock: Clock, report: Callable):
        self.training, self.clock, self.report = training, clock, report
        self.recent: dict[str, list[torch.Tensor]] = {}
        self.sent, self.frames = time.monotonic(), training.frames

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        """Take in a step; report if it is time."""
        training = self.training
        for name, value in parts.items():
            self.recent.setdefault(name, []).append(value.detach())
        late = time.monotonic() - self.sent >= training.rules.report_every
        if not late and training.step not in (1, 10, training.rules.steps):
            return
        values = {name: torch.stack(v[-MEAN_OF:]).mean().item() for name, v in self.recent.items()}
        rate = (training.frames - self.frames) / max(time.monotonic() - self.sent, 1e-9)
        self.report(
            Progress(training.step, self.clock.seconds, training.frames, rate, values),
            training.network,
            training.mean,
        )
        self.recent, self.sent, self.frames = {}, time.monotonic(), training.frames
        training.network.train()  # a report may have measured it


def train(
    network: Network,
    maker: BatchMaker,
    rules: TrainRules,
    *,
    accelerator: Accelerator,
    report: Callable[[Progress, Network, RunningMean], None] = lambda *_: None,
    state: Path | None = None,
    encoders: Encoders | None = None,
    loss_term: LossTerm | None = None,
) -> RunningMean:
    """Train `network` in place on the accelerator's device; returns the mean of its weights.

    `report` is called about every `report_every` seconds with the live network and its mean. With
    `state`, the run is saved there every `save_every` seconds and when it is interrupted or
    terminated, and goes on from it. `encoders`: the network's, already compiled. `loss_term` may
    change the supervised loss.
    """
    training = Training(network, rules, accelerator, encoders, loss_term)
    if state is not None and state.exists():
        training.load(state)
    training.prepare()
    source = iter(loader(Batches(maker, rules.seed, training.step), rules.workers))
    clock = Clock(training)
    reports, saved = Reports(training, clock, report), time.monotonic()
    try:
        while training.step < rules.steps and (progress := clock.progress()) < 1:
            training.follow_schedule(progress)
            reports.add(training.take_step(next(source), progress))
            if state is not None and time.monotonic() - saved >= rules.save_every:
                training.save(state, clock.seconds)
                saved = time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        if state is not None and training.step:
            training.save(state, clock.seconds)
        raise
    if state is not None:
        training.save(state, clock.seconds)
    return training.mean
