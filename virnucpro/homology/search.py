"""Sequences in, hits against a reference out: stretches, masking, seeds, alignments.

The same hits for any number of threads and any division into batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from virnucpro.homology.alignment import (
    FLAT_MATRIX,
    LAMBDA,
    MATRIX,
    K,
    align_all,
    bit_score,
    composition_bias,
    e_value,
    window_scores,
)
from virnucpro.homology.masking import repeats, seed_residues
from virnucpro.homology.reference import Reference
from virnucpro.homology.seeds import MASKS, SHAPES, UNKNOWN, comparable, index_seeds, scan
from virnucpro.homology.stretches import GAP, Proteins, Stretches, find_stretches

LEAST_BITS = 30.0  # of a hit
LEAST_SCORE = (LEAST_BITS * math.log(2) + math.log(K)) / LAMBDA
MOST_RESIDUES = 2_500_000  # that are searched at once; 2 million bases have half of them
MOST = 8  # hits of a stretch with viral proteins, and as many with others


@dataclass(frozen=True)
class Hits:
    """Alignments of a batch, by sequence and falling score; arrays [H]."""

    sequence: np.ndarray  # int32: which sequence of the batch
    protein: np.ndarray  # int32: row of the reference
    start: np.ndarray  # int64: first base, 0-based, on the forward strand
    end: np.ndarray  # int64: one after the last base
    reverse: np.ndarray  # bool
    identical: np.ndarray  # int32 residues
    columns: np.ndarray  # int32: columns of the alignment
    bits: np.ndarray  # float64
    evalue: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.sequence)

    def select(self, rows: np.ndarray) -> Hits:
        """The hits `rows`."""
        return Hits(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Hits]) -> Hits:
        """The hits of all parts, in their order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def search(
    sequences: Sequence[bytes], reference: Reference, threads: int = 1, most: int = MOST
) -> Hits:
    """The hits of a batch of sequences, at most one of a stretch and a protein: of every stretch
    the `most` best with viral proteins, and as many with others.
    """
    stretches = find_stretches(sequences)
    length = np.array([len(s) for s in sequences], np.int64)
    parts = -(-int(stretches.proteins.length.sum()) // MOST_RESIDUES)
    with ThreadPoolExecutor(threads) as pool:
        found = [
            _hits_of(stretches.part(rows), length, reference, pool, threads, most)
            for rows in _parts(len(stretches), max(1, parts))
        ]
    hits = Hits.concatenate(found)
    keys = (hits.protein, hits.start, hits.reverse, -hits.bits, hits.sequence)
    return hits.select(np.lexsort(keys))


def _hits_of(
    stretches: Stretches,
    length: np.ndarray,
    reference: Reference,
    pool: ThreadPoolExecutor,
    threads: int,
    most: int,
) -> Hits:
    """The hits of some stretches of sequences of `length` bases, in no order."""
    proteins, target = stretches.proteins, reference.proteins
    bias = composition_bias(proteins)
    candidates = best_of_pairs(
        _candidates(proteins, bias, reference, pool, threads), proteins, target
    )
    scores = np.zeros(len(candidates), np.float32)
    query = (proteins.residues, bias)

    def look(part: slice) -> None:
        places = np.ascontiguousarray(candidates[part, 2:4])
        window_scores(query, target.residues, places, FLAT_MATRIX, scores[part])

    list(pool.map(look, _parts(len(candidates), 8 * threads)))
    candidates = strongest(candidates, scores, reference.viral, most)
    pairs = as_pairs(candidates, proteins, target)
    aligned = np.zeros((len(pairs), 7), np.int32)

    def align(part: slice) -> None:
        align_all(query, target.residues, pairs[part], MATRIX, aligned[part])

    list(pool.map(align, _parts(len(pairs), 8 * threads)))
    return _as_hits(length, stretches, reference, candidates, aligned)


def strongest(
    candidates: np.ndarray, scores: np.ndarray, viral: np.ndarray, most: int
) -> np.ndarray:
    """The candidates that may be hits: of every stretch the `most` best with viral
    and the `most` best with other proteins.
    """
    keep = scores >= LEAST_SCORE
    candidates, scores = candidates[keep], scores[keep]
    kind = 2 * candidates[:, 0] + viral[candidates[:, 1]]
    order = np.lexsort((candidates[:, 1], -scores, kind))
    kind = kind[order]
    first = np.flatnonzero(np.diff(kind, prepend=-1))
    place = np.arange(len(kind)) - np.repeat(first, np.diff(first, append=len(kind)))
    return candidates[np.sort(order[place < most])]


def _parts(n: int, parts: int) -> list[slice]:
    edges = np.linspace(0, n, parts + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def _candidates(proteins: Proteins, bias, reference: Reference, pool, threads: int) -> np.ndarray:
    """int32 [C, 3], as `scan` writes them, of all shapes and the whole reference."""
    seeds = seed_residues(proteins, repeats(proteins))
    query = (proteins.residues, seeds, bias, comparable(proteins.residues, UNKNOWN))
    target = (reference.proteins.residues, reference.seeds, reference.codes)
    parts = _parts(len(reference.seeds) - GAP, 8 * threads)
    found = []
    for which, shape in enumerate(SHAPES):
        index = index_seeds(seeds, shape)
        used = (shape, MASKS[:which], MASKS[which])

        def read(part: slice, index=index, used=used) -> np.ndarray:
            return scan(query, target, index, (part.start, part.stop), used, MATRIX)

        found += pool.map(read, parts)
    return np.concatenate(found)


def best_of_pairs(found: np.ndarray, query: Proteins, target: Proteins) -> np.ndarray:
    """int64 [P, 5]: stretch, protein, places in both in the middle of the best extension, and its
    score, of every pair.
    """
    row = np.searchsorted(query.begin, found[:, 0], "right") - 1
    protein = np.searchsorted(target.begin, found[:, 1], "right") - 1
    table = np.stack([row, protein, found[:, 0], found[:, 1], found[:, 2]], 1)
    order = np.lexsort((table[:, 3], table[:, 2], -table[:, 4], protein, row))
    table = table[order]
    first = np.ones(len(table), bool)
    first[1:] = (table[1:, :2] != table[:-1, :2]).any(axis=1)
    return table[first]


def as_pairs(candidates: np.ndarray, query: Proteins, target: Proteins) -> np.ndarray:
    """int64 [P, 5] for `align_all`."""
    row, protein = candidates[:, 0], candidates[:, 1]
    a, b = query.begin[row], target.begin[protein]
    diagonal = (candidates[:, 3] - b) - (candidates[:, 2] - a)
    return np.stack([a, query.end[row], b, target.end[protein], diagonal], 1)


def _as_hits(length, stretches: Stretches, reference, pairs, aligned) -> Hits:
    row = pairs[:, 0]
    bits = bit_score(aligned[:, 0].astype(float))
    evalue = e_value(bits, stretches.proteins.length[row], reference.n_residues)
    length = length[stretches.sequence[row]]
    a = stretches.first[row] + 3 * aligned[:, 1]
    b = stretches.first[row] + 3 * aligned[:, 2]
    reverse = stretches.reverse[row]
    hits = Hits(
        stretches.sequence[row],
        pairs[:, 1].astype(np.int32),
        np.where(reverse, length - b, a),
        np.where(reverse, length - a, b),
        reverse,
        aligned[:, 5],
        aligned[:, 6],
        bits,
        evalue,
    )
    return hits.select(np.flatnonzero(bits >= LEAST_BITS))
