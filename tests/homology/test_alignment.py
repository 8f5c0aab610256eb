import random

import numpy as np
import pytest
from Bio.Align import PairwiseAligner, substitution_matrices

from virnucpro.homology.alignment import (
    FLAT_MATRIX,
    MATRIX,
    align_all,
    bit_score,
    composition_bias,
    window_scores,
)
from virnucpro.homology.stretches import AMINO_ACIDS, Proteins

LETTERS = AMINO_ACIDS[:20]


@pytest.fixture(scope="module")
def aligner() -> PairwiseAligner:
    aligner = PairwiseAligner(mode="local", open_gap_score=-12, extend_gap_score=-1)
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")
    return aligner


def relatives(seed: int) -> tuple[bytes, bytes]:
    """Two proteins of one origin, with changes and a few gaps."""
    rng = random.Random(seed)
    origin = rng.choices(LETTERS, k=rng.randint(40, 120))
    changed = [rng.choice(LETTERS) if rng.random() < 0.5 else c for c in origin]
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(changed))
        changed[at:at] = rng.choices(LETTERS, k=rng.randint(1, 4))
    return "".join(origin).encode(), "".join(changed).encode()


@pytest.mark.parametrize("seed", range(25))
def test_an_alignment_scores_what_biopython_gives(aligner, seed):
    a, b = relatives(seed)
    query, target = Proteins.join([a]), Proteins.join([b])
    bias = np.zeros(len(query.residues), np.int8)
    pairs = np.array([[query.begin[0], query.end[0], target.begin[0], target.end[0], 0]])
    out = np.zeros((1, 7), np.int32)
    align_all((query.residues, bias), target.residues, pairs, MATRIX, out)
    best = aligner.align(a.decode(), b.decode())[0]
    score, a0, a1, b0, b1, same, columns = out[0].tolist()
    assert score == best.score
    assert aligner.score(a[a0:a1].decode(), b[b0:b1].decode()) == score
    assert 0 < same <= columns <= (a1 - a0) + (b1 - b0)
    near = np.zeros(1, np.float32)
    places = np.array([[query.begin[0] + len(a) // 2, target.begin[0] + len(a) // 2]])
    window_scores((query.residues, bias), target.residues, places, FLAT_MATRIX, near)
    if max(len(a), len(b)) <= 120:  # all of both lies in the window
        assert near[0] == score


def test_the_window_ends_where_a_protein_ends():
    a, b = relatives(3)
    query, target = Proteins.join([a, b, a]), Proteins.join([b, a, b])
    bias = np.zeros(len(query.residues), np.int8)
    places = np.array([[query.begin[1] + 5, target.begin[1] + 5]])
    alone_query, alone_target = Proteins.join([b]), Proteins.join([a])
    alone = np.array([[alone_query.begin[0] + 5, alone_target.begin[0] + 5]])
    near, expected = np.zeros(1, np.float32), np.zeros(1, np.float32)
    window_scores((query.residues, bias), target.residues, places, FLAT_MATRIX, near)
    window_scores((alone_query.residues, bias), alone_target.residues, alone, FLAT_MATRIX, expected)
    assert near[0] == expected[0] > 0


def test_common_residues_count_less():
    """Leucines among leucines lose score; in a mixed protein the bias is small."""
    rng = random.Random(1)
    poor = Proteins.join([b"L" * 60])
    assert composition_bias(poor)[poor.begin[0] : poor.end[0]].max() <= -4
    rich = Proteins.join(["".join(rng.choices(LETTERS, k=200)).encode()])
    assert abs(composition_bias(rich)[rich.begin[0] : rich.end[0]]).mean() < 1


def test_bits_are_those_of_blast():
    assert bit_score(np.array([100.0]))[0] == pytest.approx(43.1, abs=0.1)
