"""Version 9 of `mini` on one GPU: version 8 goes on learning, now from all groups dealt anew.

    python -m recipes.mini.warm PACKED OUT --eight BUNDLE [--fold-seconds 320]

PACKED is what recipes/mini/pack.py wrote, BUNDLE is version 8 (virnucpro/models/mini of commit
e91a017, or what campaign.py and finish.py make). The stages, in order; one that has left its
files in OUT (each under 16 MiB) is not done again:

- `eight`: version 8's scores of the contigs of groups that it has not seen;
- `warm-0`, `warm-1`: version 8 goes on without fold 0 or 1, and scores the contigs of that fold.
  On the groups that are new to version 8 (`new` of deal.py) the two can be compared: nothing like
  these was seen by either;
- `mean`: the network that ships, the mean of the weights of both, which were the same before they
  parted (Wortsman and others, 2022, arXiv:2203.05482); each group was learned from by one or both.
  The batch-norm statistics are those of new batches. A CPU does it too, in two minutes.

OUT/log.jsonl has a line an event.
"""

from __future__ import annotations

import argparse
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.mini.bench import Recipe, load_state
from recipes.mini.contigs import harder_sets
from recipes.mini.lane import figures
from recipes.mini.networks import load_bundle
from recipes.mini.stages import NEW, Stages
from virnucpro.training.bundle.scoring import FrameScores

FOLDS = (0, 1)
WARM = replace(
    NEW,
    rate=5e-4,
    token_weight=0.15,
    decay=0.1,
    mask_share=0.3,
    spliced=0.15,
    seed=90,
)
SETTLING = 8  # batches: the mean and variance of 4,096 frames


class Warm(Stages):
    """All stages on one bench."""

    def start(self) -> None:
        """Version 8 as it ships; its training heads are not in the bundle and begin anew."""
        self.bench.rebuild(8)
        if not self.options.tiny:
            load_bundle(self.bench.network, self.options.eight)

    def warm(self, fold: int) -> None:
        """Go on without `fold` and score it."""
        bench, name = self.bench, f"warm-{fold}"
        if (self.options.out / f"{name}-scores.npz").exists():
            return
        recipe: Recipe = replace(WARM, seed=WARM.seed + fold)
        self.start()
        took = bench.train(bench.maker(recipe, fold), recipe, self.options.fold_seconds)
        bench.save(name)
        began = time.time()
        rows = self.some(np.flatnonzero(self.fold == fold))
        scores = bench.score(self.contigs, rows)
        harder = harder_sets(bench.data.genomes, fold)
        every = self.some(np.arange(len(harder)))
        self.keep(f"{name}-harder", bench.score(harder, every), every)
        self.keep(f"{name}-scores", scores, rows)
        bench.say(
            "fold",
            name=name,
            took=took,
            scored=round(time.time() - began, 1),
            all=figures(self.contigs, scores, rows, odd=False),
            new=self.on_new(scores, rows),
        )

    def on_new(self, scores: FrameScores, rows: np.ndarray) -> dict:
        """The figures on groups that version 8 has not seen."""
        new = self.bench.data.genomes.new[self.contigs.record[rows]]
        kept = np.isin(scores.contig, rows[new])
        part = FrameScores(*(column[kept] for column in scores))
        return figures(self.contigs, part, rows[new], odd=False)

    def mean(self) -> None:
        """The network that ships."""
        bench, out = self.bench, self.options.out
        if (out / "mean-rest.safetensors").exists():
            return
        one, other = (load_state(out, f"warm-{fold}") for fold in FOLDS)
        state = {k: (v + other[k]) / 2 if v.is_floating_point() else v for k, v in one.items()}
        bench.network.load_state_dict(state, strict=False)
        bench.settle(bench.maker(WARM, None), SETTLING)
        bench.save("mean")
        bench.say("mean", of=[f"warm-{fold}" for fold in FOLDS])

    def work(self) -> None:
        """All stages in order."""
        self.eight(self.options.eight)
        for fold in FOLDS:
            self.warm(fold)
        self.mean()
        self.bench.say("over")


def main() -> None:
    """Run the stages; OUT/failed says why where they broke off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--eight", type=Path, required=True, help="version 8")
    parser.set_defaults(seconds=0.0)  # every stage has its own
    parser.add_argument("--fold-seconds", type=float, default=320.0, help="of a fold's training")
    parser.add_argument("--workers", type=int, default=14, help="processes that make batches")
    parser.add_argument("--few", type=int, default=0, help="score about so many contigs (a trial)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        Warm(options).work()
    except Exception:
        (options.out / "failed").write_text(traceback.format_exc())
        raise


if __name__ == "__main__":
    main()
