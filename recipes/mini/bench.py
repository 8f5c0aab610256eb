"""One network on one device, compiled once and trained again and again, and the data it sees."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from recipes.mini.augment import Augmentation
from recipes.mini.contigs import Packed
from recipes.mini.deal import PROKARYOTES
from recipes.mini.lane import BATCH, SCORING, TINY
from recipes.mini.networks import free_dnabert_s, set_dropout
from recipes.mini.sampling import GroupSampler
from recipes.mini.teachers import Distillation, Teachers
from recipes.mini.windows import CHUNK_LENGTH, HARD_KINDS, MARKER_SHARE, POLICY, VOCABULARY
from virnucpro.models.encoders import read_tokenizers
from virnucpro.training.bundle.batches import BatchMaker, BatchRules, BatchShape
from virnucpro.training.bundle.loader import Batches, loader
from virnucpro.training.bundle.network import Network, NetworkInput
from virnucpro.training.bundle.sampling import FragmentSampler, WindowRules, WindowSampler
from virnucpro.training.bundle.scoring import (
    ContigFrames,
    FrameScores,
    score_batches,
    set_batch_norm,
)
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.bundle.trainer import TrainRules, train
from virnucpro.training.store import Store

# of half-precision files that travel: each under 16 MiB
FILES = ("esm2", "rest")
SETTLING = 80  # batches, for the batch-norm statistics


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    categories: dict[str, float]  # of the windows from genomes
    markers: float  # of the windows: those from genes of more species
    group_exponent: float  # see sampling.WindowRules; of viruses, prokaryotes and genes
    # of eukaryotes, of which a few groups hold nearly everything
    eukaryote_exponent: float = 0.4
    rate: float = 7e-4
    dna_share: float = 0.2
    token_weight: float = 0.5
    decay: float = 0.3
    distant: float = 0.3
    mask_share: float = 0.6
    spliced: float = 0.0
    label_weight: float = 1.0  # where there are teachers
    seed: int = 1


@dataclass(frozen=True)
class Data:
    """Everything a network may learn from."""

    genomes: Packed
    markers: Packed
    proteins: Packed

    @classmethod
    def load(cls, packed: Path) -> Data:
        """All parts in the folder."""
        return cls(*(Packed.load(packed, n) for n in ("genomes", "markers", "proteins")))


class Bench:
    """The device, one network that is compiled once, its training and its scores, the log."""

    def __init__(self, packed: Path, out: Path, workers: int, tiny: bool = False):
        self.out, self.workers, self.began = out, workers, time.time()
        torch.manual_seed(1)
        torch.set_num_threads(1)
        on_gpu = torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
        self.device = self.accelerator.device
        self.batch, self.scoring = BATCH, SCORING
        if tiny:
            self.batch, self.scoring = BatchShape(10, 4, 192, 9, 8), BatchShape(10, 0, 256, 7, 5)
        self.network = Network(TINY if tiny else NetworkShape()).to(self.device)
        self.encoders = self.network.compiled_encoders() if on_gpu else None
        self.tokenizers = read_tokenizers(
            {name: packed / "1" / name for name in ("esm2", "dnabert_s")}
        )
        self.data = Data.load(packed)

    def say(self, event: str, **facts) -> None:
        """A line on the terminal and in OUT/log.jsonl."""
        line = json.dumps({"at": round(time.time() - self.began, 1), "event": event, **facts})
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    def rebuild(self, seed: int) -> None:
        """Fresh random weights, in the same network."""
        torch.manual_seed(seed)
        self.network.load_state_dict(Network(self.network.shape).state_dict())

    def maker(self, recipe: Recipe, fold: int | None, pull: np.ndarray | None = None) -> BatchMaker:
        """Batches of all groups but those of `fold` (None: of all)."""
        data = self.data
        samplers: list[tuple[float, WindowSampler]] = []
        parts: list[tuple[float, Packed, Mapping[str, float], float, np.ndarray | None]]
        parts = [(recipe.markers, data.markers, MARKER_SHARE, recipe.group_exponent, None)]
        for small, exponent in ((True, recipe.group_exponent), (False, recipe.eukaryote_exponent)):
            shares = {
                c: s
                for c, s in recipe.categories.items()
                if (c in ("viral", *PROKARYOTES)) == small
            }
            share = sum(shares.values()) / sum(recipe.categories.values())
            parts.append(((1 - recipe.markers) * share, data.genomes, shares, exponent, pull))
        for share, packed, categories, exponent, harder in parts:
            rules = WindowRules(
                CHUNK_LENGTH,
                full_share=0.75,
                group_exponent=exponent,
                category_share=categories,
                kind_share=HARD_KINDS,
            )
            samplers.append((share, GroupSampler(packed.store, rules, kept(packed, fold), harder)))
        proteins = data.proteins.store.select_records(kept(data.proteins, fold))
        how = Augmentation(
            distant=recipe.distant, shuffled=0.06, spliced=recipe.spliced, blurred=0.05
        )
        return BatchMaker(
            samplers,
            FragmentSampler(proteins),
            self.tokenizers,
            self.batch,
            VOCABULARY,
            BatchRules(mask_share=recipe.mask_share),
            how,
        )

    def train(self, maker: BatchMaker, recipe: Recipe, seconds: float, teachers=None) -> dict:
        """Train the network as it stands for `seconds`; it ends as the mean of its weights, with
        the batch-norm statistics of unmasked batches. Returns what it took.
        """
        torch.manual_seed(recipe.seed)
        free_dnabert_s(self.network)
        set_dropout(self.network, self.network.shape.dropout, 0.05)
        rules = TrainRules(
            seconds=seconds,
            learning_rate=recipe.rate,
            dnabert_s_share=recipe.dna_share,
            weight_decay=recipe.decay,
            esm2_weight=3.0,
            token_weight=recipe.token_weight,
            seed=recipe.seed,
            workers=self.workers,
            report_every=30.0,
        )
        took: dict[str, Any] = {}
        began = time.time()

        def watch(progress, *_) -> None:
            parts = {k: round(v, 4) for k, v in progress.parts.items()}
            took.update(rate=round(progress.rate), **parts)
            self.say("train", step=progress.step, frames=progress.frames, **took)

        term = None
        if teachers is not None:
            term = Distillation(teachers, rules, recipe.label_weight, self.accelerator.autocast)
        mean = train(
            self.network,
            maker,
            rules,
            accelerator=self.accelerator,
            report=watch,
            encoders=self.encoders,
            loss_term=term,
        )
        took.update(frames=mean.steps * self.batch.frames, seconds=round(time.time() - began, 1))
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        # else the next `prepare` leaves it as it is, without autocast
        self.network._is_accelerate_prepared = False  # type: ignore[assignment]
        self.accelerator._models.clear()
        self.accelerator._optimizers.clear()
        mean.swap()
        free_dnabert_s(self.network)
        self.settle(maker, SETTLING if self.device.type == "cuda" else 2)
        return took

    def settle(self, maker: BatchMaker, batches: int) -> None:
        """Batch-norm statistics of batches as they are trained on."""
        drawn = loader(Batches(maker, 99), self.workers)
        with self.accelerator.autocast():
            few = list(itertools.islice(drawn, batches))
            set_batch_norm(self.network, few, self.device)

    def score(self, store: Store, rows: np.ndarray) -> FrameScores:
        """Every frame of the contigs `rows` of `store`."""
        frames = ContigFrames(
            store, rows, self.tokenizers, self.scoring, CHUNK_LENGTH, POLICY, block=200_000
        )
        batches = loader(frames, min(self.workers, len(frames.blocks)))
        with self.accelerator.autocast():
            return score_batches(self.network, batches, self.device)

    def save(self, name: str) -> None:
        """The network in half precision, OUT/NAME-esm2 and NAME-rest `.safetensors`."""
        state = {k: v.detach().cpu() for k, v in self.network.state_dict().items()}
        for file, tensors in zip(FILES, split(state), strict=True):
            tensors = {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}
            part = self.out / f"{name}.part"
            save_file({k: v.contiguous() for k, v in tensors.items()}, part)
            part.replace(self.out / f"{name}-{file}.safetensors")


def split(state: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """ESM-2, and all else; rotary frequencies are left out: every loader knows them."""
    of_esm2 = {k: v for k, v in state.items() if k.startswith("esm2.") and "inv_freq" not in k}
    return of_esm2, {k: v for k, v in state.items() if not k.startswith("esm2.")}


def load_state(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """What `Bench.save` wrote, in float32."""
    parts = [load_file(folder / f"{name}-{file}.safetensors") for file in FILES]
    return {
        k: v.float() if v.dtype == torch.float16 else v for part in parts for k, v in part.items()
    }


def kept(packed: Packed, fold: int | None) -> np.ndarray:
    """bool [R]: the records that a fold's training may see."""
    n = len(packed.store.labels)
    return np.ones(n, dtype=bool) if fold is None else ~packed.out[:, fold]


class TeacherPool:
    """A few of many teachers at a time: in every step others, drawn at random.

    Called as `teachers.Teachers` is; the weights of those drawn are copied into networks that are
    compiled once.
    """

    def __init__(self, bench: Bench, states: Sequence[dict], at_once: int, seed: int):
        shape = bench.network.shape
        slots = [Network(shape).to(bench.device) for _ in range(at_once)]
        self.teachers = Teachers(slots, bench.device.type == "cuda")
        names = [k for k, v in slots[0].state_dict().items() if v.dtype == torch.float32]
        names = [k for k in names if k in states[0]]
        self.slots = [[slot.state_dict()[k] for k in names] for slot in slots]
        self.states = [[state[k].to(bench.device) for k in names] for state in states]
        self.rng = np.random.default_rng(seed)

    @torch.no_grad()
    def __call__(self, batch: NetworkInput) -> tuple[torch.Tensor, ...]:
        """What those drawn for this step teach."""
        drawn = self.rng.choice(len(self.states), len(self.slots), replace=False)
        for slot, k in zip(self.slots, drawn, strict=True):
            torch._foreach_copy_(slot, self.states[k])
        return self.teachers(batch)
