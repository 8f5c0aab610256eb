"""Contigs that evidence is fitted and measured on: `python -m recipes.reference.contigs DATA OUT`.

Of the groups that the published mini was not trained on: the test side of the first manifest (set
`test`) and the groups of the second that the first does not hold (set `more`). OUT gets
`contigs.fna` and `contigs.tsv` (name, set, virus, category, group, length). Drawn by group, seeded.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from recipes.reference.gather import read_fasta, read_manifest

LENGTHS = {500: 40, 1000: 16, 3000: 16, 10000: 6}  # how many of a group
SMALLEST_GROUP = 2000  # bases; what is smaller is no group of genomes
DROPPED = ("VIROID", "SATELLITE")


def records(data: Path) -> list[tuple[str, dict[str, str], bytes]]:
    """(set, row, sequence) of all records of the held-out groups."""
    found = []
    first = [r for r in read_manifest(data / "manifest.tsv.gz") if r["split"] == "test"]
    second = [
        r | {"file": "more.fna.gz"}
        for r in read_manifest(data / "manifest_more.tsv.gz")
        if r["group_held_in_train"] == "no" and not r["group"].startswith("unlabelled")
    ]
    for name, rows in (("test", first), ("more", second)):
        rows = [r for r in rows if not any(d in r["note"] for d in DROPPED)]
        for file in sorted({r["file"] for r in rows}):
            mine = {r["record_id"]: r for r in rows if r["file"] == file}
            for record, sequence in read_fasta(data / file):
                if record in mine:
                    found.append((name, mine[record], sequence.upper()))
    return found


def draw(data: Path, out: Path) -> None:
    """Write the contigs and their table."""
    rng = np.random.default_rng(21)
    groups = defaultdict(list)
    for name, row, sequence in records(data):
        groups[name, row["category"], row["group"]].append((row["record_id"], sequence))
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "contigs.fna", "w") as fasta, open(out / "contigs.tsv", "w") as table:
        writer = csv.writer(table, delimiter="\t", lineterminator="\n")
        writer.writerow(["name", "set", "virus", "category", "group", "length"])
        n = 0
        for (name, category, group), members in sorted(groups.items()):
            for length, most in LENGTHS.items():
                usable = [m for m in members if len(m[1]) >= length]
                bases = sum(len(m[1]) for m in usable)
                if bases < SMALLEST_GROUP:
                    continue
                weights = np.sqrt([len(m[1]) for m in usable])
                for i in rng.choice(
                    len(usable), min(most, max(1, bases // length)), p=weights / weights.sum()
                ):
                    sequence = usable[i][1]
                    a = int(rng.integers(len(sequence) - length + 1))
                    piece = sequence[a : a + length]
                    if piece.count(b"N") > length // 10:
                        continue
                    virus = int(category == "viral")
                    fasta.write(f">c{n}\n{piece.decode()}\n")
                    writer.writerow([f"c{n}", name, virus, category, group, length])
                    n += 1


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
