"""What the folds say: version 8 on groups it has not seen, and the networks of the folds.

    python -m recipes.mini.fold_report WORK PACKED OUT RESULTS.json

WORK, PACKED and OUT as of deal.py, pack.py and stages.py. By length: AUROC and recall with
intervals from drawing whole groups again, recall of viral groups and false positives of cellular
classes and of the worst tenth of the groups at the threshold that 5 % and 1 % of all cells reach.
A calibration is fitted without each fold and judged on it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.contigs import Packed, contigs_of
from recipes.mini.deal import FOLDS
from recipes.mini.finish import rounded
from recipes.mini.oof import read_scores
from recipes.mini.pack import LENGTHS
from recipes.mini.stages import COMPARED
from recipes.mini.windows import CHUNK_LENGTH, POLICY
from virnucpro.calling.calibration import Calibration
from virnucpro.training.bundle.scoring import call_contigs
from virnucpro.training.calibrate import FEATURES, even_weights, fit
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import auroc, bootstrap_groups, calibration_error, recall_at
from virnucpro.training.store import Store

DRAWS = 200
FEWEST = 5  # contigs of a group of which a share is told
RATES = (0.05, 0.01, 0.001)  # false positives that a preset promises


@dataclass(frozen=True)
class Scores:
    """What a network answers on contigs, [n] each, NaN where it was not asked."""

    score: np.ndarray
    share: np.ndarray
    frames: np.ndarray

    def select(self, rows: np.ndarray) -> Scores:
        """Only these contigs."""
        return Scores(self.score[rows], self.share[rows], self.frames[rows])


def answers(contigs: Store, path: Path) -> Scores:
    """What the shipped rules make of the frames kept in `path`."""
    _, found = call_contigs(read_scores(path)[1], contigs.length, CHUNK_LENGTH, POLICY)
    return Scores(found.virus_score, found.scored_fraction, found.n_open_frames.astype(float))


def from_folds(contigs: Store, fold: np.ndarray, out: Path, recipe: str) -> Scores:
    """Each contig by the network that has not seen its fold."""
    columns = np.full((3, len(contigs)), np.nan)
    for k in range(FOLDS):
        path = out / f"{recipe}-{k}-scores.npz"
        if path.exists():
            one = answers(contigs, path)
            mine = fold == k
            columns[:, mine] = np.stack([one.score, one.share, one.frames])[:, mine]
    return Scores(*columns)


def labelled(contigs: Store, labels, score: np.ndarray) -> Scored:
    """Scores with labels; groups are named with their category."""
    group = np.char.add(np.char.add(labels.category, "/"), labels.group)
    nothing = np.full(len(score), np.nan)
    virus = labels.virus.astype(bool)
    return Scored(score, nothing, virus, labels.category, group, contigs.length)


def ranking(s: Scored, draws: int = DRAWS) -> dict[str, Any]:
    """AUROC and recalls as [value, low, high], and what they rest on."""
    strata = np.where(s.virus, "viral", s.category)
    found: dict[str, Any] = {
        "viral": [int(s.virus.sum()), len(np.unique(s.group[s.virus]))],
        "cellular": [int((~s.virus).sum()), len(np.unique(s.group[~s.virus]))],
    }
    for name, of in (
        ("auroc", lambda w=None: auroc(s.score, s.virus, w)),
        ("recall_at_5pct", lambda w=None: recall_at(s.score, s.virus, 0.05, w)),
        ("recall_at_1pct", lambda w=None: recall_at(s.score, s.virus, 0.01, w)),
    ):
        found[name] = [of(), *bootstrap_groups(of, s.group, strata, draws)]
    return found


def shares(s: Scored, called: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The share called of every group of `rows` with FEWEST contigs and more."""
    _, index = np.unique(s.group[rows], return_inverse=True)
    n = np.bincount(index)
    return (np.bincount(index, weights=called[rows]) / n)[n >= FEWEST]


def at_rate(s: Scored, rate: float) -> dict[str, Any]:
    """Classes and groups at the threshold that `rate` of the cells reach."""
    called = s.score > np.quantile(s.score[~s.virus], 1 - rate)
    viral = np.sort(shares(s, called, np.flatnonzero(s.virus)))
    cells = np.sort(shares(s, called, np.flatnonzero(~s.virus)))[::-1]
    classes = np.unique(s.category[~s.virus]).tolist()
    return {
        "recall": called[s.virus].mean(),
        "viral_groups": len(viral),
        "recall_of_the_worst_tenth": mean(viral[: max(len(viral) // 10, 1)]),
        "viral_groups_under_half": mean(viral < 0.5),
        "false_positives": {c: called[s.category == c].mean() for c in classes},
        "cellular_groups": len(cells),
        "false_positives_of_the_worst_tenth": mean(cells[: max(len(cells) // 10, 1)]),
    }


def mean(values: np.ndarray) -> float:
    """NaN where there is none."""
    return float(values.mean()) if len(values) else float("nan")


def of_network(s: Scored) -> dict[str, Any]:
    """Every figure of one network."""
    found: dict[str, Any] = {
        str(n): ranking(s.select(np.flatnonzero(s.length == n))) for n in LENGTHS
    }
    long = s.select(np.flatnonzero(s.length >= 3000))
    found["3000 and more"] = ranking(long) | {f"at {r:g}": at_rate(long, r) for r in RATES[:2]}
    return found


def errors(p: np.ndarray, s: Scored) -> dict[str, Any]:
    """By length: the calibration error with viral groups and cellular classes even, and what is
    called at 0.5.
    """
    found = {}
    for n in LENGTHS:
        rows = np.flatnonzero(s.length == n)
        part, mine = s.select(rows), p[rows]
        found[str(n)] = {
            "calibration_error": calibration_error(mine, part.virus, even_weights(part)),
            "recall": (mine >= 0.5)[part.virus].mean(),
            "false_positives": (mine >= 0.5)[~part.virus].mean(),
        }
    return found


def without_own_fold(s: Scored, of: Scores, fold: np.ndarray) -> np.ndarray:
    """float64 [n]: P(virus) by a calibration fitted without the fold of each contig."""
    p = np.full(len(s), np.nan)
    for k in np.unique(fold).tolist():
        rest, out = fold != k, fold == k
        one = fitted(s, of, rest)
        p[out] = one.probability(s.score[out], s.length[out], of.share[out], of.frames[out])
    return p


def calibrated(s: Scored, of: Scores, fold: np.ndarray) -> dict[str, Any]:
    """A calibration fitted on all and, for its error, without each fold; and the probabilities that
    RATES of the cells of each length reach.
    """
    p = without_own_fold(s, of, fold)
    points = {
        str(n): {
            f"{r:g}": np.quantile(p[(s.length == n) & ~s.virus], 1 - r)
            for r in RATES
            if ((s.length == n) & ~s.virus).sum() * r >= 1
        }
        for n in LENGTHS
    }
    whole = fitted(s, of, np.ones(len(s), bool))
    return {"left_out": errors(p, s), "points": points, "calibration": whole.to_json()}


def fitted(s: Scored, of: Scores, rows: np.ndarray) -> Calibration:
    """A calibration of the contigs `rows` (bool)."""
    virus = s.virus[rows]
    return fit(
        FEATURES["score x length, score x frames"],
        s.score[rows],
        s.length[rows],
        of.share[rows],
        of.frames[rows],
        virus,
        even_weights(s)[rows],
    )


def by_source(networks: dict[str, Scored], split: np.ndarray) -> dict[str, Any]:
    """Both networks on the groups of version 8's test side, and on the records that came later."""
    return {
        side: {
            name: {
                str(n): ranking(s.select(np.flatnonzero((split == part) & (s.length == n))))
                for n in LENGTHS
            }
            for name, s in networks.items()
        }
        for side, part in (("test side of version 8", "test"), ("later records", "new"))
    }


def compared(contigs: Store, labels, fold: np.ndarray, out: Path) -> dict[str, Any]:
    """Both recipes on the folds that both were trained on: AUROC by length and fold."""
    found: dict[str, Any] = {}
    for recipe in ("new", "old"):
        s = labelled(contigs, labels, from_folds(contigs, fold, out, recipe).score)
        found[recipe] = {
            str(n): [
                auroc(s.score[rows], s.virus[rows])
                for rows in ((contigs.length == n) & (fold == k) for k in COMPARED)
            ]
            for n in LENGTHS
        }
    return found


def main(work: Path, packed: Path, out: Path, results: Path) -> None:
    """Write the figures."""
    genomes = Packed.load(packed, "genomes")
    contigs = contigs_of(genomes, packed)
    labels = genomes.store.labels.select(contigs.record)
    fold, new = genomes.fold[contigs.record], genomes.new[contigs.record]
    ours = from_folds(contigs, fold, out, "new")
    eight = answers(contigs, out / "eight-scores.npz")
    seen_by_none = np.flatnonzero(new)
    every = labelled(contigs, labels, ours.score)
    old = labelled(contigs, labels, eight.score).select(seen_by_none)
    with np.errstate(divide="ignore"):
        odds = [np.log(x.score) - np.log1p(-x.score) for x in (ours, eight)]
    both = labelled(contigs, labels, sum(odds)).select(seen_by_none)
    of_eight = eight.select(seen_by_none)
    shipped = json.loads(
        (Path(__file__).parents[2] / "virnucpro/models/mini/bundle.json").read_text()
    )
    p = Calibration.from_json(shipped["calibration"]).probability(
        old.score, old.length, of_eight.share, of_eight.frames
    )
    found = {
        "groups": json.loads((work / "deal.json").read_text()),
        "recipes": compared(contigs, labels, fold, out),
        "folds": of_network(every) | {"calibration": calibrated(every, ours, fold)},
        "new_groups": {
            "folds": of_network(every.select(seen_by_none)),
            "version 8": of_network(old)
            | {
                "shipped_calibration": errors(p, old),
                "calibration": calibrated(old, of_eight, fold[seen_by_none]),
            },
            "both": of_network(replace(both, score=np.nan_to_num(both.score))),
            "by_source": by_source(
                {"version 8": old, "folds": every.select(seen_by_none)},
                labels.split[seen_by_none],
            ),
        },
        "log": [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()],
    }
    results.write_text(json.dumps(rounded_lists(found), indent=1) + "\n")


def rounded_lists(x):
    """Numbers with four decimals, in any nesting."""
    if isinstance(x, dict):
        return {k: rounded_lists(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [rounded_lists(v) for v in x]
    return rounded(x)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
