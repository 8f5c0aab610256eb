"""Networks on the validation side, each with a calibration and limits of regions of its own. No
test figure.

    python -m recipes.mini.compare work run_a run_b ...        # with PYTHONPATH=.

Each run as finish.py wants it. All are measured on the contigs that all have scores of (with
N: that `run_a` has). Prints one JSON, by name of the run's folder, and what the mean of the
networks' logits comes to, uncalibrated.
"""

from __future__ import annotations

import json
import sys
from functools import reduce
from pathlib import Path

import numpy as np

from recipes.mini.finish import (
    blurred,
    choose_limits,
    columns_of,
    fit_validation,
    needed_scores,
    policy_of,
    robustness,
    rounded,
    table,
    taken,
)
from virnucpro.training.bundle.scoring import FrameScores
from virnucpro.training.calibrate import FEATURES, even_weights, fit
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import auroc, calibration_error, recall_at
from virnucpro.training.store import Store

POINTS = (0.5, 0.6, 0.7, 0.8)
LENGTHS = {
    "300": (300, 300),
    "500": (500, 500),
    "1000": (1000, 1000),
    "3000": (3000, 3000),
    "10000": (10_000, 10_000),
    "3000 and more": (3000, 10**9),
}


def left_out(s: Scored, share: np.ndarray, frames: np.ndarray, features: tuple) -> np.ndarray:
    """The probability of every contig by a calibration fitted without its group."""
    groups = np.char.add(np.where(s.virus, "viral/", np.char.add(s.category, "/")), s.group)
    p = np.full(len(s), np.nan)
    for group in np.unique(groups):
        out, rest = groups == group, groups != group
        fitted = fit(
            features,
            s.score[rest],
            s.length[rest],
            share[rest],
            frames[rest],
            s.virus[rest],
            even_weights(s.select(rest)),
        )
        p[out] = fitted.probability(s.score[out], s.length[out], share[out], frames[out])
    return p


def compare(contigs: Store, run: Path, scored: np.ndarray, as_in: Path) -> dict:
    """Every figure of one run on the contigs where `scored` (bool) is true."""
    path, lab = run / "scores.npz", contigs.labels
    scores = needed_scores(path, policy_of(path))
    scores = FrameScores(*(c[scored[scores.contig]] for c in scores))
    columns = columns_of(scores, contigs)
    fitted, name, compared = fit_validation(contigs, columns)
    rows = np.flatnonzero(
        np.char.startswith(lab.kind, "contig") & (lab.split == "validation") & ~np.isnan(columns[0])
    )
    s = table(contigs, columns, rows, fitted)
    held, weight = left_out(s, columns[1][rows], columns[2][rows], FEATURES[name]), even_weights(s)
    out: dict = {"calibration": {"chosen": name, **compared[name]}}
    for label, (low, high) in LENGTHS.items():
        m = (s.length >= low) & (s.length <= high)
        out[label] = {
            "auroc": auroc(s.deciding[m], s.virus[m]),
            "auroc_of_score": auroc(s.score[m], s.virus[m]),
            "recall_at_5pct": recall_at(s.deciding[m], s.virus[m], 0.05),
            "calibration_error_left_out": calibration_error(held[m], s.virus[m], weight[m]),
        }
    long = s.select(s.length >= 3000)
    classes = {
        c: ~long.virus & (long.category == c) for c in sorted(set(long.category[~long.virus]))
    }
    out["points"] = {
        str(p): {
            "recall": (long.deciding >= p)[long.virus].mean(),
            "false_positives": {c: (long.deciding >= p)[m].mean() for c, m in classes.items()},
        }
        for p in POINTS
    }
    fewest = max(np.quantile(long.deciding[m], 0.95, method="higher") for m in classes.values())
    out["points"]["every class under 5 %"] = {
        "point": fewest,
        "recall": (long.deciding > fewest)[long.virus].mean(),
    }
    limits, tried = choose_limits(contigs, scores)
    out["regions"] = {
        "chosen": [limits.opens, limits.stays],
        **tried[f"{limits.opens:g} {limits.stays:g}"],
    }
    out["called_virus"] = robustness(contigs, columns, fitted, scored, ("validation",))
    out["called_virus"] |= blurred(contigs, columns, run, fitted, ("validation",), as_in)
    return rounded(out)


def mean_of(contigs: Store, runs: tuple[Path, ...]) -> dict:
    """AUROC and recall of the mean of the networks' logits: what one network of their size together
    might reach.
    """
    every = [needed_scores(run / "scores.npz", policy_of(run / "scores.npz")) for run in runs]
    names = [s.contig.astype(np.int64) * 1_000_000 + s.chunk * 10 + s.frame for s in every]
    shared = reduce(np.intersect1d, names)
    at = [np.searchsorted(name, shared) for name in names]
    logit = np.mean([s.logit[rows] for s, rows in zip(every, at, strict=True)], axis=0)
    score = columns_of(FrameScores(*(c[at[0]] for c in every[0]))._replace(logit=logit), contigs)[0]
    lab, out = contigs.labels, {}
    plain = np.char.startswith(lab.kind, "contig") & (lab.split == "validation") & ~np.isnan(score)
    for label, (low, high) in LENGTHS.items():
        m = plain & (contigs.length >= low) & (contigs.length <= high)
        virus = lab.virus[m].astype(bool)
        out[label] = {
            "auroc_of_score": auroc(score[m], virus),
            "recall_at_5pct_of_score": recall_at(score[m], virus, 0.05),
        }
    return rounded(out)


def main(work: Path, *runs: Path) -> None:
    """Print what each of the runs reaches."""
    contigs = Store.load(work / "contigs.npz")
    scored = np.logical_and.reduce(
        [taken(run / "scores.npz", policy_of(run / "scores.npz"), contigs) for run in runs]
    )
    found = {run.name: compare(contigs, run, scored, runs[0]) for run in runs}
    # else they have scores of different frames
    if len({policy_of(run / "scores.npz") for run in runs}) == 1:
        found["mean of all"] = mean_of(contigs, runs)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
