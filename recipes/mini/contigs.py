"""What the folds are measured on: contigs of their groups, and harder sets made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recipes.mini.contig_sets import add_shuffled, add_spliced
from virnucpro.training.store import Labels, Store, StoreBuilder

SHUFFLED, SPLICED = ((500, 120), (3000, 80)), 24  # of a fold


@dataclass(frozen=True)
class Packed:
    """One kind of store from all parts, and what deal.npz says of its records."""

    store: Store
    row: np.ndarray  # int64 [R], of WORK's store
    out: np.ndarray  # bool [R, folds]
    fold: np.ndarray  # int8 [R], empty but for genomes
    new: np.ndarray  # bool [R]: not known to version 8, empty but for genomes

    @classmethod
    def load(cls, packed: Path, name: str) -> Packed:
        """The stores `name` of all parts, joined."""
        folders = sorted(p.parent for p in packed.glob(f"*/{name}.npz"))
        store = Store.concatenate([Store.load(f / f"{name}.npz") for f in folders])
        dealt = [np.load(f / f"{name}_deal.npz") for f in folders]
        columns = {k: np.concatenate([z[k] for z in dealt]) for k in dealt[0].files}
        nothing = np.zeros(0, dtype=np.int8)
        return cls(
            store,
            columns["row"],
            columns["out"],
            columns.get("fold", nothing),
            columns.get("new", nothing.astype(bool)),
        )


def contigs_of(genomes: Packed, packed: Path) -> Store:
    """The contigs that pack.py drew, as segments of the genomes, in its order."""
    with np.load(packed / "1" / "contigs.npz") as z:
        row, offset, length = z["row"], z["offset"], z["length"]
    store = genomes.store
    # the segment of the record that begins last at or before the contig
    span = int(max(store.offset.max(), offset.max())) + 1
    key = genomes.row[store.record] * span + store.offset
    order = np.argsort(key)
    segment = order[np.searchsorted(key[order], row * span + offset, side="right") - 1]
    inside = (genomes.row[store.record[segment]] == row) & (
        offset + length <= store.offset[segment] + store.length[segment]
    )
    if not inside.all():
        raise ValueError(f"{(~inside).sum()} contigs lie outside the packed genomes")
    start = store.start[segment] + offset - store.offset[segment]
    return Store(store.codes, start, length, store.record[segment], offset, store.labels)


def named(labels: Labels, fold: np.ndarray) -> Labels:
    """The labels with the fold as their split, as the makers of harder sets want it."""
    return replace(labels, split=np.char.mod("%d", fold))


def harder_sets(genomes: Packed, fold: int) -> Store:
    """Shuffled contigs and the same as they are, some with substitutions, and phages of the fold
    inside bacteria of the fold.
    """
    rng, builder = np.random.default_rng([41, fold]), StoreBuilder()
    store = replace(genomes.store, labels=named(genomes.store.labels, genomes.fold))
    for length, n in SHUFFLED:
        add_shuffled(store, builder, rng, str(fold), length, n)
    add_spliced(store, builder, rng, str(fold), "spliced", SPLICED)
    return builder.build()
