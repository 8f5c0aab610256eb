"""The search within a run: `predict --reference`, its tables and its call."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest

import virnucpro
from virnucpro.calling.calibration import Calibration, expit, logit
from virnucpro.errors import InputError, UsageError
from virnucpro.homology.reference import ProteinLabel, build
from virnucpro.homology.weights import FEATURES, Points
from virnucpro.models.bundle import MINI
from virnucpro.settings import CallPoints, CallSettings, Options

LETTERS = "ARNDCQEGHILKMFPSTWYV"
GENES = dict(
    re.findall(
        "(.)=(...)",
        "A=GCT R=CGT N=AAT D=GAT C=TGT Q=CAA E=GAA G=GGT H=CAT I=ATT L=CTG K=AAA M=ATG F=TTT P=CCT"
        " S=TCT T=ACT W=TGG Y=TAT V=GTT",
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reference of a virus and a plasmid, and five contigs: a gene of each, neither, one that is
    too short for the run, and one that cannot be read.
    """
    rng = random.Random(4)
    folder = tmp_path_factory.mktemp("evidence")
    proteins = ["".join(rng.choices(LETTERS, k=190)) for _ in range(2)]
    labels = [
        ProteinLabel("v1", "A virus", "Aviridae", "Aviridae", "viral"),
        ProteinLabel("p1", "a plasmid", "", "", "plasmid"),
    ]
    build([p.encode() for p in proteins], labels, folder / "reference", "a test")
    genes = ["".join(GENES[c] for c in p) for p in proteins]
    end = "".join(rng.choices("ACGT", k=40))
    contigs = {
        "viral": end + genes[0] + end,
        "plasmid": genes[1],
        "nothing": "".join(rng.choices("ACGT", k=600)),
        "short": genes[0][:90],
        "wrong": "!" * 600,
    }
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items())
    (folder / "contigs.fna").write_text(text)
    return folder


def predicted(folder, name: str, reference=None, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(contigs.tsv, hits.tsv) of a run."""
    out = folder / name
    virnucpro.predict(
        folder / "contigs.fna",
        output_dir=out,
        model="mini",
        gpus="none",
        min_length=100,
        partial_ok=True,
        features="none",
        quiet=True,
        reference=reference,
        **options,
    )
    return tuple(
        pd.read_csv(out / f"{table}.tsv", sep="\t", keep_default_na=False, na_values=["NA"])
        for table in ("contigs", "hits")
    )


@pytest.fixture(scope="module")
def runs(folder):
    reference = folder / "reference"
    return {
        "none": predicted(folder, "none"),
        "model": predicted(folder, "model", reference=reference, call_by="model"),
        "both": predicted(folder, "both", reference=reference),
        "uncalibrated": predicted(folder, "added", reference, chunk_length=450, call_by="both"),
    }


def test_without_proteins_everything_is_as_it_was(runs):
    contigs, hits = runs["none"]
    assert len(hits) == 0
    told = ["homology_probability", "homology_score", "closest_virus", "viral_hits", "topology"]
    assert contigs[told].isna().all().all()
    assert contigs.model_probability.equals(contigs.virus_probability)
    searched = runs["model"][0]
    same = ["virus_score", "virus_probability", "call", "fdr", "model_probability"]
    assert contigs[same].equals(searched[same])


def test_what_the_proteins_say_stands_in_the_tables(runs):
    contigs, hits = runs["model"]
    row = contigs.set_index("seq_name")
    assert row.closest_virus["viral"] == "A virus"
    assert row.closest_family["viral"] == "Aviridae"
    assert row.closest_identity["viral"] > 0.99
    assert row.viral_hits.tolist()[:3] == [1, 0, 0]
    assert row.cellular_hits.tolist()[:3] == [0, 1, 0]
    assert row.cellular_like["plasmid"] == "plasmid"
    assert "plasmid_like" in row.note["plasmid"]
    assert row.topology["viral"] == "direct_repeat_40"
    assert row.homology_score["viral"] > 100 > 0 > row.homology_score["plasmid"]
    assert row.loc[["short", "wrong"], "homology_score":"topology"].isna().all().all()
    assert hits.seq_name.tolist() == ["viral", "plasmid"]
    first = hits.iloc[0]
    assert (first.protein, first.label, first.strand) == ("v1", "viral", "+")
    assert 38 <= first.start <= 44 and 604 <= first.end <= 613
    assert first.evalue < 1e-50 and first.bit_score > 200


def test_a_bundle_weighs_its_score_and_the_hits(runs):
    contigs, alone = (runs[name][0].set_index("seq_name") for name in ("both", "model"))
    assert (contigs.called_by == "both").all() and (alone.called_by == "model").all()
    same = ["virus_score", "model_probability", "homology_probability"]
    assert contigs[same].equals(alone[same])
    assert contigs.virus_probability["viral"] > 0.9 > 0.3 > contigs.virus_probability["plasmid"]
    assert contigs.virus_probability["viral"] > contigs.model_probability["viral"]
    weights = Calibration.from_json(
        json.loads((MINI / "bundle.json").read_text())["calibration"]
    ).evidence
    score = np.array([contigs.virus_score["nothing"]])
    columns = np.column_stack([logit(score), np.zeros((1, len(FEATURES)))])
    by_hand = expit(weights.log_odds(columns, np.array([600])))[0]
    assert contigs.virus_probability["nothing"] == pytest.approx(by_hand, abs=2e-3)


def test_a_model_without_weights_has_the_log_odds_added(runs):
    contigs = runs["uncalibrated"][0].set_index("seq_name")
    assert contigs.model_probability.isna().all()
    nothing = contigs.loc["nothing"]  # of the others the probabilities are 0 or 1 to 4 decimals
    added = logit(nothing.virus_score) + logit(nothing.homology_probability)
    assert logit(nothing.virus_probability) == pytest.approx(added, abs=0.05)


def test_the_choice_that_is_left_to_the_model(monkeypatch):
    monkeypatch.delenv("VIRNUCPRO_REFERENCE")
    said = {
        (s.reference, s.call_by, weighs): s.of_model({"evidence": {}} if weighs else None)
        for weighs in (True, False)
        for s in (CallSettings(), CallSettings(reference="none"), CallSettings(call_by="both"))
    }
    chosen = {key: (s.reference, s.call_by) for key, s in said.items()}
    assert chosen == {
        (None, None, True): ("shipped", "both"),
        (None, None, False): ("none", "model"),
        ("none", None, True): ("none", "model"),
        ("none", None, False): ("none", "model"),
        (None, "both", True): ("shipped", "both"),
        (None, "both", False): ("shipped", "both"),
    }
    monkeypatch.setenv("VIRNUCPRO_REFERENCE", "somewhere")
    assert CallSettings().of_model(None).reference == "somewhere"
    assert CallSettings(reference="none").of_model({"evidence": {}}).reference == "none"


def test_summarize_keeps_the_proteins_of_the_run(folder, runs, monkeypatch):
    out = folder / "both"
    before = {name: (out / name).read_bytes() for name in ("contigs.tsv", "hits.tsv")}
    with pytest.raises(UsageError, match="searched other proteins than those of this version"):
        virnucpro.summarize(out)
    monkeypatch.setattr("virnucpro.reporting.record.SHIPPED_DIRECTORY", folder / "reference")
    monkeypatch.setattr("virnucpro.homology.choice.SHIPPED_DIRECTORY", folder / "reference")
    virnucpro.summarize(out)
    assert {name: (out / name).read_bytes() for name in before} == before
    contigs = pd.read_csv(virnucpro.summarize(out, reference="none").outputs.contigs, sep="\t")
    assert (contigs.called_by == "model").all() and contigs.homology_probability.isna().all()


def test_a_reference_that_is_not_there_is_told_before_anything_is_computed(folder):
    with pytest.raises(InputError, match="nowhere: is not a reference of proteins"):
        predicted(folder, "missing", reference=folder / "nowhere")
    assert not (folder / "missing" / "contigs.tsv").exists()


def test_both_needs_proteins():
    with pytest.raises(UsageError, match="--call-by both: needs proteins"):
        CallSettings(call_by="both", reference="none")


MEASURED = {"evidence": {"points": {"5%": [], "1%": [], "0.1%": []}}}


def test_rules_that_a_model_cannot_follow_are_told_before_anything_is_computed():
    fdr, share = CallPoints(max_fdr=0.1), CallPoints(false_positives="1%")
    with pytest.raises(UsageError, match="--max-fdr: this model has no probabilities"):
        CallSettings(points=fdr).of_model(None)
    for calibration, reference in ((MEASURED, "none"), ({"evidence": {}}, "x"), (None, "x")):
        with pytest.raises(UsageError, match="--false-positives: this model has no points"):
            CallSettings(points=share, reference=reference).of_model(calibration)
    assert CallSettings(points=fdr, reference="x").of_model(MEASURED).points.max_fdr == 0.1
    assert CallSettings(points=share, reference="x").of_model(MEASURED).points == share
    alone = {"points": {"lengths": [500], "shares": {"1%": [0.9]}}, **MEASURED}
    assert CallSettings(points=share, reference="none").of_model(alone).points == share
    del alone["evidence"]  # what both say has no points of its own then
    with pytest.raises(UsageError, match="--false-positives: this model has no points"):
        CallSettings(points=share, reference="x", call_by="both").of_model(alone)
    only = Calibration(("logit_score",), (1.0,), points=Points((500,), {"5%": (0.9,)}))
    assert only.measured_points(True) is None and only.measured_points(False) is only.points


@pytest.mark.parametrize(
    ("given", "share", "virus"),
    [
        ({}, "1%", 0.5),
        ({"relaxed": True}, "5%", 0.3),
        ({"conservative": True}, "0.1%", 0.8),
        ({"min_score": 0.5}, None, 0.5),
        ({"max_fdr": 0.05}, None, 0.5),
        ({"false_positives": "5%"}, "5%", 0.5),
    ],
)
def test_a_preset_is_a_share_of_false_positives_where_the_model_has_its_points(given, share, virus):
    settings = Options(reference="x", **given).call_settings()
    assert settings.of_model(MEASURED).points.false_positives == share
    if "false_positives" not in given:
        plain = settings.of_model({"method": "logistic"}).points
        assert (plain.false_positives, plain.virus) == (None, virus)


def test_shards_are_searched_when_they_are_joined(folder, runs):
    reference = folder / "reference"
    shards = [folder / f"shard{number}" for number in (1, 2)]
    options = {"model": "mini", "gpus": "none", "min_length": 100, "features": "none"}
    for number, shard in enumerate(shards, start=1):
        virnucpro.predict(
            folder / "contigs.fna",
            shard,
            shard=f"{number}/2",
            reference=str(reference),
            **options,
        )
    with pytest.raises(UsageError, match="name them with --reference DIR"):
        virnucpro.api.merge(shards, folder / "joined")
    with pytest.raises(UsageError, match="give the same --reference"):
        virnucpro.api.merge(shards, folder / "joined", reference="none")
    virnucpro.api.merge(shards, folder / "joined", reference=str(reference))
    virnucpro.predict(folder / "contigs.fna", folder / "one", reference=str(reference), **options)
    for name in ("contigs.tsv", "hits.tsv", "virus_summary.tsv"):
        assert (folder / "joined" / name).read_bytes() == (folder / "one" / name).read_bytes()
