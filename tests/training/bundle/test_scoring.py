"""Frames and scores of the training path against the shipped pipeline, with the shipped mini."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.mini.networks import load_parts
from virnucpro import api
from virnucpro.models.bundle import MINI
from virnucpro.models.encoders import read_tokenizers
from virnucpro.training.bundle.batches import BatchShape
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.scoring import ContigFrames, call_contigs, score_contigs
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.store import StoreBuilder, decode


@pytest.mark.parametrize("policy", ["longest", "stretches"])
def test_the_pipeline_gives_the_scores_of_the_training_path(tmp_path, monkeypatch, policy):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(13)
    builder = StoreBuilder()
    with (tmp_path / "c.fna").open("wb") as fasta:
        for i, length in enumerate((300, 501, 740, 1900)):
            sequence = decode(rng.choice(4, length, p=[0.32, 0.2, 0.22, 0.26]).astype(np.uint8))
            builder.add(sequence, f"c{i}", True, "viral", "g", "", "test", "genome")
            fasta.write(b">c%d\n%s\n" % (i, sequence))
    store = builder.build()
    parts = tmp_path / "parts"
    parts.mkdir()
    for part, file in (
        ("esm2", "esm2/model"),
        ("dnabert_s", "dnabert_s/model"),
        ("classifier", "classifier"),
    ):
        (parts / f"{part}.safetensors").symlink_to(MINI / f"{file}.safetensors")
    # with a share of the proteins' classifier: two more
    hidden = len(load_file(MINI / "classifier.safetensors")["hidden_layer.bias"])
    network = Network(NetworkShape(hidden=hidden))
    load_parts(network, parts, ("esm2", "dnabert_s", "classifier"))
    tokenizers = read_tokenizers({"esm2": MINI / "esm2", "dnabert_s": MINI / "dnabert_s"})
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in MINI.iterdir():
        (bundle / file.name).symlink_to(file)
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").write_text(
        json.dumps(json.loads((MINI / "bundle.json").read_text()) | {"frame_policy": policy})
    )
    frames = ContigFrames(store, np.arange(4), tokenizers, BatchShape(8, 0, 384, 4, 4), 500, policy)
    scores = score_contigs(network, frames, torch.device("cpu"))
    chunks, sequences = call_contigs(scores, store.length, 500, policy)
    result = api.predict(
        tmp_path / "c.fna", tmp_path / "out", model=str(bundle), features="none", precision="fp32"
    )
    frames, contigs = result.frames.to_pydict(), result.contigs.to_pydict()
    assert [int(n[1:]) for n in frames["seq_name"]] == scores.contig.tolist() and frames[
        "chunk"
    ] == scores.chunk.tolist()
    assert [f - 1 for f in frames["start"]] == scores.start.tolist()
    assert np.allclose(
        np.array(frames["virus_score"], float), 1 / (1 + np.exp(-scores.logit)), atol=2e-4
    )
    assert np.allclose(np.array(contigs["virus_score"], float), sequences.virus_score, atol=2e-4)
    assert len(chunks) == sum(contigs["n_chunks"])
