"""Version 9 of `mini` on one GPU: version 8 goes on learning, now from all groups dealt anew.

    python -m recipes.mini.warm PACKED OUT [--seconds 1480] [--fold-seconds 320]

PACKED is what recipes/mini/pack.py wrote. The stages, in order; one that has left its files in OUT
(each under 16 MiB) is not done again:

- `warm-0`, `warm-1`: version 8 goes on without fold 0 or 1, and scores the contigs of that fold.
  On the groups that are new to version 8 (`new` of deal.py) the two can be compared: nothing like
  these was seen by either;
- `student`: the mean of the weights of both goes on with all groups, from the labels and from the
  answers of both networks.

OUT/log.jsonl has a line an event.
"""

from __future__ import annotations

import argparse
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np

import virnucpro
from recipes.mini.bench import Recipe, TeacherPool, load_state
from recipes.mini.contigs import harder_sets
from recipes.mini.lane import figures
from recipes.mini.networks import load_bundle
from recipes.mini.stages import AT_ONCE, KEEP_BACK, NEW, Stages
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
STUDENT = replace(WARM, rate=4e-4, label_weight=0.5, seed=99)


class Warm(Stages):
    """All stages on one bench, until the deadline."""

    def start(self) -> None:
        """Version 8 as it ships; its training heads are not in the bundle and begin anew."""
        self.bench.rebuild(8)
        if not self.options.tiny:
            load_bundle(self.bench.network, Path(virnucpro.__file__).parent / "models" / "mini")

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

    def student(self) -> None:
        """The network that ships, learning from all groups for the time that is left."""
        bench, out = self.bench, self.options.out
        if (out / "student-rest.safetensors").exists():
            return
        states = [load_state(out, f"warm-{fold}") for fold in FOLDS]
        mean = {
            k: v if k not in states[1] else (v + states[1][k]) / 2 for k, v in states[0].items()
        }
        teachers = TeacherPool(bench, states, AT_ONCE, STUDENT.seed)
        bench.network.load_state_dict(mean, strict=False)
        bench.say("student", begins=round(self.left))
        maker = bench.maker(STUDENT, None)
        took = bench.train(maker, STUDENT, max(self.left - KEEP_BACK, 2.0), teachers)
        bench.save("student")
        bench.say("student", took=took)

    def work(self) -> None:
        """All stages in order."""
        for fold in FOLDS:
            self.warm(fold)
        self.student()
        self.bench.say("over")


def main() -> None:
    """Run the stages; OUT/failed says why where they broke off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=1480.0, help="of everything")
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
