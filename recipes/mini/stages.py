"""Everything of `mini` that wants a GPU, in stages that resume from files of at most 16 MiB.

    python -m recipes.mini.stages PACKED OUT --eight BUNDLE [--seconds 1500]

PACKED is what recipes/mini/pack.py wrote. The stages, in order; one that has left its files in OUT
is not done again:

- `fold K`: a network from nothing by the recipe NEW that has not seen fold K, and its scores of
  the fold's contigs (`new-K-scores.npz`);
- `fold K` by the recipe OLD, version 8's on the new data, of the folds in COMPARED;
- `eight`: the scores of version 8, for the contigs of groups it has not seen;
- `student`: it begins as a fold's network and learns from all groups, from the labels and from the
  answers of the folds' networks; groups that the folds got wrong are drawn more often.

OUT/log.jsonl has a line an event.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.bench import Bench, Recipe, TeacherPool, load_state
from recipes.mini.contigs import contigs_of, harder_sets
from recipes.mini.deal import FOLDS
from recipes.mini.lane import figures, means
from recipes.mini.networks import load_bundle
from recipes.mini.oof import read_scores
from recipes.mini.windows import HARD_GENOMES
from virnucpro.training.bundle.scoring import FrameScores

# the shares of version 8
OLD = Recipe(HARD_GENOMES, markers=0.45, group_exponent=0.4, seed=8)
# more genomes beside the genes, groups more alike, more of the cells that were taken for viruses
NEW = Recipe(
    {
        "viral": 0.5,
        "bacteria": 0.13,
        "archaea": 0.06,
        "plasmids": 0.10,
        "fungi": 0.04,
        "protozoa": 0.04,
        "plants": 0.05,
        "invertebrates": 0.04,
        "vertebrates": 0.05,
    },
    markers=0.3,
    group_exponent=0.2,
    seed=9,
)
STUDENT = replace(
    NEW,
    rate=5e-4,
    dna_share=0.15,
    token_weight=0.15,
    decay=0.1,
    distant=0.4,
    mask_share=0.3,
    spliced=0.3,
    label_weight=0.4,
    seed=7,
)
COMPARED = (0, 1)
AT_ONCE = 1  # teachers in a step, another one in each
KEEP_BACK = 25.0  # seconds, for the last files
PULL = (0.6, 1.8)  # limits of how much more often a group is drawn


class Stages:
    """All stages on one bench, until the deadline."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.deadline = time.time() + options.seconds
        self.bench = Bench(options.packed, options.out, options.workers, options.tiny)
        genomes = self.bench.data.genomes
        self.contigs = contigs_of(genomes, options.packed)
        self.fold = genomes.fold[self.contigs.record]
        self.bench.say("ready", contigs=len(self.contigs), records=len(genomes.store.labels))

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def some(self, rows: np.ndarray) -> np.ndarray:
        """A few of the rows in a trial, else all."""
        few = self.options.few
        return rows[:: len(rows) // few + 1] if few else rows

    def keep(self, name: str, scores: FrameScores, rows: np.ndarray) -> None:
        """Scores as they travel: small numbers, logits in half precision."""
        columns: dict[str, Any] = {
            "contig": scores.contig.astype(np.int32),
            "chunk": scores.chunk.astype(np.int16),
            "frame": scores.frame.astype(np.int8),
            "start": scores.start.astype(np.uint16),
            "aa_length": scores.aa_length.astype(np.int16),
        }
        logits = ("logit", "esm2_logit", "dnabert_s_logit")
        columns |= {k: getattr(scores, k).astype(np.float16) for k in logits}
        part = self.options.out / "part.npz"
        np.savez_compressed(part, rows=rows.astype(np.int32), **columns)
        part.replace(self.options.out / f"{name}.npz")

    def told(self, scores: FrameScores, rows: np.ndarray) -> dict[str, Any]:
        """What the log says of a fold's scores."""
        return figures(self.contigs, scores, rows, odd=False)

    def fold_network(
        self,
        name: str,
        recipe: Recipe,
        fold: int,
        begin: Callable[[], object] | None = None,
    ) -> None:
        """Train without `fold` and score it. begin: sets what the network begins as; None: random
        weights.
        """
        bench, out = self.bench, self.options.out
        if (out / f"{name}-scores.npz").exists():
            return
        (begin or partial(bench.rebuild, recipe.seed))()
        took = bench.train(bench.maker(recipe, fold), recipe, self.options.fold_seconds)
        bench.save(name)
        rows = self.some(np.flatnonzero(self.fold == fold))
        began = time.time()
        scores = bench.score(self.contigs, rows)
        harder = harder_sets(bench.data.genomes, fold)
        every = self.some(np.arange(len(harder)))
        self.keep(f"{name}-harder", bench.score(harder, every), every)
        self.keep(f"{name}-scores", scores, rows)
        found = self.told(scores, rows)
        bench.say(
            "fold",
            name=name,
            took=took,
            scored=round(time.time() - began, 1),
            frames=len(scores.logit),
            **found,
        )

    def eight(self, bundle: Path) -> None:
        """Scores of version 8, of the contigs of groups that it does not know."""
        if (self.options.out / "eight-scores.npz").exists():
            return
        bench = self.bench
        if not self.options.tiny:
            load_bundle(bench.network, bundle)
        rows = self.some(np.flatnonzero(bench.data.genomes.new[self.contigs.record]))
        scores = bench.score(self.contigs, rows)
        self.keep("eight-scores", scores, rows)
        bench.say("eight", **figures(self.contigs, scores, rows, odd=False))

    def pulls(self) -> np.ndarray:
        """float64 [R]: how much more often each record's group is drawn, by what its fold's
        network lost on its contigs of 500 and 3,000 bases: the root of its share of the mean.
        """
        lab, length = self.contigs.labels, self.contigs.length
        loss = np.full(len(self.contigs), np.nan)
        for fold in range(FOLDS):
            rows, scores = self.scored(f"new-{fold}")
            logit = means(self.contigs, scores, rows)
            virus = lab.virus[self.contigs.record[rows]]
            loss[rows] = np.logaddexp(0, np.where(virus == 1, -logit, logit))
        ok = ~np.isnan(loss) & np.isin(length, (500, 3000))
        pull = np.ones(len(lab))
        for virus in (0, 1):
            mine = ok & (lab.virus[self.contigs.record] == virus)
            key = np.char.add(np.char.add(lab.category, "/"), lab.group)
            names, index = np.unique(key[self.contigs.record[mine]], return_inverse=True)
            mean = np.bincount(index, weights=loss[mine]) / np.bincount(index)
            factor = np.clip(np.sqrt(mean / mean.mean()), *PULL)
            at = np.searchsorted(names, key)
            known = (lab.virus == virus) & (names[np.minimum(at, len(names) - 1)] == key)
            pull[known] = factor[at[known]]
        return pull

    def auroc(self, name: str) -> float:
        """Of the 500-base contigs of a fold, from its scores."""
        rows, scores = self.scored(name)
        return figures(self.contigs, scores, rows, odd=False)["500"]["auroc"]

    def scored(self, name: str) -> tuple[np.ndarray, FrameScores]:
        """(rows, frames) of an earlier stage."""
        return read_scores(self.options.out / f"{name}-scores.npz")

    def better(self) -> tuple[str, Recipe]:
        """The recipe with the higher mean over the folds that both were trained on."""
        found = {n: [round(self.auroc(f"{n}-{k}"), 4) for k in COMPARED] for n in ("new", "old")}
        self.bench.say("compared", auroc_500=found)
        return ("new", NEW) if sum(found["new"]) >= sum(found["old"]) else ("old", OLD)

    def student(self) -> None:
        """The network that ships, learning from all groups for the time that is left."""
        bench, out = self.bench, self.options.out
        if (out / "student-rest.safetensors").exists():
            return
        names = sorted(p.name.removesuffix("-rest.safetensors") for p in out.glob("*-rest.*"))
        pull = self.pulls()
        bench.say("pulls", quantiles=np.quantile(pull, [0, 0.1, 0.5, 0.9, 1]).round(3).tolist())
        states = [load_state(out, name) for name in names]
        teachers = TeacherPool(bench, states, AT_ONCE, STUDENT.seed)
        first, base = self.better()
        recipe = replace(
            STUDENT,
            categories=base.categories,
            markers=base.markers,
            group_exponent=base.group_exponent,
        )
        bench.network.load_state_dict(load_state(out, f"{first}-0"), strict=False)
        bench.say("student", teachers=names, recipe=asdict(recipe))
        maker = bench.maker(recipe, None, pull)
        took = bench.train(maker, recipe, max(self.left - KEEP_BACK, 2.0), teachers)
        bench.save("student")
        bench.say("student", took=took)

    def work(self) -> None:
        """All stages in order."""
        for fold in range(FOLDS):
            new, old = (replace(r, seed=r.seed + 100 * fold) for r in (NEW, OLD))
            self.fold_network(f"new-{fold}", new, fold)
            if fold in COMPARED:
                self.fold_network(f"old-{fold}", old, fold)
            if fold == 0:
                self.eight(self.options.eight)
        self.student()
        self.bench.say("over")


def run(stages: type[Stages], doc: str | None, fold_seconds: float) -> None:
    """Run the stages; OUT/failed says why where they broke off."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--eight", type=Path, required=True, help="version 8")
    parser.add_argument("--seconds", type=float, default=1500.0, help="of everything")
    parser.add_argument(
        "--fold-seconds", type=float, default=fold_seconds, help="of a fold's training"
    )
    parser.add_argument("--workers", type=int, default=14, help="processes that make batches")
    parser.add_argument("--few", type=int, default=0, help="score about so many contigs (a trial)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        stages(options).work()
    except Exception:
        (options.out / "failed").write_text(traceback.format_exc())
        raise


def main() -> None:
    """All stages on the networks from nothing."""
    run(Stages, __doc__, 112.0)


if __name__ == "__main__":
    main()
