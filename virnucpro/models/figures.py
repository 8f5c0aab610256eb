"""Figures of a run: scores, labels, norms and some components of the features, by frame id.

`published_figures.json` holds those of the authors' program with the published weights; its own
field `source` says where they come from. Knows how figures are made and read; does not judge them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import ModelError

FIGURES = Path(__file__).parent / "published_figures.json"
COMPONENTS = 16  # evenly spaced ones of each part are kept as figures


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run says of one input, by frame id. features: float32 [frames, width]."""

    ids: list[str]
    features: np.ndarray
    others: np.ndarray
    virus: np.ndarray
    labels: list[str]


def load_figures(file: Path = FIGURES) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def figures_of(rows: Rows, widths: Mapping[str, int]) -> list[dict[str, Any]]:
    """The figures of a run, a frame each: how `published_figures.json` was made of the authors'
    files.

    widths: of each encoder's columns, in the order of a row.
    """
    figures = []
    for i, name in enumerate(rows.ids):
        frame: dict[str, Any] = {
            "id": name,
            "label": rows.labels[i],
            "others": float(rows.others[i]),
            "virus": float(rows.virus[i]),
        }
        for part, columns in columns_of(widths).items():
            values = rows.features[i, columns]
            frame[f"{part}_norm"] = round(float(np.linalg.norm(values.astype(np.float64))), 6)
            frame[part] = [float(f"{value:.8g}") for value in values[places(len(values))]]
        figures.append(frame)
    return figures


def read_rows(directory: Path, stem: str) -> Rows:
    """The features and the original's table of a finished run of one input file.

    Raises ModelError if they are not there.
    """
    from virnucpro.embedding.matrix import read_matrix

    table = directory / f"{stem}_merged" / "prediction_results.txt"
    try:
        ids, features = read_matrix(directory / "merged_features.pt")
        with table.open(newline="") as opened:
            lines = {line["Sequence_ID"]: line for line in csv.DictReader(opened, delimiter="\t")}
    except (OSError, KeyError) as error:
        raise ModelError(f"{directory}: the run left no results to compare ({error})") from None
    ordered = [lines[name] for name in ids]
    others, virus = (
        np.array([float(line[key]) for line in ordered]) for key in ("score1", "score2")
    )
    return Rows(
        list(ids),
        np.array(features, dtype=np.float32),
        others,
        virus,
        [line["Prediction"] for line in ordered],
    )


def columns_of(widths: Mapping[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(widths.values()))
    return {
        name: slice(int(end) - width, int(end))
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }


def places(width: int) -> np.ndarray:
    return np.linspace(0, width - 1, min(width, COMPONENTS)).astype(np.int64)
