"""The vectorised frames against a plain loop with Biopython, and against the original's own
output.
"""

from __future__ import annotations

import itertools
import json
from functools import partial

import numpy as np
import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.sequences.chunks import chunk_spans
from virnucpro.sequences.frames import FRAME_NAMES, LONGEST_MINIMUM, open_frames
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.reader import read_records

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def codons_of(strand: str, f: int) -> list[str]:
    """The residues of a frame codon by codon, '' where one is dropped."""
    codons = [strand[i : i + 3] for i in range(f, len(strand) - 2, 3)]
    return [str(Seq(c).translate()) if set(c) <= set("ACGT") else "" for c in codons]


def rows(frames) -> list[tuple]:
    columns = (frames.chunk, frames.frame, frames.start, frames.end, frames.dropped_codon)
    return list(
        zip(
            *(c.tolist() for c in columns),
            [n.decode() for n in frames.nucleotides],
            [p.decode() for p in frames.proteins],
            strict=True,
        )
    )


def places(f: int, first: int, codons: int, start: int, end: int) -> tuple[int, int]:
    """Codons first.. of frame f of a chunk, on the forward strand."""
    begin = f % 3 + 3 * first
    return (
        (start + begin, start + begin + 3 * codons)
        if f < 3
        else (end - begin - 3 * codons, end - begin)
    )


def oracle_open(sequence: str, spans) -> list[tuple]:
    found = []
    for chunk, (start, end) in enumerate(spans):
        piece = sequence[start:end]
        for f in range(6):
            strand = piece if f < 3 else piece.translate(COMPLEMENT)[::-1]
            residues = codons_of(strand, f % 3)
            protein = "".join(residues)
            if protein and "*" not in protein:
                nucleotides = strand[f % 3 : f % 3 + 3 * len(protein) + 1]
                found.append(
                    (
                        chunk,
                        f,
                        *places(f, 0, len(residues), start, end),
                        "" in residues,
                        nucleotides,
                        protein,
                    )
                )
    return found


def oracle_longest(sequence: str, spans, most=lambda chunks: 1) -> list[tuple]:
    found = []
    for chunk, (start, end) in enumerate(spans):
        piece = sequence[start:end]
        of_chunk = []
        for f in range(6):
            best = None
            strand = piece if f < 3 else piece.translate(COMPLEMENT)[::-1]
            residues = codons_of(strand, f % 3)
            stops = [-1, *(i for i, r in enumerate(residues) if r == "*"), len(residues)]
            for a, b in itertools.pairwise(stops):
                kept = [i for i in range(a + 1, b) if residues[i]]
                if len(kept) >= LONGEST_MINIMUM and (best is None or len(kept) > len(best[6])):
                    first, codons = kept[0], kept[-1] - kept[0] + 1
                    begin = f % 3 + 3 * first
                    best = (
                        chunk,
                        f,
                        *places(f, first, codons, start, end),
                        codons > len(kept),
                        strand[begin : begin + 3 * codons + 1],
                        "".join(residues[i] for i in kept),
                    )
            of_chunk += [best] if best else []
        longest_first = sorted(of_chunk, key=lambda row: -len(row[6]))
        taken = [
            row
            for row in longest_first[: most(len(spans))]
            if 5 * len(row[6]) >= 2 * len(longest_first[0][6])
        ]
        found += sorted(taken, key=lambda row: row[1])
    return found


MOST = {0: 0, 1: 6, 2: 3}
ORACLES = {
    "open": oracle_open,
    "longest": oracle_longest,
    "stretches": partial(oracle_longest, most=lambda chunks: MOST.get(chunks, 2)),
}


dna = st.one_of(
    st.text("ACGT", max_size=400),
    st.text("ACG", max_size=400),
    st.text("ACGTNRYK", max_size=300),
    st.lists(
        st.sampled_from(["GCTGCAGCC", "TAA", "N", "ACG", "GGC" * 20, "CTTA", "R"]), max_size=60
    ).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(dna, st.sampled_from([4, 30, 100, 500]), st.sampled_from(list(ORACLES)))
def test_equal_to_a_plain_loop(sequence, chunk, policy):
    spans = chunk_spans(len(sequence), chunk)
    assert rows(
        open_frames(sequence.encode(), spans[:, 0], spans[:, 1], policy, len(spans))
    ) == ORACLES[policy](sequence, spans.tolist())


@pytest.mark.parametrize("policy", ORACLES)
def test_equal_to_a_plain_loop_on_longer_sequences(policy):
    rng = np.random.default_rng(5)
    for letters in ("ACGT", "ACGGCT", "ACGT" * 30 + "NRW"):
        sequence = "".join(rng.choice(list(letters), 20_011))
        spans = chunk_spans(len(sequence), 300)
        expected = ORACLES[policy](sequence, spans.tolist())
        assert expected
        assert (
            rows(open_frames(sequence.encode(), spans[:, 0], spans[:, 1], policy, len(spans)))
            == expected
        )


def test_six_frame_cases_of_the_original(golden):
    for name, case in json.loads((golden / "chunks_and_frames.json").read_text())[
        "six_frame"
    ].items():
        sequence = case["seq"].upper()
        frames = open_frames(sequence.encode(), [0], [len(sequence)])
        got = [["q" + FRAME_NAMES[f], n, p] for _, f, _, _, _, n, p in rows(frames)]
        assert got == [row for row in case["identify"] if row[0] in case["written_by_vanilla"]], (
            name
        )


def test_frame_files_of_the_original(golden, fasta):
    nucleotides, proteins = [], []
    for record in read_records(find_inputs([golden / "input.fa"])[0]):
        spans = chunk_spans(len(record.sequence), 500)
        for chunk, f, _, _, _, n, p in rows(open_frames(record.sequence, spans[:, 0], spans[:, 1])):
            frame_id = f"{record.name}_chunk_{chunk + 1}{FRAME_NAMES[f]}"
            nucleotides.append((frame_id, n))
            proteins.append((frame_id, p))
    assert nucleotides == fasta(golden / "expected" / "frames_nucleotide.fa")
    assert proteins == fasta(golden / "expected" / "frames_protein.faa")


def test_longest_takes_the_first_of_equal_stretches():
    # F1 A.., F2 L.., F3 C.., R.. all open; the frames shifted by 1 or 2 are one codon shorter
    sequence = b"GCT" * 40
    frames = open_frames(sequence, [0], [len(sequence)], "longest")
    assert rows(frames) == [(0, 0, 0, 120, False, sequence.decode(), "A" * 40)]


def test_longest_is_silent_below_twenty_residues():
    sequence = b"GCC" * 40
    for length, expected in ((59, 0), (60, 1), (61, 1)):
        assert len(open_frames(sequence, [0], [length], "longest")) == expected


def test_nothing_in_nothing_out():
    for sequence in (b"", b"A", b"AC", b"NNNN", b"TAATAA"):
        for policy in ("longest", "stretches"):
            assert len(open_frames(sequence, [0], [len(sequence)], policy)) == 0
    none = np.zeros(0, int)
    assert (
        len(open_frames(b"", none, none))
        == len(open_frames(b"", none, none, "stretches", none))
        == 0
    )
