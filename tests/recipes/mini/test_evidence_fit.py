import json
from pathlib import Path

import numpy as np
import pytest

from recipes.mini.evidence_fit import Contigs, fitted, measured, points_of, without_own_fold
from recipes.mini.evidence_hits import MOST_CONTIGS, own_of_units, own_proteins, sample
from virnucpro.homology.reference import ProteinLabel, Reference
from virnucpro.homology.stretches import Proteins
from virnucpro.homology.weights import FEATURES


@pytest.fixture(scope="module")
def contigs():
    """20 groups a side, of two lengths: the network knows a little, a hit says more."""
    rng = np.random.default_rng(2)
    n = 1200
    group, virus = np.arange(n) % 40, (np.arange(n) % 40) < 20
    features = np.zeros((n, len(FEATURES)))
    features[:, 0] = rng.exponential(1.0, n) * (rng.random(n) < np.where(virus, 0.7, 0.15))
    return Contigs(
        features,
        rng.normal(np.where(virus, 1.0, -1.0), 1.2),
        virus,
        np.where(virus, "viral", np.where(group % 2, "bacteria", "plasmids")),
        group.astype(str),
        group % 5,
        np.where(rng.random(n) < 0.5, 500, 3000),
        np.where(features[:, 0] > 0, 0.4, 0.0),
        rng.random(n) < 0.1,
    )


def test_both_is_better_than_either_and_calibrated_on_groups_left_out(contigs, monkeypatch):
    monkeypatch.setattr("recipes.mini.evidence_fit.DRAWS", 5)
    results = measured(contigs, without_own_fold(contigs))
    for length in ("500", "3000"):
        auroc = {name: results[length][name]["auroc"][0] for name in ("network", "search", "both")}
        assert auroc["both"] > max(auroc["network"], auroc["search"])
        assert results[length]["both"]["calibration_error"][0] < 0.1
        by_identity = results[length]["both"]["recall_at_5pct_by_identity"]
        assert by_identity["30 to 50 %"][0] > by_identity["no hit"][0]
    json.dumps(results, allow_nan=False)


def test_the_points_call_as_many_cells_as_they_promise(contigs):
    odds = without_own_fold(contigs)["both"]
    points = points_of(contigs, odds)
    assert [len(of) for of in points.values()] == [2, 2, 2]
    assert (np.diff(list(points.values()), axis=0) >= 0).all()
    for length, point in zip((500, 3000), points["5%"], strict=True):
        cells = ~contigs.virus & (contigs.length == length)
        share = (1 / (1 + np.exp(-odds[cells])) >= point).mean()
        assert share <= 0.07 and (share >= 0.03 or point == 0.5)
    assert len(fitted(contigs, "both").weights[0]) == 2 + len(FEATURES)


def test_proteins_of_a_contigs_own_groups_do_not_count(tmp_path: Path):
    (tmp_path / "chosen.txt").write_text("p0\np1\np2\np3\n")
    (tmp_path / "relatives.tsv").write_text(
        "id\tcategory\tgroup\tshare\np1\tviral\tA\t0.9\np2\tplasmids\tX\t0.5\n"
    )
    labels = [
        ProteinLabel("", "", "A", "A", "viral"),
        ProteinLabel("", "", "", "", "viral"),
        ProteinLabel("", "", "", "", "plasmid"),
        ProteinLabel("", "", "", "A", "bacteria"),
    ]
    reference = Reference(Proteins.join([b"M"] * 4), np.zeros(0, bool), labels, "")
    own = own_proteins(tmp_path, reference)
    table = {
        "unit": np.array([0, 1, 1]),
        "category": np.array(["viral", "bacteria", "plasmids"]),
        "group": np.array(["A", "X", "X"]),
    }
    masks = own_of_units(table, own, 4)
    assert masks[0].tolist() == [True, True, False, False]
    assert masks[1].tolist() == [False, False, True, False]


def test_the_sample_takes_groups_in_turn():
    n = 3000
    table = {
        "category": np.array(["viral", "fungi"] * (n // 2)),
        "group": np.where(np.arange(n) < 2980, "large", "small"),
        "length": np.full(n, 10000),
        "logit": np.where(np.arange(n) < 2990, 0.0, np.nan),
    }
    rows = sample(table)
    viral, other = MOST_CONTIGS[10000]
    assert len(rows) == len(set(rows.tolist())) == viral + other
    assert (table["group"][rows] == "small").sum() == 10
