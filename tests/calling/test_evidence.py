"""The search within a run: `predict --reference`, its tables and its call."""

import random
import re

import pandas as pd
import pytest

import virnucpro
from virnucpro.calling.calibration import logit
from virnucpro.errors import InputError, UsageError
from virnucpro.homology.reference import ProteinLabel, build
from virnucpro.settings import CallSettings

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


def predicted(folder, name: str, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
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
        "model": predicted(folder, "model", reference=reference),
        "both": predicted(folder, "both", reference=reference, call_by="both"),
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


def test_both_adds_the_log_odds(runs):
    contigs = runs["both"][0].set_index("seq_name")
    assert (contigs.called_by == "both").all()
    nothing = contigs.loc["nothing"]  # of the others the probabilities are 0 or 1 to 4 decimals
    added = logit(nothing.model_probability) + logit(nothing.homology_probability)
    assert logit(nothing.virus_probability) == pytest.approx(added, abs=0.05)
    assert contigs.virus_probability["viral"] >= contigs.model_probability["viral"]
    assert contigs.virus_probability["plasmid"] <= contigs.model_probability["plasmid"]
    assert contigs.virus_probability.iloc[:3].between(0, 1).all()


def test_a_reference_that_is_not_there_is_told_before_anything_is_computed(folder):
    with pytest.raises(InputError, match="nowhere: is not a reference of proteins"):
        predicted(folder, "missing", reference=folder / "nowhere")
    assert not (folder / "missing" / "contigs.tsv").exists()


def test_both_needs_proteins():
    with pytest.raises(UsageError, match="--call-by both: needs proteins"):
        CallSettings(call_by="both")


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
    with pytest.raises(UsageError, match="give the same --reference"):
        virnucpro.api.merge(shards, folder / "joined")
    virnucpro.api.merge(shards, folder / "joined", reference=str(reference))
    virnucpro.predict(folder / "contigs.fna", folder / "one", reference=str(reference), **options)
    for name in ("contigs.tsv", "hits.tsv", "virus_summary.tsv"):
        assert (folder / "joined" / name).read_bytes() == (folder / "one" / name).read_bytes()
