"""A calibration from labelled, scored sequences: which features, by cross-validation over groups,
and with what weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from virnucpro.calling.calibration import Calibration, design, expit
from virnucpro.errors import InputError, ModelError
from virnucpro.files import write_text
from virnucpro.settings import NO_REFERENCE
from virnucpro.training.contigs import answer, cut_contigs
from virnucpro.training.evaluation import Scored
from virnucpro.training.metrics import calibration_error
from virnucpro.training.settings import CalibrateSettings
from virnucpro.training.store import read_prepared

LENGTHS = (300, 500, 1000, 3000, 10000)  # of the contigs it is fitted on

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


def fit(
    features: Sequence[str],
    score: ArrayLike,
    length: ArrayLike,
    scored_fraction: ArrayLike,
    n_open_frames: ArrayLike,
    is_virus: ArrayLike,
    weights: ArrayLike | None = None,
    ridge: float = 1e-4,
) -> Calibration:
    """Fit a calibration by iteratively reweighted least squares (Newton) on labelled, scored
    sequences.

    `weights` lets rare groups count fully; the training prevalence is the weighted share of
    viruses. `ridge` keeps coefficients finite where the classes separate (the intercept is free).
    Raises ModelError without both classes.
    """
    plain = design(features, score, length, scored_fraction, n_open_frames)
    y = np.asarray(is_virus, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    w = w * (len(y) / w.sum())
    prevalence = float((w * y).sum() / w.sum())
    if not 0 < prevalence < 1:
        raise ModelError("a calibration needs both viral and other sequences to be fitted")
    penalty = np.diag([0.0 if name == "intercept" else ridge * len(y) for name in features])
    beta = np.zeros(plain.shape[1])
    for _ in range(100):
        p = expit(plain @ beta)
        gradient = plain.T @ (w * (y - p)) - penalty @ beta
        hessian = (plain.T * (w * np.maximum(p * (1 - p), 1e-12))) @ plain + penalty
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        step *= min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    used = {part for name in features for part in name.split("*")} - {"intercept", "logit_score"}
    ranges = {}
    for name in sorted(used):
        values = design([name], score, length, scored_fraction, n_open_frames)
        ranges[name] = (float(values.min()), float(values.max()))
    return Calibration(tuple(features), tuple(float(b) for b in beta), prevalence, ranges)


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


def calibrate(
    settings: CalibrateSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Fit a calibration on a held-out side and write it into the bundle's bundle.json; returns what
    was compared.
    """
    description = settings.bundle / "bundle.json"
    if not description.is_file():
        raise InputError(
            f"{description}: no such file; calibrate writes into a bundle directory of yours"
        )
    store = read_prepared(settings.labelled)
    contigs = cut_contigs(store, settings.side, LENGTHS, settings.per_group, settings.seed)
    say(f"{len(contigs.codes):,} contigs of the {settings.side} side")
    with ExitStack() as stack:
        work = settings.output or Path(stack.enter_context(TemporaryDirectory(prefix="virnucpro-")))
        answered = answer(contigs, work, str(settings.bundle), NO_REFERENCE)
    known = np.flatnonzero(~np.isnan(answered.scored.score))
    s = answered.scored.select(known)
    share, frames = answered.fraction[known], answered.open_frames[known]
    viral, others = (len(set(s.group[s.virus == virus].tolist())) for virus in (True, False))
    if min(viral, others) < 2:  # one is left out in turn, and what is left needs both
        raise InputError(
            f"{settings.labelled}: the {settings.side} side has scored sequences of {viral} viral"
            f" and {others} other groups; a calibration takes at least 2 of each"
        )
    weight = even_weights(s)
    chosen, compared = choose_features(s, share, frames, weight)
    fitted = fit(FEATURES[chosen], s.score, s.length, share, frames, s.virus, weight)
    content = json.loads(description.read_text()) | {"calibration": fitted.to_json()}
    write_text(description, [json.dumps(content, indent=2)])
    return {"sequences": len(known), "chosen": chosen, "crossvalidated": compared}
