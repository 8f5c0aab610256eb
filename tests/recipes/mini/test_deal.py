"""From labelled files to dealt folds, packed parts, trained folds and a student, all tiny."""

import csv
import gzip
import json

import numpy as np
import pytest
import torch
from transformers import EsmModel

from recipes.mini import (
    bench,
    contig_sets,
    contigs,
    deal,
    fold_report,
    oof,
    pack,
    records,
    ship,
    stages,
    warm,
    warm_report,
)
from virnucpro.training.store import Store

COLUMNS = ["file", "record_id", "split", "category", "group", "cluster95", "note", "source"]
MORE = ["record_id", "accession", "category", "group", "note"]
GENES = ["file", "record_id", "family", "group"]


def genome(rng, length):
    return "".join(rng.choice(list("ACGT"), length))


def write_fasta(path, items):
    with gzip.open(path, "wt") as handle:
        for name, sequence in items:
            handle.write(f">{name} x\n{sequence}\n")


def write_table(path, columns, rows):
    with gzip.open(path, "wt", newline="") as handle:
        writer = csv.DictWriter(handle, columns, delimiter="\t", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Twelve groups a category; the second viral group has a near copy of a record of the first."""
    rng, data = np.random.default_rng(5), tmp_path_factory.mktemp("data")
    rows = []
    for category in contig_sets.CATEGORIES:
        items = []
        for i in range(12):
            name = f"{category}{i}"
            sequence = genome(rng, 16_000 if category in ("viral", "bacteria") else 4_000)
            if category == "bacteria":
                sequence += genome(rng, 30_000)
            if name == "viral1":
                sequence = items[0][1]
            group = f"phage{i}" if category == "viral" else f"Family{i}aceae"
            items.append((name, sequence))
            side = "test" if i >= 8 else "train"
            rows.append(
                {
                    "file": f"{category}.fna.gz",
                    "record_id": name,
                    "split": side,
                    "category": category,
                    "group": group,
                    "cluster95": name,
                }
            )
        write_fasta(data / f"{category}.fna.gz", items)
    write_table(data / "manifest.tsv.gz", COLUMNS, rows)
    more = [
        {"record_id": f"m{i}", "accession": f"m{i}", "category": "viral", "group": f"nphage{i}"}
        for i in range(3)
    ]
    write_table(data / "manifest_more.tsv.gz", MORE, more)
    write_fasta(data / "more.fna.gz", [(f"m{i}", genome(rng, 12_000)) for i in range(3)])
    genes = []
    for stem, category in (
        ("viral", "viral"),
        ("bacteria_archaea", "bacteria"),
        ("fungi", "fungi"),
        ("protozoa", "protozoa"),
    ):
        items = [(f"{stem}_g{i}", genome(rng, 900)) for i in range(4)]
        genes += [
            {
                "file": f"{stem}_markers.fna.gz",
                "record_id": name,
                "family": "phage3" if i == 0 and category == "viral" else "",
                "group": f"run{i}",
            }
            for i, (name, _) in enumerate(items)
        ]
        write_fasta(data / f"{stem}_markers.fna.gz", items)
    write_table(data / "manifest_markers.tsv.gz", GENES, genes)
    residues = list("ACDEFGHIKLMNPQRSTVWY")
    for side in ("viral", "cellular"):
        items = [(f"{side}p{i}", "".join(rng.choice(residues, 120))) for i in range(9)]
        write_fasta(data / f"proteins_{side}.faa.gz", items)
    work = tmp_path_factory.mktemp("work")
    records.main(data, work)
    deal.main(work)
    return work


@pytest.fixture(scope="module")
def packed(work, tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("packed"), pytest.MonkeyPatch()
    few = dict(zip(pack.LENGTHS, (1, 2, 1, 2, 1), strict=True))
    for name in ("PER_VIRAL_GROUP", "PER_PROKARYOTE"):
        patch.setattr(pack, name, few)
    patch.setattr(pack, "PER_CATEGORY", {length: 12 * n for length, n in few.items()})
    pack.main(work, folder)
    patch.undo()
    return folder


def test_groups_with_a_near_copy_are_one_unit(work):
    dealt = np.load(work / "deal.npz")
    names = Store.load(work / "records.npz").labels.name
    of = dict(zip(names.tolist(), dealt["unit"].tolist(), strict=True))
    assert of["viral0"] == of["viral1"] != of["viral2"]
    assert of["bacteria4"] == of["plasmids4"] == of["archaea4"]  # one family


def test_units_of_every_category_are_spread_over_the_folds(work):
    counts = json.loads((work / "deal.json").read_text())
    for category in ("viral", "bacteria", "fungi"):
        units = counts[category]["units_of_folds"]
        assert max(units) - min(units) <= 1


def test_a_fold_is_out_of_its_own_training_and_so_are_genes_of_its_families(work):
    dealt = np.load(work / "deal.npz")
    n = np.arange(len(dealt["fold"]))
    assert dealt["out_records"][n, dealt["fold"]].all()
    labels = Store.load(work / "records.npz").labels
    fold = int(dealt["fold"][labels.group == "phage3"][0])
    assert dealt["out_markers"][0].tolist() == [f == fold for f in range(deal.FOLDS)]


def test_what_version_8_had_not_seen(work):
    new = np.load(work / "deal.npz")["new_to_8"]
    labels = Store.load(work / "records.npz").labels
    assert set(labels.name[new & (labels.virus == 1)]) == {
        *(f"viral{i}" for i in range(8, 12)),
        "m0",
        "m1",
        "m2",
    }


def test_contigs_lie_where_they_say(work, packed):
    genomes = contigs.Packed.load(packed, "genomes")
    found = contigs.contigs_of(genomes, packed)
    whole = Store.load(work / "records.npz")
    z = np.load(packed / "1" / "contigs.npz")
    for i in range(0, len(found), 37):
        s = int(np.flatnonzero(whole.record == z["row"][i])[0])
        a = int(z["offset"][i])
        assert (found.segment(i) == whole.segment(s)[a : a + int(z["length"][i])]).all()


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """All stages with a tiny network."""
    out, patch = tmp_path_factory.mktemp("out"), pytest.MonkeyPatch()
    patch.setattr(contigs, "SHUFFLED", ((500, 4),))
    patch.setattr(contigs, "SPLICED", 1)
    argv = ["stages", str(packed), str(out), "--eight", ".", "--tiny", "--workers", "0"]
    patch.setattr("sys.argv", [*argv, "--fold-seconds", "0.2", "--seconds", "1"])
    stages.main()
    patch.undo()
    return out


def test_all_stages_leave_their_files_and_are_not_done_again(packed, trained, monkeypatch):
    names = {p.name for p in trained.iterdir()}
    wanted = {f"new-{k}-{what}" for k in range(5) for what in ("scores.npz", "rest.safetensors")}
    assert wanted | {"old-0-scores.npz", "eight-scores.npz", "student-esm2.safetensors"} <= names
    before = (trained / "new-0-scores.npz").stat().st_mtime_ns
    (trained / "student-rest.safetensors").unlink()
    argv = ["stages", str(packed), str(trained), "--eight", ".", "--tiny", "--workers", "0"]
    monkeypatch.setattr("sys.argv", [*argv, "--seconds", "1"])
    stages.main()
    assert (trained / "new-0-scores.npz").stat().st_mtime_ns == before
    assert (trained / "student-rest.safetensors").exists()


def test_every_contig_is_scored_by_the_network_that_has_not_seen_its_fold(work, packed, trained):
    found, table = oof.table(work, packed, trained)
    assert not np.isnan(table["logit"]).any()
    assert (np.isnan(table["logit_8"]) == ~table["new"]).all()
    k = int(table["fold"][0])
    own = oof.log_odds(found, trained / f"new-{k}-scores.npz")
    assert own[0] == table["logit"][0] and np.isnan(own[table["fold"] != k]).all()


def test_the_folds_become_figures_and_the_student_a_bundle(
    work, packed, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(fold_report, "DRAWS", 3)
    results, bundle = tmp_path / "folds.json", tmp_path / "bundle"
    fold_report.main(work, packed, trained, results)
    argv = ["ship", str(trained), str(packed), str(results), str(bundle), "--tiny"]
    monkeypatch.setattr("sys.argv", [*argv, "--network", "student"])
    ship.main()
    assert json.loads((bundle / "bundle.json").read_text())["calibration"]["method"] == "logistic"
    assert EsmModel.from_pretrained(bundle / "esm2", add_pooling_layer=False)


def test_the_warm_networks_are_measured_on_groups_that_nothing_has_seen(
    work, packed, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(fold_report, "DRAWS", 3)
    argv = ["warm", str(packed), str(trained), "--eight", ".", "--tiny", "--workers", "0"]
    monkeypatch.setattr("sys.argv", [*argv, "--fold-seconds", "0.2"])
    warm.main()
    one, other, mean = (bench.load_state(trained, f"{n}") for n in ("warm-0", "warm-1", "mean"))
    name = "classifier.hidden_layer.weight"
    assert torch.allclose(mean[name], (one[name] + other[name]) / 2, atol=1e-3)
    results, scores = tmp_path / "warm.json", tmp_path / "oof.npz"
    warm_report.main(work, packed, trained, results, scores)
    with np.load(scores) as z:
        known = ~np.isnan(z["logit"])
        assert (known == (z["new"] & np.isin(z["fold"], warm.FOLDS))).all()
    argv = ["ship", str(trained), str(packed), str(results), str(tmp_path / "bundle"), "--tiny"]
    monkeypatch.setattr("sys.argv", argv)
    ship.main()
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["version"] == "9"
