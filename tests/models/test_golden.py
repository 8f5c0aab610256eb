"""Features and scores of the original's own run, in fp32."""

from __future__ import annotations

import pytest
import torch
from golden_run import GOLDEN, embed, protein_ids, read_fasta
from tokenizers import Tokenizer

from virnucpro.models.classifier import Classifier
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2

EXPECTED = GOLDEN / "expected"


def load(name: str) -> dict:
    return torch.load(EXPECTED / name, weights_only=True)


@pytest.fixture(scope="module")
def merged() -> dict[str, torch.Tensor]:
    stored = load("output_1_merged.pt")
    return dict(zip(stored["ids"], stored["data"], strict=True))


@pytest.fixture(scope="module")
def esm() -> dict[str, torch.Tensor]:
    proteins = read_fasta(EXPECTED / "frames_protein.faa")
    rows = embed(
        load_esm2(GOLDEN / "esm2", "cpu", "fp32"),
        [protein_ids(protein) for protein in proteins.values()],
    )
    return dict(zip(proteins, rows, strict=True))


@pytest.fixture(scope="module")
def dna() -> dict[str, torch.Tensor]:
    tokenizer = Tokenizer.from_file(str(GOLDEN / "dnabert_s" / "tokenizer.json"))
    frames = read_fasta(EXPECTED / "frames_nucleotide.fa")
    ids = [torch.tensor(tokenizer.encode(frame).ids).numpy() for frame in frames.values()]
    return dict(
        zip(frames, embed(load_dnabert_s(GOLDEN / "dnabert_s", "cpu", "fp32"), ids), strict=True)
    )


def test_esm_features_are_the_originals(esm):
    stored = load("output_1_ESM.pt")
    assert set(stored["proteins"]) == set(esm)
    for name, row in zip(stored["proteins"], stored["data"], strict=True):
        torch.testing.assert_close(esm[name], row.flatten(), atol=2e-5, rtol=0)


def test_dna_features_are_the_originals(dna):
    stored = load("output_1_DNABERT_S.pt")
    assert set(stored["nucleotide"]) == set(dna)
    for name, row in zip(stored["nucleotide"], stored["data"], strict=True):
        torch.testing.assert_close(
            dna[name], torch.tensor(row["mean_representation"]).flatten(), atol=2e-5, rtol=0
        )


def test_rows_are_dna_then_protein(esm, dna, merged):
    for name, row in merged.items():
        torch.testing.assert_close(torch.cat([dna[name], esm[name]]), row, atol=2e-5, rtol=0)


def test_scores_and_labels_are_the_originals(merged):
    classifier = Classifier.load(GOLDEN / "500_model.pth")
    lines = [
        line.split("\t")
        for line in (EXPECTED / "prediction_results.txt").read_text().splitlines()[1:]
    ]
    scores = classifier.scores(torch.stack([merged[line[0]] for line in lines]))
    torch.testing.assert_close(
        torch.from_numpy(scores),
        torch.tensor([[float(x) for x in line[2:4]] for line in lines]),
        atol=1e-4,
        rtol=0,
    )
    assert ["virus" if virus > others else "others" for others, virus in scores] == [
        line[1] for line in lines
    ]
