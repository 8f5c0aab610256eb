"""What the hits of a sequence say together: numbers a logistic model weighs, the closest virus, and
what kind of cell the others come from.

A hit counts by how far its bit score is over LEAST_BITS, below which chance finds as many hits in
any sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from virnucpro.homology.choice import LABELS
from virnucpro.homology.compiled import compiled
from virnucpro.homology.reference import Reference
from virnucpro.homology.search import LEAST_BITS, Hits

SCALE = 10.0  # bits over the least that count about linearly; more count by their logarithm
REPORTED_E = 1e-3  # E value of hits that are counted and written
CELLULAR = tuple(label for label in LABELS if label != "viral")
PART = 10_000  # bases: the longest contigs on which the weights were fitted
MOST = 0.5  # of a sequence
PLASMID_SHARE = 0.5  # of the cellular score, from which on a sequence is like a plasmid


@dataclass(frozen=True)
class Evidence:
    """One entry a sequence; [N] each."""

    features: np.ndarray  # float64 [N, FEATURES], see weights.py
    lead: np.ndarray  # float64: bits of the best viral over the best other hit, each at least 30
    closest_virus: np.ndarray  # int32: row of the reference, -1 without a hit
    closest_identity: np.ndarray  # float64: identical among aligned columns; NaN without a hit
    viral_hits: np.ndarray  # int32
    cellular_hits: np.ndarray  # int32
    cellular_like: np.ndarray  # int8: place in LABELS of most of the cellular score, or -1
    plasmid_like: np.ndarray  # bool
    in_part: np.ndarray  # bool: long, and viral proteins cover less than half of it

    def __len__(self) -> int:
        return len(self.closest_virus)

    @classmethod
    def concatenate(cls, parts: Sequence[Evidence]) -> Evidence:
        """The evidence of all parts, in their order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def weigh(hits: Hits, lengths: np.ndarray, reference: Reference) -> Evidence:
    """The evidence of a batch's sequences, `lengths` bases long [N]."""
    n = len(lengths)
    label = reference.label_code[hits.protein]
    excess = np.maximum(hits.bits - LEAST_BITS, 0.0)
    best = np.zeros((n, len(LABELS)))
    np.maximum.at(best, (hits.sequence, label), excess)
    best_viral, best_cellular = best[:, 0], best[:, 1:].max(axis=1)
    sure = hits.evalue <= REPORTED_E
    told = np.flatnonzero(sure)
    total = _summed(hits.select(told), excess[told], label[told], best.shape)
    closest, identity = _closest(hits, sure & (label == 0), n)
    cellular = total[:, 1:]
    some = cellular.sum(axis=1)
    plasmid = total[:, LABELS.index("plasmid")]
    known = total[:, 1 : LABELS.index("cellular")]
    return Evidence(
        _features(hits, excess, label, lengths),
        (best_viral - best_cellular).round(1),
        closest,
        identity,
        np.bincount(hits.sequence[sure & (label == 0)], minlength=n).astype(np.int32),
        np.bincount(hits.sequence[sure & (label > 0)], minlength=n).astype(np.int32),
        np.where(known.max(axis=1) > 0, 1 + known.argmax(axis=1), -1).astype(np.int8),
        (some > 0) & (plasmid >= PLASMID_SHARE * some) & (best_cellular >= best_viral),
        (lengths > PART) & (_viral_bases(hits.select(told), label[told], n) < MOST * lengths),
    )


def _features(hits: Hits, excess: np.ndarray, label: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """float64 [N, FEATURES], see weights.py: of a long sequence the mean of its parts', so that a
    phage within a chromosome counts as the part that it is.
    """
    count = np.maximum(-(-lengths // PART), 1)  # parts, of equal length, of each sequence
    first = np.cumsum(count) - count
    of = count[hits.sequence]
    place = (hits.start + hits.end) // 2 * of // np.maximum(lengths[hits.sequence], 1)
    part = first[hits.sequence] + np.clip(place, 0, of - 1)
    order = np.argsort(part, kind="stable")  # within a part the scores still fall
    part = part[order].astype(hits.sequence.dtype)  # hits_apart is compiled for one type
    hits, excess = replace(hits.select(order), sequence=part), excess[order]
    side = np.minimum(label[order], 1)
    best = np.zeros((int(count.sum()), 2))
    np.maximum.at(best, (hits.sequence, side), excess)
    sums = _summed(hits, excess, side, best.shape)
    sums /= np.repeat(np.maximum(lengths, 1) / count / 1000, count)[:, None]  # a kilobase
    best, sign = _squeezed(best), np.sign(best[:, 0] - best[:, 1])
    columns = np.column_stack([best, _squeezed(sums), sign, best[:, 0] - best[:, 1]])
    return np.add.reduceat(columns, first) / count[:, None] if len(count) else columns


def _viral_bases(hits: Hits, label: np.ndarray, n: int) -> np.ndarray:
    """int64 [n]: of each sequence, the bases within viral hits that better hits leave."""
    apart = hits_apart(hits.sequence, hits.start, hits.end, np.zeros_like(label))
    bases = (hits.end - hits.start) * (apart & (label == 0))
    return np.bincount(hits.sequence, bases, n).astype(np.int64)


def _squeezed(bits: np.ndarray) -> np.ndarray:
    return np.log1p(bits / SCALE)


def _summed(hits: Hits, excess: np.ndarray, kind: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """float64 [N, kinds]: the summed scores of hits that do not overlap better ones."""
    total = np.zeros(shape)
    apart = hits_apart(hits.sequence, hits.start, hits.end, kind)
    np.add.at(total, (hits.sequence[apart], kind[apart]), excess[apart])
    return total


def _closest(hits: Hits, viral: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(row of the reference, identity) of the best hit of every sequence among `viral`."""
    closest, identity = np.full(n, -1, np.int32), np.full(n, np.nan)
    rows = np.flatnonzero(viral)  # by sequence and falling score: the first is the best
    sequence, first = np.unique(hits.sequence[rows], return_index=True)
    best = rows[first]
    closest[sequence] = hits.protein[best]
    identity[sequence] = hits.identical[best] / np.maximum(hits.columns[best], 1)
    return closest, identity


@compiled
def hits_apart(sequence, start, end, kind):
    """bool [H]: the hits that overlap better ones of their kind by less than half. They come by
    sequence and falling score.
    """
    apart = np.ones(len(sequence), np.bool_)
    taken = np.empty(len(sequence), np.int64)
    n = 0
    for i in range(len(sequence)):
        if i == 0 or sequence[i] != sequence[i - 1]:
            n = 0
        for j in range(n):
            t = taken[j]
            if kind[t] == kind[i] and 2 * (min(end[i], end[t]) - max(start[i], start[t])) >= (
                end[i] - start[i]
            ):
                apart[i] = False
                break
        if apart[i]:
            taken[n] = i
            n += 1
    return apart
