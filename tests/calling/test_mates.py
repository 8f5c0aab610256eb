"""A pair of reads is one sequence: its columns, and what a run on two files of mates says."""

from __future__ import annotations

import csv
import random

import numpy as np
import pyarrow as pa
from command import GOLDEN_MODEL

from virnucpro import cli
from virnucpro.calling.answers import record_columns
from virnucpro.calling.mates import Reads


def reads_of(lengths, notes, gc=None) -> Reads:
    n = len(lengths)
    table = pa.table(
        {
            "input": np.zeros(n, np.int32),
            "length": np.array(lengths, np.int64),
            "gc": np.array(gc or [0.5] * n),
            "n_chunks": np.ones(n, np.int32),
            "n_ambiguous": np.zeros(n, np.int64),
            "problem": pa.array([""] * n),
            "skipped": np.zeros(n, bool),
        }
    )
    names = pa.array([f"r{i}/{1 + ('second' in notes[i])}" for i in range(n)], pa.large_string())
    return Reads.of(names, pa.array(notes, pa.large_string()), record_columns(table))


def test_mates_are_added_up_and_others_stay():
    notes = ["", "rna;pair", "pair", "second_mate", "second_mate;ambiguous_bases", ""]
    reads = reads_of([7, 100, 200, 300, 50, 9], notes, [0.1, 0.2, 0.4, 0.6, 0.8, 0.9])
    assert reads.sequence.tolist() == [0, 1, 2, 1, 2, 3]
    assert reads.first.tolist() == [0, 1, 2, 5]
    assert reads.sequence_names().to_pylist() == ["r0/1", "r1", "r2", "r5/1"]
    totals = reads.totals()
    assert totals.length.tolist() == [7, 400, 250, 9]
    assert totals.n_chunks.tolist() == [1, 2, 2, 1]
    np.testing.assert_allclose(totals.gc, [0.1, 0.5, 0.48, 0.9])
    assert reads.by_longer_mate(totals).length.tolist() == [7, 300, 200, 9]
    assert reads.stronger(np.array([1, 5, 2, 4, 3, np.nan])).tolist() == [0, 1, 4, 5]


def test_without_pairs_nothing_is_another():
    reads = reads_of([5, 6], ["", "rna"])
    assert not reads.any_pair and reads.totals() is reads.columns
    assert reads.sequence_names() is reads.names


def rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_a_pair_is_one_answer(tmp_path):
    noise = random.Random(3)
    fragments = ["".join(noise.choices("ACGT", k=700)) for _ in range(12)]
    for mate, part in ((1, slice(0, 300)), (2, slice(-300, None))):
        lines = [f"@f{i} {mate}:N:0\n{f[part]}\n+\n{'I' * 300}\n" for i, f in enumerate(fragments)]
        (tmp_path / f"reads_{mate}.fastq").write_text("".join(lines))
    files = [str(tmp_path / f"reads_{mate}.fastq") for mate in (1, 2)]
    options = [*GOLDEN_MODEL, "--gpus", "none", "-q", "--no-cache", "--min-score", "0.5"]
    assert cli.run(["predict", *files, *options, "-o", str(tmp_path / "out")]) == 0
    contigs, chunks = (rows(tmp_path / "out" / f"{name}.tsv") for name in ("contigs", "chunks"))
    assert [row["seq_name"] for row in contigs] == [f"f{i}" for i in range(12)]
    assert {row["length"] for row in contigs} == {"600"}
    assert all("pair" in row["note"].split(";") for row in contigs)
    assert [row["seq_name"] for row in chunks] == [
        f"f{i}/{mate}" for mate in (1, 2) for i in range(12)
    ]
    score = {row["seq_name"]: row["virus_score"] for row in chunks}
    for row in contigs:
        both = [score[f"{row['seq_name']}/{mate}"] for mate in (1, 2)]
        known = [float(s) for s in both if s != "NA"]
        assert int(row["n_scored"]) == len(known)
        if known:
            assert abs(float(row["virus_score"]) - np.mean(known)) < 1.1e-4
    viral = [row["seq_name"] for row in rows(tmp_path / "out" / "virus_summary.tsv")]
    fasta = (tmp_path / "out" / "virus.fna").read_text().splitlines()
    assert viral
    assert [line for line in fasta if line[:1] == ">"] == [
        f">{name}/{mate}" for name in viral for mate in (1, 2)
    ]
