"""All labelled records, old and later, in one store, with what the folds need to know of each.

    python -m recipes.mini.records DATA_DIR WORK

Reads the nine category files and `more.fna.gz` with their manifests (docs/MODELS.md) and writes
WORK/records.npz: every record with its category, group, cluster, kind and, as its split, what it
was for version 8 (train, validation, test, or new). Markers and proteins: WORK/markers.npz and
WORK/proteins.npz.
"""

from __future__ import annotations

import csv
import gzip
import sys
from pathlib import Path

import numpy as np

from recipes.mini.contig_sets import CATEGORIES
from recipes.mini.data import kind_of, load_markers, load_proteins, read_fasta, split_of
from virnucpro.training.store import Store, StoreBuilder

# Vibrio cholerae stood under its accession numbers
RENAMED = {"AE003852": "Vibrionaceae", "AE003853": "Vibrionaceae"}


def table(path: Path) -> list[dict]:
    """The lines of a gzipped manifest."""
    with gzip.open(path, "rt") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def load_records(data: Path) -> Store:
    """Every labelled record of `data` once."""
    rng = np.random.default_rng(1)  # the draws of version 8's split
    builder = StoreBuilder()
    known = {(r["file"], r["record_id"]): r for r in table(data / "manifest.tsv.gz")}
    for category in CATEGORIES:
        for name, sequence in read_fasta(data / f"{category}.fna.gz"):
            row = known[(f"{category}.fna.gz", name)]
            dropped = row["split"] == "train" and row["group"] in RENAMED
            side = "new" if dropped else split_of(row, rng)
            group = RENAMED.get(row["group"], row["group"])
            builder.add(
                sequence,
                name,
                category == "viral",
                category,
                group,
                row["cluster95"],
                side,
                kind_of(row),
            )
    more = {r["record_id"]: r for r in table(data / "manifest_more.tsv.gz")}
    for name, sequence in read_fasta(data / "more.fna.gz"):
        row = more[name]
        kind = "organelle" if "mitochondrion" in row["note"] else "genome"
        builder.add(
            sequence,
            name,
            row["category"] == "viral",
            row["category"],
            row["group"],
            row["accession"],
            "new",
            kind,
        )
    return builder.build()


def main(data: Path, work: Path) -> None:
    """Write the three stores."""
    work.mkdir(parents=True, exist_ok=True)
    store = load_records(data)
    store.save(work / "records.npz", bits=2)
    load_markers(data).save(work / "markers.npz", bits=2)
    load_proteins(data).save(work / "proteins.npz", bits=5)
    print(f"{len(store.labels):,} records, {store.length.sum():,} bases")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
