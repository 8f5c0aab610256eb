import numpy as np
import pytest

from virnucpro.homology.choice import LABELS
from virnucpro.homology.evidence import Evidence, weigh
from virnucpro.homology.reference import ProteinLabel, Reference
from virnucpro.homology.search import Hits
from virnucpro.homology.stretches import Proteins
from virnucpro.homology.weights import FEATURES

LABELLED = Reference(
    Proteins.join([b"M"] * len(LABELS)),
    np.zeros(0, bool),
    [ProteinLabel(label, "", "", "", label) for label in LABELS],
    "",
)


def hits(*rows: tuple[int, str, int, int, float]) -> Hits:
    """Of (sequence, label, start, end, bits), which come by sequence and falling bits."""
    sequence, label, start, end, bits = zip(*rows, strict=True) if rows else ((),) * 5
    n = len(rows)
    return Hits(
        np.array(sequence, np.int32),
        np.array([LABELS.index(x) for x in label], np.int32),
        np.array(start, np.int64),
        np.array(end, np.int64),
        np.zeros(n, bool),
        np.full(n, 30, np.int32),
        np.full(n, 60, np.int32),
        np.array(bits, float),
        np.array([1e-9 if b > 40 else 1.0 for b in bits]),
    )


def of(evidence: Evidence, name: str) -> np.ndarray:
    return evidence.features[:, FEATURES.index(name)]


def test_a_sequence_without_hits_has_nothing():
    evidence = weigh(hits(), np.array([500, 800]), LABELLED)
    assert not evidence.features.any()
    assert evidence.closest_virus.tolist() == [-1, -1]
    assert np.isnan(evidence.closest_identity).all()
    assert evidence.cellular_like.tolist() == [-1, -1]


def test_overlapping_hits_count_once():
    found = hits(
        (0, "viral", 0, 300, 130.0), (0, "viral", 100, 390, 90.0), (0, "viral", 400, 600, 80.0)
    )
    evidence = weigh(found, np.array([1000]), LABELLED)
    assert of(evidence, "best_viral")[0] == pytest.approx(np.log1p(10))
    assert of(evidence, "viral_per_kb")[0] == pytest.approx(np.log1p(15))
    assert of(evidence, "sign_of_difference")[0] == 1
    assert evidence.viral_hits.tolist() == [3]
    assert evidence.closest_identity[0] == 0.5


def test_weak_hits_weigh_but_are_not_told():
    evidence = weigh(hits((1, "viral", 0, 90, 35.0)), np.array([500, 500]), LABELLED)
    assert of(evidence, "best_viral").tolist() == [0, pytest.approx(np.log1p(0.5))]
    assert evidence.viral_hits.sum() == 0
    assert evidence.closest_virus[1] == -1


def test_the_kind_of_cell_and_plasmids():
    found = hits(
        (0, "bacteria", 0, 300, 90.0),
        (0, "plasmid", 400, 700, 60.0),
        (1, "plasmid", 0, 300, 100.0),
        (1, "viral", 300, 600, 90.0),
        (2, "viral", 0, 300, 110.0),
        (2, "plasmid", 0, 300, 100.0),
        (3, "cellular", 0, 300, 100.0),
    )
    evidence = weigh(found, np.full(4, 1000), LABELLED)
    kinds = [LABELS[k] if k >= 0 else None for k in evidence.cellular_like]
    assert kinds == ["bacteria", "plasmid", "plasmid", None]
    assert evidence.plasmid_like.tolist() == [False, True, False, False]


def test_a_long_sequence_is_the_mean_of_its_parts():
    parts = [(0, 0, "viral"), (0, 11, "bacteria"), (0, 22, "bacteria"), (0, 33, "bacteria")]
    rows = [(s, label, at * 1000, at * 1000 + 300, 130.0) for s, at, label in parts]
    alone = weigh(hits((0, "viral", 0, 300, 130.0)), np.array([10_000]), LABELLED).features[0]
    found = weigh(hits(*rows, (1, "viral", 0, 300, 130.0)), np.array([40_000, 10_000]), LABELLED)
    assert found.features[1] == pytest.approx(alone)
    assert of(found, "best_viral")[0] == pytest.approx(np.log1p(10) / 4)
    assert of(found, "best_cellular")[0] == pytest.approx(np.log1p(10) * 3 / 4)
    assert of(found, "sign_of_difference")[0] == pytest.approx(-0.5)
    assert found.in_part.tolist() == [True, False]
