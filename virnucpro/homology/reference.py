"""The proteins that sequences are compared with, and what is known of each: a directory of
`reference.json` (counts, checksums, where the proteins come from), `residues.zst`, `repeats.zst`
and `proteins.tsv.zst`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import zstandard

from virnucpro.files import open_regular
from virnucpro.homology.choice import LABELS, no_reference
from virnucpro.homology.masking import repeats, seed_residues
from virnucpro.homology.seeds import UNKNOWN_TARGET, comparable
from virnucpro.homology.stretches import APART, Proteins, spread

FORMAT = 1
_FILES = ("residues.zst", "repeats.zst", "proteins.tsv.zst")
_LEVEL = 19


@dataclass(frozen=True)
class ProteinLabel:
    """What is known of a protein; an empty string where it is not."""

    protein: str  # accession, or place in a genome
    name: str  # organism
    family: str
    group: str  # what is left out together when evidence is fitted
    label: str  # of LABELS


class LabelTable(Sequence[ProteinLabel]):
    """The labels in a file; each is made when it is asked for, as most never are."""

    def __init__(self, content: bytes) -> None:
        names = [f.name for f in fields(ProteinLabel)]
        self._table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[*names, "length"],
                column_types={**dict.fromkeys(names, pa.string()), "length": pa.int64()},
                strings_can_be_null=False,
                null_values=[],
            ),
        )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row):  # type: ignore[no-untyped-def, override]
        """The label of a row; not of slices."""
        columns = self._table.columns[: len(fields(ProteinLabel))]
        return ProteinLabel(*(column[row].as_py() for column in columns))

    def column(self, name: str) -> list[Any]:
        """One field of all; also their `length`."""
        return self._table[name].to_pylist()


@dataclass(frozen=True)
class Reference:
    """Known proteins [P], with their labels."""

    proteins: Proteins  # [P]
    repeats: np.ndarray  # bool, as proteins.residues: no part of a seed
    labels: Sequence[ProteinLabel]  # [P]
    sha256: str  # of reference.json

    def __len__(self) -> int:
        return len(self.proteins)

    @cached_property
    def seeds(self) -> np.ndarray:
        """The residues, X where they may not be part of a seed."""
        return seed_residues(self.proteins, self.repeats)

    @cached_property
    def codes(self) -> np.ndarray:
        """The residues as `scan` compares them."""
        return comparable(self.proteins.residues, UNKNOWN_TARGET)

    @cached_property
    def viral(self) -> np.ndarray:
        """bool [P]"""
        return self.label_code == 0

    @cached_property
    def label_code(self) -> np.ndarray:
        """int8 [P]: places in LABELS; what has another label is cellular."""
        code = {label: i for i, label in enumerate(LABELS)}
        if isinstance(self.labels, LabelTable):
            labels = self.labels.column("label")
        else:
            labels = [x.label for x in self.labels]
        return np.array([code.get(x, code["cellular"]) for x in labels], np.int8)

    @cached_property
    def n_residues(self) -> int:
        """Residues of all proteins."""
        return int(self.proteins.length.sum())


def build(
    sequences: Sequence[bytes], labels: Sequence[ProteinLabel], directory: Path, source: str
) -> None:
    """Writes a reference of these proteins (in letters)."""
    proteins = Proteins.join(sequences)
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow([*(f.name for f in fields(ProteinLabel)), "length"])
    for label, length in zip(labels, proteins.length.tolist(), strict=True):
        writer.writerow([*astuple(label), length])
    inside = proteins.residues != APART
    parts = {
        "residues.zst": proteins.residues[inside].tobytes(),
        "repeats.zst": np.packbits(repeats(proteins)[inside]).tobytes(),
        "proteins.tsv.zst": table.getvalue().encode(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name, content in parts.items():
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
        (directory / name).write_bytes(packed)
        sums[name] = hashlib.sha256(packed).hexdigest()
    record = {
        "format": FORMAT,
        "source": source,
        "proteins": len(proteins),
        "residues": int(inside.sum()),
        "labels": {k: n for k in LABELS if (n := sum(x.label == k for x in labels))},
        "sha256": sums,
    }
    (directory / "reference.json").write_text(json.dumps(record, indent=2) + "\n")


def load(directory: Path) -> Reference:
    """Raises InputError where the directory is no whole reference."""
    try:
        with open(open_regular(directory / "reference.json"), "rb") as file:
            text = file.read()
        record = json.loads(text)
        if record["format"] != FORMAT:
            raise ValueError(f"it has format {record['format']}, not {FORMAT}")
        parts = [_read(directory / name, record["sha256"][name]) for name in _FILES]
        labels = LabelTable(parts[2])
        length = np.array(labels.column("length"), np.int64)
    except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise no_reference(directory, error) from error
    codes = np.frombuffer(parts[0], np.uint8)
    masked = np.unpackbits(np.frombuffer(parts[1], np.uint8))[: len(codes)]
    proteins, masked = Proteins.spread(codes, length), spread(masked, length, 0).view(bool)
    return Reference(proteins, masked, labels, hashlib.sha256(text).hexdigest())


def _read(path: Path, expected: str) -> bytes:
    with open(open_regular(path), "rb") as file:
        packed = file.read()
    if hashlib.sha256(packed).hexdigest() != expected:
        raise ValueError(f"{path.name} is damaged (its checksum differs)")
    return zstandard.ZstdDecompressor().decompress(packed)
