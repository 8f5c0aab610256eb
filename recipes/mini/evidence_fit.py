"""How much known proteins weigh beside the network: fitted and measured on groups that neither the
network nor the reference knew.

    python -m recipes.mini.evidence_fit TABLE HITS BUNDLE RESULTS.json [--score logit_8]

TABLE is oof.py's, HITS evidence_hits.py's, which does not change with the network. Hits with
proteins of a contig's own group do not count. Writes the weights into BUNDLE/bundle.json, those of
the search alone into virnucpro/homology/weights.json, and what was measured into RESULTS.json: the
network, the search and both, each contig by weights fitted without its groups; 95 % intervals from
drawing whole groups again. `--score logit_8` takes version 8's scores of groups new to it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from recipes.mini.evidence_hits import read_features
from virnucpro.calling.calibration import expit
from virnucpro.files import write_json
from virnucpro.homology import weights as shipped
from virnucpro.homology.weights import Points, Weights
from virnucpro.settings import PROMISED
from virnucpro.training.metrics import (
    at_threshold,
    auroc,
    bootstrap_groups,
    calibration_error,
    curve,
    recall_at,
)
from virnucpro.training.parts import IDENTITIES

STRENGTH = 1.0  # of the regularization, as scikit-learn's C
DRAWS = 200
FOLDS = 8
CALLED, DEFAULT = 0.5, PROMISED["default"]
SHARES = {"5%": 0.05, "1%": 0.01, "0.1%": 0.001}  # of cells, that the points of a call promise
OF_A_CLASS, CONTIGS_OF_A_CLASS = 3, 50  # no larger share of a category with so many contigs
COURSE = 0.004, 0.1  # shares between which log-odds fall evenly with the logarithm of the share


@dataclass(frozen=True)
class Contigs:
    """What is fitted and measured on, [N] each."""

    features: np.ndarray  # float64 [N, F]
    score: np.ndarray  # float64, the network's log-odds
    virus: np.ndarray  # bool
    category: np.ndarray
    group: np.ndarray  # with its category
    fold: np.ndarray  # no unit of groups is in two; not those of the networks
    length: np.ndarray
    identity: np.ndarray  # of the closest viral protein of another group; 0 without one
    plasmid_like: np.ndarray  # bool

    def select(self, rows: np.ndarray) -> Contigs:
        """Only these."""
        return Contigs(*(getattr(self, f.name)[rows] for f in fields(self)))


def read(table: Path, hits: Path, score: str | None) -> Contigs:
    """The contigs that were searched and have this score; None: all, without one."""
    with np.load(table) as z:
        columns = {name: z[name] for name in z.files}
    rows, evidence = read_features(hits, columns["length"])
    odds = columns[score][rows] if score else np.zeros(len(rows))
    known = ~np.isnan(odds) & (columns["new"][rows] | (score != "logit_8"))
    category = columns["category"][rows]
    return Contigs(
        evidence.features,
        odds,
        columns["label"][rows] == 1,
        category,
        np.char.add(np.char.add(category, "/"), columns["group"][rows]),
        folds_of(columns["unit"], columns["category"])[rows],
        columns["length"][rows],
        np.nan_to_num(evidence.closest_identity),
        evidence.plasmid_like,
    ).select(known)


def folds_of(unit: np.ndarray, category: np.ndarray, seed: int = 9) -> np.ndarray:
    """int64 [N]: units dealt to FOLDS, those of each category in turn. A score is by a network that
    has not seen its contig's unit, whatever this fold.
    """
    rng, fold = np.random.default_rng(seed), np.zeros(unit.max() + 1, np.int64)
    for name in np.unique(category):
        mine = rng.permutation(np.unique(unit[category == name]))
        fold[mine] = (np.arange(len(mine)) + rng.integers(FOLDS)) % FOLDS
    return fold[unit]


def even(c: Contigs) -> np.ndarray:
    """Weights [N]: viruses half, cells half; of these a half by groups and a half by categories,
    in which groups count alike.
    """
    _, which, size = np.unique(c.group, return_inverse=True, return_counts=True)
    weight = 1.0 / size[which]
    by_category = weight.copy()
    for category in np.unique(c.category):
        mine = c.category == category
        by_category[mine] /= by_category[mine].sum()
    found = np.zeros(len(weight))
    for side in (c.virus, ~c.virus):
        for part in (weight, by_category):
            found[side] += part[side] / part[side].sum() / 4
    return found


def fit(x: np.ndarray, virus: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[1 + F]: the intercept and the weights of a logistic model."""
    middle, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    model = LogisticRegression(C=STRENGTH, max_iter=2000)
    model.fit((x - middle) / scale, virus, sample_weight=weight * len(x))
    slopes = model.coef_[0] / scale
    return np.concatenate([[model.intercept_[0] - (slopes * middle).sum()], slopes])


def columns_of(c: Contigs) -> dict[str, np.ndarray]:
    """What each of the three models sees."""
    network = c.score[:, None]
    both = np.hstack([network, c.features])
    return {"network": network, "search": c.features, "both": both}


def fitted(c: Contigs, name: str) -> Weights:
    """Weights of a model by length, from all contigs."""
    lengths, rows = np.unique(c.length), []
    for length in lengths:
        one = c.select(c.length == length)
        rows.append(fit(columns_of(one)[name], one.virus, even(one)).round(5))
    return Weights(tuple(lengths.tolist()), tuple(tuple(row.tolist()) for row in rows))


def without_own_fold(c: Contigs) -> dict[str, np.ndarray]:
    """Log-odds [N] of the three models, each contig's by weights fitted on the other folds."""
    found = {name: np.zeros(len(c.score)) for name in columns_of(c)}
    for k in np.unique(c.fold):
        mine = c.fold == k
        rest, here = c.select(~mine), c.select(mine)
        for name, odds in found.items():
            odds[mine] = fitted(rest, name).log_odds(columns_of(here)[name], here.length)
    return found


def points_of(c: Contigs, odds: np.ndarray) -> dict[str, tuple[float, ...]]:
    """By share of false positives: the probability, at least CALLED, that so many cells of each
    length reach, and at most OF_A_CLASS times as many of any category. The smallest share is taken
    from the course of larger ones, as few cells reach it.
    """
    found: dict[str, list[float]] = {name: [] for name in SHARES}
    for length in np.unique(c.length):
        rows = c.length == length
        one, values = c.select(rows & ~c.virus), odds[rows & ~c.virus]
        weight = even(c.select(rows))[~c.virus[rows]]
        large = [
            one.category == k
            for k in set(one.category.tolist())
            if (one.category == k).sum() >= CONTIGS_OF_A_CLASS
        ]
        course = np.geomspace(*COURSE, 9)
        line = np.polyfit(np.log(course), reached(values, weight, course), 1)
        for name, wanted in SHARES.items():
            point = np.polyval(line, np.log(wanted))
            if wanted >= COURSE[0]:
                of_classes = [
                    reached(values[k], weight[k], np.array(OF_A_CLASS * wanted)) for k in large
                ]
                point = max([reached(values, weight, np.array(wanted)), *of_classes])
            found[name].append(max(round(float(expit(np.array(point))), 4), CALLED))
    return {name: tuple(values) for name, values in found.items()}


def reached(odds: np.ndarray, weight: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The log-odds that these shares of the contigs reach; between two, by the logarithm."""
    order = np.argsort(-odds, kind="stable")
    total = np.cumsum(weight[order]) / weight.sum()
    return np.interp(np.log(share), np.log(total), odds[order])


def at_points(c: Contigs, p: np.ndarray, points: dict[str, float]) -> dict[str, Any]:
    """What the points do to the contigs of one length."""
    found = {}
    for name, point in points.items():
        called = p >= point
        found[name] = {
            "point": point,
            **{
                key: with_interval(
                    lambda w, key=key, at=point: at_threshold(p, c.virus, at, w)[key], c
                )
                for key in ("recall", "false_positive_rate")
            },
            "false_positives": {
                str(k): [int(called[mine].sum()), int(mine.sum())]
                for k in sorted(set(c.category[~c.virus]))
                for mine in [c.category == k]
            },
        }
    return found


def with_interval(statistic, c: Contigs) -> list[float]:
    """[value, low, high] of a statistic of weights."""
    weight = even(c)
    low, high = bootstrap_groups(
        lambda times: statistic(times * weight), c.group, c.category, DRAWS
    )
    return [round(float(v), 4) for v in (statistic(weight), low, high)]


def figures(c: Contigs, odds: np.ndarray) -> dict[str, Any]:
    """Of the contigs of one length."""
    p, y = expit(odds), c.virus
    called, weight = p >= CALLED, even(c)
    of = {
        "auroc": lambda w: auroc(odds, y, w),
        "recall_at_5pct": lambda w: recall_at(odds, y, 0.05, w),
        "recall_at_1pct": lambda w: recall_at(odds, y, 0.01, w),
        "recall": lambda w: at_threshold(p, y, CALLED, w)["recall"],
        "false_positive_rate": lambda w: at_threshold(p, y, CALLED, w)["false_positive_rate"],
        "calibration_error": lambda w: calibration_error(p, y, w),
    }
    found: dict[str, Any] = {name: with_interval(f, c) for name, f in of.items()}
    found["false_positives"] = {
        name: [int(called[mine].sum()), int(mine.sum()), len(set(c.group[mine]))]
        for name in sorted(set(c.category[~y]))
        for mine in [c.category == name]
    }
    course = curve(odds, y, weight)
    among_best = odds >= course.threshold[course.false_positive <= 0.05].min()
    found["recall_at_5pct_by_identity"] = {
        name: [
            round(float((weight * among_best)[mine].sum() / weight[mine].sum()), 4),
            int(mine.sum()),
        ]
        for name, (low, high) in IDENTITIES.items()
        for mine in [y & (c.identity > low) & (c.identity <= high)]
        if mine.any()
    }
    return found


def of_long(c: Contigs, called: np.ndarray) -> dict[str, Any]:
    """Contigs of 3,000 bases and more by the default call: false positives of each class, and the
    mean share called in the tenth of the groups that is worst.
    """
    found: dict[str, Any] = {
        "false_positives": {
            str(k): [int(called[mine].sum()), int(mine.sum()), len(set(c.group[mine]))]
            for k in sorted(set(c.category[~c.virus]))
            for mine in [c.category == k]
        }
    }
    for name, side, sign in (("cells", ~c.virus, -1), ("viruses", c.virus, 1)):
        shares = np.sort([sign * called[side & (c.group == g)].mean() for g in set(c.group[side])])
        found[f"worst tenth of {name}"] = round(
            float(abs(shares[: max(1, len(shares) // 10)].mean())), 4
        )
    return found


def measured(c: Contigs, odds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Everything of RESULTS.json; `odds` of the three models, each contig's without its fold."""
    points, results = points_of(c, odds["both"]), {}
    for i, length in enumerate(np.unique(c.length).tolist()):
        rows = c.length == length
        one = c.select(rows)
        results[str(length)] = {
            "viral": [int(one.virus.sum()), len(set(one.group[one.virus]))],
            "cellular": [int((~one.virus).sum()), len(set(one.group[~one.virus]))],
            **{name: figures(one, values[rows]) for name, values in odds.items()},
            "points": at_points(
                one, expit(odds["both"][rows]), {name: of[i] for name, of in points.items()}
            ),
            "plasmid_like": {
                name: round(float(one.plasmid_like[one.category == name].mean()), 4)
                for name in sorted(set(one.category))
            },
        }
    long = c.length >= 3000
    default = np.interp(c.length, np.unique(c.length), points[DEFAULT])
    called = expit(odds["both"]) >= default
    results["3000 and more"] = of_long(c.select(long), called[long])
    return results


def main() -> None:
    """Fit, measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("table", "hits", "bundle", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--score", default="logit", choices=("logit", "logit_8"))
    options = parser.parse_args()
    c = read(options.table, options.hits, options.score)
    odds = without_own_fold(c)
    write_json(options.results, measured(c, odds))
    path = options.bundle / "bundle.json"
    bundle = json.loads(path.read_text())
    weights = fitted(c, "both")
    points = Points.from_json(weights.lengths, points_of(c, odds["both"]))
    weights = replace(weights, points=points)
    bundle["calibration"]["evidence"] = weights.to_json()
    path.write_text(json.dumps(bundle, indent=2) + "\n")
    everything = fitted(read(options.table, options.hits, None), "search")
    write_json(Path(shipped.__file__).with_name("weights.json"), everything.to_json())


if __name__ == "__main__":
    main()
