import numpy as np
import pytest
from Bio.Align import substitution_matrices

from recipes.mini.distance import BLOSUM62, distant_codons, distant_residues
from virnucpro.training.store import AMINO_ACIDS, CODON_TO_AMINO_ACID, STOP

RNG = np.random.default_rng(3)
SENSE = np.flatnonzero(CODON_TO_AMINO_ACID < STOP).astype(np.uint8)


def test_the_matrix_is_blosum62():
    letters = AMINO_ACIDS.decode()
    published = substitution_matrices.load("BLOSUM62")
    assert BLOSUM62.tolist() == [[published[a][b] for b in letters] for a in letters]


def test_distant_relatives_keep_their_own_codons_and_use_them_as_blosum_does():
    lengths = np.array([40_000, 300])
    codons = np.concatenate([RNG.choice(SENSE, 40_000), np.full(300, SENSE[7])]).astype(np.uint8)
    out = distant_codons(codons, lengths, np.array([1.0, 1.0]), RNG)
    assert (out[40_000:] == SENSE[7]).all()  # nothing comes from another sequence
    before, after = CODON_TO_AMINO_ACID[codons[:40_000]], CODON_TO_AMINO_ACID[out[:40_000]]
    ile, val, asp = (AMINO_ACIDS.index(x) for x in b"IVD")
    from_ile = after[before == ile]
    offered = np.bincount(before, minlength=20) / 40_000
    expected = offered * 2 ** (BLOSUM62[ile] / 2)  # odds times what there is
    found = np.bincount(from_ile, minlength=20) / len(from_ile)
    assert found[[ile, val]] == pytest.approx((expected / expected.sum())[[ile, val]], abs=0.05)
    assert found[asp] < 0.03


def test_a_rate_of_nothing_changes_nothing_and_half_changes_no_more_than_half():
    codes = RNG.integers(0, 20, 4000).astype(np.uint8)
    lengths = np.array([1000, 3000])
    out = distant_residues(codes, lengths, np.array([0.0, 0.5]), RNG)
    assert np.array_equal(out[:1000], codes[:1000])
    assert 0.2 < (out[1000:] != codes[1000:]).mean() < 0.5
