"""Stores -> random windows: which group, cluster and record, where in it, how long, with which
mutations.

A draw goes category -> kind -> group -> cluster -> record -> place, so that a family with hundreds
of near-identical genomes weighs no more than its square root (`group_exponent`). Does not know of
frames or tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from virnucpro.training.store import Store, substitute


@dataclass(frozen=True)
class WindowRules:
    """How windows are cut. Lengths in bases, rates as shares."""

    length: int = 500
    shortest: int = 150
    # windows of the full length; the others are uniform between shortest and length
    full_share: float = 0.6
    mutated_share: float = 0.25
    highest_mutation: float = 0.06
    # a group weighs its mean bases to this power: 0 makes all groups even
    group_exponent: float = 0.5
    # of the windows; default: half viral, even cells
    category_share: Mapping[str, float] = field(default_factory=dict)
    # within a category; default: all kinds even
    kind_share: Mapping[str, float] = field(default_factory=dict)


class Windows(NamedTuple):
    """Windows end to end: codes uint8 [sum of lengths], and [n] each of the rest."""

    codes: np.ndarray
    start: np.ndarray
    end: np.ndarray
    virus: np.ndarray  # uint8
    record: np.ndarray


def segment_weights(store: Store, rules: WindowRules) -> np.ndarray:
    """The probability of each segment, float64 [S], sum 1."""
    lab, record = store.labels, store.record
    bases = store.length.astype(np.float64)
    category = np.unique(lab.category, return_inverse=True)
    names, category_of = category[0], category[1][record]
    cells = [n for n in names if n != "viral"]
    even = {n: 0.5 if n == "viral" else 0.5 / max(len(cells), 1) for n in names}
    wanted_category = np.array(
        [rules.category_share.get(n, 0.0 if rules.category_share else even[n]) for n in names]
    )
    kinds, kind_of_record = np.unique(lab.kind, return_inverse=True)
    wanted_kind = np.array(
        [rules.kind_share.get(k, 0.0 if rules.kind_share else 1.0) for k in kinds]
    )

    kind_key = category_of * len(kinds) + kind_of_record[record]
    group_key = _joint(kind_key, np.unique(lab.group, return_inverse=True)[1][record])
    # unknown: a record is its own cluster
    cluster = np.where(lab.cluster == "", lab.name, lab.cluster)
    cluster_key = _joint(group_key, np.unique(cluster, return_inverse=True)[1][record])

    in_cluster = bases / _total(cluster_key, bases)  # sums to 1 over a cluster
    # a cluster counts as its mean genome, not as the sum of its copies
    cluster_size = _total(cluster_key, bases) / _distinct_records(cluster_key, record)
    pull = np.sqrt(cluster_size)
    in_group = in_cluster * pull / _total(group_key, pull * in_cluster)  # sums to 1 over a group
    pull = _total(group_key, cluster_size * in_cluster) ** rules.group_exponent
    # sums to 1 over a (category, kind)
    weight = in_group * pull / _total(kind_key, pull * in_group)
    kind_share = wanted_kind[kind_of_record[record]]
    kind_share = kind_share / np.maximum(_total(category_of, weight * kind_share), 1e-300)
    weight = weight * kind_share * wanted_category[category_of]
    return weight / weight.sum()


def _joint(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_inverse=True)[1]


def _total(key: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each element the sum over its key."""
    return np.bincount(key, weights=values)[key]


def _distinct_records(key: np.ndarray, record: np.ndarray) -> np.ndarray:
    pairs = np.unique(np.stack([key, record]), axis=1)
    return np.bincount(pairs[0], minlength=int(key.max()) + 1)[key].astype(np.float64)


class WindowSampler:
    """Draws windows from one store."""

    def __init__(self, store: Store, rules: WindowRules):
        self.store, self.rules = store, rules
        usable = store.length >= min(rules.shortest, rules.length)
        weight = segment_weights(store, rules) * usable
        self.cumulative = np.cumsum(weight / weight.sum())

    def draw(self, n: int, rng: np.random.Generator) -> Windows:
        """`n` independent windows; segments shorter than the drawn length are taken whole."""
        s, rules = self.store, self.rules
        segment = np.minimum(np.searchsorted(self.cumulative, rng.random(n)), len(s) - 1)
        length = rng.integers(rules.shortest, rules.length + 1, n)
        length = np.where(rng.random(n) < rules.full_share, rules.length, length)
        length = np.minimum(length, s.length[segment])
        offset = (rng.random(n) * (s.length[segment] - length + 1)).astype(np.int64)
        end = np.cumsum(length)
        start = end - length
        source = np.repeat(s.start[segment] + offset - start, length) + np.arange(end[-1])
        codes = s.codes[source]
        rate = np.where(
            rng.random(n) < rules.mutated_share, rng.random(n) * rules.highest_mutation, 0.0
        )
        codes = substitute(codes, np.repeat(rate.astype(np.float32), length), rng)
        record = s.record[segment]
        return Windows(codes, start, end, s.labels.virus[record], record)


def join_windows(parts: list[Windows]) -> Windows:
    """The windows of all parts, end to end."""
    shift = np.cumsum([0] + [len(p.codes) for p in parts[:-1]])
    return Windows(
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.start + k for p, k in zip(parts, shift, strict=True)]),
        np.concatenate([p.end + k for p, k in zip(parts, shift, strict=True)]),
        np.concatenate([p.virus for p in parts]),
        np.concatenate([p.record for p in parts]),
    )


class FragmentSampler:
    """Draws protein fragments, half of them viral."""

    def __init__(self, store: Store, shortest: int = 25, longest: int = 166):
        self.store, self.shortest, self.longest = store, shortest, longest
        virus = store.labels.virus[store.record]
        usable = store.length >= shortest
        self.rows = [np.flatnonzero(usable & (virus == v)) for v in (0, 1)]

    def draw(self, n: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """(codes of each fragment, virus uint8 [n])."""
        s = self.store
        virus = (rng.random(n) < 0.5).astype(np.uint8)
        pick = [self.rows[v][int(rng.integers(len(self.rows[v])))] for v in virus]
        length = np.minimum(rng.integers(self.shortest, self.longest + 1, n), s.length[pick])
        start = s.start[pick] + (rng.random(n) * (s.length[pick] - length + 1)).astype(np.int64)
        return [s.codes[a : a + k] for a, k in zip(start, length, strict=True)], virus
