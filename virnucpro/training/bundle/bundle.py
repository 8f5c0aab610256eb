"""A whole small bundle from prepared sequences: tokenizer, both encoders, classifier.

Encoders may first learn only to predict masked tokens (`pretrain`, a share of the budget), then
everything learns at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virnucpro.errors import InputError, UsageError
from virnucpro.launch import read_world
from virnucpro.reporting.progress import clock
from virnucpro.training.settings import TrainSettings
from virnucpro.training.store import Store, StoreBuilder, decode, read_prepared
from virnucpro.training.tables import write_rows

if TYPE_CHECKING:
    import torch

    from virnucpro.sequences.tokens import Tokenizers
    from virnucpro.training.bundle.batches import BatchMaker, BatchShape
    from virnucpro.training.bundle.network import Network
    from virnucpro.training.bundle.shape import NetworkShape
    from virnucpro.training.bundle.trainer import Progress, TrainRules

SHORTEST_WINDOW = 60  # bases
LEARNING_RATE = 7e-4
DNABERT_S_SHARE = 0.3  # of the budget: DNABERT-S learns faster, then its mean stays as it is
NORM_BATCHES = 16  # for the batch-norm statistics


def shapes(size: str) -> tuple[NetworkShape, BatchShape]:
    """Of one of `settings.SIZES`; mini is the shipped one."""
    from virnucpro.training.bundle.batches import BatchShape
    from virnucpro.training.bundle.shape import NetworkShape

    return {
        "mini": (NetworkShape(), BatchShape()),
        "small": (
            NetworkShape(4, 192, 12, 768, 3, 128, 4, 512, 1024, 256),
            BatchShape(256, 48, 384, 104, 68),
        ),
        "tiny": (NetworkShape(2, 32, 2, 64, 1, 32, 2, 64, 128, 32), BatchShape(24, 4, 256, 16, 16)),
    }[size]


def train_bundle(settings: TrainSettings, say: Callable[[str], None] = lambda _: None) -> Path:
    """Train and write the bundle into `settings.output`; unfinished work lies in its `training`
    folder.

    Errors: UsageError in one of several processes; InputError for what was prepared.
    """
    import torch
    from accelerate import Accelerator

    from virnucpro.training.bundle.network import Network
    from virnucpro.training.bundle.save import save_parts, write_bundle
    from virnucpro.training.bundle.trainer import train

    began = time.monotonic()
    if (size := read_world().size) > 1:
        raise UsageError(
            f"train runs in one process, and the launcher started {size}; leave the launcher out"
        )
    if settings.prepared is None:
        raise UsageError("train: name a directory of `prepare` for a whole bundle")
    store = read_prepared(settings.prepared)
    learned = store.select_records(store.labels.split == "train")
    if not learned.labels.virus.any() or learned.labels.virus.all():
        raise InputError(f"{settings.prepared}: the training side needs viral and other sequences")
    shape, batch_shape = shapes(settings.size)
    check_chunk_length(settings, batch_shape)
    work = settings.output / "training"
    tokenizers = prepare_tokenizers(settings, learned, shape.dna_vocabulary, work)
    maker = batch_maker(settings, learned, tokenizers)
    torch.manual_seed(settings.seed)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    rules = train_rules(settings, time.monotonic() - began)
    network, history = Network(shape), History(say, rules)
    mean = train(
        network,
        maker,
        rules,
        accelerator=accelerator,
        report=history.add,
        state=work / "state.pt",
    )
    mean.swap()
    network = accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    finish_network(network, maker, settings, accelerator.device)
    save_parts(network, work)
    description = {
        "name": settings.name,
        "chunk_length": settings.chunk_length,
        "frame_policy": settings.frame_policy,
        "licence": None,
    }
    if (store.labels.split == "validation").any():
        description["accuracy"] = measure(network, store, tokenizers, settings, say)
    write_bundle(settings.output, work, work / "dnabert_s", shape, description)
    history.write(work / "log.csv")
    return settings.output


def check_chunk_length(settings: TrainSettings, shape: BatchShape) -> None:
    """Raise UsageError for chunks whose proteins would not fit into a row."""
    longest = 3 * (shape.row_length - 2)
    if settings.chunk_length > longest:
        raise UsageError(
            f"--chunk-length {settings.chunk_length}: --size {settings.size} is trained on chunks"
            f" of up to {longest} bases"
        )


def prepare_tokenizers(
    settings: TrainSettings, learned: Store, vocabulary: int, work: Path
) -> Tokenizers:
    """Both tokenizers in `work`: those of the training that is resumed, else new ones."""
    from virnucpro.models.encoders import read_tokenizers
    from virnucpro.training.bundle.vocabulary import write_esm2_tokenizer

    work.mkdir(parents=True, exist_ok=True)
    write_esm2_tokenizer(work / "esm2")
    state = work / "state.pt"
    if not settings.resume:
        state.unlink(missing_ok=True)
    if not state.exists():  # what lies there may be of another --size or other sequences
        learn_vocabulary(learned, vocabulary, work / "dnabert_s", settings.seed)
    return read_tokenizers({name: work / name for name in ("esm2", "dnabert_s")})


def batch_maker(settings: TrainSettings, learned: Store, tokenizers: Tokenizers) -> BatchMaker:
    """Draws batches from the training side, with fragments of --proteins."""
    from virnucpro.training.bundle.batches import BatchMaker, BatchRules
    from virnucpro.training.bundle.sampling import FragmentSampler, WindowRules, WindowSampler

    network_shape, batch_shape = shapes(settings.size)
    longest = settings.chunk_length
    shortest = min(max(SHORTEST_WINDOW, longest * 3 // 10), longest)
    sampler = WindowSampler(learned, WindowRules(longest, shortest))
    fragments = FragmentSampler(read_proteins(settings.proteins)) if settings.proteins else None
    # a bundle of the policy stretches, too, learns from longest ones and open frames
    # (recipes/mini/STUDY.md)
    rules = BatchRules(open_share=1.0 if settings.frame_policy == "open" else 0.2)
    vocabulary = network_shape.dna_vocabulary
    return BatchMaker([(1.0, sampler)], fragments, tokenizers, batch_shape, vocabulary, rules)


def train_rules(settings: TrainSettings, seconds_used: float) -> TrainRules:
    """The rules of the training loop; what was used before it is part of --minutes, up to half."""
    from virnucpro.training.bundle.trainer import TrainRules

    budget = settings.minutes * 60
    return TrainRules(
        seconds=max(budget - seconds_used, budget / 2),
        steps=settings.steps or 10**9,
        learning_rate=settings.learning_rate or LEARNING_RATE,
        dnabert_s_share=DNABERT_S_SHARE,
        pretrain=settings.pretrain,
        workers=settings.workers,
        seed=settings.seed,
        compile=settings.compile,
    )


def finish_network(
    network: Network, maker: BatchMaker, settings: TrainSettings, device: torch.device
) -> None:
    """As it will be shipped: batch-norm statistics of unmasked frames, encoders in half
    precision.
    """
    from virnucpro.training.bundle.loader import Batches, loader
    from virnucpro.training.bundle.scoring import set_batch_norm

    batches = iter(loader(Batches(maker.unmasked(), settings.seed + 1), 0))
    set_batch_norm(network, [next(batches) for _ in range(NORM_BATCHES)], device)
    network.round_to_half()


def measure(
    network: Network,
    store: Store,
    tokenizers: Tokenizers,
    settings: TrainSettings,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What the network reaches on the validation side."""
    from virnucpro.training.bundle.scoring import ContigFrames, score_contigs, validation_accuracy

    held = np.flatnonzero(store.labels.split[store.record] == "validation")
    shape = replace(shapes(settings.size)[1], fragments=0)
    frames = ContigFrames(
        store, held, tokenizers, shape, settings.chunk_length, settings.frame_policy
    )
    scores = score_contigs(network, frames, next(network.parameters()).device)
    say(f"{len(scores.contig):,} frames of the validation side scored")
    return validation_accuracy(scores, frames)


class History:
    """The reports of a training: said as they come, and kept as a table."""

    def __init__(self, say: Callable[[str], None], rules: TrainRules):
        self.say, self.rules = say, rules
        self.rows: list[dict[str, float]] = []

    def add(self, progress: Progress, *_: object) -> None:
        """Take in a report."""
        row = {
            "step": progress.step,
            "seconds": round(progress.seconds, 1),
            "frames": progress.frames,
            **{k: round(v, 4) for k, v in progress.parts.items()},
        }
        self.rows.append(row)
        by_time, by_steps = row["seconds"] / self.rules.seconds, row["step"] / self.rules.steps
        share = min(max(by_time, by_steps), 1.0)
        left = clock(row["seconds"] * (1 / share - 1)) if share else "?"
        losses = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("step", "seconds"))
        self.say(f"training: {share:.0%}, {left} left; step {row['step']:,}, {losses}")

    def write(self, path: Path) -> None:
        """As CSV, a line a report; no file where there was none."""
        if self.rows:
            write_rows(path, self.rows)


def read_proteins(paths: tuple[Path, Path]) -> Store:
    """A store of proteins from two FASTA files: viral, cellular. Errors: InputError."""
    from Bio import SeqIO

    builder = StoreBuilder(amino_acids=True)
    for path, category in zip(paths, ("viral", "cellular"), strict=True):
        virus = category == "viral"
        try:
            for record in SeqIO.parse(str(path), "fasta"):
                sequence = bytes(record.seq)
                builder.add(sequence, record.id, virus, category, "", "", "train", "protein")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not readable as FASTA ({getattr(error, 'strerror', None) or error})"
            ) from error
    return builder.build()


def learn_vocabulary(store: Store, size: int, directory: Path, seed: int) -> None:
    """The DNA tokenizer, from 200-base windows drawn as training windows are."""
    from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
    from virnucpro.training.bundle.vocabulary import train_dna_tokenizer

    rules = WindowRules(200, SHORTEST_WINDOW, full_share=1.0, mutated_share=0.0)
    windows = WindowSampler(store, rules).draw(40_000, np.random.default_rng(seed))
    text = decode(windows.codes).decode("ascii")
    pieces = [text[a:b] for a, b in zip(windows.start, windows.end, strict=True)]
    train_dna_tokenizer(pieces, size, directory)
