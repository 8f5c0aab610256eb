"""What travels to the GPU: all groups masked and capped, the contigs of the folds, in parts.

    python -m recipes.mini.pack WORK PACKED

After recipes/mini/deal.py. PACKED/1, PACKED/2 ... hold a share each of `genomes.npz`,
`markers.npz` and `proteins.npz`, with `*_deal.npz` beside them: the row of each record in WORK, and
what deal.npz says of it. PACKED/1/contigs.npz lists the contigs that the folds are measured on:
`row`, `offset` (from 0) and `length` in WORK/records.npz; each lies within what was packed, so no
contig of a cell has a tile that was masked as a prophage.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

import virnucpro
from recipes.mini.contig_sets import CATEGORIES
from recipes.mini.data import (
    by_processes,
    kmers_of,
    mask_prophages,
    merge_adjacent,
    tiles,
)
from recipes.mini.deal import PROKARYOTES
from recipes.mini.kmers import protein_kmers, translated_kmers
from virnucpro.training.similarity import kmer_set
from virnucpro.training.store import Store

PARTS = 3
CAPS = {"viral": 3_000_000, "bacteria": 900_000, "archaea": 2_500_000, "plasmids": 1_200_000}
CAP = 6_000_000  # bases of a group of any other category
CELL_GENES, CELL_PROTEINS = 0.7, 0.45  # of the cellular ones, drawn at random
# contigs of each length: of a viral group, of a category of cells (shared by its groups), and the
# fewest of a group of prokaryotes
LENGTHS = (300, 500, 1000, 3000, 10000)
PER_VIRAL_GROUP = dict(zip(LENGTHS, (20, 60, 30, 25, 10), strict=True))
PER_CATEGORY = dict(zip(LENGTHS, (250, 900, 450, 450, 150), strict=True))
PER_PROKARYOTE = dict(zip(LENGTHS, (2, 6, 4, 5, 2), strict=True))


def without_prophages(store: Store, proteins: Store) -> tuple[Store, int]:
    """Prokaryotes without the tiles that look like a known virus, and how many bases that cost."""
    viruses = np.flatnonzero(store.labels.virus == 1)
    viral_proteins = np.flatnonzero(proteins.labels.virus == 1)
    genomes = kmers_of(store, lambda codes: np.unique(translated_kmers(codes, 4)))
    of_proteins = kmers_of(proteins, lambda codes: np.unique(protein_kmers(codes, 4)))
    known = kmer_set([*by_processes(genomes, viruses), *by_processes(of_proteins, viral_proteins)])
    return mask_prophages(store, known)


def capped(store: Store, rng: np.random.Generator) -> np.ndarray:
    """Rows of tiles: of each (category, group) at most as many bases as CAPS says, at random."""
    lab = store.labels
    key = np.char.add(np.char.add(lab.category, "/"), lab.group)[store.record]
    order = rng.permutation(len(store))
    order = order[np.argsort(key[order], kind="stable")]
    length = store.length[order]
    total = np.cumsum(length)
    first = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    before = np.maximum.accumulate(np.where(first, total - length, 0))
    cap = np.array([CAPS.get(c, CAP) for c in lab.category[store.record[order]].tolist()])
    return np.sort(order[total - length - before < cap])


def wanted(category: str, length: int, groups: int) -> int:
    """Contigs of one group."""
    if category == "viral":
        return PER_VIRAL_GROUP[length]
    even = int(np.ceil(PER_CATEGORY[length] / groups))
    return max(even, PER_PROKARYOTE[length]) if category in PROKARYOTES else even


def draw_contigs(store: Store, rng: np.random.Generator) -> np.ndarray:
    """int64 [n, 3]: (segment, offset in it, length), even over the groups of a category."""
    lab, found = store.labels, []
    usable = ~np.isin(lab.kind, ("subviral", "promoter"))
    for category in CATEGORIES:
        mine = usable & (lab.category == category)
        groups = np.unique(lab.group[mine])
        for group in groups.tolist():
            of_group = np.flatnonzero((mine & (lab.group == group))[store.record])
            for length in LENGTHS:
                rows = of_group[store.length[of_group] >= length]
                if not len(rows):
                    continue
                bases = store.length[rows].astype(np.float64)
                n = min(wanted(category, length, len(groups)), int(np.ceil(bases.sum() / length)))
                for s in rng.choice(rows, n, p=np.sqrt(bases) / np.sqrt(bases).sum()):
                    found.append((s, int(rng.integers(store.length[s] - length + 1)), length))
    return np.array(found, dtype=np.int64)


def parts_of(store: Store, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of segments dealt to PARTS folders of equal bases, record by record."""
    bases = np.bincount(store.record, weights=store.length, minlength=len(store.labels))
    order = rng.permutation(len(bases))
    part = np.empty(len(bases), dtype=np.int64)
    part[order] = np.minimum(np.cumsum(bases[order]) / bases.sum() * PARTS, PARTS - 1)
    return [np.flatnonzero(part[store.record] == k) for k in range(PARTS)]


def save_parts(name: str, store: Store, row: np.ndarray, facts: dict, packed: Path, rng) -> None:
    """`row`: of each record of `store` in WORK; `facts`: columns of deal.npz by that row."""
    for k, rows in enumerate(parts_of(store, rng), start=1):
        kept = np.unique(store.record[rows])
        part = store.select(rows)
        if name != "genomes":  # the names of a hundred thousand genes would weigh a megabyte
            part.labels.name[:] = ""
        part.save(packed / f"{k}" / f"{name}.npz", 5 if name == "proteins" else 2)
        columns = {key: values[row[kept]] for key, values in facts.items()}
        np.savez_compressed(packed / f"{k}" / f"{name}_deal.npz", row=row[kept], **columns)


def main(work: Path, packed: Path) -> None:
    """Write the parts."""
    began, rng = time.time(), np.random.default_rng(31)

    def say(text: str) -> None:
        print(f"{time.time() - began:6.0f} s  {text}", flush=True)

    for k in range(1, PARTS + 1):
        (packed / f"{k}").mkdir(parents=True, exist_ok=True)
    with np.load(work / "deal.npz") as z:
        dealt = dict(z)
    records, proteins = Store.load(work / "records.npz"), Store.load(work / "proteins.npz")
    masked, lost = without_prophages(records, proteins)
    say(f"{lost:,} prophage-like bases masked")
    cut = tiles(masked)
    chosen = merge_adjacent(cut, capped(cut, rng))
    row = np.unique(chosen.record)
    genomes = chosen.select(np.arange(len(chosen)))
    lab = genomes.labels
    sizes = {
        str(c): int(genomes.length[(lab.category == c)[genomes.record]].sum())
        for c in np.unique(lab.category)
    }
    say(f"bases kept: {json.dumps(sizes)}")
    places = draw_contigs(genomes, rng)
    contig_row = row[genomes.record[places[:, 0]]]
    np.savez_compressed(
        packed / "1" / "contigs.npz",
        row=contig_row,
        offset=genomes.offset[places[:, 0]] + places[:, 1],
        length=places[:, 2],
    )
    say(f"{len(places):,} contigs, {places[:, 2].sum():,} bases")
    facts = {"fold": dealt["fold"], "new": dealt["new_to_8"], "out": dealt["out_records"]}
    save_parts("genomes", genomes, row, facts, packed, rng)
    for name, share in (("markers", CELL_GENES), ("proteins", CELL_PROTEINS)):
        store = Store.load(work / f"{name}.npz") if name == "markers" else proteins
        keep = (store.labels.virus == 1) | (rng.random(len(store.labels)) < share)
        rows = np.flatnonzero(keep[store.record])
        row = np.unique(store.record[rows])
        save_parts(name, store.select(rows), row, {"out": dealt[f"out_{name}"]}, packed, rng)
    shipped = Path(virnucpro.__file__).parent / "models" / "mini"  # its tokenizers stay
    for name in ("esm2", "dnabert_s"):
        skip = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(shipped / name, packed / "1" / name, dirs_exist_ok=True, ignore=skip)
    for k in range(1, PARTS + 1):
        files = [p for p in (packed / f"{k}").rglob("*") if p.is_file()]
        say(f"part {k}: {sum(p.stat().st_size for p in files) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
