"""Published figures of a model, and how close what was computed comes to them.

`published_figures.npz` holds scores, labels and all features that the authors' program computed
with the published weights; its own field `source` says where they come from. Knows how figures are
read and judged; does not run anything.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.errors import ModelError

FIGURES = Path(__file__).parent / "published_figures.npz"
FEATURE_TOLERANCE = 2e-5  # fp32 (SPEC 5)
SCORE_TOLERANCE = 1e-4
LEAST_COSINE = 0.999  # 16 bits and less, against fp32 on the same machine; fp32 near the figures
NEAR_COSINE = 0.99  # 16 bits and less, near fp32
PASSED, NEAR, WRONG = "passed", "near", "wrong"


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """What a run says of one input, by frame id. features: float32 [frames, width]; scores: float64
    [frames, 2], others and virus.
    """

    ids: list[str]
    features: np.ndarray
    scores: np.ndarray
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Given:
    """An input and what was published of it."""

    name: str
    fasta: str
    rows: ScoredRows


@dataclass(frozen=True, slots=True)
class Figures:
    """Published results. model: of which bundle; widths: columns of each encoder, in the order of a
    row.
    """

    source: str
    model: str
    widths: Mapping[str, int]
    inputs: tuple[Given, ...]

    @classmethod
    def load(cls, file: Path = FIGURES) -> Figures:
        """The published figures in the package."""
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            inputs = tuple(
                Given(
                    given["name"],
                    given["fasta"],
                    ScoredRows(
                        given["ids"],
                        stored[f"{given['name']}.features"],
                        stored[f"{given['name']}.scores"],
                        given["labels"],
                    ),
                )
                for given in about["inputs"]
            )
        return cls(about["source"], about["model"], about["widths"], inputs)

    def columns(self) -> dict[str, slice]:
        """The columns of each encoder in a row of features."""
        ends = np.cumsum(list(self.widths.values())).tolist()
        starts = [0, *ends[:-1]]
        return {name: slice(a, b) for name, a, b in zip(self.widths, starts, ends, strict=True)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One precision against the figures. verdict: passed; near: all labels are equal and all rows
    point the same way, but something is out of tolerance; wrong.

    feature deviations: the largest of each encoder's; cosine: the least of any row's half, fp32
    against the figures, other precisions against fp32.
    """

    precision: str
    verdict: str
    frames: int
    labels_equal: int
    max_score_deviation: float
    max_feature_deviation: Mapping[str, float]
    least_cosine: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is as published."""
        return self.verdict == PASSED

    def line(self) -> str:
        """The comparison in one line."""
        text = (
            f"{self.precision}: {self.labels_equal} of {self.frames} labels equal, scores within"
            f" {self.max_score_deviation:.1e}, features within "
        )
        text += ", ".join(f"{v:.1e} ({name})" for name, v in self.max_feature_deviation.items())
        text += f", cosine at least {self.least_cosine:.6f}: "
        if self.verdict == PASSED:
            return f"{text}passed"
        kind = "NEAR MISS" if self.verdict == NEAR else "FAILED"
        return f"{text}{kind}, {self.problem}"


def read_rows(directory: Path, stem: str) -> ScoredRows:
    """The features and the original's table of a finished run of one input file.

    Raises ModelError if they are not there.
    """
    from virnucpro.embedding.matrix import read_matrix

    table = directory / f"{stem}_merged" / "prediction_results.txt"
    try:
        ids, features = read_matrix(directory / "merged_features.pt")
        with table.open(newline="") as opened:
            lines = {line["Sequence_ID"]: line for line in csv.DictReader(opened, delimiter="\t")}
        ordered = [lines[name] for name in ids]
    except (OSError, KeyError) as error:
        raise ModelError(f"{directory}: the run left no results to compare ({error})") from None
    scores = [[float(line["score1"]), float(line["score2"])] for line in ordered]
    return ScoredRows(
        list(ids),
        np.array(features, dtype=np.float32),
        np.array(scores),
        [line["Prediction"] for line in ordered],
    )


def verdict_of(comparisons: Iterable[Comparison]) -> str:
    """The worst of them."""
    found = {comparison.verdict for comparison in comparisons}
    return next((verdict for verdict in (WRONG, NEAR) if verdict in found), PASSED)


def compare(
    precision: str,
    figures: Figures,
    found: Mapping[str, ScoredRows],
    reference: Mapping[str, ScoredRows],
) -> Comparison:
    """fp32 is compared with the figures alone; `reference` is fp32's result for the others."""
    for given in figures.inputs:
        rows, wanted = found[given.name], given.rows
        if sorted(rows.ids) != sorted(wanted.ids) or rows.features.shape != wanted.features.shape:
            problem = (
                f"{given.name}: other frames ({len(rows.ids)}, not {len(wanted.ids)}) or another"
                " width"
            )
            frames = sum(len(given.rows.ids) for given in figures.inputs)
            return Comparison(precision, WRONG, frames, 0, np.inf, {}, -1.0, problem)
    exact = precision == "fp32"
    published = _joined([given.rows for given in figures.inputs])
    ours = _joined([_in_order(found[g.name], g.rows.ids) for g in figures.inputs])
    against = published
    if not exact:
        against = _joined([_in_order(reference[g.name], g.rows.ids) for g in figures.inputs])
    labels = sum(a == b for a, b in zip(ours.labels, published.labels, strict=True))
    score = _most(ours.scores - published.scores)
    columns = figures.columns()
    deviations = {
        name: _most(ours.features[:, part] - published.features[:, part])
        for name, part in columns.items()
    }
    cosine = min(
        _least_cosine(ours.features[:, part], against.features[:, part])
        for part in columns.values()
    )
    limits = {"labels": labels == len(ours.ids)}
    if exact:
        limits["scores"] = score <= SCORE_TOLERANCE
        limits["features"] = max(deviations.values()) <= FEATURE_TOLERANCE
    else:
        limits["cosine"] = cosine >= LEAST_COSINE
    failed = [name for name, good in limits.items() if not good]
    verdict = PASSED
    if failed:
        near = limits["labels"] and cosine >= (LEAST_COSINE if exact else NEAR_COSINE)
        verdict = NEAR if near else WRONG
    problem = f"{', '.join(failed)} out of tolerance" if failed else ""
    return Comparison(precision, verdict, len(ours.ids), labels, score, deviations, cosine, problem)


def _in_order(rows: ScoredRows, ids: Sequence[str]) -> ScoredRows:
    order = [rows.ids.index(name) for name in ids]
    labels = [rows.labels[i] for i in order]
    return ScoredRows(list(ids), rows.features[order], rows.scores[order], labels)


def _joined(parts: Sequence[ScoredRows]) -> ScoredRows:
    return ScoredRows(
        [name for rows in parts for name in rows.ids],
        np.concatenate([rows.features for rows in parts]).astype(np.float64),
        np.concatenate([rows.scores for rows in parts]),
        [label for rows in parts for label in rows.labels],
    )


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of rows [frames, width]; -1 where one is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.where(np.isfinite(cosines), cosines, -1.0).min(initial=1.0))


def _most(differences: np.ndarray) -> float:
    """The largest; infinite where one is not finite."""
    return float(np.where(np.isfinite(differences), np.abs(differences), np.inf).max(initial=0.0))
