"""How much of a sequence was seen elsewhere: the share of its (sampled) k-mers that another set
holds.

Two kinds of k-mers: 9-mers of the six translated frames, which see relatives of a family, and
canonical 21-mers of the DNA, which see near-identical sequences. A k-mer is sampled by its hash, so
both sides sample the same ones. Low-complexity k-mers (few distinct letters) are ignored: AT
repeats would make strangers relatives.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from virnucpro.training.bases import CODON_TO_AMINO_ACID, STOP

PROTEIN_K, DNA_K = 9, 21
_MIX = np.uint64(0x9E3779B97F4A7C15)


def _scramble(x: np.ndarray) -> np.ndarray:
    """splitmix64's finisher: a bijection of uint64 whose low bits are fit to sample by."""
    x = x + _MIX
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sampled(values: np.ndarray, one_in: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, hashes) of the sampled values."""
    hashed = _scramble(values)
    at = np.flatnonzero(hashed % np.uint64(one_in) == 0)
    return at, hashed[at]


def protein_kmers(codes: np.ndarray, one_in: int = 8) -> np.ndarray:
    """Sampled hashes of the 9-mers of amino acid codes (0..19; STOP and above break), uint64."""
    n = len(codes) - PROTEIN_K + 1
    if n <= 0:
        return np.zeros(0, np.uint64)
    value = np.zeros(n, dtype=np.uint64)
    for j in range(PROTEIN_K):
        value = value * np.uint64(21) + np.minimum(codes[j : j + n], STOP)
    at, hashed = _sampled(value, one_in)
    kmers = codes[at[:, None] + np.arange(PROTEIN_K)]  # [k, 9]
    changes = (kmers[:, 1:] != kmers[:, :-1]).sum(axis=1)
    distinct = (np.diff(np.sort(kmers, axis=1), axis=1) > 0).sum(axis=1) + 1
    return hashed[(kmers < STOP).all(axis=1) & (changes >= 6) & (distinct >= 5)]


def translated_kmers(bases: np.ndarray, one_in: int = 8) -> np.ndarray:
    """Sampled 9-mers of the six frames of base codes uint8 [L] (0..3)."""
    out = []
    for strand in (bases, 3 - bases[::-1]):
        if len(strand) < 3 * PROTEIN_K:
            continue
        codons = CODON_TO_AMINO_ACID[(strand[:-2] << 4) + (strand[1:-1] << 2) + strand[2:]]
        out += [protein_kmers(codons[f::3], one_in) for f in range(3)]
    return np.concatenate(out) if out else np.zeros(0, np.uint64)


def dna_kmers(bases: np.ndarray, one_in: int = 8) -> np.ndarray:
    """Sampled hashes of the canonical 21-mers of base codes uint8 [L] (0..3), low complexity left
    out.
    """
    n = len(bases) - DNA_K + 1
    if n <= 0:
        return np.zeros(0, np.uint64)
    forward = np.zeros(n, dtype=np.uint64)
    reverse = np.zeros(n, dtype=np.uint64)
    for j in range(DNA_K):
        part = bases[j : j + n].astype(np.uint64)
        forward = (forward << np.uint64(2)) | part
        reverse |= (np.uint64(3) - part) << np.uint64(2 * j)
    at, hashed = _sampled(np.minimum(forward, reverse), one_in)
    kmers = bases[at[:, None] + np.arange(DNA_K)]  # [k, 21]
    pairs = np.sort(kmers[:, 1:] * 4 + kmers[:, :-1], axis=1)
    distinct = (np.diff(pairs, axis=1) > 0).sum(axis=1) + 1  # of the 16 dinucleotides
    return hashed[distinct >= 8]


def kmer_set(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sorted distinct hashes."""
    return np.unique(np.concatenate(list(parts) or [np.zeros(0, np.uint64)]))


def contained(kmers: np.ndarray, in_set: np.ndarray) -> np.ndarray:
    """bool [n]: which of `kmers` are in the sorted set."""
    if not len(in_set):
        return np.zeros(len(kmers), dtype=bool)
    at = np.minimum(np.searchsorted(in_set, kmers), len(in_set) - 1)
    return in_set[at] == kmers


def share_seen(kmers: np.ndarray, in_set: np.ndarray) -> float:
    """The share of `kmers` in the set; 0 where there are none."""
    return float(contained(kmers, in_set).mean()) if len(kmers) else 0.0
