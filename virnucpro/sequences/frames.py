"""Chunks -> open frames. Six-frame translation of many chunks at once (SPEC 2).

Knows the standard code and the frame policies. Does not know of records, names, tokens or files: it
is given one buffer of bases and the chunks' places in it.

The codons of the forward strand serve both directions: a frame of the other strand is read over the
same places from its right end to its left, with each codon's complement. Stops are found once for a
whole buffer; only open frames are translated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from Bio.Data import CodonTable

from virnucpro.settings import FRAME_POLICIES, STRETCHES

# residues; the shortest stretch that the policies `longest` and `stretches` take
LONGEST_MINIMUM = 20
# `stretches` takes six from a sequence of one chunk, three from each of two, and two from each of
# more
MOST_OF_A_SEQUENCE, MOST_OF_A_CHUNK = 6, 2
# numerator and denominator: two fifths of its residues the others must have
LEAST_OF_THE_LONGEST = 2, 5
FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")

_STOP = ord("*")
# the code of a base outside ACGT, and of a codon with one; A C G T are 0..3, codons 0..63
_OTHER = 64
_STOPS, _STOPS_BACKWARD = 1, 2  # marks of a codon, bits
_NOWHERE = np.iinfo(np.int64).max


def _tables() -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """`bytes.translate` tables: base -> code, base -> complement (of A, C, G, T only), codon ->
    residue, `*` or 0, the same for its reverse complement, codon -> marks.
    """
    base = bytearray([_OTHER] * 256)
    for code, letter in enumerate(b"ACGT"):
        base[letter] = code
    standard = CodonTable.unambiguous_dna_by_id[1]
    residue, backward, marks = bytearray(256), bytearray(256), bytearray(256)
    for i in range(64):
        first, second, third = i >> 4, i >> 2 & 3, i & 3
        codon = "ACGT"[first] + "ACGT"[second] + "ACGT"[third]
        residue[i] = _STOP if codon in standard.stop_codons else ord(standard.forward_table[codon])
        backward[(3 - third) << 4 | (3 - second) << 2 | 3 - first] = residue[i]
    for i in range(64):
        marks[i] = _STOPS * (residue[i] == _STOP) | _STOPS_BACKWARD * (backward[i] == _STOP)
    return (
        bytes(base),
        bytes.maketrans(b"ACGT", b"TGCA"),
        bytes(residue),
        bytes(backward),
        bytes(marks),
    )


BASE_CODE, COMPLEMENT, RESIDUE, RESIDUE_BACKWARD, MARKS = _tables()


@dataclass(frozen=True)
class Frames:
    """The frames that a policy takes, in the order chunk, then F1 F2 F3 R1 R2 R3; arrays of [n]."""

    chunk: np.ndarray  # int64, row of the chunk
    frame: np.ndarray  # int8, 0..5 = F1 F2 F3 R1 R2 R3
    # int64, 0-based: the codons read, dropped ones too, on the forward strand of the buffer
    start: np.ndarray
    end: np.ndarray  # int64, half-open
    # bool: a codon with a letter outside ACGT is missing from the protein
    dropped_codon: np.ndarray
    nucleotides: list[bytes]
    proteins: list[bytes]

    def __len__(self) -> int:
        return len(self.chunk)


class _Codons:
    """The codons of a buffer by phase: the one that starts at p lies at (p % 3) * rows + p // 3,
    the next of its frame beside it.

    codes: bytes; stops: int64, where codons stop, of the forward reading and then of the backward
    one, each ascending with a last one beyond all places; dropped: int64, where codons hold a
    letter outside ACGT.
    """

    def __init__(self, bases: bytes):
        code = np.frombuffer(bases.translate(BASE_CODE), dtype=np.uint8)
        self.rows = max(-(-len(code) // 3), 1)
        codon = np.full(3 * self.rows, _OTHER, dtype=np.uint8)
        other = code == _OTHER
        if len(code) >= 3:
            inner = codon[: len(code) - 2]
            np.left_shift(code[:-2], 2, out=inner)
            inner += code[1:-1]
            np.left_shift(inner, 2, out=inner)
            inner += code[2:]
            if other.any():
                inner[other[:-2] | other[1:-1] | other[2:]] = _OTHER
        self.codes = codon.reshape(self.rows, 3).T.tobytes()
        marks = np.frombuffer(self.codes.translate(MARKS), dtype=np.uint8)
        marked = np.flatnonzero(marks != 0)
        kinds = marks[marked]
        forward, backward = (marked[(kinds & kind) != 0] for kind in (_STOPS, _STOPS_BACKWARD))
        self.stops = np.concatenate([forward, [_NOWHERE], backward, [_NOWHERE]])
        self._n_forward = len(forward) + 1
        self.dropped = (
            np.flatnonzero(np.frombuffer(self.codes, dtype=np.uint8) == _OTHER)
            if other.any()
            else np.zeros(0, np.int64)
        )

    def place(self, position: np.ndarray) -> np.ndarray:
        """Where the codon that starts at `position` lies."""
        return (position % 3) * self.rows + position // 3

    def next_stop(self, place: np.ndarray) -> np.ndarray:
        """Index into `stops` of the first one at or after each of the places [n, 6] of F1 F2 F3 R1
        R2 R3.
        """
        forward, backward = self.stops[: self._n_forward], self.stops[self._n_forward :]
        return np.concatenate(
            [
                np.searchsorted(forward, place[:, :3]),
                np.searchsorted(backward, place[:, 3:]) + self._n_forward,
            ],
            axis=1,
        )

    def n_dropped(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray | int:
        """How many of the codons [begin, end) are dropped."""
        return (
            np.searchsorted(self.dropped, end) - np.searchsorted(self.dropped, begin)
            if len(self.dropped)
            else 0
        )


def open_frames(
    bases: bytes,
    start: np.ndarray,
    end: np.ndarray,
    policy: str = "open",
    n_chunks: np.ndarray | int = 1,
) -> Frames:
    """The frames that `policy` takes from the chunks [start, end) of `bases` (upper case), int64
    [n] each.

    `open`: every frame without a stop and with a residue; its nucleotides are 3 * residues + 1
    bases from its start, one fewer where the chunk ends. `longest`: of each chunk the longest
    stop-free stretch (most residues, at least 20; ties go to the first of F1 F2 F3 R1 R2 R3, then
    to the first in reading direction), from its first to its last residue; its nucleotides are its
    codons and the base after, where the chunk has one. `stretches`: that one, and the longest of
    other frames if they have at least two fifths of its residues (and 20), ties as before; together
    at most six where the sequence is one chunk, three where it has two, and two where it has more:
    `n_chunks`, of the one sequence of all chunks, or int64 [n]. In all, a codon with a letter
    outside ACGT adds nothing to the protein and is flagged; it neither counts as a residue nor ends
    a stretch.
    """
    codons = _Codons(bases)
    start, end = np.asarray(start, dtype=np.int64), np.asarray(end, dtype=np.int64)
    offset = np.arange(3)
    whole = np.maximum((end - start)[:, None] - offset, 0) // 3  # [n, 3] codons of F1 F2 F3
    # [n, 6] the left end of each frame on the forward strand: R1 R2 R3 are read from the right end
    left = np.concatenate([start[:, None] + offset, end[:, None] - offset - 3 * whole], axis=1)
    counts = np.concatenate([whole, whole], axis=1)  # [n, 6]
    if policy == "open":
        taken = _take_open(codons, left, counts)
    elif policy in FRAME_POLICIES:
        most: np.ndarray | int = 1
        if policy == STRETCHES:
            most = np.maximum(MOST_OF_A_SEQUENCE // np.maximum(n_chunks, 1), MOST_OF_A_CHUNK)
        taken = _take_stretches(codons, left, counts, np.broadcast_to(most, len(start)))
    else:
        raise ValueError(f"no frame policy {policy}")
    return _materialise(bases, codons, taken, (start[taken.chunk], end[taken.chunk]), policy)


class _Taken(NamedTuple):
    """Frames that a policy takes, in the order of chunks and frames; int64 [frames] each."""

    chunk: np.ndarray
    frame: np.ndarray  # 0..5
    left: np.ndarray  # first base on the forward strand
    codons: np.ndarray  # how many


def _take_open(codons: _Codons, left: np.ndarray, counts: np.ndarray) -> _Taken:
    """Frames without a stop and with a residue; `left` and `counts` are [n, 6]."""
    place = codons.place(left)
    end = place + counts
    residues = counts - codons.n_dropped(place, end)
    chunk, frame = np.nonzero((codons.stops[codons.next_stop(place)] >= end) & (residues > 0))
    return _Taken(chunk, frame, left[chunk, frame], counts[chunk, frame])


def _take_stretches(
    codons: _Codons, left: np.ndarray, counts: np.ndarray, most: np.ndarray
) -> _Taken:
    """The longest stop-free stretches of each chunk that has one, at most one a frame and `most`
    [n] a chunk; `left` and `counts` are [n, 6].

    A frame with k stops has k + 1 stretches. All stretches of all frames are listed after each
    other [m], each with its frame's number (chunk * 6 + frame), and then chosen from.
    """
    place = codons.place(left)
    first_stop, frame_end = codons.next_stop(place).ravel(), (place + counts).ravel()  # [6n]
    n_stretches = codons.next_stop(place + counts).ravel() - first_stop + 1
    n_stretches[counts.ravel() == 0] = 0
    frame_of = np.repeat(np.arange(len(n_stretches)), n_stretches)  # [m] chunk * 6 + frame
    # [m] its number within the frame: in reading direction, then from the left
    before = np.cumsum(n_stretches) - n_stretches
    number = np.arange(len(frame_of)) - np.repeat(before, n_stretches)
    last = (n_stretches - 1)[frame_of]
    number = np.where(frame_of % 6 < 3, number, last - number)
    # [m] its codons [begin, end): between the stop on its left and the one on its right
    stop = first_stop[frame_of] + number
    place, left = place.ravel()[frame_of], left.ravel()[frame_of]
    begin = np.where(number == 0, place, codons.stops[stop - 1] + 1)
    end = np.where(number == last, frame_end[frame_of], codons.stops[stop])
    residues = end - begin - codons.n_dropped(begin, end)

    winners = _longest_of_frames(frame_of, residues, most)
    begin, end = begin[winners], end[winners]
    for i in np.flatnonzero(end - begin > residues[winners]):  # from the first to the last residue
        stretch = codons.codes[begin[i] : end[i]]
        begin[i] += len(stretch) - len(stretch.lstrip(bytes([_OTHER])))
        end[i] -= len(stretch) - len(stretch.rstrip(bytes([_OTHER])))
    first_base = left[winners] + 3 * (begin - place[winners])
    return _Taken(frame_of[winners] // 6, frame_of[winners] % 6, first_base, end - begin)


def _longest_of_frames(frame_of: np.ndarray, residues: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Which of the stretches [m] are taken: of each frame the longest, of each chunk at most `most`
    [n] and none much shorter than its longest. Ascending rows of `frame_of` and `residues`.
    """
    best = np.zeros(6 * len(most), dtype=np.int64)  # [6n] residues of the longest of each frame
    np.maximum.at(best, frame_of, residues)
    winners = np.flatnonzero((residues == best[frame_of]) & (residues >= LONGEST_MINIMUM))
    winners = winners[np.unique(frame_of[winners], return_index=True)[1]]  # the first of equals
    of_chunk = best.reshape(-1, 6)  # [n, 6]
    rank = np.empty_like(of_chunk)  # [n, 6] 0 for the chunk's longest; ties in the order of frames
    np.put_along_axis(
        rank, np.argsort(-of_chunk, axis=1, kind="stable"), np.arange(6)[None], axis=1
    )
    part, whole = LEAST_OF_THE_LONGEST
    good = (rank < most[:, None]) & (whole * of_chunk >= part * of_chunk.max(axis=1, keepdims=True))
    return winners[good.ravel()[frame_of[winners]]]


def _materialise(
    bases: bytes,
    codons: _Codons,
    taken: _Taken,
    chunk: tuple[np.ndarray, np.ndarray],
    policy: str,
) -> Frames:
    """The letters of the frames `taken`; `chunk`: start and end of each one's chunk, [frames]."""
    _, frame, left, count = taken
    place, right, forward = codons.place(left), left + 3 * count, frame < 3
    dropped = np.zeros(len(frame), dtype=bool) | (codons.n_dropped(place, place + count) > 0)
    codes, length = codons.codes, count
    proteins = [
        codes[a:b].translate(RESIDUE) if f else codes[a:b][::-1].translate(RESIDUE_BACKWARD)
        for f, a, b in zip(forward.tolist(), place.tolist(), (place + count).tolist(), strict=True)
    ]
    if dropped.any():
        for i in np.flatnonzero(dropped):
            proteins[i] = proteins[i].replace(b"\0", b"")
        if policy == "open":
            length = np.fromiter(map(len, proteins), dtype=np.int64, count=len(proteins))
    read = 3 * length + 1  # bases, in reading direction
    begin = np.where(forward, left, np.maximum(right - read, chunk[0]))
    end = np.where(forward, np.minimum(left + read, chunk[1]), right)
    nucleotides = [
        bases[a:b] if f else bases[a:b].translate(COMPLEMENT)[::-1]
        for f, a, b in zip(forward.tolist(), begin.tolist(), end.tolist(), strict=True)
    ]
    return Frames(taken.chunk, frame.astype(np.int8), left, right, dropped, nucleotides, proteins)
