"""The table that says what the training sequences are: one line a file, or a line a record of it.

Tab-separated, with a header. Columns: `file` (relative to the table), `label` (virus or others),
and if wanted `record` (only this record of the file), `group` (what is never split between training
and test; default the file's name), `category` (default the label) and `split` (train, validation or
test; default dealt out by group).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.training.settings import SPLITS

VIRUS = ("virus", "viral", "1")
OTHERS = ("others", "other", "non-virus", "nonviral", "cellular", "host", "0")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `record`, `split`: "" where the column is absent or empty."""

    file: Path
    record: str
    virus: bool
    group: str
    category: str
    split: str


def read_labels(path: Path) -> list[Line]:
    """All lines. InputError names the line and what is wrong with it."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: the table of labels cannot be read ({why}); give a tab-separated text"
        ) from error
    if not rows:
        raise InputError(f"{path}: no line below the header; name a file and its label in each")
    missing = [c for c in ("file", "label") if c not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; the first line must name the columns file and label"
        )
    return [_line(path, number, row) for number, row in enumerate(rows, start=2)]


def _line(path: Path, number: int, row: dict[str, str | None]) -> Line:
    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    label, split = cell("label").lower(), cell("split").lower()
    if not cell("file") or label not in VIRUS + OTHERS:
        raise InputError(
            f"{path} line {number}: label {cell('label')!r}; every line needs a file and virus or"
            " others"
        )
    if split and split not in SPLITS:
        raise InputError(f"{path} line {number}: split {split!r} is not one of {', '.join(SPLITS)}")
    file = path.parent / cell("file")
    if not file.is_file():
        raise InputError(
            f"{path} line {number}: {file} is not a file; paths are relative to the table"
        )
    virus = label in VIRUS
    category = cell("category") or ("viral" if virus else "others")
    if virus != (category == "viral"):
        raise InputError(
            f"{path} line {number}: category {category!r} and label {label!r}; `viral` is the"
            " category of viruses"
        )
    return Line(file, cell("record"), virus, cell("group") or file.name, category, split)
