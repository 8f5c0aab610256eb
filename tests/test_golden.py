"""The original program's own run, to the digit (tests/data/golden: its chunking, fair-esm, its
DNABERT-S code, its pickled MLP).
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from command import GOLDEN, GOLDEN_MODEL, virnucpro

EXPECTED = GOLDEN / "expected"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("golden")
    result = virnucpro(
        home,
        "predict",
        GOLDEN / "input.fa",
        "-o",
        "out",
        *GOLDEN_MODEL,
        "--precision",
        "fp32",
        "--gpus",
        "none",
    )
    assert result.returncode == 0, result.stderr.decode()
    return home / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_features(run):
    expected = torch.load(EXPECTED / "output_1_merged.pt", weights_only=True)
    found = torch.load(run / "merged_features.pt", weights_only=True)
    assert found["ids"] == list(expected["ids"])
    assert found["data"].dtype == torch.float32
    np.testing.assert_allclose(
        found["data"].numpy(), np.asarray(expected["data"], dtype=np.float32), rtol=0, atol=2e-5
    )


def test_table_of_frames(run):
    expected, found = (
        rows(EXPECTED / "prediction_results.txt"),
        rows(run / "input_merged" / "prediction_results.txt"),
    )
    assert [(row["Sequence_ID"], row["Prediction"]) for row in found] == [
        (row["Sequence_ID"], row["Prediction"]) for row in expected
    ]
    for score in ("score1", "score2"):
        np.testing.assert_allclose(
            [float(row[score]) for row in found],
            [float(row[score]) for row in expected],
            rtol=0,
            atol=1e-4,
        )


def test_table_of_chunks(run):
    expected = rows(EXPECTED / "prediction_results_highestscore.csv")
    found = rows(run / "input_merged" / "prediction_results_highestscore.csv")
    assert [
        {"Modified_ID": row["Modified_ID"], "Is_Virus": row["Is_Virus"]} for row in found
    ] == expected


def test_every_input_sequence_has_an_answer(run):
    names = [
        line[1:].split()[0]
        for line in (GOLDEN / "input.fa").read_text().splitlines()
        if line.startswith(">")
    ]
    assert [row["seq_name"] for row in rows(run / "contigs.tsv")] == names
