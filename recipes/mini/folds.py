"""Grouped folds over the training side, and what a training machine needs of the data, packed
small.

    python -m recipes.mini.folds DATA_DIR work PACKED PACKED_MORE

Run with PYTHONPATH=., after data.py. Every training genome gets two folds of four:
by family (viral families and phage components, cellular families and sources, whole) and by genus
(a genus of cells by name; of viruses, records of a family linked by over 5 % of their translated
9-mers). For each held-out fold, the records of other folds that resemble it (the limits of
data.py) are marked, and left out of that fold's training.

PACKED gets all viral genomes and genes, a part of the rest, the validation contigs and the folds'
contigs; PACKED_MORE the remainder, but for a part of the cellular proteins. Each fits where 45 MiB
may travel. PACKED/test.npz has the test contigs, which are scored once, at the end.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.mini.contig_sets import CATEGORIES
from recipes.mini.data import by_processes, kmers_of, merge_adjacent, teller, tiles
from recipes.mini.kmers import translated_kmers
from virnucpro.training.similarity import dna_kmers
from virnucpro.training.store import Store

FOLDS = 4
KINDS = ("family", "genus")
MOST_SEEN = (0.10, 0.05)  # of the 21-mers of a cellular record, of the 9-mers of a viral one
GENUS_LINK = 0.05
CAPS = {"genomes": 1_500_000, "markers": 0.22, "proteins": 0.20}  # of what is not viral, in PACKED


def deal(names: np.ndarray, category: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int8 [n]: distinct names of each category dealt to folds in turn, in random order."""
    fold = np.zeros(len(names), dtype=np.int8)
    for c in np.unique(category):
        mine = category == c
        distinct = rng.permutation(np.unique(names[mine]))
        of = dict(
            zip(
                distinct.tolist(),
                (np.arange(len(distinct)) + rng.integers(FOLDS)) % FOLDS,
                strict=True,
            )
        )
        fold[mine] = [of[n] for n in names[mine].tolist()]
    return fold


def all_kmers(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, record of each), distinct within a record: translated 9-mers of viral records,
    21-mers of the others.
    """
    by_kind = kmers_of(store, dna_kmers), kmers_of(store, translated_kmers)
    hashes = by_processes(
        lambda r: np.unique(by_kind[store.labels.virus[r]](r)), range(len(store.labels))
    )
    return np.concatenate(hashes), np.repeat(
        np.arange(len(hashes)), [len(found) for found in hashes]
    )


def genera(
    store: Store, species: dict[tuple[str, str], str], hashes: np.ndarray, records: np.ndarray
) -> np.ndarray:
    """A name a record: group and genus of cells; of viruses, group and linked component."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    lab, n = store.labels, len(store.labels)
    name = np.array(
        [
            f"{g} {species.get((c, r), r).replace('Candidatus ', '').strip('[]').split(' ')[0]}"
            for c, g, r in zip(
                lab.category.tolist(), lab.group.tolist(), lab.name.tolist(), strict=True
            )
        ],
        dtype=object,
    )
    # a quarter is enough
    viral = (lab.virus[records] == 1) & ((hashes >> np.uint64(3)) % np.uint64(4) == 0)
    _, column = np.unique(hashes[viral], return_inverse=True)
    holds = coo_matrix(
        (np.ones(len(column), np.float32), (records[viral], column)), shape=(n, column.max() + 1)
    ).tocsr()
    shared = (holds @ holds.T).tocoo()
    size = np.asarray(holds.sum(axis=1)).ravel()
    near = (shared.data > GENUS_LINK * np.minimum(size[shared.row], size[shared.col])) & (
        lab.group[shared.row] == lab.group[shared.col]
    )
    _, component = connected_components(
        coo_matrix((shared.data[near], (shared.row[near], shared.col[near])), shape=(n, n)),
        directed=False,
    )
    virus = lab.virus == 1
    name[virus] = [f"{g} {c}" for g, c in zip(lab.group[virus], component[virus], strict=True)]
    return name.astype(str)


def seen_by_fold(
    known: list[tuple[np.ndarray, np.ndarray, np.ndarray]], hashes, records, n: int
) -> np.ndarray:
    """float32 [n, folds]: share of each record's k-mers in each fold; `known` (fold [R], hashes,
    records) of the genomes.
    """
    share = np.zeros((n, sum(FOLDS for _ in known)), dtype=np.float32)
    total = np.maximum(np.bincount(records, minlength=n), 1)
    order = np.argsort(hashes)  # look-ups in order are many times faster
    hashes, records = hashes[order], records[order]
    for i, (fold, of_hashes, of_records) in enumerate(known):
        for f in range(FOLDS):
            in_fold = np.unique(of_hashes[fold[of_records] == f])
            at = np.minimum(np.searchsorted(in_fold, hashes), len(in_fold) - 1)
            share[:, i * FOLDS + f] = (
                np.bincount(records[in_fold[at] == hashes], minlength=n) / total
            )
    return share


def places(store: Store, rng: np.random.Generator) -> np.ndarray:
    """int64 [n, 3]: (segment, offset, length) of the contigs the folds are measured on, even over
    groups.
    """
    per_viral_group = {300: 30, 500: 60, 1000: 30, 3000: 25, 10000: 10}
    per_category = {300: 150, 500: 400, 1000: 150, 3000: 150, 10000: 60}
    lab, out = store.labels, []
    for category in CATEGORIES:
        rows = (lab.category == category) & np.isin(lab.kind, ("genome", "transcript"))
        groups = sorted(set(lab.group[rows]))
        for length in per_category:
            for group in groups:
                want = (
                    per_viral_group[length]
                    if category == "viral"
                    else per_category[length] / len(groups)
                )
                segments = np.flatnonzero(
                    (rows & (lab.group == group))[store.record] & (store.length >= length)
                )
                if not len(segments):
                    continue
                bases = store.length[segments].astype(np.float64)
                n = int(min(np.ceil(want), np.ceil(0.8 * bases.sum() / length)))
                for s in rng.choice(segments, n, p=np.sqrt(bases) / np.sqrt(bases).sum()):
                    out.append((s, int(rng.integers(store.length[s] - length + 1)), length))
    return np.array(out, dtype=np.int64)


def fold_contigs(packed: Path) -> tuple[Store, dict[str, np.ndarray]]:
    """The contigs the folds are measured on, and the fold of each by kind, from what `main`
    wrote.
    """
    place = np.load(packed / "fold_places.npy").astype(np.int64)
    g = Store.load(packed / "genomes.npz")
    segment = place[:, 0]
    contigs = Store(
        g.codes,
        g.start[segment] + place[:, 1],
        place[:, 2],
        g.record[segment],
        g.offset[segment] + place[:, 1],
        g.labels,
    )
    with np.load(packed / "genomes_folds.npz") as z:
        return contigs, {kind: z[kind][contigs.record] for kind in KINDS}


def part(name: str, store: Store, rng: np.random.Generator) -> tuple[Store, np.ndarray]:
    """(the store cut into pieces, bool: those that go into PACKED): all that is viral, and a part
    of the rest.
    """
    if name != "genomes":
        chosen = (store.labels.virus[store.record] == 1) & (name == "markers")
        return store, chosen | (rng.random(len(store)) < CAPS[name])
    cut = tiles(store)
    key = np.char.add(np.char.add(cut.labels.category, "/"), cut.labels.group)[cut.record]
    order = rng.permutation(len(cut))
    order = order[np.argsort(key[order], kind="stable")]
    total = np.cumsum(cut.length[order])
    first = np.concatenate([[True], key[order][1:] != key[order][:-1]])
    before = np.maximum.accumulate(np.where(first, total - cut.length[order], 0))
    chosen = np.zeros(len(cut), dtype=bool)
    chosen[order] = total - cut.length[order] - before < CAPS[name]
    return cut, chosen | (cut.labels.virus[cut.record] == 1)


def species_of(data: Path) -> dict[tuple[str, str], str]:
    """(category, record) -> species, or organism, by the manifest."""
    with gzip.open(data / "manifest.tsv.gz", "rt") as handle:
        return {
            (r["category"], r["record_id"]): r["species"] or r["organism"]
            for r in csv.DictReader(handle, delimiter="\t")
        }


@dataclass(frozen=True)
class Dealt:
    """The genomes' folds, and what the other stores need of them."""

    folds: dict[str, np.ndarray]  # by KINDS, int8 [R]
    known: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # as `seen_by_fold` takes it
    family_of: dict[tuple[int, str], int]  # (virus, group) -> fold


def deal_genomes(
    genomes: Store, species: dict[tuple[str, str], str], rng: np.random.Generator, counts: dict
) -> Dealt:
    """Deal genomes to folds by family and by genus."""
    lab = genomes.labels
    hashes, records = all_kmers(genomes)
    genus = genera(genomes, species, hashes, records)
    folds = {
        "family": deal(lab.group, lab.category, rng),
        "genus": deal(genus, lab.category, rng),
    }
    names = zip(lab.virus.tolist(), lab.group.tolist(), strict=True)
    for c in CATEGORIES:
        mine = lab.category == c
        counts[c] = {"groups": len(set(lab.group[mine])), "genera": len(set(genus[mine]))}
    return Dealt(
        folds,
        [(folds[k], hashes, records) for k in KINDS],
        dict(zip(names, folds["family"].tolist(), strict=True)),
    )


def folds_of_genes(markers: Store, dealt: Dealt) -> dict[str, np.ndarray]:
    """Genes are never measured: -1, but those of a held-out family are left out with it."""
    lab = markers.labels
    names = zip(lab.virus.tolist(), lab.group.tolist(), strict=True)
    family = np.array([dealt.family_of.get(name, -1) for name in names], dtype=np.int8)
    return {"family": family, "genus": np.full(len(lab), -1, dtype=np.int8)}


def left_out(
    name: str, store: Store, folds: dict[str, np.ndarray], dealt: Dealt, counts: dict
) -> np.ndarray:
    """bool [R, kinds x FOLDS]: records that each fold's training leaves out: its own, and those
    that resemble it.
    """
    if name == "genomes":
        _, hashes, records = dealt.known[0]
    else:
        hashes, records = all_kmers(store)
    share = seen_by_fold(dealt.known, hashes, records, len(store.labels))
    relative = share > np.array(MOST_SEEN)[store.labels.virus.astype(int)][:, None]
    own = np.concatenate([folds[k][:, None] == np.arange(FOLDS) for k in KINDS], axis=1)
    counts[f"{name} left out as relatives of the held-out fold"] = {
        f"{k} {f}": int((relative & ~own)[:, i * FOLDS + f].sum())
        for i, k in enumerate(KINDS)
        for f in range(FOLDS)
    }
    return relative | own


def save_parts(
    name: str,
    store: Store,
    folds: dict[str, np.ndarray],
    places_for: tuple[Path, Path],
    rng: np.random.Generator,
) -> None:
    """Save the store in two parts, each with its folds if it has any."""
    cut, chosen = part(name, store, rng)
    is_cellular = cut.labels.virus[cut.record] == 0
    spare = (name == "proteins") & is_cellular & (rng.random(len(cut)) < 0.4)
    packed, more = places_for
    parts = ((packed, np.flatnonzero(chosen)), (more, np.flatnonzero(~chosen & ~spare)))
    for directory, rows in parts:
        kept = merge_adjacent(cut, rows) if name == "genomes" else cut.select(rows)
        of = np.unique(kept.record) if name == "genomes" else np.unique(cut.record[rows])
        kept = kept.select(np.arange(len(kept)))
        if name != "genomes":  # names of a hundred thousand genes would weigh a megabyte
            kept.labels.name[:] = ""
        kept.save(directory / f"{name}.npz", 5 if name == "proteins" else 2)
        if folds:
            of_records = {k: v[of] for k, v in folds.items()}
            np.savez_compressed(directory / f"{name}_folds.npz", **of_records)  # type: ignore[arg-type]
        if name == "genomes" and directory == packed:
            np.save(packed / "fold_places.npy", places(kept, rng).astype(np.int32))


def main(data: Path, work: Path, packed: Path, more: Path) -> None:
    """Deal, pack and save."""
    say = teller()
    for directory in (packed, more):
        directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(21)
    contigs = Store.load(work / "contigs.npz")
    for side in ("validation", "test"):
        contigs.select_records(contigs.labels.split == side).save(packed / f"{side}.npz", bits=2)
    for tokenizer in ("esm2", "dnabert_s"):
        shutil.copytree(work / tokenizer, packed / tokenizer, dirs_exist_ok=True)
    counts: dict = {}
    genomes = Store.load(work / "genomes.npz")
    dealt = deal_genomes(genomes, species_of(data), rng, counts)
    out = left_out("genomes", genomes, dealt.folds, dealt, counts)
    save_parts("genomes", genomes, {"out": out, **dealt.folds}, (packed, more), rng)
    say(f"genomes: {json.dumps(counts)}")
    markers = Store.load(work / "markers.npz")
    folds = folds_of_genes(markers, dealt)
    out = left_out("markers", markers, folds, dealt, counts)
    save_parts("markers", markers, {"out": out, **folds}, (packed, more), rng)
    say(f"markers: {json.dumps(counts)}")
    save_parts("proteins", Store.load(work / "proteins.npz"), {}, (packed, more), rng)
    (packed / "folds.json").write_text(json.dumps(counts, indent=1))
    for directory in (packed, more):
        size = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
        say(f"{directory.name}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
