"""Whether a calibration should weigh cells by class, group or sequence: fitted on the fixed split, measured on the folds.

    python -P benchmarks/mini_weights.py PACKED run

Run with PYTHONPATH=.:benchmarks, on what mini_folds.py packed and mini_gather.py wrote. Prints the calibration error on
the folds' contigs of 3,000 bases and more, viruses and cells half each, and the mean probability less the share of viruses.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from finish_mini import fold_tables

from virnucpro.calling.calibration import fit
from virnucpro.training.evaluation import Scored
from virnucpro.training.fitting import FEATURES, even_weights
from virnucpro.training.metrics import calibration_error

USED = FEATURES["score x length, score x frames"]


def weights(s: Scored, power: float) -> np.ndarray:
    """As even_weights, but each cellular group counts with the `power` of its sequences: 0 groups alike, 1 sequences alike."""
    weight = even_weights(s)
    groups = np.char.add(np.char.add(s.category, "/"), s.group)
    for length in np.unique(s.length):
        mine = (s.length == length) & ~s.virus
        _, index, n = np.unique(groups[mine], return_inverse=True, return_counts=True)
        of = (n ** (power - 1.0))[index]
        weight[mine] = of / of.sum()
    return weight


def main(packed: Path, run: Path) -> None:
    found = [(name, s, share, frames) for name, s, share, frames in fold_tables(packed, run)]
    known = [(name, s.select(ok), share[ok], frames[ok]) for name, s, share, frames in found for ok in [~np.isnan(s.score)]]
    (_, s, share, frames), *held = known
    ways = {"classes alike": even_weights(s), "groups alike": weights(s, 0), "root": weights(s, 0.5), "sequences alike": weights(s, 1)}
    for way, weight in ways.items():
        fitted, errors = fit(USED, s.score, s.length, share, frames, s.virus, weight), {}
        for kind in ("family", "genus"):
            p, y, half = [], [], []
            for _, t, of_share, of_frames in (h for h in held if h[0].startswith(kind)):
                p.append(fitted.probability(t.score, t.length, of_share, of_frames)[t.length >= 3000])
                y.append(t.virus[t.length >= 3000])
                half.append(np.where(y[-1], 0.5 / y[-1].sum(), 0.5 / (~y[-1]).sum()))
            p, y, half = map(np.concatenate, (p, y, half))
            errors[kind] = round(calibration_error(p, y, half), 4), round(float((half * (p - y)).sum() / half.sum()), 4)
        print(json.dumps({way: errors}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
