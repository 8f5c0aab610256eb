"""Labelled, scored sequences -> every figure of merit, with intervals from drawing whole groups
again.

Knows arrays; does not know where scores came from. Unscored sequences (NaN) rank last, and are left
out where a figure says `scored`. Each figure of a class comes with its number of independent
groups, because that is what the claim rests on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from virnucpro.calling.calibration import shift_prevalence
from virnucpro.training.metrics import (
    at_threshold,
    auprc,
    auroc,
    bootstrap_groups,
    calibration_error,
    recall_at,
)

PREVALENCES = (0.01, 0.05, 0.5)
DEFAULT_POINT = 0.5


@dataclass(frozen=True)
class Scored:
    """One row a sequence, [n] each. `probability` is NaN where there is no calibration."""

    score: np.ndarray  # float64, NaN where nothing was scored
    probability: np.ndarray  # float64
    virus: np.ndarray  # bool
    category: np.ndarray  # str; `viral` for viruses
    group: np.ndarray  # str: the unit that is drawn again
    length: np.ndarray  # int64, bases

    def __len__(self) -> int:
        return len(self.score)

    def select(self, rows: np.ndarray) -> Scored:
        """Only these sequences."""
        return Scored(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def deciding(self) -> np.ndarray:
        """What calls are made from: the probability where there is one, else the score."""
        return np.where(np.isnan(self.probability), self.score, self.probability)


def statistics(s: Scored) -> dict[str, Any]:
    """Name -> function of weights [n].

    Ranking figures use the score, calls the deciding value at 0.5.
    """
    return {
        "auroc": lambda w: auroc(s.deciding, s.virus, w),
        "auprc": lambda w: auprc(s.deciding, s.virus, w),
        "recall_at_1pct": lambda w: recall_at(s.deciding, s.virus, 0.01, w),
        "recall_at_5pct": lambda w: recall_at(s.deciding, s.virus, 0.05, w),
        "f1": lambda w: at_threshold(s.deciding, s.virus, DEFAULT_POINT, w)["f1"],
        "mcc": lambda w: at_threshold(s.deciding, s.virus, DEFAULT_POINT, w)["mcc"],
        "recall": lambda w: at_threshold(s.deciding, s.virus, DEFAULT_POINT, w)["recall"],
        "false_positive_rate": lambda w: at_threshold(s.deciding, s.virus, DEFAULT_POINT, w)[
            "false_positive_rate"
        ],
        "calibration_error": lambda w: _ece(s, w),
    }


def _ece(s: Scored, w: np.ndarray) -> float:
    known = ~np.isnan(s.probability) & (w > 0)
    if not known.any():
        return float("nan")
    balanced = w * np.where(
        s.virus,
        0.5 / max(w[s.virus & known].sum(), 1e-300),
        0.5 / max(w[~s.virus & known].sum(), 1e-300),
    )
    return calibration_error(s.probability[known], s.virus[known], balanced[known])


def measure(s: Scored, draws: int = 300, seed: int = 1) -> dict[str, Any]:
    """Every statistic as [value, low, high]: 95 % of draws of whole groups within virus and each
    cellular category.

    A category with a single group cannot be drawn again, so its part in an interval is nothing:
    counts say so.
    """
    strata = np.where(s.virus, "viral", s.category)
    found: dict[str, Any] = {
        "viruses": int(s.virus.sum()),
        "cellular": int((~s.virus).sum()),
        "viral_groups": len(set(s.group[s.virus])),
        "cellular_groups": _count_groups(s, ~s.virus),
        "scored_share": float(1 - np.isnan(s.score).mean()),
    }
    ones = np.ones(len(s))
    functions = statistics(s)
    names = list(functions)
    draws_of: dict[str, list[float]] = {name: [] for name in names}

    def collect(w: np.ndarray) -> float:
        for name in names:
            draws_of[name].append(functions[name](w))
        return 0.0

    bootstrap_groups(collect, s.group, strata, draws, seed)
    for name in names:
        values = np.array(draws_of[name])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        found[name] = [_r(functions[name](ones)), _r(low), _r(high)]
    return found


def _count_groups(s: Scored, rows: np.ndarray) -> int:
    return len(set(zip(s.category[rows].tolist(), s.group[rows].tolist(), strict=True)))


def _r(x: float) -> float | None:
    return round(float(x), 4) if np.isfinite(x) else None


def by_class(s: Scored, draws: int = 300) -> dict[str, Any]:
    """For each cellular category: AUROC against all viruses, and the share called virus at 0.5,
    with its groups.
    """
    out = {}
    for category in sorted(set(s.category[~s.virus])):
        mine = ~s.virus & (s.category == category)
        part = s.select(mine | s.virus)
        called = part.deciding >= DEFAULT_POINT
        cell = ~part.virus

        def rate(w, called=called, cell=cell):
            return float((w * called)[cell].sum() / max(w[cell].sum(), 1e-300))

        groups = len(set(s.group[mine]))
        interval = bootstrap_groups(
            rate, part.group, np.where(part.virus, "viral", part.category), draws
        )
        out[category] = {
            "sequences": int(mine.sum()),
            "groups": groups,
            "auroc": _r(auroc(part.deciding, part.virus)),
            "false_positive_rate": [
                _r(rate(np.ones(len(part)))),
                *(map(_r, interval) if groups > 1 else (None, None)),
            ],
        }
    return out


def macro(classes: dict[str, Any]) -> dict[str, float | None]:
    """Means over the cellular categories, each counting once."""
    return {
        "auroc": _r(np.mean([c["auroc"] for c in classes.values()])),
        "false_positive_rate": _r(np.mean([c["false_positive_rate"][0] for c in classes.values()])),
    }


def viral_groups(s: Scored) -> dict[str, Any]:
    """Recall at 0.5 in each viral group."""
    called = s.deciding >= DEFAULT_POINT
    return {
        g: {
            "sequences": int((s.virus & (s.group == g)).sum()),
            "recall": _r(called[s.virus & (s.group == g)].mean()),
        }
        for g in sorted(set(s.group[s.virus]))
    }


def at_prevalence(s: Scored, trained: float) -> dict[str, Any]:
    """Calls at 0.5 at other prevalences, by probabilities moved there: recall, precision, nominal
    and realised FDR.

    Viruses and cellular sequences are weighted to the prevalence; nominal is what the probabilities
    promise.
    """
    out: dict[str, Any] = {}
    known = ~np.isnan(s.probability)
    if not known.any():
        return out
    p, y = s.probability[known], s.virus[known]
    for prevalence in PREVALENCES:
        moved = shift_prevalence(p, trained, prevalence)
        w = np.where(y, prevalence / max(y.sum(), 1), (1 - prevalence) / max((~y).sum(), 1))
        called = moved >= DEFAULT_POINT
        total = w[called].sum()
        out[f"{prevalence:g}"] = {
            "recall": _r(called[y].mean()),
            "precision": _r((w * y)[called].sum() / total) if total else None,
            "realised_fdr": _r((w * ~y)[called].sum() / total) if total else None,
            "nominal_fdr": _r((w * (1 - moved))[called].sum() / total) if total else None,
        }
    return out


def evaluate(s: Scored, trained_prevalence: float = 0.5, draws: int = 300) -> dict[str, Any]:
    """Everything above, by length; `all` sequences of a length and only the `scored` ones."""
    result: dict[str, Any] = {}
    for length in sorted(set(s.length.tolist())):
        part = s.select(s.length == length)
        if not part.virus.any() or part.virus.all():
            continue
        classes = by_class(part, draws)
        result[str(length)] = {
            "all": measure(part, draws),
            "classes": classes,
            "macro": macro(classes),
            "viral_groups": viral_groups(part),
            "prevalence": at_prevalence(part, trained_prevalence),
        }
        scored = ~np.isnan(part.score)
        if not scored.all():
            result[str(length)]["scored"] = measure(part.select(scored), draws)
    return result
