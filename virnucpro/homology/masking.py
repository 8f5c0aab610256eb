"""Repeats of low complexity, which are no seeds: they would match strangers (tantan, as in
DIAMOND).
"""

from __future__ import annotations

import numpy as np
from pytantan import RepeatFinder
from scoring_matrices import ScoringMatrix

from virnucpro.homology.stretches import AMINO_ACIDS, Proteins, X

PROBABILITY = 0.9  # of being part of a repeat
_LETTERS = np.frombuffer((AMINO_ACIDS[:20] + "AA").encode(), np.uint8)  # X is no seed anyway


def repeats(proteins: Proteins) -> np.ndarray:
    """bool [R]: the residues that are part of a repeat."""
    finder = RepeatFinder(ScoringMatrix.from_name("BLOSUM62").shuffle(AMINO_ACIDS[:20]))
    text = _LETTERS[proteins.residues].tobytes()
    masked = np.zeros(len(text), bool)
    for a, b in zip(proteins.begin.tolist(), proteins.end.tolist(), strict=True):
        masked[a:b] = np.asarray(finder.get_probabilities(text[a:b])) >= PROBABILITY
    return masked


def seed_residues(proteins: Proteins, masked: np.ndarray) -> np.ndarray:
    """The residues, X where they may not be part of a seed."""
    return np.where(masked, np.uint8(X), proteins.residues)
