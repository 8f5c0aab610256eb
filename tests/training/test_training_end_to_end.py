"""From a table of labels to a calibrated bundle and its evaluation, on toy viruses that differ from
toy cells in their codons.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from virnucpro import api, cli
from virnucpro.errors import InputError, ModelError, UsageError
from virnucpro.models.bundle import Bundle
from virnucpro.training.bundle.bundle import train_bundle
from virnucpro.training.calibrate import calibrate
from virnucpro.training.classifier import ClassifierRecipe, train_classifier
from virnucpro.training.evaluate import run_evaluation
from virnucpro.training.prepare import prepare
from virnucpro.training.settings import (
    CalibrateSettings,
    EvaluateSettings,
    PrepareSettings,
    TrainSettings,
)

RNG = np.random.default_rng(23)
CODONS = [
    a + b + c
    for a in "ACGT"
    for b in "ACGT"
    for c in "ACGT"
    if a + b + c not in ("TAA", "TAG", "TGA")
]


def toy_gene(virus: bool, codons: int) -> str:
    taste = np.array(
        [
            (3.0 if c[2] in "AT" else 1.0) if virus else (3.0 if c[2] in "GC" else 1.0)
            for c in CODONS
        ]
    )
    return "".join(RNG.choice(CODONS, codons, p=taste / taste.sum()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy")
    lines = ["file\trecord\tlabel\tgroup"]
    with (directory / "g.fna").open("w") as fasta:
        for i in range(24):
            virus = i % 2 == 0
            fasta.write(f">r{i}\n{toy_gene(virus, 700)}\n")
            lines.append(f"g.fna\tr{i}\t{'virus' if virus else 'others'}\tg{i // 2}")
    (directory / "labels.tsv").write_text("\n".join(lines) + "\n")
    prepare(
        PrepareSettings(
            directory / "labels.tsv",
            directory / "prepared",
            frame_policy="stretches",
            validation=0.2,
            test=0.25,
        )
    )
    return directory / "prepared"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def tiny(prepared, directory) -> TrainSettings:
    """A training of three steps."""
    return TrainSettings(prepared, directory, name="toy", size="tiny", steps=3, workers=0)


@pytest.fixture(scope="module")
def bundle(prepared, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "bundle"
    return train_bundle(
        replace(tiny(prepared, directory), steps=24, pretrain=0.1, learning_rate=4e-3)
    )


def test_a_trained_bundle_tells_the_toys_apart_after_calibration(prepared, bundle, tmp_path):
    found = calibrate(CalibrateSettings(bundle, prepared, tmp_path / "calibration", per_group=6))
    assert Bundle.load(bundle).calibration["features"] and found["sequences"] > 20
    results = run_evaluation(
        EvaluateSettings(
            prepared,
            str(bundle),
            tmp_path / "evaluation",
            lengths="500, 1000",
            per_group=6,
            draws=20,
            baselines=False,
        )
    )
    assert results["lengths"]["1000"]["all"]["auroc"][0] > 0.9
    assert results["lengths"]["500"]["all"]["viral_groups"] == 3
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written["lengths"]["500"]["all"] == results["lengths"]["500"]["all"]
    table = [
        line.split("\t")
        for line in (tmp_path / "evaluation" / "evaluation.tsv").read_text().splitlines()[1:]
    ]
    value = {tuple(row[:3]): row[3:] for row in table}
    at = results["lengths"]["500"]
    assert value["500", "all", "auroc"] == [*(f"{v:.4f}" for v in at["all"]["auroc"]), "6"]
    name, figures = next(iter(at["classes"].items()))
    assert value["500", f"class {name}", "auroc"] == [
        f"{figures['auroc']:.4f}",
        "NA",
        "NA",
        str(figures["groups"]),
    ]
    assert (
        value["500", "prevalence 0.05", "recall"][0] == f"{at['prevalence']['0.05']['recall']:.4f}"
    )
    assert value["500", "mean of classes", "auroc"][0] == f"{at['macro']['auroc']:.4f}"
    assert (tmp_path / "evaluation" / "evaluation.png").stat().st_size > 5000
    scores = (tmp_path / "evaluation" / "scores.tsv").read_text().splitlines()
    assert len(scores) == 1 + sum(
        f["all"]["viruses"] + f["all"]["cellular"] for f in results["lengths"].values()
    )


def test_a_calibration_needs_groups_to_leave_out(prepared, bundle, tmp_path):
    prepare(
        PrepareSettings(
            prepared.parent / "labels.tsv",
            tmp_path / "few",
            frame_policy="stretches",
            validation=0.05,
        )
    )
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(InputError, match="of 1 viral and 1 other groups"):
        calibrate(
            CalibrateSettings(bundle, tmp_path / "few", tmp_path / "calibration", per_group=1)
        )
    assert (bundle / "bundle.json").read_bytes() == before


def test_one_of_several_processes_does_not_train(prepared, tmp_path, monkeypatch):
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    for name, value in (launched | {"MASTER_ADDR": "localhost"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError,
        match="train runs in one process, and the launcher started 2; leave the launcher out",
    ):
        train_bundle(tiny(prepared, tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_training_goes_on_where_it_stopped(prepared, tmp_path):
    first = tiny(prepared, tmp_path / "b")
    train_bundle(first)
    at = torch.load(tmp_path / "b" / "training" / "state.pt", weights_only=True)
    train_bundle(replace(first, steps=5, resume=True))
    then = torch.load(tmp_path / "b" / "training" / "state.pt", weights_only=True)
    assert (at["step"], then["step"], then["mean_steps"]) == (3, 5, 5) and then["frames"] == 5 * 24
    with pytest.raises(
        ModelError, match=r"state\.pt: not of this training \(.*\); start without --resume"
    ):
        train_bundle(replace(first, size="small", steps=5, resume=True))
    # as a crash of the machine may leave it
    (tmp_path / "b" / "training" / "state.pt").write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"state\.pt: not of this training \(.*\); start without --resume"
    ):
        train_bundle(replace(first, steps=5, resume=True))


def test_an_interrupted_training_is_kept_and_one_without_resume_starts_over(prepared, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bundle(replace(tiny(prepared, tmp_path / "b"), steps=5), interrupt)
    assert torch.load(tmp_path / "b" / "training" / "state.pt", weights_only=True)["step"] == 1
    vocabulary = tmp_path / "b" / "training" / "dnabert_s" / "tokenizer.json"
    learned = vocabulary.read_text()
    vocabulary.write_text("of another size")
    train_bundle(replace(tiny(prepared, tmp_path / "b"), steps=1))
    assert vocabulary.read_text() == learned


def test_a_stopped_train_says_how_to_go_on(prepared, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("virnucpro.training.bundle.bundle.train_bundle", interrupted)
    assert cli.run(["train", str(prepared), "-o", str(tmp_path / "b")]) == 130
    assert "give the same command with --resume" in capsys.readouterr().err


def test_chunks_too_long_for_a_size_are_refused(prepared, tmp_path):
    with pytest.raises(UsageError, match="up to 762 bases"):
        train_bundle(replace(tiny(prepared, tmp_path / "b"), chunk_length=763))


@pytest.fixture(scope="module")
def features(prepared, bundle, tmp_path_factory):
    directory = tmp_path_factory.mktemp("features")
    for side in ("train", "validation", "test"):
        api.predict(prepared / f"{side}.fna", directory / side, model=str(bundle))
    return [directory / side / "merged_features.pt" for side in ("train", "validation", "test")]


def test_a_classifier_on_stored_features_serves_predict(prepared, bundle, features, tmp_path):
    metrics = train_classifier(
        TrainSettings(
            None,
            tmp_path / "c",
            features,
            prepared / "frames.tsv",
            epochs=6,
            learning_rate=5e-3,
        )
    )
    assert (
        metrics["counts"]["rows_without_a_label"] == metrics["counts"]["labels_without_a_row"] == 0
    )
    assert metrics["test"]["auroc"] > 0.8
    classifier = str(tmp_path / "c" / "classifier.safetensors")
    result = api.predict(
        prepared / "test.fna", tmp_path / "out", model=str(bundle), classifier=classifier
    )
    assert result.exit_code == 0 and len((tmp_path / "c" / "log.csv").read_text().splitlines()) > 2


def test_a_resumed_classifier_ends_like_an_undisturbed_one(prepared, features, tmp_path):
    whole = TrainSettings(None, tmp_path / "whole", features, prepared / "frames.tsv", epochs=4)
    parts, small = replace(whole, output=tmp_path / "parts"), ClassifierRecipe(hidden=16)
    train_classifier(whole, recipe=small)
    train_classifier(replace(parts, epochs=2), recipe=small)
    train_classifier(replace(parts, resume=True), recipe=small)
    assert (tmp_path / "whole" / "log.csv").read_text() == (
        tmp_path / "parts" / "log.csv"
    ).read_text()
    assert (tmp_path / "whole" / "classifier.safetensors").read_bytes() == (
        tmp_path / "parts" / "classifier.safetensors"
    ).read_bytes()


def test_one_class_alone_cannot_train(prepared, features, tmp_path):
    kept = [
        line
        for line in (prepared / "frames.tsv").read_text().splitlines()
        if "\tothers\t" not in line
    ]
    (tmp_path / "frames.tsv").write_text("\n".join(kept) + "\n")
    with pytest.raises(InputError, match="no example of both classes"):
        train_classifier(TrainSettings(None, tmp_path / "c", features, tmp_path / "frames.tsv"))
