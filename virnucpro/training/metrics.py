"""Figures of merit from scores and labels, with numpy; every one takes weights, so groups and
classes can count evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Weights = np.ndarray | None  # [n]; None: all alike


class Curve(NamedTuple):
    """One point a distinct score, from the highest; shares of the weight of each class at or above
    it.
    """

    threshold: np.ndarray
    true_positive: np.ndarray
    false_positive: np.ndarray
    positives: float
    negatives: float


def curve(score: np.ndarray, virus: np.ndarray, weight: Weights = None) -> Curve:
    """ROC points; NaN scores rank last (as if lower than any)."""
    w = np.ones(len(score)) if weight is None else np.asarray(weight, np.float64)
    s = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], np.asarray(virus, bool)[order], w[order]
    last = np.append(s[1:] != s[:-1], True) if len(s) else np.zeros(0, bool)
    tp, fp = np.cumsum(w * y), np.cumsum(w * ~y)
    p, n = (tp[-1], fp[-1]) if len(s) else (0.0, 0.0)
    return Curve(s[last], tp[last] / max(p, 1e-300), fp[last] / max(n, 1e-300), float(p), float(n))


def auroc(score: np.ndarray, virus: np.ndarray, weight: Weights = None) -> float:
    """Area under the ROC curve; NaN without both classes."""
    c = curve(score, virus, weight)
    if not c.positives or not c.negatives:
        return float("nan")
    x, y = np.append(0, c.false_positive), np.append(0, c.true_positive)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())  # np.trapezoid is numpy 2's


def auprc(score: np.ndarray, virus: np.ndarray, weight: Weights = None) -> float:
    """Average precision (step-wise)."""
    c = curve(score, virus, weight)
    if not c.positives:
        return float("nan")
    tp, fp = c.true_positive * c.positives, c.false_positive * c.negatives
    return float((np.diff(np.append(0, c.true_positive)) * tp / np.maximum(tp + fp, 1e-300)).sum())


def recall_at(
    score: np.ndarray, virus: np.ndarray, false_positive: float, weight: Weights = None
) -> float:
    """The highest recall at a share of false positives of at most `false_positive`, interpolated
    between points.
    """
    c = curve(score, virus, weight)
    if not c.positives or not c.negatives:
        return float("nan")
    return float(
        np.interp(false_positive, np.append(0, c.false_positive), np.append(0, c.true_positive))
    )


def at_threshold(
    score: np.ndarray, virus: np.ndarray, threshold: float, weight: Weights = None
) -> dict[str, float]:
    """Recall, false-positive share, precision, F1 and MCC of calling `score >= threshold`."""
    w = np.ones(len(score)) if weight is None else np.asarray(weight, np.float64)
    called = np.nan_to_num(score, nan=-np.inf) >= threshold
    y = np.asarray(virus, bool)
    tp, fp = float(w[called & y].sum()), float(w[called & ~y].sum())
    fn, tn = float(w[~called & y].sum()), float(w[~called & ~y].sum())
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "recall": tp / max(tp + fn, 1e-300),
        "false_positive_rate": fp / max(fp + tn, 1e-300),
        "precision": tp / (tp + fp) if tp + fp else float("nan"),
        "f1": 2 * tp / max(2 * tp + fp + fn, 1e-300),
        "mcc": (tp * tn - fp * fn) / root if root else float("nan"),
    }


def calibration_error(
    probability: np.ndarray, virus: np.ndarray, weight: Weights = None, bins: int = 15
) -> float:
    """Expected calibration error over bins of equal weight."""
    p, y = np.asarray(probability, np.float64), np.asarray(virus, np.float64)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order] / w.sum()
    bin_of = np.minimum((np.cumsum(w) - w / 2) * bins, bins - 1).astype(int)
    gap = np.bincount(bin_of, weights=w * (p - y), minlength=bins)
    return float(np.abs(gap).sum())


def bootstrap_groups(
    statistic: Callable[[np.ndarray], float],
    groups: np.ndarray,
    strata: np.ndarray,
    n: int = 500,
    seed: int = 1,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `statistic(weight [n])` when whole groups are drawn again within each
    stratum.

    The statistic is given a weight a row (how often its group was drawn), so nothing is copied.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(
        np.char.add(np.char.add(strata.astype(str), "/"), groups.astype(str)), return_inverse=True
    )
    stratum_of = np.array([name.split("/", 1)[0] for name in names])
    values = []
    for _ in range(n):
        times = np.zeros(len(names))
        for stratum in np.unique(stratum_of):
            mine = np.flatnonzero(stratum_of == stratum)
            times += np.bincount(rng.choice(mine, len(mine)), minlength=len(names))
        values.append(statistic(times[index]))
    finite = np.array([v for v in values if np.isfinite(v)])
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    return float(np.quantile(finite, tail)), float(np.quantile(finite, 1 - tail))
