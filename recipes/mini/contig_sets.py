"""The contigs that `mini` is chosen and tested by: of five lengths, and sets that are harder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recipes.mini.augment import blur
from recipes.mini.shuffling import shuffled
from virnucpro.training.store import Store, StoreBuilder, decode, substitute

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
LENGTHS = (300, 500, 1000, 3000, 10000)


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
                    add_contig(builder, store, Place(s, a, length), split, f"contig{length}")
    return builder


@dataclass(frozen=True)
class Place:
    """Where a contig is cut: `length` bases of a segment from `start` on."""

    segment: int
    start: int
    length: int


def add_contig(
    builder: StoreBuilder,
    store: Store,
    place: Place,
    split: str,
    kind: str,
    change: Callable[[np.ndarray], np.ndarray] = lambda codes: codes,
) -> None:
    """Cut a contig, perhaps change it, and add it with its source's labels."""
    segment, a, length = place.segment, place.start, place.length
    codes = change(store.segment(segment)[a : a + length])
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
                add_contig(builder, store, Place(s, a, length), split, f"{kind}{length}")
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
            place = Place(s, a, length)

            def substituted(c: np.ndarray) -> np.ndarray:
                return substitute(c, 0.01, rng)

            add_contig(
                builder, store, place, split, f"shuffled{length}", lambda c: shuffled(c, rng)
            )
            if length == 500:
                add_contig(builder, store, place, split, "substituted1pct", substituted)
                add_contig(builder, store, place, split, "substituted0pct")


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
