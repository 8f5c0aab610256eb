import random
import re
from dataclasses import fields

import numpy as np
import pytest

from virnucpro.homology import seeds
from virnucpro.homology.reference import ProteinLabel, Reference, build, load
from virnucpro.homology.search import Hits, search
from virnucpro.homology.stretches import AMINO_ACIDS

LETTERS = AMINO_ACIDS[:20]
CODONS = dict(
    re.findall(
        "(.)=(...)",
        "A=GCT R=CGT N=AAT D=GAT C=TGT Q=CAA E=GAA G=GGT H=CAT I=ATT L=CTG K=AAA M=ATG F=TTT P=CCT"
        " S=TCT T=ACT W=TGG Y=TAT V=GTT",
    )
)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def changed(protein: str, share: float, rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) if rng.random() < share else c for c in protein)


def gene(protein: str) -> str:
    return "".join(CODONS[c] for c in protein)


@pytest.fixture(scope="module")
def proteins() -> list[str]:
    rng = random.Random(5)
    return ["".join(rng.choices(LETTERS, k=150)) for _ in range(40)]


@pytest.fixture(scope="module")
def reference(proteins, tmp_path_factory) -> Reference:
    directory = tmp_path_factory.mktemp("reference")
    labels = [
        ProteinLabel(f"p{i}", f"organism {i}", "", "", "bacteria" if i % 2 else "viral")
        for i in range(len(proteins))
    ]
    build([p.encode() for p in proteins], labels, directory, "a test")
    return load(directory)


@pytest.fixture(scope="module")
def sequences(proteins) -> list[bytes]:
    """Genes half of whose residues are changed, in all six frames, and random sequences."""
    rng = random.Random(6)
    found = []
    for i, protein in enumerate(proteins):
        text = "ACGT"[: i % 3] + gene(changed(protein, 0.5, rng)) + "GATTACA"
        found.append(text.translate(COMPLEMENT)[::-1] if i % 2 else text)
    found += ["".join(rng.choices("ACGT", k=450)) for _ in range(20)]
    return [s.encode() for s in found]


def same(a: Hits, b: Hits) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Hits))


def test_genes_find_their_proteins_where_they_lie(reference, sequences):
    hits = search(sequences, reference)
    first = {int(s): i for i, s in reversed(list(enumerate(hits.sequence)))}
    found = [i for i in range(40) if i in first and hits.protein[first[i]] == i]
    assert len(found) >= 38
    for i in found:
        row, length = first[i], len(sequences[i])
        start, end = (7, length - i % 3) if i % 2 else (i % 3, length - 7)
        assert hits.reverse[row] == bool(i % 2)
        assert start <= hits.start[row] < hits.end[row] <= end
        assert 0.3 < hits.identical[row] / hits.columns[row] < 0.8
        assert hits.evalue[row] < 1e-3
    assert not (hits.evalue[hits.sequence >= 40] < 1e-4).any()


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(reference, sequences, threads):
    assert same(search(sequences, reference), search(sequences, reference, threads))


def test_batches_change_nothing(reference, sequences):
    parts, first = [], 0
    for size in (1, 7, 30, len(sequences) - 38):
        part = search(sequences[first : first + size], reference)
        parts.append(
            Hits(part.sequence + first, *(getattr(part, f.name) for f in fields(Hits)[1:]))
        )
        first += size
    assert same(search(sequences, reference), Hits.concatenate(parts))


def test_a_long_sequence_is_searched_in_parts_that_change_nothing(
    reference, sequences, monkeypatch
):
    long = [sequences[0], b"N".join(sequences), sequences[1]]
    whole = search(long, reference)
    monkeypatch.setattr("virnucpro.homology.search.MOST_RESIDUES", 700)
    assert len(whole) > 30
    assert same(whole, search(long, reference, 2))


def test_repeats_are_no_seeds(tmp_path):
    """Two proteins that share a repeat and nothing else."""
    rng = random.Random(8)
    repeat = "PTSAPTSAPTSA" * 6
    both = ["".join(rng.choices(LETTERS, k=60)) + repeat for _ in range(2)]
    build([both[0].encode()], [ProteinLabel("p", "", "", "", "viral")], tmp_path, "a test")
    assert len(search([gene(both[1]).encode()], load(tmp_path))) == 0


def test_empty_and_short_sequences_have_no_hits(reference):
    assert len(search([], reference)) == 0
    assert len(search([b"", b"ACGT", b"N" * 500], reference)) == 0


def test_every_seed_is_found_once():
    """All pairs of places with a seed of some shape, and each by its first shape only."""
    rng = np.random.default_rng(2)
    query = np.concatenate([np.full(40, 21), rng.integers(0, 3, 60), np.full(40, 21)])
    target = np.concatenate([np.full(40, 21), rng.integers(0, 3, 70), np.full(40, 21)])
    query, target = query.astype(np.uint8), target.astype(np.uint8)
    matrix = np.full((22, 22), 50, np.int32)  # every window is good enough
    codes = np.zeros(len(query) + len(target), np.uint8)  # and all are alike
    bias = np.zeros(len(query), np.int8)
    found: list[tuple[int, int]] = []
    for i, shape in enumerate(seeds.SHAPES):
        rows = seeds.scan(
            (query, query, bias, codes),
            (target, target, codes),
            seeds.index_seeds(query, shape),
            (40, 110),
            (shape, seeds.MASKS[:i], seeds.MASKS[i]),
            matrix,
        )
        found += map(tuple, rows[:, :2].tolist())
    expected = set()
    for q in range(40, 100):
        for p in range(40, 110):
            shapes = [
                s
                for s in seeds.SHAPES
                if (query[q + s] < 20).all() and (query[q + s] == target[p + s]).all()
            ]
            expected |= {(q, p)} if shapes else set()
    assert len(found) == len(set(found))
    assert set(found) <= expected
    # what is left out has the same seed one residue earlier
    for q, p in expected - set(found):
        assert (q - 1, p - 1) in expected
