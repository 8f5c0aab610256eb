"""`models verify`: a sound bundle passes against figures it did not make, damage shows, and the
result is kept.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from original_files import GOLDEN, PUBLISHED, golden_rows, published_rows
from safetensors.torch import load_file, save_file

from virnucpro import api
from virnucpro.models.figures import Rows, figures_of, load_figures
from virnucpro.tools import verify as module
from virnucpro.tools.verify import read_verification, sign_off, verify

WIDTHS = {"dnabert_s": 48, "esm2": 32}
STEM = "input"


def golden_figures() -> dict:
    """Figures of the original's golden run, made as those in the package are."""
    inputs = [
        {
            "name": STEM,
            "fasta": (GOLDEN / "input.fa").read_text(),
            "frames": figures_of(golden_rows(), WIDTHS),
        }
    ]
    return {
        "source": "the original's golden run",
        "model": "golden",
        "widths": WIDTHS,
        "inputs": inputs,
    }


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


def test_the_package_holds_the_figures_of_the_published_files():
    figures = load_figures()
    assert figures["widths"] == {"dnabert_s": 768, "esm2": 2560} and figures["model"] == "500"
    assert [given["name"] for given in figures["inputs"]] == sorted(
        folder.name for folder in PUBLISHED.iterdir()
    )
    for given in figures["inputs"]:
        assert given["fasta"] == (PUBLISHED / given["name"] / "input.fa").read_text()
        assert given["frames"] == figures_of(published_rows(given["name"]), figures["widths"])


def test_a_sound_bundle_passes_and_a_damaged_one_fails(tmp_path: Path):
    (comparison,) = verify(pipeline(), golden_figures(), ["fp32"])
    assert comparison.passed, comparison.line()
    assert comparison.labels_equal == comparison.frames == 149
    assert comparison.max_score_deviation < 1e-4 and comparison.max_feature_deviation < 2e-5

    damaged = tmp_path / "esm2"
    shutil.copytree(GOLDEN / "esm2", damaged)
    weights = load_file(damaged / "model.safetensors")
    weights["encoder.layer.20.output.dense.bias"][3] += 0.05
    save_file(weights, damaged / "model.safetensors")
    (comparison,) = verify(pipeline(damaged), golden_figures(), ["fp32"])
    assert not comparison.passed
    assert "features" in comparison.problem and "FAILED" in comparison.line()


def rows_as(change=lambda rows, precision: rows):
    """A pipeline that answers with the published files, changed; stands in for weights that are not
    to be had here.
    """

    def read(directory: Path, name: str) -> Rows:
        rows = published_rows(name)
        return change(rows, directory.read_text())

    def predict(file: Path, directory: Path, precision: str) -> None:
        directory.write_text(precision)

    return predict, read


def blurred(rows: Rows, precision: str) -> Rows:
    if precision == "fp32":
        return rows
    noise = np.random.default_rng(1).normal(
        0, {"bf16": 0.002, "int8": 0.05}[precision], rows.features.shape
    )
    return replace(rows, features=(rows.features + noise).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows, _: rows, ""),
        (lambda rows, _: replace(rows, virus=rows.virus + 2e-4), "scores"),
        (lambda rows, _: replace(rows, labels=["virus"] * len(rows.ids)), "labels"),
        (lambda rows, _: replace(rows, features=rows.features[:, ::-1]), "features"),
        (lambda rows, _: replace(rows, features=rows.features * np.float32(np.nan)), "features"),
        (lambda rows, _: replace(rows, ids=rows.ids[::-1]), "scores"),
        (lambda rows, _: replace(rows, ids=rows.ids[:1] * len(rows.ids)), "other frames"),
    ],
)
def test_published_figures_tell_right_from_wrong(monkeypatch, change, problem):
    predict, read = rows_as(change)
    monkeypatch.setattr(module, "read_rows", read)
    (comparison,) = verify(predict, load_figures(), ["fp32"])
    assert comparison.passed is (problem == "")
    assert problem in comparison.problem


def test_other_precisions_are_compared_with_fp32(monkeypatch):
    predict, read = rows_as(blurred)
    monkeypatch.setattr(module, "read_rows", read)
    fp32, bf16, int8 = verify(predict, load_figures(), ["bf16", "int8"])
    assert (fp32.precision, fp32.least_cosine) == ("fp32", None)
    assert bf16.passed and 0.999 <= bf16.least_cosine < 1
    assert not int8.passed and "cosine" in int8.problem


def test_the_result_is_kept_by_content(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path))
    predict, read = rows_as()
    monkeypatch.setattr(module, "read_rows", read)
    identity = {"esm2": "a" * 64, "dnabert_s": "b" * 64, "classifier": "c" * 64}
    figures = load_figures()
    file = sign_off(verify(predict, figures, ["fp32"]), "500", identity, "CPU", figures)
    kept = read_verification(identity)
    assert kept == json.loads(file.read_text())
    assert (
        kept["passed"]
        and kept["device"] == "CPU"
        and kept["precisions"]["fp32"]["max_score_deviation"] < 1e-6
    )
    assert set(kept["versions"]) == {"virnucpro", "torch", "transformers", "python"}
    assert read_verification(identity | {"esm2": "d" * 64}) is None
