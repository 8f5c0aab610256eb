"""Results as the original program leaves them, read without the code under test."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from virnucpro.models.figures import Rows

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
PUBLISHED = DATA / "published"


def original_rows(merged: Path, table: Path) -> Rows:
    """Features of an `output_N_merged.pt` with the scores of its `prediction_results.txt`."""
    content = torch.load(merged, weights_only=True)
    with table.open(newline="") as opened:
        lines = {line["Sequence_ID"]: line for line in csv.DictReader(opened, delimiter="\t")}
    ordered = [lines[name] for name in content["ids"]]
    scores = np.array([[float(line["score1"]), float(line["score2"])] for line in ordered])
    return Rows(
        content["ids"],
        content["data"].numpy(),
        scores[:, 0],
        scores[:, 1],
        [line["Prediction"] for line in ordered],
    )


def published_rows(name: str) -> Rows:
    folder = PUBLISHED / name / f"{name}_merged"
    return original_rows(folder / "output_1_merged.pt", folder / "prediction_results.txt")


def golden_rows() -> Rows:
    folder = GOLDEN / "expected"
    return original_rows(folder / "output_1_merged.pt", folder / "prediction_results.txt")
