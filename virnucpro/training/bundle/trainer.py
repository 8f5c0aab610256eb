"""The training loop: batches from worker processes, one loss of five, a running mean of the
weights, a budget in time.

Supervised and masked-language losses are one sum, so a short budget is never split between
pre-training and fine-tuning. Through Accelerate, for its devices and precisions; in one process.
Resumable from `state.pt`.
"""

from __future__ import annotations

import math
import pickle
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from virnucpro.errors import ModelError, one_line
from virnucpro.training.bundle.batches import Batch, BatchMaker, Rows
from virnucpro.training.bundle.network import Answers, Network, RowTensors
from virnucpro.training.muon import Muon

MOST_OF_AN_ERROR = 60  # characters; that of other weights names each of them


@dataclass(frozen=True)
class TrainRules:
    """How long and how fast. Stops at `seconds` of training or `steps`, whichever comes first."""

    seconds: float = 480.0
    steps: int = 10**9
    learning_rate: float = 7e-4
    # factor of the learning rate for ESM-2 (lower when it starts from trained weights)
    esm2_rate: float = 1.0
    dnabert_s_rate: float = 1.0  # the same for DNABERT-S
    # of the budget in which DNABERT-S learns; then its mean is kept fixed
    dnabert_s_share: float = 1.0
    warmup: float = 0.03  # share of the budget
    matrix_rate: float = 3.0  # factor of the learning rate for the matrices that Muon turns
    weight_decay: float = 0.3
    clip: float = 1.0
    smoothing: float = 0.05
    pretrain: float = 0.0  # share of the budget in which only masked tokens are learned
    # of the classifier that sees proteins only: of the encoders ESM-2 is the slower and the one to
    # trust more
    esm2_weight: float = 3.0
    dnabert_s_weight: float = 0.3  # of the one that sees nucleotides only
    token_weight: float = 0.5  # of the masked-language losses
    mean_decay: float = 0.999
    seed: int = 1
    workers: int = 14
    report_every: float = 45.0  # seconds
    save_every: float = 120.0
    compile: bool = False


SUPERVISED = ("classifier", "esm2_only", "dnabert_s_only")


# (supervised loss, output, what the network was given) -> (the loss to use in its place, what to
# report of it by name)
LossTerm = Callable[
    [torch.Tensor, Answers, tuple[RowTensors, RowTensors, int, int]],
    tuple[torch.Tensor, dict[str, torch.Tensor]],
]


class Batches(torch.utils.data.IterableDataset):
    """Endless batches; every worker has its own random numbers. `skip` makes a resumed run
    go on.
    """

    def __init__(self, maker: BatchMaker, seed: int, skip: int = 0):
        self.maker, self.seed, self.skip = maker, seed, skip

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, 0, worker.id if worker else 0, self.skip])
        while True:
            yield self.maker.draw(rng)


def as_is(batch):
    return batch


def loader(dataset, workers: int):
    """Batches as they are: numpy arrays travel by pipe, since shared memory may be small."""
    # more workers than cores: they only wait longer
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    extra = (
        {
            "prefetch_factor": 4,
            "persistent_workers": True,
            "worker_init_fn": left_to_the_main_process,
        }
        if workers
        else {}
    )
    return torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=as_is, **extra
    )


def left_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that it ends waits in vain, 5 seconds
    each, for its batches to be taken.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def moved(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """On the device; a GPU gets it from pinned memory, so that neither waits for the other."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(
        device, non_blocking=device.type == "cuda"
    )


def to_device(rows: Rows, device: torch.device) -> RowTensors:
    tokens, segment, pooled, scale, masked, target = (moved(a, device) for a in rows)
    return RowTensors(tokens.long(), segment.long(), pooled, scale, masked.long(), target.long())


def losses(
    answers: Answers, batch: Batch, rules: TrainRules, device: torch.device
) -> dict[str, torch.Tensor]:
    """The five parts, each a mean over its examples."""
    label, weight = moved(batch.virus, device), moved(batch.weight, device)
    n = batch.n_frames

    def supervised(logits, y, w):
        each = F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=rules.smoothing)
        return (each * w).mean()

    return {
        "classifier": supervised(answers.logits, label[:n], weight[:n]),
        "esm2_only": supervised(answers.esm2_logits, label, weight),
        "dnabert_s_only": supervised(answers.dnabert_s_logits, label[:n], weight[:n]),
        "esm2_tokens": answers.esm2_loss,
        "dnabert_s_tokens": answers.dnabert_s_loss,
    }


def learning_rate(progress: float, rules: TrainRules) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak; `progress` 0..1 of the budget."""
    if progress < rules.warmup:
        return rules.learning_rate * max(progress / rules.warmup, 0.01)
    t = min((progress - rules.warmup) / (1 - rules.warmup), 1.0)
    return rules.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * t)))


class RunningMean:
    """Exponential mean of parameters (the mean over all steps while that is shorter)."""

    def __init__(self, network: Network, decay: float):
        self.decay, self.steps = decay, 0
        self.names = [name for name, _ in network.named_parameters()]
        self.live = [p for p in network.parameters()]
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def settle(self, part: str) -> None:
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


def optimizers_for(network: Network, rules: TrainRules, fused: bool) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings, vectors and output layers, Muon for the matrices inside the encoders
    and the classifier.

    With Muon and more mini needs fewer frames (recipes/mini/STUDY.md). Groups by part (`esm2`,
    `dnabert_s`, `rest`), so that each can have its own rate; no decay on vectors.
    """
    inner, outer = {}, {}
    for name, p in network.named_parameters():
        part = next((k for k in ("esm2", "dnabert_s") if name.startswith(f"{k}.")), "rest")
        turned = p.ndim == 2 and (
            ".encoder.layer." in name or name == "classifier.hidden_layer.weight"
        )
        (inner if turned else outer).setdefault((part, p.ndim >= 2), []).append(p)

    def described(groups: dict, factor: float) -> list[dict]:
        return [
            {
                "params": params,
                "part": part,
                "factor": factor,
                "weight_decay": rules.weight_decay if decayed else 0.0,
            }
            for (part, decayed), params in groups.items()
        ]

    return [
        torch.optim.AdamW(
            described(outer, 1.0), lr=rules.learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=fused
        ),
        Muon(described(inner, rules.matrix_rate), lr=rules.learning_rate),
    ]


def part_rate(part: str, progress: float, rules: TrainRules) -> float:
    if part == "dnabert_s":
        share = rules.dnabert_s_share
        return (
            learning_rate(min(progress / share, 1.0), rules) * rules.dnabert_s_rate
            if share
            else 0.0
        )
    return learning_rate(progress, rules) * (rules.esm2_rate if part == "esm2" else 1.0)


def weighted(parts: dict[str, torch.Tensor], rules: TrainRules) -> torch.Tensor:
    """The sum of `parts`, by name one of each of SUPERVISED, as the rules weigh them."""
    weights = (1.0, rules.esm2_weight, rules.dnabert_s_weight)
    return sum(weight * parts[name] for weight, name in zip(weights, SUPERVISED, strict=True))


@dataclass
class Progress:
    """What a report sees."""

    step: int
    seconds: float
    frames: int
    rate: float
    parts: dict[str, float]


def train(
    network: Network,
    maker: BatchMaker,
    rules: TrainRules,
    *,
    accelerator,
    report: Callable[[Progress, Network, RunningMean], None] = lambda *_: None,
    state: Path | None = None,
    encoders: tuple | None = None,
    loss_term: LossTerm | None = None,
) -> RunningMean:
    """Train `network` in place on the accelerator's device; returns the mean of its weights.

    `report` is called about every `report_every` seconds with the live network and its mean. With
    `state`, the run is saved there every `save_every` seconds and when it is interrupted or
    terminated, and goes on from it. `encoders`: the network's, already compiled. `loss_term` may
    change the supervised loss.
    """
    device = accelerator.device
    network.to(device).train()
    optimizers = optimizers_for(network, rules, fused=device.type == "cuda")
    mean = RunningMean(network, rules.mean_decay)
    step, spent, frames = 0, 0.0, 0
    if state is not None and state.exists():
        try:
            saved = torch.load(state, map_location=device, weights_only=True)
            network.load_state_dict(saved["network"])
            for optimizer, kept in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            mean.steps, step, spent, frames = (
                saved["mean_steps"],
                saved["step"],
                saved["seconds"],
                saved["frames"],
            )
        except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            why = one_line(str(error))[:MOST_OF_AN_ERROR]
            raise ModelError(
                f"{state}: not of this training ({why}...); start without --resume, or give the"
                " --size it had"
            ) from error
        for kept, value in zip(mean.mean, saved["mean"], strict=True):
            kept.copy_(value)
        if saved["dnabert_s_fixed"]:
            network.fix_dnabert_s()
    if rules.compile and encoders is None:
        encoders = (
            torch.compile(network.esm2, dynamic=False),
            torch.compile(network.dnabert_s, dynamic=False),
        )
    wrapped, *optimizers = accelerator.prepare(network, *optimizers)
    source = iter(loader(Batches(maker, rules.seed, step), rules.workers))
    began, last_report, last_save = time.monotonic() - spent, time.monotonic(), time.monotonic()
    recent: dict[str, list[torch.Tensor]] = {}
    frames_at_report = frames
    timed = step > 0
    try:
        while step < rules.steps:
            now = time.monotonic()
            # compiling is not training: the budget starts after the first steps
            if not timed and step == 3:
                began, timed = now, True
            progress = max((now - began) / rules.seconds if timed else 0.0, step / rules.steps)
            if progress >= 1:
                break
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = part_rate(group["part"], progress, rules) * group["factor"]
            if progress >= rules.dnabert_s_share and not network.dnabert_s_fixed:
                mean.settle("dnabert_s")
                network.fix_dnabert_s()
            batch = next(source)
            given = (
                to_device(batch.esm2, device),
                to_device(batch.dnabert_s, device),
                batch.n_frames,
                len(batch.virus),
            )
            answers = wrapped(*given, encoders)
            parts = losses(answers, batch, rules, device)
            supervised = weighted(parts, rules)
            if loss_term is not None:
                supervised, more = loss_term(supervised, answers, given)
                parts |= more
            tokens = parts["esm2_tokens"] + parts["dnabert_s_tokens"]
            total = (
                supervised * 0.0 + tokens
                if progress < rules.pretrain
                else supervised + rules.token_weight * tokens
            )
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            accelerator.backward(total)
            accelerator.clip_grad_norm_(wrapped.parameters(), rules.clip)
            for optimizer in optimizers:
                optimizer.step()
            mean.update()
            step += 1
            frames += batch.n_frames
            for name, value in parts.items():
                recent.setdefault(name, []).append(value.detach())
            now = time.monotonic()
            if now - last_report >= rules.report_every or step == rules.steps or step in (1, 10):
                values = {name: torch.stack(v[-50:]).mean().item() for name, v in recent.items()}
                speed = (frames - frames_at_report) / max(time.monotonic() - last_report, 1e-9)
                report(
                    Progress(step, time.monotonic() - began, frames, speed, values), network, mean
                )
                recent, last_report, frames_at_report = {}, time.monotonic(), frames
                network.train()
            if state is not None and now - last_save >= rules.save_every:
                save_state(state, network, optimizers, mean, step, now - began, frames)
                last_save = time.monotonic()
    except (KeyboardInterrupt, SystemExit):
        if state is not None and step:
            save_state(state, network, optimizers, mean, step, time.monotonic() - began, frames)
        raise
    if state is not None:
        save_state(state, network, optimizers, mean, step, time.monotonic() - began, frames)
    return mean


def save_state(
    path: Path,
    network: Network,
    optimizers,
    mean: RunningMean,
    step: int,
    seconds: float,
    frames: int,
) -> None:
    beside = path.with_suffix(".part")
    torch.save(
        {
            "network": network.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
            "mean": mean.mean,
            "mean_steps": mean.steps,
            "dnabert_s_fixed": network.dnabert_s_fixed,
            "step": step,
            "seconds": seconds,
            "frames": frames,
        },
        beside,
    )
    beside.replace(path)


@torch.no_grad()
def settle_batch_norm(network: Network, batches: list[Batch], device: torch.device) -> None:
    """Set the classifier's batch-norm statistics to those of `batches` as inference sees them:
    unmasked, no dropout.
    """
    network.eval()
    norm = network.classifier.bn1
    total, square, count = 0.0, 0.0, 0
    for batch in batches:
        dna, protein, _, _ = network.features(
            to_device(batch.esm2, device),
            to_device(batch.dnabert_s, device),
            batch.n_frames,
            len(batch.virus),
        )
        kept = torch.from_numpy(batch.weight[: batch.n_frames] > 0).to(device)
        hidden = network.classifier.hidden_layer(
            torch.cat([dna, protein[: batch.n_frames]], dim=1)
        )[kept].double()
        total, square, count = (
            total + hidden.sum(0),
            square + (hidden**2).sum(0),
            count + len(hidden),
        )
    norm.running_mean.copy_(total / count)
    norm.running_var.copy_(square / count - (total / count) ** 2)
