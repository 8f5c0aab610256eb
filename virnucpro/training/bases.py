"""Bases and codons as small numbers, and back: what stores and k-mers are made of. Knows the
standard code only.
"""

from __future__ import annotations

import numpy as np

from virnucpro.sequences.frames import RESIDUE

BASES = b"ACGT"  # code 0..3; the complement of c is 3 - c
INVALID = 4  # any other letter
AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWY"  # code 0..19
STOP = 20

_BASE_CODE = np.full(256, INVALID, dtype=np.uint8)
_BASE_CODE[list(BASES)] = range(4)
_AMINO_ACID_CODE = np.full(256, STOP, dtype=np.uint8)
_AMINO_ACID_CODE[list(AMINO_ACIDS)] = range(20)
_LETTER = np.frombuffer(BASES + b"N", dtype=np.uint8)
# [16 a + 4 b + c], a stop is STOP
CODON_TO_AMINO_ACID = _AMINO_ACID_CODE[np.frombuffer(RESIDUE[:64], dtype=np.uint8)]


def encode(sequence: bytes) -> np.ndarray:
    """Upper-case bases as codes, uint8 [L]."""
    return _BASE_CODE[np.frombuffer(sequence, dtype=np.uint8)]


def decode(codes: np.ndarray) -> bytes:
    """Codes 0..3 as letters; INVALID is N."""
    return _LETTER[codes].tobytes()


def encode_protein(sequence: bytes) -> np.ndarray:
    """Amino acids as codes 0..19, uint8 [L]; any other letter is STOP."""
    return _AMINO_ACID_CODE[np.frombuffer(sequence.upper(), dtype=np.uint8)]


def decode_protein(codes: np.ndarray) -> bytes:
    """Codes 0..19 as letters."""
    return np.frombuffer(AMINO_ACIDS, dtype=np.uint8)[codes].tobytes()


def substitute(codes: np.ndarray, rate: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Base codes with substitutions at `rate` (a number, or one a base); another base always, never
    the same.
    """
    hit = np.flatnonzero(rng.random(len(codes), dtype=np.float32) < rate)
    out = codes.copy()
    out[hit] = (codes[hit] + rng.integers(1, 4, len(hit), dtype=np.uint8)) & 3
    return out
