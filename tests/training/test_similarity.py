import numpy as np

from virnucpro.training.similarity import dna_kmers, kmer_set, share_seen
from virnucpro.training.store import substitute

RNG = np.random.default_rng(3)


def random_codes(n: int) -> np.ndarray:
    return RNG.integers(0, 4, n).astype(np.uint8)


def test_a_sequence_its_reverse_complement_and_a_stranger():
    codes = random_codes(5000)
    known = kmer_set([dna_kmers(codes)])
    assert share_seen(dna_kmers(codes), known) == 1
    assert share_seen(dna_kmers(3 - codes[::-1]), known) == 1
    assert share_seen(dna_kmers(random_codes(5000)), known) == 0


def test_two_percent_of_substitutions_leave_the_expected_share_of_21_mers():
    codes = random_codes(200_000)
    changed = substitute(codes, 0.02, RNG)
    assert abs(share_seen(dna_kmers(changed), kmer_set([dna_kmers(codes, 4)])) - 0.98**21) < 0.03


def test_repeats_make_no_kmers():
    at = np.tile(np.array([0, 3], dtype=np.uint8), 500)
    assert len(dna_kmers(at, 1)) == 0
