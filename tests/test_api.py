"""The Python interface, and that `summarize` says what a fresh run would have said."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import GOLDEN, environment, virnucpro

import virnucpro as package
from virnucpro.errors import StoreError, UsageError
from virnucpro.run import job as preparation
from virnucpro.sequences import compressed

PARTS = {
    "esm_model": str(GOLDEN / "esm2"),
    "dna_model": str(GOLDEN / "dnabert_s"),
    "classifier": str(GOLDEN / "500_model.pth"),
}
# the first four records
FEW = "".join((GOLDEN / "input.fa").read_text().partition(">long3777")[:1])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def options(home) -> dict:
    return {
        **PARTS,
        "precision": "fp32",
        "gpus": "none",
        "cache_dir": home / "cache",
        "batch_size": 512,
    }


@pytest.fixture(scope="module")
def fasta(home) -> Path:
    path = home / "few.fa"
    path.write_text(FEW)
    return path


@pytest.fixture(scope="module")
def result(home, options, fasta):
    return package.predict(fasta, output_dir=home / "out", **options)


def tables(directory: Path) -> dict[str, bytes]:
    paths = [
        path
        for kind in ("tsv", "bed", "fna", "txt", "csv")
        for path in directory.rglob(f"*.{kind}")
    ]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_the_log_says_what_a_run_from_python_did(result):
    text = result.outputs.run_log.read_text()
    assert "virnucpro 1.0.0; model: custom" in text and "esm2: " in text


def test_tables_come_as_arrow(result):
    assert result.exit_code == 0 and not result.failures
    assert result.contigs["seq_name"].to_pylist() == ["exact500", "len499", "len501", "len1250"]
    assert result.chunks["chunk"].to_pylist() == [1, 1, 1, 2, 1, 2, 3]
    assert result.frames.num_rows == len(result.features()[0])


def test_a_finished_run_gives_its_tables_and_failures_again(home, options, fasta, tmp_path):
    (tmp_path / "binary.fa").write_bytes(bytes(range(256)))
    wanted = {**options, "output_dir": home / "partial", "table_format": "parquet"}
    first = package.predict([fasta, tmp_path / "binary.fa"], **wanted)
    again = package.predict([fasta, tmp_path / "binary.fa"], **wanted)
    assert (first.exit_code, again.exit_code, again.answers) == (2, 0, None)
    assert again.failures == first.failures and len(first.failures) == 1
    assert again.contigs == first.contigs and again.contigs.num_rows == 4


def test_a_run_after_a_passing_read_error_answers_what_was_missing(
    home, options, fasta, tmp_path, monkeypatch, result
):
    """In the same output directory, without --force, from the state that the first run left."""
    (tmp_path / "other.fa").write_text(FEW.replace(">", ">other_"))
    (tmp_path / "few.fa").write_text(FEW)
    inputs, whole = [tmp_path / "few.fa", tmp_path / "other.fa"], compressed._HashedFile.readinto

    def fail(self, buffer):
        if os.path.sameopenfile(self.fileno(), other):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(self, buffer)

    other = os.open(inputs[1], os.O_RDONLY)
    with monkeypatch.context() as failing:
        failing.setattr(compressed._HashedFile, "readinto", fail)
        first = package.predict(inputs, output_dir=tmp_path / "out", **options)
    assert first.exit_code == 2 and "Input/output error" in first.failures[0].reason
    assert first.contigs.num_rows == 4
    second = package.predict(inputs, output_dir=tmp_path / "out", **options)
    assert (
        second.exit_code == 0 and not second.failures and not second.outputs.failed_files.exists()
    )
    fresh = package.predict(inputs, output_dir=tmp_path / "fresh", **options)
    assert tables(second.directory) == tables(fresh.directory) and second.contigs.num_rows == 8
    with monkeypatch.context() as failing:
        failing.setattr(compressed._HashedFile, "readinto", fail)
        with pytest.raises(StoreError, match=r"other\.fa, which cannot be read now"):
            package.predict(inputs, output_dir=tmp_path / "out", **options)
    os.close(other)
    assert tables(second.directory) == tables(fresh.directory)


def test_run_json_says_how_fast_each_stage_was(result):
    facts = json.loads(result.outputs.run_json.read_text())
    speed, seconds = facts["throughput"], facts["seconds"]
    assert speed["esm2"]["embeddings_per_second"] == pytest.approx(
        facts["embedding"]["esm2"]["rows"] / seconds["esm2"], abs=0.1
    )
    assert speed["tables"]["sequences_per_second"] == pytest.approx(4 / seconds["tables"], abs=0.1)
    assert speed.keys() >= {"read", "dnabert_s", "esm2", "classify", "tables", "report"}


def test_embed_gives_the_features_of_predict(home, options, fasta, result):
    ids, matrix = package.embed(fasta, **options)
    expected_ids, expected = result.features()
    assert ids == expected_ids and (matrix == np.asarray(expected)).all()


@pytest.fixture(scope="module")
def strict(home, options, fasta) -> Path:
    return package.predict(fasta, output_dir=home / "strict", min_score=0.7, **options).directory


def test_without_features_the_answers_are_the_same_and_no_matrix_takes_room(
    home, options, fasta, result, strict, monkeypatch
):
    asked: list[int] = []
    monkeypatch.setattr(
        preparation, "check_room", lambda directory, needed, option: asked.append(needed)
    )
    monkeypatch.setattr("virnucpro.embedding.matrix.write_matrix", None)
    scores_only = package.predict(fasta, output_dir=home / "scores", features="none", **options)
    assert tables(scores_only.directory) == tables(result.directory)
    assert not list(scores_only.directory.rglob("*.pt"))
    ids, matrix = result.features()
    unique = {
        name: entry["unique"]
        for name, entry in json.loads(result.outputs.run_json.read_text())["embedding"].items()
    }
    assert asked == [4 * (unique["dnabert_s"] * 48 + unique["esm2"] * 32)] and matrix.shape == (
        len(ids),
        80,
    )
    package.summarize(scores_only.directory, min_score=0.7, cache_dir=home / "cache")
    assert tables(scores_only.directory) == tables(strict)
    with pytest.raises(StoreError, match="--features none, which keeps too little"):
        package.summarize(scores_only.directory, PARTS["classifier"])


def test_a_stride_changes_nothing_but_regions(home, options, fasta, result):
    dense = package.predict(fasta, output_dir=home / "dense", stride=100, **options)
    theirs, mine = tables(result.directory), tables(dense.directory)
    for name in ("chunks.tsv", "frames.tsv", *(name for name in theirs if "_merged/" in name)):
        assert mine[name] == theirs[name], name
    assert dense.contigs.drop_columns("note") == result.contigs.drop_columns("note")
    # of the 1,250 bases
    assert dense.answers.windows is not None and len(dense.answers.windows) == 8 + 1
    ids, matrix = dense.features()
    of_chunks = np.array(["_chunk_" in name for name in ids])
    plain_ids, plain = result.features()
    assert (
        [name for name in ids if "_chunk_" in name] == plain_ids
        and (matrix[of_chunks] == plain).all()
        and not of_chunks.all()
    )
    package.summarize(dense.directory, cache_dir=home / "cache")
    assert tables(dense.directory) == mine
    with pytest.raises(StoreError, match="--stride was 100, now 0"):
        package.predict(fasta, output_dir=home / "dense", **options)
    with pytest.raises(UsageError, match="give 25 to 499"):
        package.predict(fasta, output_dir=home / "denser", stride=500, **options)


@pytest.mark.parametrize("scores", ["whole", "gone", "cut"])
def test_summarize_equals_a_fresh_run_with_the_same_thresholds(
    home, options, fasta, strict, scores
):
    again = package.predict(fasta, output_dir=home / "loose", force=True, **options)
    table = again.outputs.prediction_results("few")
    if scores == "gone":  # then from the features
        table.unlink()
    if scores == "cut":
        table.write_text("".join(table.read_text().splitlines(True)[:-1]))
    package.summarize(again.directory, min_score=0.7, cache_dir=home / "cache")
    assert tables(again.directory) == tables(strict)


def test_summarize_with_another_classifier_equals_a_fresh_run_with_it(home, options, fasta):
    from virnucpro.models.classifier import Classifier

    other = Classifier.load(GOLDEN / "500_model.pth")
    tensors = {name: tensor.detach().clone() for name, tensor in other.tensors.items()}
    tensors["output_layer.bias"] += torch.tensor([0.0, 1.5])
    Classifier(tensors).save(home / "other.safetensors")
    fresh = package.predict(
        fasta,
        output_dir=home / "fresh_other",
        **{**options, "classifier": str(home / "other.safetensors")},
    )
    again = package.predict(fasta, output_dir=home / "to_other", **options)
    package.summarize(again.directory, home / "other.safetensors", cache_dir=home / "cache")
    mine, theirs = tables(again.directory), tables(fresh.directory)
    assert mine.keys() == theirs.keys()
    assert mine["few_merged/prediction_results.txt"] == theirs["few_merged/prediction_results.txt"]
    assert mine["contigs.tsv"] == theirs["contigs.tsv"]


def test_summarize_without_a_run_says_so(tmp_path):
    with pytest.raises(StoreError, match="no finished run"):
        package.summarize(tmp_path)


def test_summarize_refuses_inputs_that_changed(home, options, tmp_path):
    path = tmp_path / "changing.fa"
    path.write_text(FEW)
    package.predict(path, output_dir=tmp_path / "out", **options)
    path.write_text(FEW.replace("A", "C", 1))
    with pytest.raises(StoreError, match="changed"):
        package.summarize(tmp_path / "out", cache_dir=home / "cache")


def test_an_unknown_option_or_a_wrong_value_is_a_usage_error():
    with pytest.raises(UsageError, match="no such option"):
        package.predict("x.fa", thresholds=0.3)
    with pytest.raises(UsageError, match="--min-length -1"):
        package.predict("x.fa", min_length=-1)


def test_drop_in_for_the_original_in_a_pipeline(home, options, fasta, tmp_path):
    """What a workflow does today: fresh directory, old flags, the two old tables, and the word
    Traceback fails the step.
    """
    run = virnucpro(
        home,
        "predict",
        fasta,
        "--model-type",
        "custom",
        "--model-path",
        PARTS["classifier"],
        "--expected-length",
        "500",
        "--esm-model",
        PARTS["esm_model"],
        "--dna-model",
        PARTS["dna_model"],
        "--output-dir",
        tmp_path / "step",
        "--force",
        "--no-progress",
        "--batch-size",
        "256",
        "--esm-batch-size",
        "2048",
        "--dnabert-batch-size",
        "512",
        "--threads",
        "4",
        "--parallel",
        "--device",
        "cpu",
        "--persistent-models",
        "--v1-fallback",
        "--v1-attention",
    )
    assert run.returncode == 0 and b"Traceback" not in run.stdout + run.stderr, run.stderr.decode()
    assert run.stderr.decode().count("--esm-batch-size is no longer needed") == 1
    with open(
        tmp_path / "step" / "few_merged" / "prediction_results_highestscore.csv", newline=""
    ) as file:
        chunks = list(csv.DictReader(file, delimiter="\t"))
    assert [row["Modified_ID"] for row in chunks] == sorted(row["Modified_ID"] for row in chunks)
    assert all(
        0 <= float(row["max_score_0"]) <= 1 and 0 <= float(row["max_score_1"]) <= 1
        for row in chunks
    )
    frames = (tmp_path / "step" / "few_merged" / "prediction_results.txt").read_text().splitlines()
    assert frames[0] == "Sequence_ID\tPrediction\tscore1\tscore2" and len(frames) > 1


def test_scores_that_are_not_finite_are_failed_and_listed(home, options, fasta, monkeypatch):
    from virnucpro.models.classifier import Classifier

    whole = package.predict(fasta, output_dir=home / "finite", **options)
    bad = 3  # the frame whose score is no number
    right = Classifier.scores

    def overflown(classifier, features):
        scores = right(classifier, features)
        scores[bad] = np.nan
        return scores

    monkeypatch.setattr(Classifier, "scores", overflown)
    result = package.predict(fasta, output_dir=home / "overflown", **options)
    assert result.exit_code == 2
    frame = whole.frames["frame_id"][bad].as_py()
    name, chunk = frame.rsplit("_chunk_", 1)
    failed = (result.directory / "failed_files.txt").read_text()
    assert f"|classify|record {name}: frame {frame} has a score that is not finite" in failed
    lines = (result.directory / "chunks.tsv").read_text().splitlines()
    (row,) = [line.split("\t") for line in lines if line.startswith(f"{name}\t{chunk[:-2]}\t")]
    found = dict(zip(lines[0].split("\t"), row, strict=True))
    assert (found["status"], found["virus_score"], found["is_virus"]) == ("failed", "NA", "NA")
    # summarize gives the same from the scores, and all of it again from the features
    before = tables(result.directory)
    again = package.summarize(result.directory, cache_dir=home / "cache")
    assert again.exit_code == 2 and tables(result.directory) == before
    monkeypatch.setattr(Classifier, "scores", right)
    mended = package.summarize(result.directory, options["classifier"], cache_dir=home / "cache")
    assert mended.exit_code == 0 and not (result.directory / "failed_files.txt").exists()
    assert tables(result.directory)["chunks.tsv"] == tables(whole.directory)["chunks.tsv"]


def test_a_process_forked_after_a_run_does_not_wait_for_ever(tmp_path):
    """Its parent's threads are not its own."""
    (tmp_path / "few.fa").write_text(FEW)
    program = (
        "import multiprocessing, virnucpro\n"
        "def run(name):\n"
        f"    options = dict({PARTS!r}, gpus='none', cache_dir='cache', precision='fp32')\n"
        "    return virnucpro.predict('few.fa', output_dir=name, **options).exit_code\n"
        "first = run('first')\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "    print(first, pool.apply_async(run, ('second',)).get(100))\n"
    )
    child = environment(tmp_path, {"OMP_NUM_THREADS": "2"})
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        command, cwd=tmp_path, env=child, capture_output=True, text=True, timeout=200, check=False
    )
    assert found.stdout == "0 0\n", found.stderr
    assert "forked from one that has computed already: it computes with one thread" in found.stderr
    assert tables(tmp_path / "first") == tables(tmp_path / "second")


def test_short_sequences_are_announced_before_anything_is_computed(home, options, tmp_path):
    (tmp_path / "reads.fa").write_text(">read\n" + "ACGGATCTG" * 20 + "\n")
    result = package.predict(tmp_path / "reads.fa", **{**options, "output_dir": tmp_path / "o"})
    said = result.outputs.run_log.read_text()
    assert 0 < said.index("1 sequence is shorter than 250 bases") < said.index("dnabert_s: ")
    assert "--allow-short calls all" in said
    row = result.contigs.to_pylist()[0]
    assert row["call"] == "too_short" and row["virus_score"] is not None
