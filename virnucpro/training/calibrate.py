"""A calibration from labelled, scored sequences: which features, by cross-validation over groups,
and with what weights.
"""

from __future__ import annotations

import numpy as np

from virnucpro.calling.calibration import fit
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import calibration_error

FEATURES = {
    "score": ("intercept", "logit_score"),
    "score, length": ("intercept", "logit_score", "log_length"),
    "score x length": ("intercept", "logit_score", "log_length", "logit_score*log_length"),
    "score x length, score x frames": (
        "intercept",
        "logit_score",
        "log_length",
        "logit_score*log_length",
        "logit_score*log_open_frames",
        "log_open_frames",
    ),
}


def even_weights(s: Scored, lengths: np.ndarray | None = None) -> np.ndarray:
    """float64 [n]: every length alike; in it viruses and cells half each, viral groups and cellular
    categories even.
    """
    classes = s.length if lengths is None else lengths
    weight = np.zeros(len(s))
    for length in np.unique(classes):
        at = classes == length
        for side, names in ((s.virus, s.group), (~s.virus, s.category)):
            mine = at & side
            present = set(names[mine].tolist())
            for name in present:
                rows = mine & (names == name)
                weight[rows] = 1 / len(present) / rows.sum()
    return weight


def group_folds(s: Scored, folds: int, seed: int = 1) -> np.ndarray:
    """int64 [n]: groups dealt at random to folds, those of each category in turn."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(s), dtype=np.int64)
    names = np.where(s.virus, "viral", s.category)
    for category in np.unique(names):
        groups = rng.permutation(np.unique(s.group[names == category]))
        start = int(rng.integers(folds))
        for i, group in enumerate(groups):
            fold[(names == category) & (s.group == group)] = (start + i) % folds
    return fold


def choose_features(
    s: Scored, share: np.ndarray, frames: np.ndarray, weight: np.ndarray, folds: int = 6
):
    """(the name in FEATURES with the lowest log loss on groups left out, {name: log_loss,
    calibration_error}).
    """
    fold = group_folds(s, folds)
    found = {}
    for name, features in FEATURES.items():
        p = np.full(len(s), np.nan)
        for k in range(folds):
            out, rest = fold == k, fold != k
            if not out.any() or not s.virus[rest].any() or s.virus[rest].all():
                continue
            fitted = fit(
                features,
                s.score[rest],
                s.length[rest],
                share[rest],
                frames[rest],
                s.virus[rest],
                weight[rest],
            )
            p[out] = fitted.probability(s.score[out], s.length[out], share[out], frames[out])
        ok = ~np.isnan(p)
        likelihood = np.log(np.clip(np.where(s.virus, p, 1 - p)[ok], 1e-12, 1))
        found[name] = {
            "log_loss": float(-(weight[ok] * likelihood).sum() / weight[ok].sum()),
            "calibration_error": calibration_error(p[ok], s.virus[ok], weight[ok]),
        }
    return min(found, key=lambda n: found[n]["log_loss"]), found
