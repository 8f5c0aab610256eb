"""Results as the original program leaves them, read without the code under test."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch

from virnucpro.tools.figures import Figures, Given, ScoredRows

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
PUBLISHED = DATA / "published"


def original_rows(merged: Path, table: Path) -> ScoredRows:
    """Features of an `output_N_merged.pt` with the scores of its `prediction_results.txt`."""
    content = torch.load(merged, weights_only=True)
    with table.open(newline="") as opened:
        lines = {line["Sequence_ID"]: line for line in csv.DictReader(opened, delimiter="\t")}
    ordered = [lines[name] for name in content["ids"]]
    scores = np.array([[float(line["score1"]), float(line["score2"])] for line in ordered])
    labels = [line["Prediction"] for line in ordered]
    return ScoredRows(content["ids"], content["data"].numpy(), scores, labels)


def published_rows(name: str) -> ScoredRows:
    folder = PUBLISHED / name / f"{name}_merged"
    return original_rows(folder / "output_1_merged.pt", folder / "prediction_results.txt")


def golden_rows() -> ScoredRows:
    folder = GOLDEN / "expected"
    return original_rows(folder / "output_1_merged.pt", folder / "prediction_results.txt")


def published_figures() -> Figures:
    """The figures of the published files, as the package holds them."""
    inputs = tuple(
        Given(folder.name, (folder / "input.fa").read_text(), published_rows(folder.name))
        for folder in sorted(PUBLISHED.iterdir())
    )
    source = (
        "a run of the published weights (ESM-2 3B, DNABERT-S, 500_model.pth), in the original"
        " program's files"
    )
    return Figures(source, "500", {"dnabert_s": 768, "esm2": 2560}, inputs)


def save_figures(figures: Figures, file: Path) -> None:
    inputs = [
        {"name": g.name, "fasta": g.fasta, "ids": g.rows.ids, "labels": g.rows.labels}
        for g in figures.inputs
    ]
    about = {"source": figures.source, "model": figures.model, "widths": figures.widths}
    arrays = {f"{g.name}.features": g.rows.features for g in figures.inputs}
    arrays |= {f"{g.name}.scores": g.rows.scores for g in figures.inputs}
    np.savez_compressed(file, about=json.dumps(about | {"inputs": inputs}), **arrays)


if __name__ == "__main__":  # makes what the package holds: FILE
    save_figures(published_figures(), Path(sys.argv[1]))
