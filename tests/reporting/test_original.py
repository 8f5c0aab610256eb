"""The original's two files, byte for byte where it wrote the same columns."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
from golden_answers import GOLDEN

from virnucpro.reporting.original import write_original_tables
from virnucpro.reporting.outputs import Outputs


def test_golden_run(tmp_path, golden):
    outputs = Outputs(tmp_path, ("input",))
    outputs.prepare()
    write_original_tables(outputs, golden)
    expected = GOLDEN / "expected"
    assert (
        outputs.prediction_results("input").read_bytes()
        == (expected / "prediction_results.txt").read_bytes()
    )
    ours = outputs.highest_scores("input").read_text().splitlines()
    theirs = (expected / "prediction_results_highestscore.csv").read_text().splitlines()
    assert ["\t".join(line.split("\t")[:2]) for line in ours] == theirs

    frames = pd.read_csv(outputs.prediction_results("input"), sep="\t")
    chunk = frames["Sequence_ID"].str.replace(r"[FR][123]$", "", regex=True)
    maxima = frames.groupby(chunk)[["score1", "score2"]].max()
    table = pd.read_csv(outputs.highest_scores("input"), sep="\t", index_col="Modified_ID")
    assert list(table.columns) == ["Is_Virus", "max_score_0", "max_score_1"]
    np.testing.assert_array_equal(table[["max_score_0", "max_score_1"]], maxima.loc[table.index])


def test_ids_sort_as_python_sorts_them(tmp_path, golden):
    outputs = Outputs(tmp_path, ("input",))
    outputs.prepare()
    write_original_tables(outputs, golden)
    with open(outputs.highest_scores("input"), newline="") as file:
        ids = [row[0] for row in csv.reader(file, delimiter="\t")][1:]
    assert ids == sorted(ids)
