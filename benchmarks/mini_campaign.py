"""Version 2 of `mini` and the grouped folds: one unattended run on one GPU, two processes side by side.

    export PYTHONPATH=.:benchmarks
    python -P benchmarks/mini_campaign.py --start run2 --data PACKED [--more PACKED_MORE] --out OUT --seconds 560

`--start` is version 1: the run of train_mini.py that it came from, or its bundle. PACKED and PACKED_MORE come from
mini_folds.py. The lane `main` fine-tunes it by several recipes (`RECIPES`), goes on with what is best on the validation
groups, and averages weights; OUT/final gets the best networks and their validation scores. The lane `folds` trains one
network a held-out fold from nothing, all for the same number of steps, and one on the fixed split; OUT/folds.npz gets their
scores. Results are written as they come; a lane that dies is started again and goes on after its last result. OUT/log.jsonl
has a line an event.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mini_folds import fold_contigs
from train_mini import CHUNK_LENGTH, GENOME_SHARE, KIND_SHARE, MARKER_SHARE

from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.batches import Augmentation, BatchMaker, BatchShape
from virnucpro.training.sampling import FragmentSampler, WindowRules, WindowSampler
from virnucpro.training.store import Store

BUNDLE = Path("virnucpro/models/mini")
BATCH = BatchShape(640, 320, 384, 312, 168)
VOCABULARY = 1024
HARD_GENOMES = {**GENOME_SHARE, "bacteria": 0.135, "archaea": 0.05, "plasmids": 0.06, "plants": 0.055,
                "invertebrates": 0.045, "vertebrates": 0.065, "fungi": 0.045, "protozoa": 0.045}  # fmt: skip
HARD_KINDS = {**KIND_SHARE, "transposon": 0.16}


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    start: str = "v1"  # "v1", "v1-esm2" (the rest from nothing), "nothing", or an earlier run
    rate: float = 3e-4
    esm2_rate: float = 0.6
    dna_rate: float = 0.6
    dna_share: float = 1.0
    markers: float = 0.35
    group_exponent: float = 0.5
    hard: bool = False
    distant: float = 0.0
    mask_share: float = 0.5
    mask_rate: float = 0.15
    dropout: float = 0.1
    depth: float = 0.0
    decay: float = 0.05
    smoothing: float = 0.05
    single: float = 0.3
    tokens: float = 0.15
    seed: int = 1


DIVERSE = {"markers": 0.6, "group_exponent": 0.25, "hard": True}
STRONG = {"mask_share": 0.8, "mask_rate": 0.25, "dropout": 0.15, "depth": 0.1, "decay": 0.2}
# in the order they are tried: what is believed in first, then what tells why
RECIPES = {
    "all": Recipe(**DIVERSE, **STRONG, distant=0.5),
    "distant_diverse": Recipe(**DIVERSE, distant=0.5),
    "plain": Recipe(),
}
SCREEN_SHARE = 0.09  # of the lane's time, each recipe
LONG_SHARE = 0.30  # the long run from version 1's ESM-2
BRANCH_SHARE = 0.055  # each continuation of the long run; as many as fit
KEEP_BACK = 60.0  # seconds for the last averages, scores and files


class Lane:
    """What both lanes need: data, one network that is compiled once, training, measuring, the log."""

    def __init__(self, options: argparse.Namespace, name: str):
        import torch
        from accelerate import Accelerator

        from virnucpro.training.network import Network, NetworkShape

        self.options, self.name, self.deadline = options, name, options.deadline
        torch.manual_seed(1)
        torch.set_num_threads(2)
        on_gpu = torch.cuda.is_available()
        self.accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
        self.device = self.accelerator.device
        shape = NetworkShape() if not options.tiny else NetworkShape(1, 32, 2, 64, 1, 32, 2, 64, VOCABULARY, 32)
        self.batch = BATCH if not options.tiny else BatchShape(10, 4, 256, 7, 5)
        self.network = Network(shape).to(self.device)
        self.encoders = None
        if on_gpu:
            self.encoders = (torch.compile(self.network.esm2, dynamic=False),
                             torch.compile(self.network.dnabert_s, dynamic=False))  # fmt: skip
        self.tokenizers = Tokenizers(BUNDLE / "esm2", BUNDLE / "dnabert_s")
        self.folders = [f for f in (options.data, options.more) if f is not None and f.exists()]
        self.genomes, self.markers = self.load("genomes"), self.load("markers")
        self.validation = Store.load(options.data / "validation.npz")
        self.rate = 0.0
        self.samplers: dict = {}

    def load(self, name: str) -> Store:
        parts = [Store.load(f / f"{name}.npz") for f in self.folders if (f / f"{name}.npz").exists()]
        return parts[0] if len(parts) == 1 else Store.concatenate(parts)

    def say(self, event: str, **facts) -> None:
        line = json.dumps({"at": round(time.time() - self.options.began, 1), "lane": self.name, "event": event, **facts})
        print(line, flush=True)
        with (self.options.out / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    @property
    def left(self) -> float:
        return self.deadline - time.time()

    def rebuild(self) -> None:
        """Fresh random weights, in the same network."""
        import torch

        from virnucpro.training.network import Network

        self.network.load_state_dict(Network(self.network.shape).state_dict())
        torch.cuda.empty_cache()

    def state(self) -> dict:
        return {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def maker(self, recipe: Recipe, genomes: Store, markers: Store, fragments: Store | None, augment: bool = True) -> BatchMaker:
        key = (id(genomes), id(markers), recipe.hard, recipe.group_exponent)
        if key not in self.samplers:
            common = {"length": CHUNK_LENGTH, "kind_share": HARD_KINDS if recipe.hard else KIND_SHARE,
                      "group_exponent": recipe.group_exponent}  # fmt: skip
            shares = HARD_GENOMES if recipe.hard else GENOME_SHARE
            self.samplers[key] = [WindowSampler(genomes, WindowRules(category_share=shares, **common)),
                                  WindowSampler(markers, WindowRules(category_share=MARKER_SHARE, **common))]  # fmt: skip
        samplers = list(zip((1 - recipe.markers, recipe.markers), self.samplers[key], strict=True))
        how = Augmentation(0.2, recipe.mask_share, recipe.mask_rate, recipe.distant) if augment else Augmentation(mask_share=0.0)
        batch = self.batch if fragments is not None else replace(self.batch, fragments=0)
        return BatchMaker(samplers, FragmentSampler(fragments) if fragments else None, self.tokenizers, batch, VOCABULARY, how)

    def train(self, maker: BatchMaker, recipe: Recipe, steps: int, seconds: float, report=lambda *_: None) -> dict:
        """Train the network as it stands; it ends as the mean of its weights. Returns what it took."""
        import torch

        from virnucpro.training.trainer import TrainRules, train

        torch.manual_seed(recipe.seed)
        self.network.free_dnabert_s()
        self.network.thin(recipe.dropout, recipe.depth)
        rules = TrainRules(
            seconds=max(seconds, 1.0), steps=max(steps, 2), learning_rate=recipe.rate, esm2_rate=recipe.esm2_rate,
            dnabert_s_rate=recipe.dna_rate, dnabert_s_share=recipe.dna_share, weight_decay=recipe.decay,
            smoothing=recipe.smoothing, single_weight=recipe.single, token_weight=recipe.tokens, seed=recipe.seed,
            workers=self.options.workers, report_every=self.options.report,
        )  # fmt: skip
        took: dict = {}

        def watch(progress, live, mean):
            took.update(frames=progress.frames, seconds=round(progress.seconds, 1), rate=round(progress.rate),
                        **{k: round(v, 4) for k, v in progress.parts.items()})  # fmt: skip
            report(progress, live, mean)

        mean = train(self.network, maker, rules, accelerator=self.accelerator, report=watch, encoders=self.encoders)
        self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        # else the next `prepare` leaves it as it is, without autocast
        self.network._is_accelerate_prepared = False
        self.accelerator._models.clear()
        self.accelerator._optimizers.clear()
        mean.swap()
        self.network.free_dnabert_s()
        return took

    def settling(self, maker: BatchMaker, n: int) -> list:
        rng = np.random.default_rng(99)
        return [maker.draw(rng) for _ in range(n)]

    def settle(self, batches: list) -> None:
        from virnucpro.training.trainer import settle_batch_norm

        with self.accelerator.autocast():
            settle_batch_norm(self.network, batches, self.device)

    def contig_batches(self, store: Store, rows: np.ndarray, policy: str = "longest"):
        from virnucpro.training.scoring import ContigFrames
        from virnucpro.training.trainer import loader

        shape = replace(self.batch, fragments=0)
        frames = ContigFrames(store, rows, self.tokenizers, shape, CHUNK_LENGTH, policy, block=200_000)
        return loader(frames, min(self.options.workers, len(frames.blocks)))

    def score(self, batches, exact: bool = False):
        """FrameScores; `exact` in fp32 as shipped, else as in training."""
        import contextlib

        from virnucpro.training.scoring import score_batches

        with contextlib.nullcontext() if exact else self.accelerator.autocast():
            return score_batches(self.network, batches, self.device)


def run_lane(options: argparse.Namespace, name: str, work) -> None:
    lane = None
    try:
        lane = Lane(options, name)
        work(lane)
        lane.say("lane done")
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        if lane is not None:
            lane.say("lane failed", error=repr(error)[:300])
        raise SystemExit(1) from error


# ---------------------------------------------------------------- the lane `main`


class Main:
    """Recipes, the long run, its branches, and averages of all of them; every state is kept on disk."""

    def __init__(self, lane: Lane):
        self.lane, self.out = lane, lane.options.out
        (self.out / "runs").mkdir(parents=True, exist_ok=True)
        self.fragments = lane.load("proteins")
        lab = lane.validation.labels
        rows = np.flatnonzero(lab.kind == "contig500")
        if lane.options.few:
            rows = rows[:: len(rows) // lane.options.few + 1]
        self.rows, self.virus, self.category = rows, lab.virus[rows].astype(bool), lab.category[rows]
        self.watched = list(lane.contig_batches(lane.validation, rows))
        self.settlers = lane.settling(lane.maker(Recipe(), lane.genomes, lane.markers, self.fragments, augment=False),
                                      lane.options.settle)  # fmt: skip
        self.done: dict[str, dict] = {}
        lane.say("ready", validation_windows=len(rows), genomes=len(lane.genomes), markers=len(lane.markers),
                 fragments=len(self.fragments), folders=len(lane.folders))  # fmt: skip

    def measure(self) -> dict:
        from virnucpro.training.metrics import auroc, recall_at

        scores = self.lane.score(self.watched)
        full = {}
        for which in ("logit", "esm2_logit", "dnabert_s_logit"):
            column = np.full(len(self.lane.validation.labels), np.nan)
            column[scores.contig] = getattr(scores, which)
            full[which] = column[self.rows]
        s, y = full["logit"], self.virus
        return {
            **{n: round(auroc(v, y), 4) for n, v in full.items()}, "recall5": round(recall_at(s, y, 0.05), 4),
            "by_class": {c: round(auroc(s[y | (self.category == c)], y[y | (self.category == c)]), 3)
                         for c in sorted(set(self.category[~y]))},
        }  # fmt: skip

    def keep(self, name: str, result: dict) -> None:
        import torch

        folder = self.out / "runs" / name
        folder.mkdir(exist_ok=True)
        torch.save(self.lane.state(), folder / "state.part")
        (folder / "state.part").replace(folder / "state.pt")
        (folder / "result.json").write_text(json.dumps(result))
        self.done[name] = result

    def recall(self) -> None:
        """Results of an earlier process."""
        for file in sorted((self.out / "runs").glob("*/result.json")):
            if (file.parent / "state.pt").exists():
                self.done[file.parent.name] = json.loads(file.read_text())

    def state_of(self, name: str) -> dict:
        import torch

        return torch.load(self.out / "runs" / name / "state.pt", map_location="cpu", weights_only=True)

    def begin(self, start: str) -> None:
        """Put the starting weights into the network."""
        import torch

        if start in ("v1", "v1-esm2"):
            network = self.lane.network
            network.load_state_dict(self.state_of("heads"))
            if start == "v1-esm2":
                kept = {k: v for k, v in self.lane.state().items() if k.startswith("esm2")}
                self.lane.rebuild()
                network.load_state_dict(kept, strict=False)
                with torch.no_grad():
                    network.dnabert_s_only.weight.zero_()
        elif start == "nothing":
            self.lane.rebuild()
        else:
            self.lane.network.load_state_dict(self.state_of(start))

    def run(self, name: str, recipe: Recipe, steps: int, seconds: float) -> None:
        """Train one network and keep it; a failure is told and forgotten."""
        if name in self.done:
            return
        lane = self.lane
        try:
            self.begin(recipe.start)
            maker = lane.maker(recipe, lane.genomes, lane.markers, self.fragments)

            def report(progress, live, mean):
                facts = {"step": progress.step, "frames": progress.frames, "rate": round(progress.rate),
                         **{k: round(v, 4) for k, v in progress.parts.items()}}  # fmt: skip
                if progress.step > 10 and name == "long":  # the learning curve
                    mean.swap()
                    facts["validation"] = self.measure()
                    mean.swap()
                lane.say("train", run=name, **facts)

            took = lane.train(maker, recipe, steps, seconds, report)
            lane.settle(self.settlers)
            result = {"took": took, "recipe": recipe.__dict__, "validation": self.measure()}
            self.keep(name, result)
            lane.say("run", run=name, **result)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            lane.say("run failed", run=name, error=repr(error)[:300])
            if "CUDA" in repr(error):
                raise

    def version_1(self) -> None:
        """Version 1, as shipped, and then with auxiliary heads that fit it (they are not shipped)."""
        import torch

        from virnucpro.training.saving import load_parts

        lane = self.lane
        if "heads" in self.done:
            lane.rate = self.done["heads"]["rate"]
            return
        if not lane.options.tiny:
            parts = lane.options.start
            if (parts / "bundle.json").exists():
                parts = self.out / "runs" / "v1"
                parts.mkdir(exist_ok=True)
                for part, file in (("esm2", "esm2/model"), ("dnabert_s", "dnabert_s/model"), ("classifier", "classifier")):
                    (parts / f"{part}.safetensors").write_bytes((lane.options.start / f"{file}.safetensors").read_bytes())
            load_parts(lane.network, parts, ("esm2", "dnabert_s", "classifier"))
        with torch.no_grad():
            for head in (lane.network.esm2_only, lane.network.dnabert_s_only):
                head.weight.zero_()
        shipped = self.measure()
        self.keep("shipped", {"validation": shipped})
        lane.say("run", run="shipped", validation=shipped)
        fixed = Recipe(rate=1e-3, esm2_rate=0.0, dna_rate=0.0, single=1.0, tokens=1.0)
        maker = lane.maker(fixed, lane.genomes, lane.markers, self.fragments)
        classifier = {k: v for k, v in lane.state().items() if k.startswith("classifier")}
        marks: list = []
        steps = lane.options.heads
        took = lane.train(maker, fixed, steps, 60.0, lambda p, *_: marks.append((p.step, p.seconds)))
        lane.network.load_state_dict(classifier, strict=False)  # only the heads were to learn
        lane.network.load_state_dict({k: v for k, v in self.state_of("shipped").items() if k.startswith(
            ("esm2.", "dnabert_s."))}, strict=False)  # fmt: skip
        (step, seconds), (last, end) = next(m for m in marks if m[0] >= 10), marks[-1]
        lane.rate = (last - step) / max(end - seconds, 1e-3)
        result = {"took": took, "rate": lane.rate, "validation": self.measure()}
        self.keep("heads", result)
        lane.say("run", run="heads", **result)

    def average(self, names: list[str]) -> dict:
        """Mean of the weights of several runs; put into the network, with its batch-norm statistics settled."""
        total: dict = {}
        for name in names:
            for k, v in self.state_of(name).items():
                total[k] = total[k] + v.double() if k in total else v.double()
        kept = self.lane.network.state_dict()
        self.lane.network.load_state_dict({k: (v / len(names)).to(kept[k].dtype) for k, v in total.items()})
        self.lane.settle(self.settlers)
        return self.measure()

    def soup(self, name: str, family: list[str]) -> None:
        """Averages of the best two, three ... of a family, and the greedy one; the best is kept under `name`."""
        try:
            order = sorted(family, key=lambda n: -self.done[n]["validation"]["logit"])
            if len(order) < 2:
                return
            tried: dict[tuple, dict] = {}

            def value(names: tuple) -> float:
                if names not in tried and self.lane.left > 12:
                    tried[names] = self.average(list(names))
                    self.lane.say("average", soup=name, runs=names, validation=tried[names])
                return tried[names]["logit"] if names in tried else 0.0

            for n in range(2, len(order) + 1):
                value(tuple(order[:n]))
            greedy = (order[0],)
            best = self.done[order[0]]["validation"]["logit"]
            for candidate in order[1:]:
                if value((*greedy, candidate)) > best:
                    greedy, best = (*greedy, candidate), value((*greedy, candidate))
            if not tried:
                return
            chosen = max(tried, key=lambda n: tried[n]["logit"])
            result = {"runs": chosen, "validation": self.average(list(chosen))}
            self.keep(name, result)
            self.lane.say("run", run=name, **result)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            self.lane.say("run failed", run=name, error=repr(error)[:300])

    def finish(self, name: str, place: int) -> None:
        """Files of one network: OUT/final/N-esm2, N-rest `.safetensors`, N-scores.npz (validation)."""
        import torch
        from safetensors.torch import save_file

        from virnucpro.training.saving import half_parts
        from virnucpro.training.scoring import FrameScores

        lane, final = self.lane, self.out / "final"
        final.mkdir(exist_ok=True)
        lane.network.load_state_dict(self.state_of(name))
        parts = half_parts(lane.network)
        save_file(parts["esm2"], final / f"{place}-esm2.safetensors", metadata={"format": "pt", "run": name})
        rest = {f"{p}/{k}": v for p in ("dnabert_s", "classifier", "heads") for k, v in parts[p].items()}
        save_file(rest, final / f"{place}-rest.safetensors", metadata={"format": "pt", "run": name})
        lane.network.round_to_half()
        torch.backends.cuda.matmul.allow_tf32 = False
        everything = {"run": np.array(name)}
        store = lane.validation
        for policy in ("longest", "open") if place == 1 else ("longest",):
            rows = np.arange(len(store))
            if lane.options.few:
                rows = rows[:: len(rows) // lane.options.few + 1]
            scores = lane.score(lane.contig_batches(store, rows, policy), exact=True)
            for field in FrameScores._fields:
                everything[f"{policy}_{field}"] = getattr(scores, field)
            np.savez_compressed(final / f"{place}-scores.npz", **everything)
        lane.say("finished", run=name, place=place)

    def work(self) -> None:
        lane = self.lane
        self.recall()
        self.version_1()
        total = lane.left - KEEP_BACK

        def steps(share: float) -> int:
            return max(int(share * total * lane.rate), 2)

        for name, recipe in RECIPES.items():
            self.run(name, recipe, steps(SCREEN_SHARE), 1.6 * SCREEN_SHARE * total)
        screened = [n for n in RECIPES if n in self.done]
        self.soup("soup_screened", screened)
        best = max(screened, key=lambda n: self.done[n]["validation"]["logit"])
        long = replace(RECIPES[best], start="v1-esm2", rate=7e-4, dna_rate=1.0, dna_share=0.5, seed=5)
        self.run("long", long, steps(LONG_SHARE), min(1.5 * LONG_SHARE * total, lane.left - KEEP_BACK))
        # continuations of whichever is best by now, with the best recipe; another seed each, DNABERT-S fixed in every second
        wholes = [n for n in ("soup_screened", "long") if n in self.done]
        for start in sorted(wholes, key=lambda n: -self.done[n]["validation"]["logit"]):
            number = 0
            while number < 3 and lane.left > KEEP_BACK + 0.8 * BRANCH_SHARE * total:
                branch = replace(RECIPES[best], start=start, rate=2e-4, dna_share=0.0 if number % 2 else 1.0, seed=20 + number)
                self.run(f"{start}-{number}", branch, steps(BRANCH_SHARE),
                         min(1.5 * BRANCH_SHARE * total, lane.left - KEEP_BACK))  # fmt: skip
                number += 1
            self.soup(f"soup_{start}", [start, *(n for n in self.done if n.startswith(f"{start}-"))])
        ranked = sorted((n for n in self.done if n not in ("shipped", "heads")),
                        key=lambda n: -self.done[n]["validation"]["logit"])  # fmt: skip
        lane.say("ranked", runs={n: [self.done[n]["validation"]["logit"], self.done[n]["validation"]["recall5"]] for n in ranked})
        for place, name in enumerate(ranked[:2], start=1):
            self.finish(name, place)


# ---------------------------------------------------------------- the lane `folds`

FOLD_RECIPE = Recipe(start="nothing", rate=7e-4, esm2_rate=1.0, dna_rate=1.0, dna_share=0.6)


def folds(lane: Lane) -> None:
    """One network a fold, and one on the fixed split; OUT/folds.npz has the scores of all held-out contigs."""
    from virnucpro.training.metrics import auroc

    out = lane.options.out
    contigs, fold_of = fold_contigs(lane.options.data)
    left_out = {n: np.concatenate([np.load(f / f"{n}_folds.npz")["out"] for f in lane.folders]) for n in ("genomes", "markers")}
    n_folds = left_out["genomes"].shape[1] // 2
    tasks: list = [("fixed", 0, None)]
    for fold in range(n_folds):
        tasks += [("family", fold, fold), ("genus", fold, n_folds + fold)]
    lane.say("ready", contigs=len(contigs), tasks=len(tasks))
    plan = out / "folds_steps.json"
    if not plan.exists():
        lane.rebuild()
        marks: list = []
        maker = lane.maker(FOLD_RECIPE, lane.genomes, lane.markers, None)
        warm_up = replace(FOLD_RECIPE, dna_share=1.0)  # what DNABERT-S being fixed compiles anew is no part of the rate
        lane.train(maker, warm_up, max(lane.options.heads // 2, 13), 60.0, lambda p, *_: marks.append((p.step, p.seconds)))
        (step, seconds), (last, end) = next(m for m in marks if m[0] >= 10), marks[-1]
        rate = (last - step) / max(end - seconds, 1e-3)
        each = (lane.left - 15) / len(tasks) - lane.options.fold_overhead
        steps = int(np.clip(rate * each, 3, lane.options.fold_steps))
        plan.write_text(json.dumps({"steps": steps, "frames": steps * lane.batch.frames, "rate": rate}))
        lane.say("plan", steps=steps, frames=steps * lane.batch.frames, rate=rate, seconds_each=each)
    steps = json.loads(plan.read_text())["steps"]
    for kind, fold, column in tasks:
        file = out / f"fold-{kind}-{fold}.done"
        if file.exists() or lane.left < 12:
            continue
        try:
            genomes, markers = lane.genomes, lane.markers
            store, rows = lane.validation, np.flatnonzero(np.char.startswith(lane.validation.labels.kind, "contig"))
            if column is not None:
                genomes = genomes.select_records(~left_out["genomes"][:, column])
                markers = markers.select_records(~left_out["markers"][:, column])
                store, rows = contigs, np.flatnonzero(fold_of[kind] == fold)
            if lane.options.few:
                rows = rows[:: len(rows) // lane.options.few + 1]
            import torch

            torch.manual_seed(7)
            lane.rebuild()
            maker = lane.maker(FOLD_RECIPE, genomes, markers, None)
            took = lane.train(maker, FOLD_RECIPE, steps, max(lane.left - 10, 5))
            lane.settle(lane.settling(lane.maker(FOLD_RECIPE, genomes, markers, None, augment=False),
                                      min(8, lane.options.settle)))  # fmt: skip
            scores = lane.score(lane.contig_batches(store, rows))
            together = dict(np.load(out / "folds.npz")) if (out / "folds.npz").exists() else {}
            for field, column_of in scores._asdict().items():
                together[f"{kind}_{fold}_{field}"] = column_of.astype(np.float16) if field.endswith("logit") else column_of
            np.savez_compressed(out / "folds.part.npz", **together)
            (out / "folds.part.npz").replace(out / "folds.npz")
            file.touch()
            found = {}
            for length in (300, 500, 1000):
                mine = rows[store.length[rows] == length]
                total = np.bincount(scores.contig, weights=scores.logit, minlength=len(store))[mine]
                n = np.bincount(scores.contig, minlength=len(store))[mine]
                y = store.labels.virus[store.record[mine]].astype(bool)
                found[length] = round(auroc(np.where(n > 0, total / np.maximum(n, 1), np.nan), y), 4) if len(mine) else None
            lane.say("fold", kind=kind, fold=fold, took=took, auroc=found, records=[len(genomes.labels), len(markers.labels)])
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            lane.say("fold failed", kind=kind, fold=fold, error=repr(error)[:300])
            if "CUDA" in repr(error):
                raise


def supervise(options: argparse.Namespace) -> None:
    """Start both lanes; start one again that died while there is time; end them at the deadline."""
    running: dict[str, subprocess.Popen] = {}
    starts = {"main": 0, "folds": 0}

    def start(name: str) -> None:
        command = [sys.executable, "-P", __file__, *sys.argv[1:], "--lane", name, "--began", str(options.began),
                   "--deadline", str(options.deadline)]  # fmt: skip
        handle = (options.out / f"{name}.txt").open("a")
        running[name] = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT, env=os.environ)
        starts[name] += 1

    for name in starts:
        start(name)
    while running and time.time() < options.deadline + 20:
        time.sleep(0.5)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode and starts[name] < 4 and options.deadline - time.time() > 40:
                start(name)
    for process in running.values():
        process.terminate()
    print(json.dumps({"at": round(time.time() - options.began, 1), "event": "over", "ended": sorted(running)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, help="version 1 (all but --tiny need it)")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--workers", type=int, default=6, help="loader processes of each lane")
    parser.add_argument("--report", type=float, default=15.0)
    parser.add_argument("--settle", type=int, default=24, help="batches for the batch-norm statistics")
    parser.add_argument("--heads", type=int, default=150, help="steps for the auxiliary heads, and to measure the rate")
    parser.add_argument("--fold-steps", type=int, default=400, help="of each fold, at most")
    parser.add_argument("--fold-overhead", type=float, default=9.0, help="seconds a fold needs beside training")
    parser.add_argument("--few", type=int, default=0, help="score only about this many contigs (a trial)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    parser.add_argument("--lane", choices=("main", "folds"))
    parser.add_argument("--began", type=float, default=0.0)
    parser.add_argument("--deadline", type=float, default=0.0)
    options = parser.parse_args()
    if options.start is None and not options.tiny:
        parser.error("--start is missing: a run of train_mini.py, or the bundle of version 1")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.lane == "main":
        run_lane(options, "main", lambda lane: Main(lane).work())
    elif options.lane == "folds":
        run_lane(options, "folds", folds)
    else:
        options.began = time.time()
        options.deadline = options.began + options.seconds
        supervise(options)


if __name__ == "__main__":
    main()
