import numpy as np
from Bio.Seq import Seq

from recipes.mini.kmers import protein_kmers, translated_kmers
from virnucpro.training.similarity import kmer_set
from virnucpro.training.store import decode, encode_protein


def test_repeats_make_no_kmers():
    assert len(protein_kmers(encode_protein(b"NNNNKNNNNNNNNKNNNN" * 20), 1)) == 0


def test_translated_kmers_are_those_of_the_six_translations():
    codes = np.random.default_rng(3).integers(0, 4, 900).astype(np.uint8)
    sequence = Seq(decode(codes).decode())
    expected = []
    for strand in (sequence, sequence.reverse_complement()):
        for f in range(3):
            part = strand[f:]
            protein = str(part[: len(part) // 3 * 3].translate())
            expected += [protein_kmers(encode_protein(p.encode()), 1) for p in protein.split("*")]
    assert np.array_equal(kmer_set([translated_kmers(codes, 1)]), kmer_set(expected))
