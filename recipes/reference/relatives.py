"""Which groups of genomes each protein belongs to.

    python -m recipes.reference.relatives DATA OUT

Proteins come without a group, or with one of several names for it. A protein belongs to every group
whose genomes have over 5 % of its (sampled) 9-mers, as the data's own split was made. Reads
`OUT/representatives.faa`, writes `OUT/relatives.tsv` (id, category, group, share), most alike
first.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recipes.mini.kmers import protein_kmers, translated_kmers
from recipes.reference.gather import read_fasta, read_manifest
from virnucpro.training.store import encode, encode_protein

ONE_IN = 8
LEAST = 0.05


def read_plain(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, sequence) of a FASTA file."""
    name: str | None = None
    parts: list[bytes] = []
    with open(path, "rb") as handle:
        for line in handle:
            if line.startswith(b">"):
                if name is not None:
                    yield name, b"".join(parts)
                name, parts = line[1:].split()[0].decode(), []
            else:
                parts.append(line.strip())
    if name is not None:
        yield name, b"".join(parts)


def kmers_of_proteins(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names, hashes uint64 [K] sorted, row of each)."""
    names: list[str] = []
    found: list[np.ndarray] = []
    for name, sequence in read_plain(path):
        found.append(np.unique(protein_kmers(encode_protein(sequence), ONE_IN)))
        names.append(name)
    hashes = np.concatenate(found)
    rows = np.repeat(np.arange(len(names)), [len(f) for f in found])
    order = np.argsort(hashes, kind="stable")
    return names, hashes[order], rows[order]


def genomes(data: Path) -> Iterator[tuple[str, str, bytes]]:
    """(category, group, sequence) of all records of both manifests."""
    first = read_manifest(data / "manifest.tsv.gz")
    for file in sorted({r["file"] for r in first}):
        rows = {r["record_id"]: r for r in first if r["file"] == file}
        for name, sequence in read_fasta(data / file):
            if name in rows:
                yield rows[name]["category"], rows[name]["group"], sequence
    rows = {r["record_id"]: r for r in read_manifest(data / "manifest_more.tsv.gz")}
    for name, sequence in read_fasta(data / "more.fna.gz"):
        yield rows[name]["category"], rows[name]["group"], sequence


def main(data: Path, out: Path) -> None:
    """Count the shared 9-mers and write the table."""
    names, hashes, rows = kmers_of_proteins(out / "representatives.faa")
    total = np.bincount(rows, minlength=len(names))
    seen: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for category, group, sequence in genomes(data):
        kmers = translated_kmers(np.minimum(encode(sequence.upper()), 3), ONE_IN)
        at = np.minimum(np.searchsorted(hashes, kmers), len(hashes) - 1)
        seen[category, group].append(np.unique(at[hashes[at] == kmers]))
    shares = defaultdict(list)
    for (category, group), parts in seen.items():
        first = np.unique(np.concatenate(parts))
        # every protein with the hash, of which `first` is the first place
        count = np.searchsorted(hashes, hashes[first], "right") - first
        places = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        n = np.bincount(rows[places], minlength=len(names))
        for row in np.flatnonzero((n >= 2) & (n >= LEAST * total)).tolist():
            shares[row].append((n[row] / total[row], category, group))
    with open(out / "relatives.tsv", "w") as table:
        table.write("id\tcategory\tgroup\tshare\n")
        for row in sorted(shares):
            for share, category, group in sorted(shares[row], key=lambda x: (-x[0], x[1:])):
                table.write(f"{names[row]}\t{category}\t{group}\t{share:.3f}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
