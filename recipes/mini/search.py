"""The protein search that mini is compared with: training proteins as a DIAMOND database, the
500-base test windows against it.

    python -m recipes.mini.search work        # writes work/search/hits.tsv; needs `diamond`;
    an hour of one core

Proteins: the UniProt ones, and stop-free stretches of the training genomes (viral from 50 residues,
cellular from 120) and genes (from 60).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from virnucpro.training.baselines import long_orfs
from virnucpro.training.store import Store, decode, decode_protein

SEARCH = (
    "makedb --in train.faa -d train",
    "blastx -q windows.fna -d train --sensitive -k 30 -e 0.01 -o hits.tsv"
    " -f 6 qseqid sseqid pident length bitscore evalue",
)


def proteins(work: Path):
    """(virus, letters) of every training protein."""
    store = Store.load(work / "proteins.npz")
    for i in range(len(store)):
        yield store.labels.virus[store.record[i]], decode_protein(store.segment(i))
    for name, viral, cellular in (("genomes", 50, 120), ("markers", 60, 60)):
        store = Store.load(work / f"{name}.npz")
        for i in range(len(store)):
            virus = store.labels.virus[store.record[i]]
            for letters in long_orfs(store.segment(i), viral if virus else cellular):
                yield virus, letters


def main(work: Path) -> None:
    """Write the database and the windows, and search."""
    search = work / "search"
    search.mkdir(exist_ok=True)
    with (search / "train.faa").open("wb") as handle:
        for number, (virus, letters) in enumerate(proteins(work)):
            handle.write(b">%s%d\n%s\n" % (b"V" if virus else b"C", number, letters))
    contigs = Store.load(work / "contigs.npz")
    lab = contigs.labels
    windows = np.flatnonzero((lab.split == "test") & (lab.kind == "contig500")).tolist()
    with (search / "windows.fna").open("wb") as handle:
        for row in windows:
            handle.write(b">%d\n%s\n" % (row, decode(contigs.segment(row))))
    for command in SEARCH:
        subprocess.run(["diamond", *shlex.split(command)], cwd=search, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
