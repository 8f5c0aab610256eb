"""`models verify`: a sound bundle passes against figures it did not make, a near miss is told apart
from another model, and the result is kept and printed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from original_files import GOLDEN, golden_rows, published_figures, published_rows
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from virnucpro import api
from virnucpro.errors import ModelError
from virnucpro.models.files import read_verification
from virnucpro.tools import verify as module
from virnucpro.tools.commands import models
from virnucpro.tools.figures import NEAR, PASSED, WRONG, Figures, Given, ScoredRows
from virnucpro.tools.verify import Verification, sign_off, verify

WIDTHS = {"dnabert_s": 48, "esm2": 32}


def golden_figures() -> Figures:
    """Figures of the original's golden run."""
    given = Given("input", (GOLDEN / "input.fa").read_text(), golden_rows())
    return Figures("the original's golden run", "golden", WIDTHS, (given,))


def pipeline(esm2: Path = GOLDEN / "esm2"):
    """The real pipeline with the golden run's parts, on the CPU."""

    def predict(file: Path, directory: Path, precision: str) -> None:
        api.predict(
            file,
            output_dir=directory,
            esm_model=str(esm2),
            dna_model=str(GOLDEN / "dnabert_s"),
            gpus="none",
            classifier=str(GOLDEN / "500_model.pth"),
            precision=precision,
            cache_dir=file.parent / "cache",
        )

    return predict


def test_the_package_holds_all_published_figures():
    packed, files = Figures.load(), published_figures()
    assert replace(packed, inputs=()) == replace(files, inputs=())
    assert sum(given.rows.features.size for given in packed.inputs) == 8 * 3328
    for given, wanted in zip(packed.inputs, files.inputs, strict=True):
        assert (given.name, given.fasta) == (wanted.name, wanted.fasta)
        assert (given.rows.ids, given.rows.labels) == (wanted.rows.ids, wanted.rows.labels)
        assert np.array_equal(given.rows.features, wanted.rows.features)
        assert np.array_equal(given.rows.scores, wanted.rows.scores)


def test_a_sound_bundle_passes_and_a_changed_weight_does_not(tmp_path: Path):
    (comparison,) = verify(pipeline(), golden_figures(), ["fp32"])
    assert comparison.verdict == PASSED, comparison.line()
    assert comparison.labels_equal == comparison.frames == 149
    assert comparison.max_score_deviation < 1e-4
    assert max(comparison.max_feature_deviation.values()) < 2e-5

    changed = tmp_path / "esm2"
    shutil.copytree(GOLDEN / "esm2", changed)
    weights = load_file(changed / "model.safetensors")
    weights["encoder.layer.20.output.dense.bias"][3] += 0.05
    save_file(weights, changed / "model.safetensors")
    (comparison,) = verify(pipeline(changed), golden_figures(), ["fp32"])
    assert comparison.verdict != PASSED
    assert "features" in comparison.problem
    assert comparison.max_feature_deviation["esm2"] > 2e-5
    assert comparison.max_feature_deviation["dnabert_s"] < 2e-5


def answering(monkeypatch, change: Callable[[ScoredRows, str], ScoredRows]):
    """A pipeline that answers with the published files, changed; stands in for weights that are not
    to be had here.
    """

    def read(directory: Path, name: str) -> ScoredRows:
        return change(published_rows(name), directory.read_text())

    monkeypatch.setattr(module, "read_rows", read)
    return lambda file, directory, precision: directory.write_text(precision)


def one_column(rows: ScoredRows, precision: str) -> ScoredRows:
    """A single of 3,328 columns is off."""
    features = rows.features.copy()
    features[:, 2000] += 1e-3
    return replace(rows, features=features)


@pytest.mark.parametrize(
    ("change", "verdict", "problem"),
    [
        (lambda rows, _: rows, PASSED, ""),
        (lambda rows, _: replace(rows, scores=rows.scores + 2e-4), NEAR, "scores"),
        (one_column, NEAR, "features"),
        (lambda rows, _: replace(rows, labels=["virus"] * len(rows.ids)), WRONG, "labels"),
        (lambda rows, _: replace(rows, features=rows.features[:, ::-1]), WRONG, "features"),
        (lambda rows, _: replace(rows, features=rows.features * np.nan), WRONG, "features"),
        (lambda rows, _: replace(rows, ids=rows.ids[::-1]), WRONG, "features"),
        (lambda rows, _: replace(rows, ids=rows.ids[:1] * len(rows.ids)), WRONG, "other frames"),
        (lambda rows, _: replace(rows, features=rows.features[:, 1:]), WRONG, "another width"),
    ],
)
def test_a_near_miss_is_told_apart_from_another_model(monkeypatch, change, verdict, problem):
    (comparison,) = verify(answering(monkeypatch, change), Figures.load(), ["fp32"])
    assert comparison.verdict == verdict, comparison.line()
    assert problem in comparison.problem
    said = {PASSED: "passed", NEAR: "NEAR MISS", WRONG: "FAILED"}[verdict]
    assert said in comparison.line()


def blurred(rows: ScoredRows, precision: str) -> ScoredRows:
    """Noise of a precision's size, and one that is too much."""
    size = {"fp32": 0.0, "fp16": 0.0002, "bf16": 0.002, "int8": 0.05}[precision]
    noise = np.random.default_rng(1).normal(0, size, rows.features.shape)
    return replace(rows, features=(rows.features + noise).astype(np.float32))


def test_other_precisions_are_compared_with_fp32(monkeypatch):
    predict = answering(monkeypatch, blurred)
    fp32, bf16, int8 = verify(predict, Figures.load(), ["bf16", "int8"])
    assert (fp32.precision, fp32.verdict) == ("fp32", PASSED)
    assert bf16.verdict == PASSED and 0.999 <= bf16.least_cosine < 1
    assert int8.verdict != PASSED and "cosine" in int8.problem


def test_the_result_is_kept_by_content(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path))
    predict = answering(monkeypatch, lambda rows, _: rows)
    identity = {"esm2": "a" * 64, "dnabert_s": "b" * 64, "classifier": "c" * 64}
    figures = Figures.load()
    file = sign_off(verify(predict, figures, ["fp32"]), "500", identity, "CPU", figures)
    kept = read_verification(identity)
    assert kept == json.loads(file.read_text())
    assert (kept["passed"], kept["verdict"], kept["device"]) == (True, PASSED, "CPU")
    assert kept["precisions"]["fp32"]["max_score_deviation"] < 1e-6
    assert set(kept["versions"]) == {"virnucpro", "torch", "transformers", "python"}
    assert read_verification(identity | {"esm2": "d" * 64}) is None
    file.write_text("[1]")
    assert read_verification(identity) is None


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch) -> Path:
    """The golden parts as a bundle that is named like the golden figures."""
    from virnucpro.models.classifier import Classifier

    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    directory = tmp_path / "golden"
    directory.mkdir()
    for part in ("esm2", "dnabert_s"):
        (directory / part).symlink_to(GOLDEN / part)
    Classifier.load(GOLDEN / "500_model.pth").save(directory / "classifier.safetensors")
    content = {"name": "golden", "chunk_length": 500, "classifier": "classifier.safetensors"}
    content |= {"esm2": "esm2", "dnabert_s": "dnabert_s"}
    (directory / "bundle.json").write_text(json.dumps(content))
    monkeypatch.setattr(Figures, "load", golden_figures)
    return directory


def test_the_result_is_printed_where_it_cannot_be_kept(bundle: Path, tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "verified").write_text("a file where a directory should be")
    result = CliRunner().invoke(models, ["verify", str(bundle)])
    assert result.exit_code == 0, result.output
    assert "fp32: 149 of 149 labels equal" in result.output
    assert "passed; later runs will not know of it" in result.output


@pytest.mark.parametrize(
    ("wrong", "verdict", "published", "said"),
    [
        (("x: changed since it came",), PASSED, True, "fetches what changed"),
        ((), NEAR, True, "this machine's arithmetic"),
        ((), NEAR, False, "nearly the published ones"),
        ((), WRONG, False, "other ones"),
        ((), WRONG, True, "report"),
    ],
)
def test_every_verdict_says_what_to_do(monkeypatch, wrong, verdict, published, said):
    predict = answering(monkeypatch, lambda rows, _: rows)
    (comparison,) = verify(predict, Figures.load(), ["fp32"])
    found = Verification(wrong, (replace(comparison, verdict=verdict),), published)
    assert said in found.advice("500") and "\n" not in found.advice("500")


def test_changed_and_missing_files_are_said_before_anything_is_loaded(bundle: Path, tmp_path: Path):
    from virnucpro.models.contents import Contents

    file = bundle / "classifier.safetensors"
    Contents("somewhere").adding(file).write(bundle)
    file.write_bytes(file.read_bytes() + b"x")
    result = CliRunner().invoke(models, ["verify", str(bundle)])
    assert result.exit_code == 1
    assert f"{file}: changed since it came" in result.output
    assert "models download" in result.output
    file.unlink()
    with pytest.raises(ModelError, match=r"classifier\.safetensors not whole on this machine"):
        module.verify_model(str(bundle))
