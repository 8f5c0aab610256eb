import random

from Bio.Seq import Seq

from recipes.reference.gather import SHORTEST, of_genome
from virnucpro.homology.stretches import AMINO_ACIDS


def test_the_longest_stretches_of_a_genome_are_taken_once():
    """Random bases give hardly a stretch of 90 residues; a gene between stops gives its own."""
    rng = random.Random(3)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    coding = [c for c in codons if c not in ("TAA", "TAG", "TGA")]
    gene = "".join(rng.choices(coding, k=200))
    stops = "TAATTAATTAATTAA"
    genome = stops + gene + stops
    found = dict(of_genome("g", genome.encode()))
    place, residues = max(found.items(), key=lambda x: len(x[1]))
    start, end = map(int, place.removeprefix("g:")[:-1].split("-"))
    assert place.endswith("+") and str(Seq(genome[start - 1 : end]).translate()) == residues
    assert str(Seq(gene).translate()) in residues
    assert all(len(r) >= SHORTEST and set(r) <= set(AMINO_ACIDS) for r in found.values())
    turned = dict(of_genome("g", str(Seq(genome).reverse_complement()).encode()))
    assert sorted(found.values()) == sorted(turned.values())
    assert any(p.endswith("-") for p in turned)
