"""Feature files of the original program and of its first multi-GPU rewrite.

Layout, folders beside each other (N from 0 or 1, as many files as there were):

    {stem}_nucleotide/output_N.fa   output_N_DNABERT_S.pt (the rewrite also: output_N_DNABERT.pt)
    {stem}_protein/output_N.fa      output_N_ESM.pt
    {stem}_merged/                  output_N_merged.pt
    .checkpoints/pipeline_state.json, empty *.done files, `version` and `status` inside: seen, and
    not relied on

Knows names and formats; nothing that is read is executed. Does not know what run the rows are for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from virnucpro.errors import StoreError
from virnucpro.models.weights import load_restricted

FEATURE_FILE = re.compile(r"output_(\d+)_(DNABERT_S|DNABERT|ESM|merged)\.pt")
FOLDER_OF = {
    "DNABERT_S": "nucleotide",
    "DNABERT": "nucleotide",
    "ESM": "protein",
    "merged": "merged",
}
ID_KEY = {"DNABERT_S": "nucleotide", "DNABERT": "nucleotide", "ESM": "proteins", "merged": "ids"}
NEWEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class OlderFile:
    """A feature file: `kind` is the last word of its name, `number` its N, `stem` the input's."""

    path: Path
    stem: str
    kind: str
    number: int

    def fasta(self, folder: str) -> Path:
        """The sequences of this file's rows: `output_N.fa` of the stem's `nucleotide` or `protein`
        folder.
        """
        return self.path.parents[1] / f"{self.stem}_{folder}" / f"output_{self.number}.fa"


@dataclass(frozen=True, slots=True)
class OlderWork:
    """What an earlier program left in a directory."""

    directory: Path
    files: tuple[OlderFile, ...]

    def __str__(self) -> str:
        stems = sorted({file.stem for file in self.files})
        return (
            f"{self.directory}: {len(self.files)} feature files of an earlier version"
            f" ({', '.join(stems)})"
        )


def find_older_work(directory: Path) -> OlderWork | None:
    """The feature files of an earlier program in `directory`; None where there are none.

    Raises StoreError for the rewrite's HDF5 shards, which hold no sequences to prove what they
    belong to.
    """
    files = []
    for folder in sorted(directory.glob("*_*/")):
        stem, _, kind_of_folder = folder.name.rpartition("_")
        for path in folder.glob("output_*.pt"):
            match = FEATURE_FILE.fullmatch(path.name)
            if match and FOLDER_OF[match[2]] == kind_of_folder:
                files.append(OlderFile(path, stem, match[2], int(match[1])))
    if not files:
        shards = sorted(
            path for pattern in ("*.h5", "*/*.h5", "*/*.hdf5") for path in directory.glob(pattern)
        )
        if shards:
            raise StoreError(
                f"{shards[0]}: HDF5 shards of an earlier version cannot be continued, their rows"
                " cannot be matched safely; run without --resume in another --output-dir"
            )
        return None
    # The files of one encoder first: merged ones repeat them.
    files.sort(key=lambda file: (file.kind == "merged", file.stem, file.kind, file.number))
    return OlderWork(directory, tuple(files))


def load(file: OlderFile) -> tuple[list[str], list[np.ndarray | None]]:
    """Ids and rows (None: no row of numbers) of a feature file. Raises ModelError or ValueError,
    whose message says why not.
    """
    content = load_restricted(file.path)
    key = ID_KEY[file.kind]
    if (
        not isinstance(content, dict)
        or not isinstance(content.get(key), list)
        or "data" not in content
    ):
        raise ValueError(f"{file.path}: holds no `{key}` and `data`")
    major = str(content.get("version", "0")).partition(".")[0]
    if not major.isdigit() or int(major) > NEWEST_VERSION:
        raise ValueError(f"{file.path}: format version {content['version']} is not known")
    ids, data = [str(name) for name in content[key]], content["data"]
    try:
        rows = len(data)
    except TypeError:
        raise ValueError(f"{file.path}: `data` is no list of rows") from None
    if len(ids) != rows:
        raise ValueError(
            f"{file.path}: {len(ids)} ids for {rows} rows, which row is whose cannot be told"
        )
    if any(
        isinstance(entry, dict) and entry.get("label", name) != name
        for entry, name in zip(data, ids, strict=True)
    ):
        raise ValueError(
            f"{file.path}: ids and labels of its rows differ, which row is whose cannot be told"
        )
    return ids, [_numbers(entry) for entry in data]


def _numbers(entry: Any) -> np.ndarray | None:
    """A row as float32 [width]: a tensor, a list of numbers, or {"mean_representation": such}; None
    for anything else.
    """
    import torch

    if isinstance(entry, dict):
        entry = entry.get("mean_representation")
    try:
        values = (
            entry if isinstance(entry, torch.Tensor) else torch.tensor(entry, dtype=torch.float32)
        )
        return values.detach().to(torch.float32).numpy() if values.ndim == 1 else None
    except (TypeError, ValueError, RuntimeError):
        return None


def read_fasta(file: Path) -> dict[str, str]:
    """Sequences by id; none where the file is not there or not readable, then nothing proves its
    rows.
    """
    try:
        with file.open() as opened:
            return {
                title.split(maxsplit=1)[0]: sequence
                for title, sequence in SimpleFastaParser(opened)
                if title.strip()
            }
    except (OSError, ValueError):
        return {}
