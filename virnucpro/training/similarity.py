"""How much of a sequence was seen elsewhere: the share of its (sampled) k-mers that another set
holds.

Canonical 21-mers of the DNA find near-identical sequences. A k-mer is sampled by its hash, so both
sides sample the same ones. Low-complexity k-mers (few distinct letters) are ignored: otherwise
AT repeats would make unrelated sequences look alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

DNA_K = 21
_MIX = np.uint64(0x9E3779B97F4A7C15)


def _scramble(x: np.ndarray) -> np.ndarray:
    """splitmix64's finisher: a bijection of uint64 whose low bits are fit to sample by."""
    x = x + _MIX
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sampled(values: np.ndarray, one_in: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions, hashes) of the sampled values."""
    hashed = _scramble(values)
    at = np.flatnonzero(hashed % np.uint64(one_in) == 0)
    return at, hashed[at]


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
    at, hashed = sampled(np.minimum(forward, reverse), one_in)
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
