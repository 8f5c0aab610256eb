import random

import numpy as np
import pytest
from Bio.Seq import Seq

from virnucpro.homology.stretches import AMINO_ACIDS, APART, GAP, Proteins, find_stretches


def expected(sequence: str, shortest: int) -> set[tuple[int, int, bool, str]]:
    """(start, end, reverse, protein) of every stretch, by Biopython."""
    found = set()
    for reverse in (False, True):
        strand = str(Seq(sequence).reverse_complement()) if reverse else sequence
        for frame in range(3):
            usable = strand[frame : frame + (len(strand) - frame) // 3 * 3]
            at = frame
            for part in str(Seq(usable).translate()).split("*"):
                end = at + 3 * len(part)
                if len(part) >= shortest:
                    a, b = (len(strand) - end, len(strand) - at) if reverse else (at, end)
                    found.add((a, b, reverse, part))
                at = end + 3
    return found


@pytest.mark.parametrize("length", [0, 2, 89, 90, 700, 3001])
def test_stretches_are_those_of_the_six_frames(length):
    rng = random.Random(length)
    sequences = ["".join(rng.choices("ACGTN", [8, 8, 8, 8, 1], k=length)) for _ in range(4)]
    stretches = find_stretches([s.encode() for s in sequences], 12, np.inf)
    proteins = stretches.proteins
    for i, sequence in enumerate(sequences):
        found = set()
        for row in np.flatnonzero(stretches.sequence == i).tolist():
            a, b = proteins.begin[row], proteins.end[row]
            text = "".join(AMINO_ACIDS[c] for c in proteins.residues[a:b])
            place = stretches.bases(row, 0, int(b - a), length)
            found.add((*place, bool(stretches.reverse[row]), text))
        assert {f[:3] for f in found} == {f[:3] for f in expected(sequence, 12)}
        if "N" not in sequence:
            assert found == expected(sequence, 12)


@pytest.mark.parametrize("times", [1.5, 2.5])
def test_stretches_within_much_longer_ones_are_left_out(times):
    """Also where they reach out a little."""
    rng = random.Random(3)
    gene = "".join(rng.choice(["GGA", "GCA", "CCA", "AAC", "CTG"]) for _ in range(150))
    sequences = ["".join(rng.choices("ACGT", k=400)) + gene for _ in range(5)]

    def found(times: float) -> list[tuple[int, int, int]]:
        stretches = find_stretches([s.encode() for s in sequences], 12, times)
        length = stretches.proteins.length.tolist()
        return [
            (s, *stretches.bases(row, 0, length[row], len(sequences[s])))
            for row, s in enumerate(stretches.sequence.tolist())
        ]

    every = found(np.inf)
    kept = []
    for s, a, b in every:
        places = [a + (b - a) * quarter // 4 for quarter in (1, 2, 3)]
        longer = [x for x in every if x[0] == s and x[2] - x[1] >= times * (b - a)]
        if not all(any(x[1] <= p < x[2] for x in longer) for p in places):
            kept.append((s, a, b))
    assert found(times) == kept
    assert 0 < len(kept) < len(every)


def test_lower_case_and_u_are_read():
    a, b = find_stretches([b"ACGT" * 60]), find_stretches([b"acgu" * 60])
    assert len(a) and np.array_equal(a.proteins.residues, b.proteins.residues)


def test_proteins_lie_apart():
    proteins = Proteins.join([b"MKV", b"", b"WWW"])
    assert proteins.length.tolist() == [3, 0, 3]
    outside = np.ones(len(proteins.residues), bool)
    for a, b in zip(proteins.begin, proteins.end, strict=True):
        outside[a:b] = False
        assert a >= GAP and len(proteins.residues) - b >= GAP
    assert (proteins.residues[outside] == APART).all()
    assert (proteins.residues[~outside] < APART).all()
