"""All proteins that the reference is chosen from, one table: `python -m recipes.reference.gather
DATA OUT`.

DATA is the folder of labelled genomes and proteins (its README says what they are). OUT gets
`proteins.faa` (records p0, p1, ...) and `proteins.tsv` with a line a protein: id, label, category,
group, family, organism, source. Viral genomes and plasmids give their stop-free stretches of at
least 90 residues: of stretches that overlap in different frames the longest stay.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from Bio import SeqIO

from virnucpro.homology.stretches import AMINO_ACIDS, Stretches, encode_protein, find_stretches

SHORTEST = 90  # residues of a stretch of a genome
SHORTEST_PROTEIN = 30
LABELS = {"viral": "viral", "bacteria": "bacteria", "archaea": "archaea", "plasmids": "plasmid"}
_LETTERS = np.frombuffer(AMINO_ACIDS.encode(), np.uint8)


@dataclass(frozen=True)
class Protein:
    """What is known of a protein before it is clustered."""

    label: str  # viral, bacteria, archaea, eukaryote, plasmid or cellular (kind unknown)
    group: str
    family: str
    organism: str
    source: str


def read_fasta(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, sequence) of a compressed FASTA file."""
    with gzip.open(path, "rt") as handle:
        for record in SeqIO.parse(handle, "fasta"):
            yield record.id, bytes(record.seq)


def read_manifest(path: Path) -> list[dict[str, str]]:
    """The lines of a compressed table."""
    with gzip.open(path, "rt") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def label_of(category: str) -> str:
    """The label of proteins of a category of genomes."""
    return LABELS.get(category, "eukaryote")


def longest_apart(stretches: Stretches, length: int) -> list[int]:
    """Rows of stretches, longest first, that lie in longer ones by less than half."""
    taken = np.zeros(length, bool)
    sizes = stretches.proteins.length
    rows = []
    for row in np.argsort(-sizes, kind="stable").tolist():
        start, end = stretches.bases(row, 0, int(sizes[row]), length)
        if 2 * int(taken[start:end].sum()) < end - start:
            taken[start:end] = True
            rows.append(row)
    return rows


def of_genome(name: str, sequence: bytes) -> Iterator[tuple[str, str]]:
    """(place, residues) of a genome's stretches."""
    stretches = find_stretches([sequence], SHORTEST)
    proteins = stretches.proteins
    for row in longest_apart(stretches, len(sequence)):
        a, b = proteins.begin[row], proteins.end[row]
        start, end = stretches.bases(row, 0, int(b - a), len(sequence))
        strand = "-" if stretches.reverse[row] else "+"
        residues = _LETTERS[proteins.residues[a:b]].tobytes().decode()
        yield f"{name}:{start + 1}-{end}{strand}", residues


def genomes(data: Path) -> Iterator[tuple[Protein, str]]:
    """The stretches of viral genomes and plasmids of both manifests."""
    tables = (
        ("manifest.tsv.gz", ("viral.fna.gz", "plasmids.fna.gz"), None),
        ("manifest_more.tsv.gz", ("more.fna.gz",), "more.fna.gz"),
    )
    for manifest, files, only in tables:
        rows = {(only or r["file"], r["record_id"]): r for r in read_manifest(data / manifest)}
        for file in files:
            for name, sequence in read_fasta(data / file):
                row = rows[(file, name)]
                if row["category"] not in ("viral", "plasmids"):
                    continue
                for place, residues in of_genome(name, sequence):
                    yield (
                        Protein(
                            label_of(row["category"]),
                            row["group"],
                            row["family"],
                            row["organism"],
                            place,
                        ),
                        residues,
                    )


def listed(data: Path) -> Iterator[tuple[Protein, str]]:
    """The proteins that come as such; what is known of a gene's source from the markers' table."""
    markers = {}
    for row in read_manifest(data / "manifest_markers.tsv.gz"):
        markers[row["record_id"]] = row
        markers[row["record_id"].replace(":", "_")] = row
    for stem in ("viral", "cellular"):
        for name, sequence in read_fasta(data / f"proteins_{stem}.faa.gz"):
            known = name.removeprefix("mpa_").split("_run")[0]
            marker = markers.get(known)
            if marker is None:
                yield Protein(stem, "", "", "", name), sequence.decode()
            else:
                label = "viral" if stem == "viral" else label_of(marker["category"])
                family, species = marker["family"], marker["species"]
                yield Protein(label, family, family, species, name), sequence.decode()


def annotated(data: Path) -> Iterator[tuple[Protein, str]]:
    """Coding sequences of the annotated records; the product is part of the source's name."""
    for stem in ("viral", "cellular"):
        with gzip.open(data / f"{stem}_genbank.gb.gz", "rt") as handle:
            for record in SeqIO.parse(handle, "genbank"):
                lineage = record.annotations.get("taxonomy", [])
                family = next((t for t in lineage if t.endswith(("viridae", "aceae"))), "")
                kind = "viral" if stem == "viral" else label_of(lineage[0].lower())
                for feature in record.features:
                    translation = feature.qualifiers.get("translation")
                    if feature.type != "CDS" or not translation:
                        continue
                    product = feature.qualifiers.get("product", [""])[0]
                    name = feature.qualifiers.get("protein_id", [record.id])[0]
                    organism = record.annotations.get("organism", "")
                    source = f"{name} {product}".strip()
                    yield Protein(kind, family, family, organism, source), translation[0]


def main(data: Path, out: Path) -> None:
    """Write all distinct proteins and their table."""
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    names = [f.name for f in fields(Protein)]
    with (
        open(out / "proteins.faa", "w") as fasta,
        open(out / "proteins.tsv", "w", newline="") as table,
    ):
        writer = csv.writer(table, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", *names, "length"])
        for part in (annotated, listed, genomes):
            for protein, residues in part(data):
                residues = residues.strip("*")
                if len(residues) < SHORTEST_PROTEIN or residues in seen or "*" in residues:
                    continue
                if (encode_protein(residues.encode()) >= 20).mean() > 0.1:
                    continue
                writer.writerow([f"p{len(seen)}", *astuple(protein), len(residues)])
                fasta.write(f">p{len(seen)}\n{residues}\n")
                seen.add(residues)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
