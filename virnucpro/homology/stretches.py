"""The stop-free stretches of the six frames of whole sequences, as residue codes.

Residue codes are places in `AMINO_ACIDS`; a codon with a letter outside ACGTU is X. A stretch ends
at a stop codon or at the sequence's end, so genes are not cut by chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virnucpro.homology.compiled import compiled, inlined

AMINO_ACIDS = "ARNDCQEGHILKMFPSTWYVX"
X = AMINO_ACIDS.index("X")
STOP = X + 1
APART = X + 1  # stands between two proteins, `GAP` times, and matches nothing
GAP = 28
SHORTEST = 30  # residues; shorter stretches have no hit that counts
# A stretch within one that is so many times as long, on any strand, is no gene but its shadow: left
# out, it takes half of the time of long sequences with it.
SHADOW = 2.5

_CODONS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"  # AAA, AAC, ...
CODON = np.array([STOP if a == "*" else AMINO_ACIDS.index(a) for a in _CODONS], np.uint8)

_NO_TABLE = np.zeros((0, 4), np.int64)
_BASE = np.full(256, 4, np.uint8)
for _letters, _code in (("Aa", 0), ("Cc", 1), ("Gg", 2), ("TtUu", 3)):
    _BASE[[ord(x) for x in _letters]] = _code

_RESIDUE = np.full(256, X, np.uint8)
for _code, _letter in enumerate(AMINO_ACIDS):
    _RESIDUE[[ord(_letter), ord(_letter.lower())]] = _code
for _letter, _like in zip("BZJUO", "DELCK", strict=True):  # ambiguous or rare: the likeliest
    _RESIDUE[[ord(_letter), ord(_letter.lower())]] = AMINO_ACIDS.index(_like)
_RESIDUE[ord("*")] = STOP


@dataclass(frozen=True)
class Proteins:
    """Residues of many proteins in one array, `GAP` times APART before, between and after them."""

    residues: np.ndarray  # uint8 [R]
    begin: np.ndarray  # int64 [P]: where each begins in `residues`
    end: np.ndarray  # int64 [P]

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def length(self) -> np.ndarray:
        """Residues of each protein."""
        return self.end - self.begin

    @classmethod
    def spread(cls, codes: np.ndarray, length: np.ndarray) -> Proteins:
        """Of residue codes end to end."""
        begin = GAP + np.cumsum(length + GAP) - length - GAP
        return cls(spread(codes, length, APART), begin, begin + length)

    @classmethod
    def join(cls, sequences: Sequence[bytes]) -> Proteins:
        """Of proteins in letters."""
        codes = encode_protein(b"".join(sequences))
        return cls.spread(codes, np.array([len(s) for s in sequences], np.int64))


@compiled
def spread(values, length, between):
    """uint8: the values [sum of length] with GAP times `between` before, between and after."""
    out = np.full(len(values) + GAP * (len(length) + 1), between, np.uint8)
    a, at = 0, GAP
    for n in length:
        out[at : at + n] = values[a : a + n]
        a += n
        at += n + GAP
    return out


@dataclass(frozen=True)
class Stretches:
    """Stretches of a batch of sequences, by sequence, strand, frame and place."""

    proteins: Proteins  # [S]
    sequence: np.ndarray  # int32 [S]: which sequence of the batch
    first: np.ndarray  # int64 [S]: first base, 0-based, counted on the stretch's own strand
    reverse: np.ndarray  # bool [S]

    def __len__(self) -> int:
        return len(self.sequence)

    def part(self, rows: slice) -> Stretches:
        """The stretches `rows`, which follow each other."""
        if len(self.proteins.begin[rows]) == len(self):
            return self
        begin, end = self.proteins.begin[rows], self.proteins.end[rows]
        first = begin[0] - GAP
        residues = self.proteins.residues[first : end[-1] + GAP]
        proteins = Proteins(residues, begin - first, end - first)
        return Stretches(proteins, self.sequence[rows], self.first[rows], self.reverse[rows])

    def bases(self, row: int, a: int, b: int, length: int) -> tuple[int, int]:
        """(start, end), 0-based and half-open on the forward strand, of residues a..b of a stretch
        of a sequence of `length` bases.
        """
        start = int(self.first[row]) + 3 * a
        end = int(self.first[row]) + 3 * b
        return (length - end, length - start) if self.reverse[row] else (start, end)


def encode_protein(sequence: bytes) -> np.ndarray:
    """Residue codes uint8 [L]; `*` is STOP, any other unknown letter X."""
    return _RESIDUE[np.frombuffer(sequence, np.uint8)]


def find_stretches(
    sequences: Sequence[bytes], shortest: int = SHORTEST, times: float = SHADOW
) -> Stretches:
    """All stop-free stretches of at least `shortest` residues, those that lie within one that is
    `times` as long left out.
    """
    bases = _BASE[np.frombuffer(b"".join(sequences), np.uint8)]
    edges = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(s) for s in sequences], out=edges[1:])
    table = np.zeros((_find(bases, edges, shortest, CODON, _NO_TABLE), 4), np.int64)
    _find(bases, edges, shortest, CODON, table)
    table = table[~_shadowed(edges, table, times)]
    length = table[:, 3]
    begin = GAP + np.cumsum(length + GAP) - length - GAP
    residues = np.full(int(length.sum()) + GAP * (len(table) + 1), APART, np.uint8)
    _translate(bases, edges, CODON, table, begin, residues)
    proteins = Proteins(residues, begin, begin + length)
    return Stretches(proteins, table[:, 0].astype(np.int32), table[:, 1], table[:, 2].astype(bool))


@compiled
def _find(bases, edges, shortest, codon, table):
    """How many stretches there are; written into `table` int64 [n, 4] where it has room: sequence,
    first base on its strand, reverse, residues.
    """
    n = 0
    for s in range(len(edges) - 1):
        a, length = edges[s], edges[s + 1] - edges[s]
        for reverse in range(2):
            for frame in range(3):
                count = (length - frame) // 3
                begin = 0
                for k in range(count + 1):
                    if k < count and _residue(bases, a, length, reverse, frame + 3 * k, codon) < 21:
                        continue
                    if k - begin >= shortest:
                        if n < len(table):
                            table[n, 0], table[n, 1] = s, frame + 3 * begin
                            table[n, 2], table[n, 3] = reverse, k - begin
                        n += 1
                    begin = k + 1
    return n


@compiled
def _shadowed(edges, table, times):
    """bool [n]: the rows of `table` that longer stretches cover at a quarter, a half and three
    quarters of their length, each `times` as long.
    """
    longest = np.zeros(edges[-1], np.int32)
    for s, first, reverse, residues in table:
        a = edges[s + 1] - first - 3 * residues if reverse else edges[s] + first
        for p in range(a, a + 3 * residues):
            longest[p] = max(longest[p], residues)
    shadowed = np.zeros(len(table), np.bool_)
    for i in range(len(table)):
        s, first, reverse, residues = table[i]
        a = edges[s + 1] - first - 3 * residues if reverse else edges[s] + first
        shadowed[i] = True
        for quarter in range(1, 4):
            if longest[a + 3 * residues * quarter // 4] < times * residues:
                shadowed[i] = False
    return shadowed


@compiled
def _translate(bases, edges, codon, table, begin, residues):
    """The residues of all rows of `table`, from `begin` on."""
    for i in range(len(table)):
        s, first, reverse, n = table[i]
        a, length = edges[s], edges[s + 1] - edges[s]
        for k in range(n):
            residues[begin[i] + k] = _residue(bases, a, length, reverse, first + 3 * k, codon)


@inlined
def _residue(bases, a, length, reverse, p, codon):
    """The residue of the codon that begins at base p of the strand."""
    if reverse:
        e = a + length - 1 - p
        x, y, z = bases[e], bases[e - 1], bases[e - 2]
        if x > 3 or y > 3 or z > 3:
            return np.uint8(20)
        return codon[((3 - x) << 4) | ((3 - y) << 2) | (3 - z)]
    x, y, z = bases[a + p], bases[a + p + 1], bases[a + p + 2]
    if x > 3 or y > 3 or z > 3:
        return np.uint8(20)
    return codon[(x << 4) | (y << 2) | z]
