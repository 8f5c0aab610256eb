"""An encoder is one entry: a third one is registered here, and a bundle with it predicts."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_run import GOLDEN
from safetensors.torch import load_file, save_file

from virnucpro import cli
from virnucpro.errors import ModelError
from virnucpro.models import library
from virnucpro.models.bundle import Bundle, read_spec
from virnucpro.models.classifier import Classifier
from virnucpro.models.encoder import Encoder
from virnucpro.models.encoders import (
    COLUMNS,
    ENCODERS,
    NUCLEOTIDE,
    EncoderEntry,
    longest_protein,
    read_tokenizers,
)
from virnucpro.tools.random_models import random_classifier

WIDTH = 8
LETTERS = b"ACGT"
LOADED: list[Path] = []


class Letters:
    """One token a letter, between two special ones."""

    def __init__(self, directory: Path):
        self.sha256 = hashlib.sha256((directory / "letters.txt").read_bytes()).hexdigest()

    def __call__(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        ids = [np.array([1, *(3 + LETTERS.find(c) for c in s), 2], np.uint8) for s in sequences]
        return np.concatenate([np.empty(0, np.uint8), *ids]), np.array(
            list(map(len, ids)), np.int32
        )


class ToyEncoder(Encoder):
    """A vector for each token."""

    name, layers, skip, shortest_int8 = "toy", "toy layers", 1, None

    @staticmethod
    def read(directory: Path, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        LOADED.append(directory)
        model = torch.nn.Embedding.from_pretrained(load_file(directory / "model.safetensors")["e"])
        model.config = SimpleNamespace(hidden_size=WIDTH, pad_token_id=0)
        return model.to(device, dtype)

    @staticmethod
    def choose_forward(model, device, precision, compile):
        return lambda batch: model(batch.tokens), ()


TOY = EncoderEntry(
    name="toy",
    title="Toy",
    reads=NUCLEOTIDE,
    tokenizer_file="letters.txt",
    id_type="uint8",
    read_tokenizer=Letters,
    load=ToyEncoder.load,
    optional=True,
)


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Path:
    """The golden model, and a third encoder."""
    monkeypatch.setitem(ENCODERS, TOY.name, TOY)
    LOADED.clear()
    place = tmp_path / "bundle"
    for part in ("esm2", "dnabert_s"):
        shutil.copytree(GOLDEN / part, place / part)
    (place / "toy").mkdir()
    (place / "toy" / "config.json").write_text(json.dumps({"hidden_size": WIDTH}))
    (place / "toy" / "letters.txt").write_bytes(LETTERS)
    values = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"e": values}, place / "toy" / "model.safetensors")
    random_classifier(32 + 48 + WIDTH, 24).save(place / "classifier.safetensors")
    parts = {name: name for name in ("esm2", "dnabert_s", "toy")}
    stored = {"name": "three", "chunk_length": 500, "classifier": "classifier.safetensors", **parts}
    (place / "bundle.json").write_text(json.dumps(stored))
    return place


def predict(bundle: Path, directory: Path, *more: str) -> int:
    asked = ["-o", directory, "-m", bundle, "--cache-dir", directory.parent / "frames", *more]
    return cli.run(["predict", str(GOLDEN / "input.fa"), "--gpus", "none", "-q", *map(str, asked)])


def features(directory: Path) -> dict:
    return torch.load(directory / "merged_features.pt", weights_only=True)


def test_a_third_encoder_is_in_features_tables_and_record(bundle, tmp_path, capfd):
    out = tmp_path / "out"
    assert predict(bundle, out) == 0
    assert [bundle / "toy"] == LOADED
    found = features(out)
    frames = len(found["ids"])
    assert found["data"].shape == (frames, 48 + 32 + WIDTH)
    expected = torch.load(GOLDEN / "expected" / "output_1_merged.pt", weights_only=True)["data"]
    np.testing.assert_allclose(found["data"][:, : 48 + 32], expected, rtol=0, atol=2e-5)
    with open(out / "frames.tsv", newline="") as file:
        assert [row["frame_id"] for row in csv.DictReader(file, delimiter="\t")] == found["ids"]
    record = json.loads((out / "run.json").read_text())
    assert set(record["model"]["sha256"]) == {"esm2", "dnabert_s", "toy", "classifier"}
    assert record["model"]["directories"]["toy"] == str(bundle / "toy")
    assert record["identity"]["Toy"] == record["model"]["sha256"]["toy"]
    assert record["embedding"]["toy"]["rows"] == record["embedding"]["dnabert_s"]["rows"] > 0
    assert "Toy" in (out / "report.html").read_text()


def test_a_run_with_a_third_encoder_is_resumed_and_summarized(bundle, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert predict(bundle, whole) == 0
    with monkeypatch.context() as broken:
        broken.setattr(Classifier, "scores", _stop)
        assert predict(bundle, out) == 1
    LOADED.clear()
    assert predict(bundle, out, "--resume") == 0
    assert LOADED == []  # its rows are there
    assert (out / "merged_features.pt").read_bytes() == (whole / "merged_features.pt").read_bytes()
    tables = {name: (out / name).read_bytes() for name in ("contigs.tsv", "frames.tsv")}
    assert cli.run(["summarize", str(out), "-q", "--cache-dir", str(tmp_path / "frames")]) == 0
    assert tables == {name: (out / name).read_bytes() for name in tables}


def _stop(*_: object) -> None:
    raise ModelError("stopped")


def test_a_bundle_may_go_without_an_optional_encoder_only(bundle):
    stored = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({k: v for k, v in stored.items() if k != "toy"}))
    assert list(read_spec(bundle).parts) == ["esm2", "dnabert_s", "classifier"]
    with pytest.raises(ModelError, match="takes 88 features, but DNABERT-S gives 48 and ESM-2 32"):
        Bundle.load(bundle)
    del stored["esm2"]
    (bundle / "bundle.json").write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="lacks esm2"):
        read_spec(bundle)


def test_every_entry_is_whole():
    assert list(ENCODERS) == ["dnabert_s", "esm2"]  # the order of every feature file so far
    assert [entry.name for entry in ENCODERS.values()] == list(ENCODERS)
    assert longest_protein(ENCODERS.values()) == 1022
    tokenizers = read_tokenizers({"esm2": GOLDEN / "esm2", "dnabert_s": GOLDEN / "dnabert_s"})
    assert list(tokenizers) == list(ENCODERS)
    for name, entry in ENCODERS.items():
        ids, lengths = tokenizers[name]([b"ACGT"])
        assert ids.dtype == entry.id_type and lengths.tolist() == [len(ids)]
        assert entry.column in COLUMNS.values()
        loaded = entry.load(GOLDEN / name, torch.device("cpu"), "fp32", "auto")
        assert loaded.name == name


def test_the_published_revisions_and_contents_are_pinned():
    """By these the authors' weights are known; a change here is another model."""
    esm2, dnabert_s = ENCODERS["esm2"].hub, ENCODERS["dnabert_s"].hub
    assert (esm2.id, esm2.revision) == (
        "facebook/esm2_t36_3B_UR50D",
        "476b639933c8baad5ad09a60ac1a87f987b656fc",
    )
    assert esm2.weights == (
        "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412",
        "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c",
    )
    assert (dnabert_s.id, dnabert_s.revision) == (
        "zhihan1996/DNABERT-S",
        "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
    )
    assert dnabert_s.weights == (
        "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f",
    )
    assert {name: model.blob_id for name, model in library.PUBLISHED.items()} == {
        "500": "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d",
        "300": "a0b5b85e7c1e44f00cde146d091beb82b2c8e855",
    }
