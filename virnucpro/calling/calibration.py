"""Scores to probabilities: a logistic model kept as data in `bundle.json`, and the false discovery
rate from it.

    {"method": "logistic", "features": ["intercept", "logit_score", ...], "coefficients": [...],
     "ranges": {"log_length": [lo, hi]}, "training_prevalence": 0.5, "regions": {"opens": 0.65,
     "stays": 0.45}, "evidence": {"lengths": [500, ...], "weights": [[...], ...]},
     "points": {"lengths": [500, ...], "shares": {"1%": [0.97, ...], ...}}}

`regions` may be absent, and so may `evidence`: of each length the intercept and the weights of the
log-odds of the score and of what known proteins say; and `points`: the probabilities that shares of
cells of each length reach, without known proteins (homology/weights.py).

Knows how to apply and to fit such a model with numpy alone; does not know where its data came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from virnucpro.calling.regions import RegionLimits
from virnucpro.errors import ModelError
from virnucpro.homology.weights import FEATURES, Points, Weights, listed

# scored sequences of a source below which its prevalence is not estimated
FEWEST_FOR_PREVALENCE = 1000
MOST_FEATURES = 32
LARGEST_COEFFICIENT = 1e6  # fitted ones are below 10; more would make steps of the probability
SCORE_MARGIN = 1e-6  # scores are kept this far from 0 and 1 before the logit
Columns = Mapping[str, NDArray[np.float64]]


def logit(p: ArrayLike) -> NDArray[np.float64]:
    """log(p / (1 - p))."""
    p = np.asarray(p, np.float64)
    return np.log(p) - np.log1p(-p)


def expit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `logit`."""
    return 1.0 / (1.0 + np.exp(-np.clip(x, -700, 700)))


def score_log_odds(score: ArrayLike) -> NDArray[np.float64]:
    """Log-odds of scores, which are kept a little away from 0 and 1."""
    return logit(np.clip(np.asarray(score, np.float64), SCORE_MARGIN, 1 - SCORE_MARGIN))


BASE_FEATURES: dict[str, Callable[[Columns], NDArray[np.float64]]] = {
    "intercept": lambda c: np.ones(len(c["score"])),
    "logit_score": lambda c: score_log_odds(c["score"]),
    "log_length": lambda c: np.log10(np.maximum(c["length"], 1.0)) - 3.0,  # 0 at 1,000 bases
    "scored_fraction": lambda c: c["scored_fraction"],
    "log_open_frames": lambda c: np.log1p(c["n_open_frames"]),
}
"""Feature names a calibration may use; `a*b` is the product of two of them."""


@dataclass(frozen=True)
class Calibration:
    """A logistic model of P(virus) given a sequence's score, length, scored fraction and open
    frames.

    `ranges` holds the smallest and largest value of a base feature seen when fitting: beyond them
    the feature stays at its limit, because nothing is known there.
    """

    features: tuple[str, ...]
    coefficients: tuple[float, ...]
    training_prevalence: float = 0.5
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    regions: RegionLimits = field(default_factory=RegionLimits)
    evidence: Weights | None = None  # of the score's log-odds and the FEATURES of the search
    points: Points | None = None  # of the probability without a search

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration written by `to_json`. Raises ModelError when it is not one."""
        try:
            if data["method"] != "logistic":
                raise ValueError(f"the method is {str(data['method'])[:40]!r}, not 'logistic'")
            features = data["features"]
            if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
                raise ValueError("the features are not a list of names")
            calibration = cls(
                tuple(features),
                tuple(float(c) for c in data["coefficients"]),
                float(data["training_prevalence"]),
                {
                    name: (float(low), float(high))
                    for name, (low, high) in data.get("ranges", {}).items()
                },
                RegionLimits(
                    **{name: float(value) for name, value in data.get("regions", {}).items()}
                ),
                Weights.from_json(data["evidence"], 1 + len(FEATURES))
                if "evidence" in data
                else None,
                Points.from_json(data["points"]["lengths"], data["points"]["shares"])
                if "points" in data
                else None,
            )
            calibration._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = (f"{error}" if type(error) is ValueError else repr(error))[:200]
            raise ModelError(f"the calibration in bundle.json is not usable: {reason}") from None
        return calibration

    def _check(self) -> None:
        """Errors: ValueError where the numbers cannot be those of a calibration."""
        unknown = {part for name in self.features for part in name.split("*")} - set(BASE_FEATURES)
        if unknown or not 0 < len(self.features) <= MOST_FEATURES:
            raise ValueError(
                f"it has no features, too many, or unknown ones {sorted(unknown)}"[:200]
            )
        if len(set(self.features)) < len(self.features):
            raise ValueError("a feature occurs twice")
        if len(self.features) != len(self.coefficients):
            raise ValueError(
                f"{len(self.coefficients)} coefficients for {len(self.features)} features"
            )
        if not all(abs(c) <= LARGEST_COEFFICIENT for c in self.coefficients):
            raise ValueError("a coefficient is no number, or larger than any that is fitted")
        if not 0 < self.training_prevalence < 1:
            raise ValueError("the training prevalence is not between 0 and 1")
        if not 0 < self.regions.stays <= self.regions.opens < 1:
            raise ValueError("the limits of regions are not 0 < stays <= opens < 1")
        for name, (low, high) in self.ranges.items():
            if name not in BASE_FEATURES or not -np.inf < low <= high < np.inf:
                raise ValueError(f"the range of {name[:40]} is not that of a feature")

    def to_json(self) -> dict[str, Any]:
        """The fields as `bundle.json` has them."""
        return {
            "method": "logistic",
            "features": list(self.features),
            "coefficients": list(self.coefficients),
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "training_prevalence": self.training_prevalence,
            "regions": {"opens": self.regions.opens, "stays": self.regions.stays},
            **({} if self.evidence is None else {"evidence": self.evidence.to_json()}),
            **(
                {}
                if self.points is None
                else {
                    "points": {
                        "lengths": list(self.points.lengths),
                        "shares": listed(self.points.shares),
                    }
                }
            ),
        }

    def measured_points(self, by_both: bool) -> Points | None:
        """Those of a call by the score and known proteins, or by the score alone."""
        if by_both:
            return None if self.evidence is None else self.evidence.points
        return self.points

    def probability(
        self,
        score: ArrayLike,
        length: ArrayLike,
        scored_fraction: ArrayLike,
        n_open_frames: ArrayLike,
    ) -> NDArray[np.float64]:
        """P(virus) of each sequence, [n] each, at the training prevalence."""
        matrix = design(self.features, score, length, scored_fraction, n_open_frames, self.ranges)
        # not @: a BLAS product's last bit may depend on n
        return expit((matrix * self.coefficients).sum(axis=1))


def design(
    features: Sequence[str],
    score: ArrayLike,
    length: ArrayLike,
    scored_fraction: ArrayLike,
    n_open_frames: ArrayLike,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> NDArray[np.float64]:
    """The matrix [n, features] of a logistic calibration."""
    columns = {
        "score": np.atleast_1d(np.asarray(score, np.float64)),
        "length": np.atleast_1d(np.asarray(length, np.float64)),
        "scored_fraction": np.atleast_1d(np.asarray(scored_fraction, np.float64)),
        "n_open_frames": np.atleast_1d(np.asarray(n_open_frames, np.float64)),
    }

    def base(name: str) -> NDArray[np.float64]:
        values = BASE_FEATURES[name](columns)
        return np.clip(values, *ranges[name]) if ranges and name in ranges else values

    return np.column_stack(
        [np.prod([base(part) for part in name.split("*")], axis=0) for name in features]
    )


def shift_prevalence(
    p: NDArray[np.float64], trained: float, wanted: float | None
) -> NDArray[np.float64]:
    """Probabilities at another prevalence, where one is wanted: prior odds are exchanged, the
    evidence stays (Saerens et al. 2002, eq. 2).
    """
    if wanted is None:
        return p
    odds_ratio = (wanted / (1 - wanted)) / (trained / (1 - trained))
    return p * odds_ratio / (p * odds_ratio + (1 - p))


def estimate_prevalence(p: NDArray[np.float64], trained: float, tolerance: float = 1e-9) -> float:
    """The share of viral sequences that explains these probabilities best: EM of Saerens, Latinne,
    Decaestecker (2002).
    """
    share = trained
    for _ in range(10_000):
        following = float(np.clip(shift_prevalence(p, trained, share).mean(), 1e-6, 1 - 1e-6))
        if abs(following - share) < tolerance:
            return following
        share = following
    return share


def rows_by_source(
    source: NDArray[np.int32], eligible: NDArray[np.bool_]
) -> dict[int, NDArray[np.int64]]:
    """The eligible rows of every source that has any."""
    rows = np.flatnonzero(eligible)
    rows = rows[np.argsort(source[rows], kind="stable")]
    present, first = np.unique(source[rows], return_index=True)
    return dict(zip(present.tolist(), np.split(rows, first[1:]), strict=True)) if len(rows) else {}


def prevalence_by_source(
    probability: NDArray[np.float64],
    source: NDArray[np.int32],
    eligible: NDArray[np.bool_],
    trained: float,
) -> dict[int, float]:
    """Estimated prevalence of every source with enough sequences; `probability` at the training
    prevalence.
    """
    return {
        s: estimate_prevalence(probability[rows], trained)
        for s, rows in rows_by_source(source, eligible).items()
        if len(rows) >= FEWEST_FOR_PREVALENCE
    }


def expected_fdr(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each sequence the expected share of non-viral ones among all at or above its probability:
    mean of 1 - p.
    """
    order = np.argsort(-p, kind="stable")
    running = np.cumsum(1 - p[order]) / np.arange(1, len(p) + 1)
    last_equal = np.searchsorted(-p[order], -p[order], side="right") - 1
    fdr = np.empty(len(p))
    fdr[order] = running[last_equal]
    return fdr


def fdr_by_source(
    probability: NDArray[np.float64],
    source: NDArray[np.int32],
    eligible: NDArray[np.bool_],
    trained: float,
    prevalence: float | None,
    fewest: int = FEWEST_FOR_PREVALENCE,
) -> NDArray[np.float64]:
    """Expected false discovery rate at each sequence's probability, within its source; NaN where
    not to be had.

    With an explicit `prevalence` the probabilities are already at it and every source gets one;
    else each source's prevalence is estimated, from 1,000 sequences on, and those of `fewest` and
    more have one with the probabilities as they are. Sequences without a call take no part.
    """
    fdr = np.full(len(probability), np.nan)
    for rows in rows_by_source(source, eligible).values():
        p = probability[rows]
        if len(rows) < fewest and prevalence is None:
            continue
        if len(rows) >= FEWEST_FOR_PREVALENCE and prevalence is None:
            p = shift_prevalence(p, trained, estimate_prevalence(p, trained))
        fdr[rows] = expected_fdr(p)
    return fdr
