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

from dataclasses import replace
from typing import Any

import numpy as np

from recipes.mini.bench import load_state
from recipes.mini.networks import load_bundle
from recipes.mini.stages import NEW, Stages, run
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

    def told(self, scores: FrameScores, rows: np.ndarray) -> dict[str, Any]:
        """The figures of all, and on groups that version 8 has not seen."""
        return {"all": super().told(scores, rows), "new": self.on_new(scores, rows)}

    def on_new(self, scores: FrameScores, rows: np.ndarray) -> dict:
        """The figures on groups that version 8 has not seen."""
        new = self.bench.data.genomes.new[self.contigs.record[rows]]
        kept = np.isin(scores.contig, rows[new])
        part = FrameScores(*(column[kept] for column in scores))
        return super().told(part, rows[new])

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
            recipe = replace(WARM, seed=WARM.seed + fold)
            self.fold_network(f"warm-{fold}", recipe, fold, self.start)
        self.mean()
        self.bench.say("over")


def main() -> None:
    """All stages on the networks that version 8 becomes."""
    run(Warm, __doc__, 320.0)


if __name__ == "__main__":
    main()
