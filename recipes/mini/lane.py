"""One network on one device, trained and measured again and again: what both lanes of
campaign.py are made of.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator

from recipes.mini.augment import Augmentation
from recipes.mini.networks import free_dnabert_s, set_dropout
from recipes.mini.teachers import Distillation, Teachers
from recipes.mini.windows import (
    CHUNK_LENGTH,
    GENOME_SHARE,
    HARD_GENOMES,
    HARD_KINDS,
    KIND_SHARE,
    MARKER_SHARE,
    POLICY,
    VOCABULARY,
)
from virnucpro.models.encoders import read_tokenizers
from virnucpro.training.bundle.batches import BatchMaker, BatchRules, BatchShape
from virnucpro.training.bundle.loader import loader
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.sampling import FragmentSampler, WindowRules, WindowSampler
from virnucpro.training.bundle.scoring import (
    ContigFrames,
    FrameScores,
    score_batches,
    set_batch_norm,
)
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.bundle.trainer import TrainRules, train
from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.store import Store

# nearly every frame finds room; 256 tokens are whole tiles of the attention
BATCH = BatchShape(512, 160, 256, 396, 216)
SCORING = BatchShape(640, 0, 384, 312, 168)  # nothing may be too long here
TINY = NetworkShape(1, 32, 2, 64, 1, 32, 2, 64, VOCABULARY, 32)


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    start: str = ""  # an earlier run; empty: from nothing
    rate: float = 3e-4
    esm2_rate: float = 0.6
    dna_rate: float = 0.6
    dna_share: float = 1.0
    protein_weight: float = 0.3
    dna_weight: float = 0.3
    markers: float = 0.35
    group_exponent: float = 0.5
    hard: bool = False
    full_share: float = 0.6
    mutated: float = 0.25
    distant: float = 0.0
    shuffled: float = 0.0
    blurred: float = 0.0
    mask_share: float = 0.5
    depth: float = 0.0
    decay: float = 0.05
    token_weight: float = 0.15
    spliced: float = 0.0
    teachers: tuple[str, ...] = ()  # earlier runs
    label_weight: float = 1.0
    seed: int = 1


class Lane:
    """Data, one network that is compiled once, training, measuring, the log."""

    def __init__(self, options: argparse.Namespace, name: str, workers: int):
        self.options, self.name, self.workers, self.deadline = (
            options,
            name,
            workers,
            options.deadline,
        )
        torch.manual_seed(1)
        torch.set_num_threads(1)
        on_gpu = torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
        self.device = self.accelerator.device
        self.batch, self.scoring = BATCH, SCORING
        if options.tiny:
            self.batch, self.scoring = BatchShape(10, 4, 192, 9, 8), BatchShape(10, 0, 256, 7, 5)
        self.network = Network(NetworkShape() if not options.tiny else TINY).to(self.device)
        self.encoders = None
        if on_gpu:
            self.encoders = self.network.compiled_encoders()
        self.tokenizers = read_tokenizers(
            {name: options.data / name for name in ("esm2", "dnabert_s")}
        )
        self.folders = [f for f in (options.data, options.more) if f is not None and f.exists()]
        self.genomes, self.markers = self.load("genomes"), self.load("markers")
        self.validation = Store.load(options.data / "validation.npz")
        self.samplers: dict = {}

    def load(self, name: str) -> Store:
        """The store of this name, of all folders."""
        parts = [
            Store.load(f / f"{name}.npz") for f in self.folders if (f / f"{name}.npz").exists()
        ]
        return parts[0] if len(parts) == 1 else Store.concatenate(parts)

    def say(self, event: str, **facts) -> None:
        """A line of the log."""
        line = json.dumps(
            {
                "at": round(time.time() - self.options.began, 1),
                "lane": self.name,
                "event": event,
                **facts,
            }
        )
        print(line, flush=True)
        with (self.options.out / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def rebuild(self) -> None:
        """Fresh random weights, in the same network."""
        self.network.load_state_dict(Network(self.network.shape).state_dict())
        torch.cuda.empty_cache()

    def state(self) -> dict:
        """The network's tensors, on the CPU."""
        return {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def maker(
        self,
        recipe: Recipe,
        genomes: Store,
        markers: Store,
        fragments: Store | None,
        augment: bool = True,
    ) -> BatchMaker:
        """Draws batches as the recipe says; without `augment` windows as they are."""
        key = (
            id(genomes),
            id(markers),
            recipe.hard,
            recipe.group_exponent,
            recipe.full_share,
            recipe.mutated,
        )
        if key not in self.samplers:
            rules = WindowRules(
                length=CHUNK_LENGTH,
                kind_share=HARD_KINDS if recipe.hard else KIND_SHARE,
                group_exponent=recipe.group_exponent,
                full_share=recipe.full_share,
                mutated_share=recipe.mutated,
            )
            shares = HARD_GENOMES if recipe.hard else GENOME_SHARE
            self.samplers[key] = [
                WindowSampler(genomes, replace(rules, category_share=shares)),
                WindowSampler(markers, replace(rules, category_share=MARKER_SHARE)),
            ]
        samplers = list(zip((1 - recipe.markers, recipe.markers), self.samplers[key], strict=True))
        masks, how = BatchRules(mask_share=0.0), Augmentation()
        if augment:
            masks = BatchRules(mask_share=recipe.mask_share)
            how = Augmentation(
                distant=recipe.distant,
                shuffled=recipe.shuffled,
                spliced=recipe.spliced,
                blurred=recipe.blurred,
            )
        batch = self.batch if fragments is not None else replace(self.batch, fragments=0)
        return BatchMaker(
            samplers,
            FragmentSampler(fragments) if fragments else None,
            self.tokenizers,
            batch,
            VOCABULARY,
            masks,
            how,
        )

    def rules(self, recipe: Recipe, seconds: float, steps: int) -> TrainRules:
        """The recipe as rules of the training loop."""
        return TrainRules(
            seconds=max(seconds, 1.0),
            steps=max(steps, 2),
            learning_rate=recipe.rate,
            esm2_rate=recipe.esm2_rate,
            dnabert_s_rate=recipe.dna_rate,
            dnabert_s_share=recipe.dna_share,
            weight_decay=recipe.decay,
            esm2_weight=recipe.protein_weight,
            dnabert_s_weight=recipe.dna_weight,
            token_weight=recipe.token_weight,
            seed=recipe.seed,
            workers=self.workers,
            report_every=self.options.report,
        )

    def train(
        self,
        maker: BatchMaker,
        recipe: Recipe,
        seconds: float,
        steps: int = 10**9,
        report=lambda *_: None,
        teachers: Teachers | None = None,
    ) -> dict:
        """Train the network as it stands; it ends as the mean of its weights. Returns what
        it took.
        """
        torch.manual_seed(recipe.seed)
        free_dnabert_s(self.network)
        set_dropout(self.network, self.network.shape.dropout, recipe.depth)
        rules = self.rules(recipe, seconds, steps)
        took: dict = {"frames": 0}
        began = time.time()

        def watch(progress, live, mean):
            took.update(
                frames=progress.frames,
                rate=round(progress.rate),
                **{k: round(v, 4) for k, v in progress.parts.items()},
            )
            report(progress, live, mean)

        loss_term = None
        if teachers is not None:
            autocast = self.accelerator.autocast
            loss_term = Distillation(teachers, rules, recipe.label_weight, autocast)
        mean = train(
            self.network,
            maker,
            rules,
            accelerator=self.accelerator,
            report=watch,
            encoders=self.encoders,
            loss_term=loss_term,
        )
        took.update(frames=mean.steps * self.batch.frames, seconds=round(time.time() - began, 1))
        self.release()
        mean.swap()
        free_dnabert_s(self.network)
        return took

    def release(self) -> None:
        """Take the network back from Accelerate."""
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        # else the next `prepare` leaves it as it is, without autocast
        self.network._is_accelerate_prepared = False  # type: ignore[assignment]
        self.accelerator._models.clear()
        self.accelerator._optimizers.clear()

    def settling(self, maker: BatchMaker, n: int) -> list:
        """Batches for the batch-norm statistics."""
        rng = np.random.default_rng(99)
        return [maker.draw(rng) for _ in range(n)]

    def settle(self, batches: list) -> None:
        """Set the batch-norm statistics."""
        with self.accelerator.autocast():
            set_batch_norm(self.network, batches, self.device)

    def contig_batches(self, store: Store, rows: np.ndarray, policy: str = POLICY):
        """Batches of the contigs `rows`, for `score`."""
        frames = ContigFrames(
            store, rows, self.tokenizers, self.scoring, CHUNK_LENGTH, policy, block=200_000
        )
        return loader(frames, min(self.workers, len(frames.blocks)))

    def some(self, rows: np.ndarray) -> np.ndarray:
        """All rows, or in a trial a few."""
        few = self.options.few
        return rows[:: len(rows) // few + 1] if few else rows

    def score(self, batches, exact: bool = False) -> FrameScores:
        """`exact`: in fp32 as shipped, else as in training."""
        with contextlib.nullcontext() if exact else self.accelerator.autocast():
            return score_batches(self.network, batches, self.device)


def means(store: Store, scores: FrameScores, rows: np.ndarray, which: str = "logit") -> np.ndarray:
    """float64 [rows]: the mean logit of each contig's frames by the squares of their residues, NaN
    where there is none.
    """
    contig, weight = scores.contig.astype(np.int64), scores.aa_length.astype(np.float64) ** 2
    total = np.bincount(contig, weights=weight * getattr(scores, which), minlength=len(store))[rows]
    weights = np.bincount(contig, weights=weight, minlength=len(store))[rows]
    return np.where(weights > 0, total / np.maximum(weights, 1), np.nan)


def figures(store: Store, scores: FrameScores, rows: np.ndarray, odd: bool = True) -> dict:
    """AUROC by length and class and recall at 5 % false positives on `rows`.

    With `odd`, contigs of kinds other than `contig...` are reported separately: the share with a
    score over 0.
    """
    lab, found = store.labels.select(store.record[rows]), {}
    virus, length = lab.virus.astype(bool), store.length[rows]
    plain = np.char.startswith(lab.kind, "contig") | (not odd)
    score = means(store, scores, rows)
    for name, mine in (
        ("300", length == 300),
        ("500", length == 500),
        ("3000 and more", length >= 3000),
    ):
        mine = mine & plain
        if mine.any() and virus[mine].any() and not virus[mine].all():
            classes = {
                c: mine & (virus | (lab.category == c))
                for c in sorted(set(lab.category[mine & ~virus]))
            }
            found[name] = {
                "auroc": round(auroc(score[mine], virus[mine]), 4),
                "recall5": round(recall_at(score[mine], virus[mine], 0.05), 4),
                "by_class": {c: round(auroc(score[m], virus[m]), 3) for c, m in classes.items()},
            }
    for kind in sorted(set(lab.kind[~plain])):
        for side, mine in (("viral", virus), ("cellular", ~virus)):
            mine = mine & (lab.kind == kind) & ~np.isnan(score)
            if mine.any() and not kind.startswith("spliced"):
                found.setdefault("called", {})[f"{kind} {side}"] = round(
                    float((score[mine] > 0).mean()), 3
                )
    return found
