"""Coding sequences -> invented distant relatives: residues replaced as BLOSUM62 replaces them,
frames kept open.

A position takes a codon from elsewhere in its own sequence, drawn in proportion to the odds of the
two residues. So composition, codon usage and the absence of stops are the sequence's own. Does not
know of windows or tokens.
"""

from __future__ import annotations

import numpy as np

from virnucpro.training.store import CODON_TO_AMINO_ACID

CANDIDATES = 8  # places that offer their codon to a position
# BLOSUM62 in half bits, rows and columns in the order of `training.store.AMINO_ACIDS`
BLOSUM62 = np.array(
    [
        [int(x) for x in row.split()]
        for row in """\
 4  0 -2 -1 -2  0 -2 -1 -1 -1 -1 -2 -1 -1 -1  1  0  0 -3 -2
 0  9 -3 -4 -2 -3 -3 -1 -3 -1 -1 -3 -3 -3 -3 -1 -1 -1 -2 -2
-2 -3  6  2 -3 -1 -1 -3 -1 -4 -3  1 -1  0 -2  0 -1 -3 -4 -3
-1 -4  2  5 -3 -2  0 -3  1 -3 -2  0 -1  2  0  0 -1 -2 -3 -2
-2 -2 -3 -3  6 -3 -1  0 -3  0  0 -3 -4 -3 -3 -2 -2 -1  1  3
 0 -3 -1 -2 -3  6 -2 -4 -2 -4 -3  0 -2 -2 -2  0 -2 -3 -2 -3
-2 -3 -1  0 -1 -2  8 -3 -1 -3 -2  1 -2  0  0 -1 -2 -3 -2  2
-1 -1 -3 -3  0 -4 -3  4 -3  2  1 -3 -3 -3 -3 -2 -1  3 -3 -1
-1 -3 -1  1 -3 -2 -1 -3  5 -2 -1  0 -1  1  2  0 -1 -2 -3 -2
-1 -1 -4 -3  0 -4 -3  2 -2  4  2 -3 -3 -2 -2 -2 -1  1 -2 -1
-1 -1 -3 -2  0 -3 -2  1 -1  2  5 -2 -2  0 -1 -1 -1  1 -1 -1
-2 -3  1  0 -3  0  1 -3  0 -3 -2  6 -2  0  0  1  0 -3 -4 -2
-1 -3 -1 -1 -4 -2 -2 -3 -1 -3 -2 -2  7 -1 -2 -1 -1 -2 -4 -3
-1 -3  0  2 -3 -2  0 -3  1 -2  0  0 -1  5  1  0 -1 -2 -2 -1
-1 -3 -2  0 -3 -2  0 -3  2 -2 -1  0 -2  1  5 -1 -1 -3 -3 -2
 1 -1  0  0 -2  0 -1 -2  0 -2 -1  1 -1  0 -1  4  1 -2 -3 -2
 0 -1 -1 -1 -2 -2 -2 -1 -1 -1 -1  0 -1 -1 -1  1  5  0 -2 -2
 0 -1 -3 -2 -1 -3 -3  3 -2  1  1 -3 -2 -2 -3 -2  0  4 -3 -1
-3 -2 -4 -3  1 -2 -2 -3 -3 -2 -1 -4 -4 -2 -3 -3 -2 -3 11  2
-2 -2 -3 -2  3 -3  2 -1 -2 -1 -1 -2 -3 -1 -2 -2 -2 -1  2  7""".splitlines()
    ]
)
_LOG_ODDS = np.log(2) / 2 * BLOSUM62
# stops do not occur
_LOG_ODDS_CODONS = _LOG_ODDS[np.ix_(*[np.minimum(CODON_TO_AMINO_ACID, 19)] * 2)].astype(np.float32)


def donors(
    lengths: np.ndarray,
    residues: np.ndarray,
    rate: np.ndarray,
    odds: np.ndarray,
    rng: np.random.Generator,
):
    """For sequences end to end: (positions hit, the position in the same sequence that each takes
    after).

    `lengths` int64 [n], `residues` [sum] indexes `odds`, `rate` float [n] the share of positions of
    each that are drawn again (many come out as they were, since a residue most readily replaces
    itself).
    """
    first = np.cumsum(lengths) - lengths
    hit = np.flatnonzero(
        rng.random(len(residues), dtype=np.float32) < np.repeat(rate.astype(np.float32), lengths)
    )
    of = np.repeat(np.arange(len(lengths)), lengths)[hit]
    offered = first[of, None] + (rng.random((len(hit), CANDIDATES)) * lengths[of, None]).astype(
        np.int64
    )
    weight = odds[residues[hit, None], residues[offered]] + rng.gumbel(size=offered.shape)
    return hit, offered[np.arange(len(hit)), weight.argmax(axis=1)]


def distant_codons(
    codons: np.ndarray, lengths: np.ndarray, rate: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Codons (16 a + 4 b + c) of stop-free sequences end to end, with `rate` [n] of each drawn
    again.
    """
    hit, source = donors(lengths, codons, rate, _LOG_ODDS_CODONS, rng)
    out = codons.copy()
    out[hit] = codons[source]
    return out


def distant_residues(
    residues: np.ndarray, lengths: np.ndarray, rate: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The same for amino acid codes 0..19."""
    hit, source = donors(lengths, residues, rate, _LOG_ODDS, rng)
    out = residues.copy()
    out[hit] = residues[source]
    return out
