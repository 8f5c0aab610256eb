"""The lane `groups` of mini_campaign.py: one network after another from nothing, each without a
part of the training groups.

First the learning curve over the number of groups (half of the viral and of the cellular groups, a
quarter, an eighth, and a quarter of one side only), measured on the validation side; then the
grouped folds, each measured on what it leaves out, with half as many steps. OUT/groups.npz has all
scores.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass

import numpy as np
import torch

from recipes.mini.folds import FOLDS, KINDS, fold_contigs
from recipes.mini.lane import Lane, Recipe, figures
from virnucpro.training.store import Store

RECIPE = Recipe(rate=7e-4, esm2_rate=1.0, dna_rate=1.0, dna_share=0.6)
UNITS = {"curve": 2, "folds": 1}  # of steps


@dataclass(frozen=True)
class Task:
    name: str
    viral: float = 1.0  # of the groups
    cellular: float = 1.0
    draw: int = 0
    fold: int | None = None  # column of `left out`

    @property
    def units(self) -> int:
        return UNITS["curve" if self.name.startswith("curve") else "folds"]


CURVE = [
    Task(f"curve_{name}_{draw}", viral, cellular, draw)
    for name, viral, cellular, draw in (
        ("all", 1, 1, 0),
        ("quarter", 1 / 4, 1 / 4, 0),
        ("half", 1 / 2, 1 / 2, 0),
        ("eighth", 1 / 8, 1 / 8, 0),
        ("quarter", 1 / 4, 1 / 4, 1),
        ("eighth", 1 / 8, 1 / 8, 1),
        ("viralquarter", 1 / 4, 1, 0),
        ("cellularquarter", 1, 1 / 4, 0),
    )
]
HELD_OUT = [
    Task("fixed_0"),
    *(
        Task(f"{kind}_{f}", fold=i * FOLDS + f)
        for f in range(FOLDS)
        for i, kind in enumerate(KINDS)
    ),
]


def kept_groups(
    stores: list[Store], share: float, virus: int, rng: np.random.Generator
) -> set[str]:
    """Names of the groups of one side that stay: of every category of the first store the share, at
    least one; of the rest by name.
    """
    names = sorted({g for s in stores for g in s.labels.group[s.labels.virus == virus].tolist()})
    rank = dict(zip(names, rng.random(len(names)).tolist(), strict=True))
    kept = {n for n in names if rank[n] < share}
    first = stores[0].labels
    for category in sorted(set(first.category[first.virus == virus])):
        mine = sorted(
            set(first.group[(first.virus == virus) & (first.category == category)]), key=rank.get
        )
        n = max(1, round(share * len(mine)))
        kept = (kept - set(mine[n:])) | set(mine[:n])
    return kept


def part_of_groups(genomes: Store, markers: Store, task: Task) -> tuple[Store, Store, dict]:
    """(genomes, genes, how many groups) with only a share of the groups of each side."""
    rng = np.random.default_rng([17, task.draw])
    sides = {
        v: kept_groups([genomes, markers], share, v, rng)
        for v, share in ((1, task.viral), (0, task.cellular))
    }
    parts, n = [], {}
    for name, store in (("genomes", genomes), ("genes", markers)):
        lab = store.labels
        keep = np.where(
            lab.virus == 1, np.isin(lab.group, list(sides[1])), np.isin(lab.group, list(sides[0]))
        )
        part = store if keep.all() else store.select_records(keep)
        for side, v in (("viral", 1), ("cellular", 0)):
            n[f"{side}_{name}"] = len(set(part.labels.group[part.labels.virus == v]))
        n[f"bacterial_{name}"] = len(set(part.labels.group[part.labels.category == "bacteria"]))
        parts.append(part)
    return *parts, n


def groups(lane: Lane) -> None:
    """All tasks that time allows, in order; those done by an earlier process are not done again."""
    out = lane.options.out
    contigs, fold_of = fold_contigs(lane.options.data)
    left_out = {
        n: np.concatenate([np.load(f / f"{n}_folds.npz")["out"] for f in lane.folders])
        for n in ("genomes", "markers")
    }
    tasks = CURVE + ([] if lane.options.no_folds else HELD_OUT)
    lane.say("ready", contigs=len(contigs), tasks=len(tasks))
    plan = out / "groups_steps.json"
    if not plan.exists():
        lane.rebuild()
        marks: list = []
        # what DNABERT-S being fixed compiles anew is no part of the rate
        warm_up = Recipe(rate=RECIPE.rate)
        lane.train(
            lane.maker(RECIPE, lane.genomes, lane.markers, None),
            warm_up,
            60.0,
            lane.options.warm_up,
            lambda p, *_: marks.append((p.step, p.seconds)),
        )
        (step, seconds), (last, end) = next(m for m in marks if m[0] >= 10), marks[-1]
        rate = (last - step) / max(end - seconds, 1e-3)
        seconds_each = (lane.left - 15 - lane.options.overhead * len(tasks)) / sum(
            t.units for t in tasks
        )
        unit = int(np.clip(rate * seconds_each, 3, lane.options.unit_steps))
        plan.write_text(json.dumps({"unit": unit, "rate": rate}))
        lane.say("plan", unit_steps=unit, unit_frames=unit * lane.batch.frames, rate=rate)
    unit = json.loads(plan.read_text())["unit"]
    done_file = out / "groups.npz"
    for task in tasks:
        done = dict(np.load(done_file)) if done_file.exists() else {}
        if f"{task.name}_logit" in done or lane.left < 12:
            continue
        try:
            genomes, markers, n = lane.genomes, lane.markers, {}
            store = lane.validation
            rows = np.flatnonzero(np.char.startswith(store.labels.kind[store.record], "contig"))
            if task.fold is not None:
                genomes = genomes.select_records(~left_out["genomes"][:, task.fold])
                markers = markers.select_records(~left_out["markers"][:, task.fold])
                store, rows = (
                    contigs,
                    np.flatnonzero(fold_of[KINDS[task.fold // FOLDS]] == task.fold % FOLDS),
                )
            elif task.name.startswith("curve"):
                genomes, markers, n = part_of_groups(genomes, markers, task)
                rows = rows[np.isin(store.length[rows], (500, 3000, 10000))]
            rows = lane.some(rows)
            torch.manual_seed(7)
            lane.rebuild()
            took = lane.train(
                lane.maker(RECIPE, genomes, markers, None),
                RECIPE,
                max(lane.left - 10, 5),
                unit * task.units,
            )
            lane.settle(
                lane.settling(
                    lane.maker(RECIPE, genomes, markers, None, augment=False),
                    min(8, lane.options.settle),
                )
            )
            scores = lane.score(lane.contig_batches(store, rows))
            whole = took["frames"] >= unit * task.units * lane.batch.frames
            for field, column in scores._asdict().items():
                if whole:
                    done[f"{task.name}_{field}"] = (
                        column.astype(np.float16) if field.endswith("logit") else column
                    )
            np.savez_compressed(out / "groups.part.npz", **done)
            (out / "groups.part.npz").replace(done_file)
            lane.say(
                "groups",
                task=task.name,
                whole=whole,
                took=took,
                groups=n,
                records=[len(genomes.labels), len(markers.labels)],
                **figures(store, scores, rows, odd=False),
            )
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            lane.say("groups failed", task=task.name, error=repr(error)[:300])
            if "CUDA" in repr(error):
                raise
