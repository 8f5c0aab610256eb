"""A whole small bundle from prepared sequences: tokenizer, both encoders, classifier, calibration.

Encoders may first learn only to predict masked tokens (`pretrain`, a share of the budget), then
everything learns at once.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError, UsageError
from virnucpro.launch import read_world
from virnucpro.settings import STRETCHES
from virnucpro.training.bases import decode
from virnucpro.training.store import Store, StoreBuilder

SIZES = ("mini", "small", "tiny")


@dataclass(frozen=True)
class BundleSettings:
    """What `virnucpro train PREPARED` is asked to do."""

    prepared: Path
    output: Path
    name: str = "custom"
    size: str = "mini"
    chunk_length: int = 500
    frame_policy: str = STRETCHES
    proteins: tuple[Path, ...] = ()  # FASTA pairs: viral, cellular
    seconds: float = 3600.0
    steps: int = 10**9
    pretrain: float = 0.0
    learning_rate: float = 7e-4
    dnabert_s_share: float = 0.3
    workers: int = 4
    seed: int = 1
    resume: bool = False
    compile: bool = False
    settle: int = 16  # batches for the batch-norm statistics


def shapes(size: str):
    """(NetworkShape, BatchShape) of a size; mini is the shipped one."""
    from virnucpro.training.bundle.batches import BatchShape
    from virnucpro.training.bundle.network import NetworkShape

    return {
        "mini": (NetworkShape(), BatchShape()),
        "small": (
            NetworkShape(4, 192, 12, 768, 3, 128, 4, 512, 1024, 256),
            BatchShape(256, 48, 384, 104, 68),
        ),
        "tiny": (NetworkShape(2, 32, 2, 64, 1, 32, 2, 64, 128, 32), BatchShape(24, 4, 256, 16, 16)),
    }[size]


def train_bundle(settings: BundleSettings, say: Callable[[str], None] = lambda _: None) -> Path:
    """Train and write the bundle into `settings.output`; unfinished work lies in its `training`
    folder.

    Errors: UsageError in one of several processes; InputError for what was prepared.
    """
    import torch
    from accelerate import Accelerator

    from virnucpro.sequences.tokens import Tokenizers
    from virnucpro.training.bundle.batches import BatchMaker, BatchRules, scoring_shape
    from virnucpro.training.bundle.network import Network
    from virnucpro.training.bundle.sampling import FragmentSampler, WindowRules, WindowSampler
    from virnucpro.training.bundle.scoring import score_contigs
    from virnucpro.training.bundle.trainer import (
        Batches,
        TrainRules,
        loader,
        settle_batch_norm,
        train,
    )
    from virnucpro.training.bundle.vocabulary import write_esm2_tokenizer
    from virnucpro.training.bundling import write_bundle
    from virnucpro.training.saving import save_parts

    if (size := read_world().size) > 1:
        raise UsageError(
            f"train runs in one process, and the launcher started {size}; leave the launcher out"
        )
    store = read_prepared(settings.prepared)
    learned = store.select_records(store.labels.split == "train")
    if not learned.labels.virus.any() or learned.labels.virus.all():
        raise InputError(f"{settings.prepared}: the training side needs viral and other sequences")
    network_shape, batch_shape = shapes(settings.size)
    longest = 3 * (batch_shape.row_length - 2)  # of longer chunks no protein would fit into a row
    if settings.chunk_length > longest:
        raise UsageError(
            f"--chunk-length {settings.chunk_length}: --size {settings.size} is trained on chunks"
            f" of up to {longest} bases"
        )
    work = settings.output / "training"
    work.mkdir(parents=True, exist_ok=True)
    write_esm2_tokenizer(work / "esm2")
    state = work / "state.pt"
    if not settings.resume:
        state.unlink(missing_ok=True)
    if not state.exists():  # what lies there may be of another --size or other sequences
        learn_vocabulary(learned, network_shape.dna_vocabulary, work / "dnabert_s", settings.seed)
    tokenizers = Tokenizers(work / "esm2", work / "dnabert_s")
    shortest = max(60, settings.chunk_length * 3 // 10)
    sampler = WindowSampler(
        learned, WindowRules(settings.chunk_length, min(shortest, settings.chunk_length))
    )
    fragments = FragmentSampler(read_proteins(settings.proteins)) if settings.proteins else None
    # a bundle of the policy stretches, too, learns from longest ones and open frames
    # (recipes/mini/STUDY.md)
    rules = BatchRules(open_share=1.0 if settings.frame_policy == "open" else 0.2)
    maker = BatchMaker(
        [(1.0, sampler)], fragments, tokenizers, batch_shape, network_shape.dna_vocabulary, rules
    )
    torch.manual_seed(settings.seed)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    network = Network(network_shape)
    log: list[dict] = []

    def report(progress, *_) -> None:
        log.append(
            {
                "step": progress.step,
                "seconds": round(progress.seconds, 1),
                "frames": progress.frames,
                **{k: round(v, 4) for k, v in progress.parts.items()},
            }
        )
        say("  ".join(f"{k} {v}" for k, v in log[-1].items()))

    train_rules = TrainRules(
        seconds=settings.seconds,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        dnabert_s_share=settings.dnabert_s_share,
        pretrain=settings.pretrain,
        workers=settings.workers,
        seed=settings.seed,
        compile=settings.compile,
    )
    mean = train(network, maker, train_rules, accelerator=accelerator, report=report, state=state)
    mean.swap()
    network = accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    unmasked = BatchMaker(
        [(1.0, sampler)],
        fragments,
        tokenizers,
        scoring_shape(batch_shape),
        network_shape.dna_vocabulary,
        replace(rules, mask_share=0.0),
    )
    batches = iter(loader(Batches(unmasked, settings.seed + 1), 0))
    settle_batch_norm(network, [next(batches) for _ in range(settings.settle)], accelerator.device)
    network.round_to_half()
    save_parts(network, work)
    description = {
        "name": settings.name,
        "chunk_length": settings.chunk_length,
        "frame_policy": settings.frame_policy,
        "licence": None,
    }
    held = np.flatnonzero(store.labels.split[store.record] == "validation")
    if len(held):
        scores = score_contigs(
            network,
            store,
            held,
            tokenizers,
            scoring_shape(batch_shape),
            settings.chunk_length,
            settings.frame_policy,
            accelerator.device,
        )
        say(f"{len(scores.contig):,} frames of the validation side scored")
        description["accuracy"] = validation_accuracy(
            scores, store, settings.chunk_length, settings.frame_policy
        )
    write_bundle(settings.output, work, work / "dnabert_s", network_shape, description)
    if log:
        with (settings.output / "training" / "log.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(log[0]))
            writer.writeheader()
            writer.writerows(log)
    return settings.output


def validation_accuracy(scores, store: Store, chunk_length: int, frame_policy: str) -> dict:
    """AUROC of single chunks on the validation side: a first look; `virnucpro evaluate` measures
    properly.
    """
    from virnucpro.training.bundle.scoring import called
    from virnucpro.training.metrics import auroc

    chunks = called(scores, store.length, chunk_length, frame_policy)[0]
    virus = store.labels.virus[store.record[chunks.record[chunks.scored]]].astype(bool)
    value = auroc(chunks.virus_score[chunks.scored], virus)
    return {
        "side": "validation",
        "chunks": len(virus),
        "auroc_of_chunks": round(value, 4) if np.isfinite(value) else None,
    }


def read_prepared(directory: Path) -> Store:
    file = directory / "sequences.npz"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; make it with `virnucpro prepare LABELS.tsv -o {directory}`"
        )
    return Store.load(file)


def read_proteins(paths: tuple[Path, ...]) -> Store:
    """A store of proteins from two FASTA files: viral, cellular."""
    from Bio import SeqIO

    if len(paths) != 2:
        raise InputError("--proteins takes two FASTA files: one of viral, one of cellular proteins")
    builder = StoreBuilder(amino_acids=True)
    for path, virus in zip(paths, (True, False), strict=True):
        try:
            for record in SeqIO.parse(str(path), "fasta"):
                builder.add(
                    bytes(record.seq),
                    record.id,
                    virus,
                    "viral" if virus else "cellular",
                    "",
                    "",
                    "train",
                    "protein",
                )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not readable as FASTA ({getattr(error, 'strerror', None) or error})"
            ) from error
    return builder.build()


def learn_vocabulary(store: Store, size: int, directory: Path, seed: int) -> None:
    """The DNA tokenizer, from 200-base windows drawn as training windows are."""
    from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
    from virnucpro.training.bundle.vocabulary import train_dna_tokenizer

    rules = WindowRules(length=200, shortest=60, full_share=1.0, mutated_share=0.0)
    windows = WindowSampler(store, rules).draw(40_000, np.random.default_rng(seed))
    text = decode(windows.codes).decode("ascii")
    train_dna_tokenizer(
        [text[a:b] for a, b in zip(windows.start, windows.end, strict=True)], size, directory
    )
