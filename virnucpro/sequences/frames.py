"""Chunks -> open frames. Six-frame translation of many chunks at once (SPEC 2).

Knows the standard code and the two frame policies. Does not know of records, names, tokens or files: it is given one buffer of
bases and the chunks' places in it.

Both strands lie in one buffer, the bases and then their reverse complement, so that every frame of every chunk is read
forward: frame f of a chunk [s, e) starts at s + f, or at (2N - e) + f on the other strand.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from Bio.Data import CodonTable

POLICIES = ("open", "longest")
LONGEST_MINIMUM = 20  # residues; the shortest stretch that the policy `longest` takes
FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")

_STOP, _DROPPED = ord("*"), 0
_OTHER = 64  # the code of a base outside ACGT; A C G T are 0..3


def _tables() -> tuple[bytes, bytes, bytes]:
    """`bytes.translate` tables: base -> code, base -> complement (of A, C, G, T only), codon -> residue, `*` or 0."""
    base = bytearray([_OTHER] * 256)
    for code, letter in enumerate(b"ACGT"):
        base[letter] = code
    standard = CodonTable.unambiguous_dna_by_id[1]
    residue = bytearray(256)
    for i in range(64):
        codon = "".join("ACGT"[i >> shift & 3] for shift in (4, 2, 0))
        residue[i] = _STOP if codon in standard.stop_codons else ord(standard.forward_table[codon])
    return bytes(base), bytes.maketrans(b"ACGT", b"TGCA"), bytes(residue)


BASE_CODE, COMPLEMENT, RESIDUE = _tables()


@dataclass(frozen=True)
class Frames:
    """Open frames in the order chunk, then F1 F2 F3 R1 R2 R3; arrays of [n]."""

    chunk: np.ndarray  # int64, row of the chunk
    frame: np.ndarray  # int8, 0..5 = F1 F2 F3 R1 R2 R3
    start: np.ndarray  # int64, 0-based: the codons read, dropped ones too, on the forward strand of the buffer
    end: np.ndarray  # int64, half-open
    dropped_codon: np.ndarray  # bool: a codon with a letter outside ACGT is missing from the protein
    nucleotides: list[bytes]
    proteins: list[bytes]

    def __len__(self) -> int:
        return len(self.chunk)


class _Strands:
    """Both strands of a buffer, translated once in all phases."""

    def __init__(self, bases: bytes):
        self.bases = bases + bases.translate(COMPLEMENT)[::-1]
        self.length = len(bases)
        code = np.frombuffer(self.bases.translate(BASE_CODE), dtype=np.uint8)
        rows = max(-(-len(code) // 3), 1)
        codon = np.full(3 * rows, _OTHER, dtype=np.uint8)
        if len(code) >= 3:
            # a base outside ACGT sets bit 6 or wraps to 0, so it is marked again below
            np.add((code[:-2] << 4) + (code[1:-1] << 2), code[2:], out=codon[: len(code) - 2])
        self.ambiguous = bool((code == _OTHER).any())
        if self.ambiguous:
            other = code == _OTHER
            codon[: len(code) - 2][other[:-2] | other[1:-1] | other[2:]] = _OTHER
        self.rows = rows
        # residues by phase: position p of the buffer lies at (p % 3) * rows + p // 3
        self.residues = codon.reshape(rows, 3).T.tobytes().translate(RESIDUE)
        self.residue_codes = np.frombuffer(self.residues, dtype=np.uint8)

    def place(self, position: np.ndarray) -> np.ndarray:
        """Where the codon that starts at `position` lies in `residues`; the next of its frame is the next there."""
        return (position % 3) * self.rows + position // 3

    @cached_property
    def stops_before(self) -> np.ndarray:
        return _count_before(self.residue_codes == _STOP)

    @cached_property
    def dropped_before(self) -> np.ndarray:
        return _count_before(self.residue_codes == _DROPPED)


def _count_before(marks: np.ndarray) -> np.ndarray:
    """int32 [n + 1]: how many marks lie before each place."""
    counts = np.zeros(len(marks) + 1, dtype=np.int32)
    np.cumsum(marks, dtype=np.int32, out=counts[1:])
    return counts


def open_frames(bases: bytes, start: np.ndarray, end: np.ndarray, policy: str = "open") -> Frames:
    """The frames that `policy` takes from the chunks [start, end) of `bases` (upper case), int64 [n] each.

    `open`: every frame without a stop and with a residue; its nucleotides are 3 * residues + 1 bases from its start, one
    fewer where the chunk ends. `longest`: of each chunk the longest stop-free stretch (most residues, at least 20; ties go to
    the first of F1 F2 F3 R1 R2 R3, then to the first in reading direction), from its first to its last residue; its
    nucleotides are its codons and the base after, where the chunk has one. In both, a codon with a letter outside ACGT adds
    nothing to the protein and is flagged; it neither counts as a residue nor ends a stretch.
    """
    strands = _Strands(bases)
    start, end = np.asarray(start, dtype=np.int64), np.asarray(end, dtype=np.int64)
    reverse = 2 * strands.length - end
    offset = np.arange(3)
    first = np.concatenate([start[:, None] + offset, reverse[:, None] + offset], axis=1)  # [n, 6], where frames start
    codons = np.repeat(np.maximum((end - start)[:, None] - offset, 0) // 3, 2, axis=0).reshape(-1, 6)
    chunk_end = np.concatenate([np.repeat(end[:, None], 3, 1), np.repeat((reverse + end - start)[:, None], 3, 1)], axis=1)
    take = {"open": _take_open, "longest": _take_longest}[policy]
    chunk, frame, first_base, n_codons = take(strands, first, codons)
    return _materialise(strands, chunk, frame, first_base, n_codons, chunk_end[chunk, frame], policy)


def _take_open(strands: _Strands, first: np.ndarray, codons: np.ndarray):
    """Frames without a stop and with a residue: (chunk, frame, first base, codons), each [frames]."""
    place = strands.place(first)
    place[codons == 0] = 0
    stops = strands.stops_before[place + codons] - strands.stops_before[place]
    residues = codons
    if strands.ambiguous:
        residues = codons - (strands.dropped_before[place + codons] - strands.dropped_before[place])
    chunk, frame = np.nonzero((stops == 0) & (residues > 0))
    return chunk, frame, first[chunk, frame], codons[chunk, frame]


def _take_longest(strands: _Strands, first: np.ndarray, codons: np.ndarray):
    """The longest stop-free stretch of each chunk: (chunk, frame, first base, codons), each [chunks that have one]."""
    counts = codons.ravel()
    place = np.where(counts > 0, strands.place(first).ravel(), 0)
    at = np.arange(counts.sum()) + np.repeat(place - (np.cumsum(counts) - counts), counts)  # places of all codons
    frame_of = np.repeat(np.arange(len(counts)), counts)  # chunk * 6 + frame
    residue = strands.residue_codes[at]
    kept = np.flatnonzero((residue != _STOP) & (residue != _DROPPED))
    if not len(kept):
        return (np.zeros(0, dtype=np.int64),) * 4
    stops = np.cumsum(residue == _STOP)[kept] + frame_of[kept]  # equal exactly within a stretch: both never fall
    opens = np.flatnonzero(np.concatenate([[True], np.diff(stops) != 0]))
    length = np.diff(np.append(opens, len(kept)))  # residues of each stretch
    chunk = frame_of[kept[opens]] // 6
    best = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(best, chunk, length)
    winners = np.flatnonzero((length == best[chunk]) & (length >= LONGEST_MINIMUM))
    winners = winners[np.unique(chunk[winners], return_index=True)[1]]
    from_codon, to_codon = kept[opens[winners]], kept[opens[winners] + length[winners] - 1]
    row = frame_of[from_codon]
    skipped = from_codon - (np.cumsum(counts) - counts)[row]
    return row // 6, row % 6, first.ravel()[row] + 3 * skipped, to_codon - from_codon + 1


def _materialise(strands: _Strands, chunk, frame, first, codons, chunk_end, policy: str) -> Frames:
    place = strands.place(first)
    residues = strands.residues
    proteins = [residues[a:b] for a, b in zip(place.tolist(), (place + codons).tolist(), strict=True)]
    dropped = np.zeros(len(chunk), dtype=bool)
    length = codons
    if strands.ambiguous:
        dropped = strands.dropped_before[place + codons] > strands.dropped_before[place]
        for i in np.flatnonzero(dropped):
            proteins[i] = proteins[i].replace(b"\0", b"")
        if policy == "open":
            length = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    bases = strands.bases
    last = np.minimum(first + 3 * length + 1, chunk_end)
    nucleotides = [bases[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
    forward = frame < 3
    begin = np.where(forward, first, 2 * strands.length - first - 3 * codons)
    return Frames(chunk, frame.astype(np.int8), begin, begin + 3 * codons, dropped, nucleotides, proteins)
