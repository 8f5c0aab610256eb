"""9-mers of proteins and of the six translated frames: they find relatives of a family, where the
21-mers of `training.similarity` find near-identical sequences.
"""

from __future__ import annotations

import numpy as np

from virnucpro.training.similarity import sampled
from virnucpro.training.store import CODON_TO_AMINO_ACID, STOP

PROTEIN_K = 9


def protein_kmers(codes: np.ndarray, one_in: int = 8) -> np.ndarray:
    """Sampled hashes of the 9-mers of amino acid codes (0..19; STOP and above break), uint64."""
    n = len(codes) - PROTEIN_K + 1
    if n <= 0:
        return np.zeros(0, np.uint64)
    value = np.zeros(n, dtype=np.uint64)
    for j in range(PROTEIN_K):
        value = value * np.uint64(21) + np.minimum(codes[j : j + n], STOP)
    at, hashed = sampled(value, one_in)
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
