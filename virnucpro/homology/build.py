"""A reference from a user's own proteins: a FASTA file and a table of what each protein is."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from Bio.SeqIO.FastaIO import SimpleFastaParser

from virnucpro.errors import InputError, UsageError
from virnucpro.homology.choice import LABELS
from virnucpro.homology.reference import ProteinLabel, build
from virnucpro.homology.stretches import encode_protein

OPTIONAL = ("name", "family", "group")
GZIP = b"\x1f\x8b"


def build_from_files(proteins: Path, table: Path, directory: Path) -> int:
    """Writes the reference; how many proteins it has. Raises InputError, naming file and record,
    where the two do not fit together.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory}: is not empty; give another --output")
    known = read_labels(table)
    sequences, labels, seen = [], [], set()
    for name, sequence in read_proteins(proteins):
        if name in seen:
            raise InputError(f"{proteins}: {name} occurs twice; give every protein its own name")
        if name not in known:
            raise InputError(f"{table}: has no line for {name} of {proteins}; add its label")
        letters = sequence.rstrip("*").encode()
        if not letters or (encode_protein(letters) >= 20).mean() > 0.5:
            raise InputError(f"{proteins}: {name} is not a protein; remove it or mend it")
        seen.add(name)
        sequences.append(letters.replace(b"*", b"X"))
        labels.append(known[name])
    if not sequences:
        raise InputError(f"{proteins}: holds no protein; give a FASTA file of amino acids")
    build(sequences, labels, directory, f"{proteins.name}, {table.name}")
    return len(sequences)


def read_proteins(path: Path) -> list[tuple[str, str]]:
    """(name up to white space, residues) of a FASTA file, plain or gzipped."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == GZIP
        with gzip.open(path, "rt") if packed else open(path) as stream:
            return [
                ((title.split() or [""])[0], sequence)
                for title, sequence in SimpleFastaParser(stream)
            ]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as FASTA ({error}); give another file") from error


def read_labels(path: Path) -> dict[str, ProteinLabel]:
    """What the table says of each protein. Its header names the columns protein, label and, if
    they are known, name, family and group.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            lines = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = list(lines)
            columns = lines.fieldnames or []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); give another") from error
    missing = [column for column in ("protein", "label") if column not in columns]
    if missing:
        raise InputError(
            f"{path}: has no column {' and '.join(missing)}; its first line must name the columns,"
            " with tabs between them"
        )
    found = {}
    for number, row in enumerate(rows, start=2):
        name, label = row["protein"] or "", row["label"] or ""
        if label not in LABELS:
            raise InputError(
                f"{path}: line {number}: {name}: label {label!r} is not one of {', '.join(LABELS)}"
            )
        rest = {column: row.get(column) or "" for column in OPTIONAL}
        found[name] = ProteinLabel(protein=name, label=label, **rest)
    return found
