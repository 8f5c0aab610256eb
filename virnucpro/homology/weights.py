"""Evidence to log-odds: logistic models by length, kept as data. numpy alone: a bundle with such
weights is read without the search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.settings import AMBIGUOUS

FEATURES = (
    "best_viral",
    "best_cellular",
    "viral_per_kb",
    "cellular_per_kb",
    "sign_of_difference",
    "difference",
)
LARGEST_WEIGHT = 1e6  # fitted ones are below 10
MOST_LENGTHS = 32


@dataclass(frozen=True)
class Points:
    """By share of cells ("5%"): the probability that so many cells of each measured length (bases,
    ascending) reach; between two lengths it is interpolated.
    """

    lengths: tuple[int, ...]
    shares: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not 0 < len(self.lengths) <= MOST_LENGTHS or self.lengths[0] < 1:
            raise ValueError("the points of a call have no lengths")
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError("the lengths of the points of a call do not rise")
        if not all(
            len(of) == len(self.lengths) and all(0 < point < 1 for point in of)  # NaN is not
            for of in self.shares.values()
        ):
            raise ValueError("the points of a call are not a probability a length")
        if AMBIGUOUS not in self.shares:
            raise ValueError(f"the points of a call are not there for {AMBIGUOUS}")

    @classmethod
    def from_json(cls, lengths: Sequence[Any], shares: Mapping[str, Any]) -> Points:
        """Errors: ValueError, TypeError where these are no points."""
        of = {str(name): tuple(map(float, values)) for name, values in shares.items()}
        return cls(tuple(map(int, lengths)), of)

    def at(self, lengths: np.ndarray, *shares: str) -> list[np.ndarray]:
        """float64 [N] of each share: the probability that so many cells of each length reach."""
        return [between(self.lengths, self.shares[share], lengths) for share in shares]


@dataclass(frozen=True)
class Weights:
    """A logistic model of P(virus) by length: of each fitted length (bases, ascending) the
    intercept and a weight a feature; between two lengths the log-odds are interpolated.
    """

    lengths: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]  # [lengths, 1 + features]
    points: Points | None = None  # of the probability that these weights give

    @classmethod
    def from_json(cls, data: Mapping[str, Any], features: int) -> Weights:
        """The model of so many features. Errors: ValueError where it is no such model."""
        lengths = tuple(int(x) for x in data["lengths"])
        weights = np.array(data["weights"], np.float64)
        if not 0 < len(lengths) <= MOST_LENGTHS or list(lengths) != sorted(set(lengths)):
            raise ValueError("the lengths of the evidence weights do not rise")
        if lengths[0] < 1 or weights.shape != (len(lengths), 1 + features):
            raise ValueError(f"the evidence weights are not {1 + features} numbers a length")
        if not (np.abs(weights) <= LARGEST_WEIGHT).all():
            raise ValueError("an evidence weight is no number, or larger than any that is fitted")
        points = Points.from_json(lengths, data["points"]) if "points" in data else None
        return cls(lengths, tuple(map(tuple, weights.tolist())), points)

    def to_json(self) -> dict[str, Any]:
        """The fields as `bundle.json` has them."""
        return {
            "lengths": list(self.lengths),
            "weights": [list(row) for row in self.weights],
            **({} if self.points is None else {"points": listed(self.points.shares)}),
        }

    def log_odds(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float64 [N] of `features` [N, F] of sequences of so many bases."""
        rows = np.column_stack(
            [between(self.lengths, column, lengths) for column in np.transpose(self.weights)]
        )
        # not @: a BLAS product's last bit may depend on N
        return rows[:, 0] + (rows[:, 1:] * features).sum(axis=1)


def between(at: Sequence[int], values: Sequence[float], lengths: np.ndarray) -> np.ndarray:
    """Values of the lengths `at` for `lengths`, interpolated; beyond these the nearest."""
    return np.interp(np.log(np.maximum(lengths, 1)), np.log(at), values)


def listed(shares: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Shares as JSON has them."""
    return {name: list(values) for name, values in shares.items()}


def search_weights() -> Weights:
    """Those of the search alone, without a network: `homology_probability`."""
    data = json.loads((Path(__file__).parent / "weights.json").read_text())
    return Weights.from_json(data, len(FEATURES))
