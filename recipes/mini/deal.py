"""All groups dealt anew: near-identical records across groups joined, five folds by category.

    python -m recipes.mini.deal WORK

Reads WORK/records.npz, markers.npz and proteins.npz (recipes/mini/records.py). Two groups are one
unit where a record of the one has over 5 % of its translated 9-mers (viruses) or over 30 % of its
21-mers (cells) in the other; prokaryotes of one family, chromosomes and plasmids, are one unit too.
Units are dealt to five folds, those of each category in turn. A record of another fold that still
resembles a held-out fold (over 5 % of the 9-mers, over 10 % of the 21-mers) is left out of that
fold's training; so are genes of its families and viral proteins that resemble it.

WORK/deal.npz: `unit` and `fold` of each record, `out_records`, `out_markers`, `out_proteins`
(bool [n, 5]: not in the training of that fold), `new_to_8` (nothing like it was in the training or
the validation side of version 8).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from recipes.mini.data import by_processes, kmers_of
from recipes.mini.kmers import protein_kmers, translated_kmers
from virnucpro.training.similarity import contained, dna_kmers
from virnucpro.training.store import Store

FOLDS = 5
JOINED = {1: 0.05, 0: 0.30}  # by virus: share of a record's k-mers that joins two groups
RELATED = {1: 0.05, 0: 0.10}  # that keeps a record out of the training of a fold
FEWEST = 20  # sampled k-mers below which a record joins nothing
PROKARYOTES = ("bacteria", "archaea", "plasmids")
Kmers = tuple[np.ndarray, np.ndarray]  # hashes, and the record of each


def sample_kmers(store: Store, of: Callable[[int], np.ndarray]) -> Kmers:
    """Distinct k-mers within each record, as `of` samples them."""
    found = by_processes(lambda r: np.unique(of(r)), range(len(store.labels)))
    return np.concatenate(found), np.repeat(np.arange(len(found)), [len(f) for f in found])


def genome_kmers(store: Store) -> Kmers:
    """Translated 9-mers of viral records (one in 8), 21-mers of the others (one in 16)."""
    viral = kmers_of(store, lambda codes: translated_kmers(codes, 8))
    cells = kmers_of(store, lambda codes: dna_kmers(codes, 16))
    return sample_kmers(store, lambda r: (viral if store.labels.virus[r] else cells)(r))


def links(kmers: Kmers, group: np.ndarray, rows: np.ndarray, most: float) -> np.ndarray:
    """int64 [n, 2]: pairs of groups that a record of `rows` (bool [R]) joins."""
    hashes, records = kmers
    mine = rows[records]
    hashes, column = np.unique(hashes[mine], return_inverse=True)
    records, n_groups = records[mine], int(group.max()) + 1
    size = np.bincount(records, minlength=len(rows))
    holds = csr_matrix(
        (np.ones(len(records), np.float32), (records, column)), shape=(len(rows), len(hashes))
    )
    pairs = np.unique(column.astype(np.int64) * n_groups + group[records])
    in_group = csr_matrix(
        (np.ones(len(pairs), np.float32), (pairs // n_groups, pairs % n_groups)),
        shape=(len(hashes), n_groups),
    )
    shared = (holds @ in_group).tocoo()
    near = (shared.data > most * size[shared.row]) & (size[shared.row] >= FEWEST)
    near &= shared.col != group[shared.row]
    return np.stack([group[shared.row[near]], shared.col[near]], axis=1)


def join_groups(store: Store, kmers: Kmers) -> np.ndarray:
    """int64 [R]: the unit of every record."""
    lab = store.labels
    names, group = np.unique(
        np.char.add(np.char.add(lab.category, "/"), lab.group), return_inverse=True
    )
    pairs = [links(kmers, group, lab.virus == v, most) for v, most in JOINED.items()]
    first: dict[str, int] = {}
    for i, name in enumerate(names.tolist()):
        category, family = name.split("/", 1)
        if category in PROKARYOTES:
            pairs.append(np.array([[first.setdefault(family, i), i]]))
    a, b = np.concatenate(pairs).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1][group]


def deal(store: Store, unit: np.ndarray) -> np.ndarray:
    """int8 [R]: the fold of every record. Largest units first, each to the fold that has the fewest
    units of its category, and of these to the one with the fewest bases.
    """
    lab = store.labels
    bases = np.bincount(store.record, weights=store.length, minlength=len(lab))
    fold_of = np.zeros(int(unit.max()) + 1, dtype=np.int8)
    units, first = np.unique(unit, return_index=True)
    size = np.bincount(unit, weights=bases)
    for category in np.unique(lab.category):
        mine = units[lab.category[first] == category]
        load = np.zeros((FOLDS, 2))
        for u in mine[np.argsort(-size[mine], kind="stable")]:
            f = min(range(FOLDS), key=lambda f: tuple(load[f]))
            fold_of[u] = f
            load[f] += (1, size[u])
    return fold_of[unit]


def share_in(kmers: Kmers, known: np.ndarray, n: int) -> np.ndarray:
    """float64 [n]: the share of each record's k-mers in the sorted set `known`."""
    hashes, records = kmers
    total = np.maximum(np.bincount(records, minlength=n), 1)
    return np.bincount(records[contained(hashes, known)], minlength=n) / total


def sorted_by_hash(kmers: Kmers) -> Kmers:
    """The same in the order of the hashes: look-ups are many times faster."""
    order = np.argsort(kmers[0])
    return kmers[0][order], kmers[1][order]


def related(
    kmers: Kmers, virus: np.ndarray, known: list[np.ndarray], of: np.ndarray | None = None
) -> np.ndarray:
    """bool [n, sets]: records (`virus` uint8 [n]) that resemble a set of k-mers. `of` int [n]: the
    set that a record itself belongs to, for which the answer is no.
    """
    out = np.zeros((len(virus), len(known)), dtype=bool)
    limit = np.array([RELATED[0], RELATED[1]])[virus]
    for f, these in enumerate(known):
        out[:, f] = share_in(kmers, these, len(virus)) > limit
        if of is not None:
            out[of == f, f] = False
    return out


def names_of_folds(store: Store, fold: np.ndarray, virus: int) -> list[set[str]]:
    """The families whose genomes each fold holds."""
    lab = store.labels
    return [set(lab.group[(lab.virus == virus) & (fold == f)].tolist()) for f in range(FOLDS)]


def out_of_training(work: Path, genomes: Store, fold: np.ndarray, kmers: Kmers) -> dict:
    """`out_records`, `out_markers`, `out_proteins`."""
    hashes, records = kmers
    known = [np.unique(hashes[fold[records] == f]) for f in range(FOLDS)]
    held = fold[:, None] == np.arange(FOLDS)
    out = {"out_records": held | related(kmers, genomes.labels.virus, known)}
    markers = Store.load(work / "markers.npz")
    lab = markers.labels
    out["out_markers"] = related(sorted_by_hash(genome_kmers(markers)), lab.virus, known)
    for virus in (0, 1):
        for f, names in enumerate(names_of_folds(genomes, fold, virus)):
            out["out_markers"][:, f] |= (lab.virus == virus) & np.isin(lab.group, sorted(names))
    proteins = Store.load(work / "proteins.npz")
    found = sorted_by_hash(sample_kmers(proteins, kmers_of(proteins, protein_kmers)))
    viral = proteins.labels.virus == 1
    out["out_proteins"] = related(found, proteins.labels.virus, known) & viral[:, None]
    return out


def main(work: Path) -> None:
    """Write WORK/deal.npz and its counts."""
    began = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - began:6.0f} s  {text}", flush=True)

    store = Store.load(work / "records.npz")
    lab = store.labels
    kmers = genome_kmers(store)
    say(f"{len(kmers[0]):,} k-mers")
    unit = join_groups(store, kmers)
    fold = deal(store, unit)
    kmers = sorted_by_hash(kmers)
    say(f"{len(np.unique(unit))} units")
    out = out_of_training(work, store, fold, kmers)
    old = np.isin(lab.split, ("train", "validation"))
    old_units = np.unique(unit[old])
    seen = np.unique(kmers[0][old[kmers[1]]])
    near = related(kmers, lab.virus, [seen])[:, 0]
    new = ~np.isin(unit, old_units) & ~near
    np.savez_compressed(work / "deal.npz", unit=unit, fold=fold, new_to_8=new, **out)
    counts = {}
    for category in np.unique(lab.category):
        mine = lab.category == category
        counts[str(category)] = {
            "groups": len(np.unique(lab.group[mine])),
            "units": len(np.unique(unit[mine])),
            "units_of_folds": [len(np.unique(unit[mine & (fold == f)])) for f in range(FOLDS)],
            "records_of_folds": np.bincount(fold[mine], minlength=FOLDS).tolist(),
            "new_groups": len(np.unique(lab.group[mine & new])),
            "left_out_as_relatives": (out["out_records"] & mine[:, None]).sum(0).tolist(),
        }
    (work / "deal.json").write_text(json.dumps(counts, indent=1))
    say(json.dumps(counts))
    for name in ("out_markers", "out_proteins"):
        say(f"{name}: {out[name].sum(0).tolist()} of {len(out[name])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
