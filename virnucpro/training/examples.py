"""Rows of stored features with the labels of `frames.tsv`, joined by frame id."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError, UsageError
from virnucpro.training.settings import SPLITS


@dataclass(frozen=True)
class Examples:
    """Rows of one side. features [n, width] float32, virus [n] bool, group [n] str."""

    features: np.ndarray
    virus: np.ndarray
    group: np.ndarray


@dataclass(frozen=True)
class FrameLabel:
    """What frames.tsv says of a frame."""

    virus: bool
    group: str
    side: str


def read_frame_labels(path: Path) -> dict[str, FrameLabel]:
    """Labels by frame id. Errors: InputError."""
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        if not {"frame_id", "label", "group", "split"} <= set(reader.fieldnames or ()):
            raise InputError(
                f"{path}: not a frames.tsv of `virnucpro prepare` (frame_id label group split)"
            )
        return {
            row["frame_id"]: FrameLabel(row["label"] == "virus", row["group"], row["split"])
            for row in reader
        }


def load_examples(features: list[Path], frames: Path) -> tuple[dict[str, Examples], dict[str, int]]:
    """Examples by side, and counts of rows without a label and labels without a row.

    Errors: UsageError for a file that is not there, InputError for a side without both classes.
    """
    from virnucpro.embedding.matrix import read_matrix

    for path in (*features, frames):
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file; --features takes merged_features.pt of a run, --frames"
                " the frames.tsv of prepare"
            )
    labels = read_frame_labels(frames)
    rows: dict[str, list[np.ndarray]] = {side: [] for side in SPLITS}
    found: dict[str, list[FrameLabel]] = {side: [] for side in SPLITS}
    seen: set[str] = set()
    unlabelled = 0
    for path in features:
        ids, matrix = read_matrix(path)
        taken: dict[str, list[int]] = {side: [] for side in SPLITS}
        for i, name in enumerate(ids):
            label = labels.get(name)
            if label is None or name in seen:
                unlabelled += 1
                continue
            seen.add(name)
            taken[label.side].append(i)
            found[label.side].append(label)
        for side in SPLITS:
            if taken[side]:
                rows[side].append(np.asarray(matrix[np.array(taken[side])], dtype=np.float32))
    examples = {
        side: Examples(
            np.concatenate(rows[side]) if rows[side] else np.zeros((0, 0), np.float32),
            np.array([label.virus for label in found[side]], dtype=bool),
            np.array([label.group for label in found[side]], dtype=str),
        )
        for side in SPLITS
    }
    counts = {
        "rows_without_a_label": unlabelled,
        "labels_without_a_row": len(labels) - len(seen),
        **{side: len(e.virus) for side, e in examples.items()},
    }
    check_classes(examples, frames)
    return examples, counts


def check_classes(examples: dict[str, Examples], frames: Path) -> None:
    """Raise InputError unless training and validation have both classes."""
    for side in ("train", "validation"):
        virus = examples[side].virus
        if not virus.any() or virus.all():
            raise InputError(
                f"{frames}: the {side} side has no example of both classes among the"
                f" features ({len(virus)} rows); label more groups"
            )
