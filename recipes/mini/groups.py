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
    """One network: which groups it may learn from."""

    name: str
    viral: float = 1.0  # of the groups
    cellular: float = 1.0
    draw: int = 0
    fold: int | None = None  # column of `left out`

    @property
    def units(self) -> int:
        """How long it trains."""
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
            set(first.group[(first.virus == virus) & (first.category == category)]),
            key=rank.__getitem__,
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
    parts: list[Store] = []
    n: dict[str, int] = {}
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
    return parts[0], parts[1], n


class GroupTasks:
    """The networks of the lane: their data, and what is already done."""

    def __init__(self, lane: Lane):
        self.lane, self.done_file = lane, lane.options.out / "groups.npz"
        self.contigs, self.fold_of = fold_contigs(lane.options.data)
        self.left_out = {
            n: np.concatenate([np.load(f / f"{n}_folds.npz")["out"] for f in lane.folders])
            for n in ("genomes", "markers")
        }
        self.tasks = CURVE + ([] if lane.options.no_folds else HELD_OUT)
        lane.say("ready", contigs=len(self.contigs), tasks=len(self.tasks))

    def done(self) -> dict[str, np.ndarray]:
        """Scores of the tasks that are done, by name and field."""
        return dict(np.load(self.done_file)) if self.done_file.exists() else {}

    def unit_steps(self) -> int:
        """Steps that a unit of a task takes, so that all fit into the time; measured once."""
        lane, plan = self.lane, self.lane.options.out / "groups_steps.json"
        if not plan.exists():
            lane.rebuild()
            marks: list = []
            # the rate is measured without the second compilation, when DNABERT-S is fixed
            lane.train(
                lane.maker(RECIPE, lane.genomes, lane.markers, None),
                Recipe(rate=RECIPE.rate),
                60.0,
                lane.options.warm_up,
                lambda p, *_: marks.append((p.step, p.seconds)),
            )
            (step, seconds), (last, end) = next(m for m in marks if m[0] >= 10), marks[-1]
            rate = (last - step) / max(end - seconds, 1e-3)
            overhead = lane.options.overhead * len(self.tasks)
            seconds_each = (lane.left - 15 - overhead) / sum(t.units for t in self.tasks)
            unit = int(np.clip(rate * seconds_each, 3, lane.options.unit_steps))
            plan.write_text(json.dumps({"unit": unit, "rate": rate}))
            lane.say("plan", unit_steps=unit, unit_frames=unit * lane.batch.frames, rate=rate)
        return json.loads(plan.read_text())["unit"]

    def data_of(self, task: Task) -> tuple[Store, Store, tuple[Store, np.ndarray], dict]:
        """(genomes, genes, (contigs and which of them to score), how many groups) of a task."""
        lane = self.lane
        genomes, markers, store = lane.genomes, lane.markers, lane.validation
        n: dict = {}
        rows = np.flatnonzero(np.char.startswith(store.labels.kind[store.record], "contig"))
        if task.fold is not None:
            genomes = genomes.select_records(~self.left_out["genomes"][:, task.fold])
            markers = markers.select_records(~self.left_out["markers"][:, task.fold])
            store, kind = self.contigs, KINDS[task.fold // FOLDS]
            rows = np.flatnonzero(self.fold_of[kind] == task.fold % FOLDS)
        elif task.name.startswith("curve"):
            genomes, markers, n = part_of_groups(genomes, markers, task)
            rows = rows[np.isin(store.length[rows], (500, 3000, 10000))]
        return genomes, markers, (store, lane.some(rows)), n

    def run(self, task: Task, unit: int) -> None:
        """Train the network of a task, score it, and keep the scores."""
        lane = self.lane
        genomes, markers, (store, rows), n = self.data_of(task)
        torch.manual_seed(7)
        lane.rebuild()
        maker = lane.maker(RECIPE, genomes, markers, None)
        took = lane.train(maker, RECIPE, max(lane.left - 10, 5), unit * task.units)
        plain = lane.maker(RECIPE, genomes, markers, None, augment=False)
        lane.settle(lane.settling(plain, min(8, lane.options.settle)))
        scores = lane.score(lane.contig_batches(store, rows))
        whole = took["frames"] >= unit * task.units * lane.batch.frames
        if whole:
            found = {
                f"{task.name}_{field}": (
                    column.astype(np.float16) if field.endswith("logit") else column
                )
                for field, column in scores._asdict().items()
            }
            unfinished = self.done_file.with_name("groups.part.npz")
            np.savez_compressed(unfinished, **(self.done() | found))  # type: ignore[arg-type]
            unfinished.replace(self.done_file)
        lane.say(
            "groups",
            task=task.name,
            whole=whole,
            took=took,
            groups=n,
            records=[len(genomes.labels), len(markers.labels)],
            **figures(store, scores, rows, odd=False),
        )


def groups(lane: Lane) -> None:
    """All tasks that time allows, in order; those done by an earlier process are not done again."""
    tasks = GroupTasks(lane)
    unit = tasks.unit_steps()
    for task in tasks.tasks:
        if f"{task.name}_logit" in tasks.done() or lane.left < 12:
            continue
        try:
            tasks.run(task, unit)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            lane.say("groups failed", task=task.name, error=repr(error)[:300])
            if "CUDA" in repr(error):
                raise
