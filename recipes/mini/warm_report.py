"""What the two warm networks say of groups that nothing has seen, beside version 8.

    python -m recipes.mini.warm_report WORK PACKED OUT RESULTS.json TABLE.npz

WORK and PACKED as of deal.py and pack.py; OUT holds `warm-0` and `warm-1` (warm.py) and
`eight-scores.npz` (stages.py). Only contigs of folds 0 and 1 whose groups are new to version 8
count: neither version 8, with which both began, nor the network asked has seen anything like them.
RESULTS.json has the form of fold_report.py's `folds`, for both networks; TABLE.npz is oof.py's with
the warm networks' log-odds as `logit` (NaN where they do not count), for evidence_fit.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.contigs import Packed, contigs_of
from recipes.mini.evidence_fit import Contigs, at_points, points_of
from recipes.mini.fold_report import (
    answers,
    calibrated,
    from_folds,
    labelled,
    of_network,
    rounded_lists,
    without_own_fold,
)
from recipes.mini.oof import log_odds, table
from recipes.mini.pack import LENGTHS
from recipes.mini.warm import FOLDS
from virnucpro.calling.calibration import logit
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import auroc


def by_fold(s, fold: np.ndarray) -> dict[str, list[float]]:
    """AUROC of each fold, by length."""
    return {
        str(n): [
            auroc(s.score[rows], s.virus[rows])
            for rows in ((s.length == n) & (fold == k) for k in FOLDS)
        ]
        for n in LENGTHS
    }


def call_points(s: Scored, p: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the points of a call by the network alone as a calibration has them, what they do)."""
    nothing = np.zeros(len(s))
    c = Contigs(
        *(nothing[:, None], nothing, s.virus, s.category, s.group, nothing, s.length, nothing),
        nothing > 0,
    )
    of, lengths = points_of(c, logit(p)), np.unique(c.length).tolist()
    told = {}
    for i, n in enumerate(lengths):
        rows = c.length == n
        told[str(n)] = at_points(c.select(rows), p[rows], {k: v[i] for k, v in of.items()})
    return {"lengths": lengths, "shares": {k: list(v) for k, v in of.items()}}, told


def main(work: Path, packed: Path, out: Path, results: Path, scores: Path) -> None:
    """Write the figures and the table of scores."""
    genomes = Packed.load(packed, "genomes")
    contigs = contigs_of(genomes, packed)
    labels, fold = genomes.store.labels.select(contigs.record), genomes.fold[contigs.record]
    counts = genomes.new[contigs.record] & np.isin(fold, FOLDS)
    rows = np.flatnonzero(counts)
    ours, eight = from_folds(contigs, fold, out, "warm"), answers(contigs, out / "eight-scores.npz")
    found: dict[str, Any] = {}
    for name, network in (("warm", ours), ("version 8", eight)):
        s = labelled(contigs, labels, network.score).select(rows)
        found[name] = of_network(s) | {"auroc of each fold": by_fold(s, fold[rows])}
    s = labelled(contigs, labels, ours.score).select(rows)
    found["warm"]["calibration"] = calibrated(s, ours.select(rows), fold[rows])
    of, told = call_points(s, without_own_fold(s, ours.select(rows), fold[rows]))
    found["warm"]["calibration"]["calibration"]["points"] = of
    found["warm"]["at points"] = told
    found["log"] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    results.write_text(json.dumps(rounded_lists(found), indent=1) + "\n")
    _, columns = table(work, packed, out)
    columns["logit"] = np.full(len(contigs), np.nan)
    for k in FOLDS:
        mine = counts & (fold == k)
        columns["logit"][mine] = log_odds(contigs, out / f"warm-{k}-scores.npz")[mine]
    np.savez_compressed(scores, **columns)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:6]))
