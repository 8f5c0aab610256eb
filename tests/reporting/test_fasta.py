"""virus.fna and regions.fna against the inputs, read by Biopython."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from Bio import SeqIO
from golden_answers import GOLDEN, answers_of

from virnucpro.calling.consensus import best_first
from virnucpro.calling.regions import RegionColumns
from virnucpro.errors import InputError
from virnucpro.reporting import fasta
from virnucpro.reporting.fasta import write_fastas
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import write_bed

RESULTS = GOLDEN / "expected" / "prediction_results.txt"


@pytest.fixture
def outputs(tmp_path):
    outputs = Outputs(tmp_path / "out", ("input",))
    outputs.prepare()
    return outputs


def sequences():
    return {
        record.id: str(record.seq).upper() for record in SeqIO.parse(GOLDEN / "input.fa", "fasta")
    }


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_called_sequences_best_first(outputs, golden, monkeypatch, in_memory):
    monkeypatch.setattr(fasta, "IN_MEMORY", in_memory or 1)
    write_fastas(outputs, golden)
    expected = [
        golden.names[i].as_py() for i in best_first(golden.sequences, golden.records).tolist()
    ]
    written = list(SeqIO.parse(outputs.virus_fasta, "fasta"))
    assert [record.id for record in written] == expected and expected
    assert all(str(record.seq) == sequences()[record.id] for record in written)
    assert outputs.regions_fasta.read_text() == ""


def test_regions_are_cut_where_the_bed_file_says(outputs, golden):
    row = int(np.argmax(golden.records.length))
    ints = [np.array([value, value], np.int64) for value in (row, 1, 101, 900, 3, 3, 10)]
    ints[1], ints[2] = np.array([1, 2]), np.array([101, 301])
    half = np.array([0.5, 0.5])
    regions = RegionColumns(*ints[:6], half, half, ints[6])
    answers = dataclasses.replace(golden, regions=regions)
    write_fastas(outputs, answers)
    write_bed(outputs.regions_bed, answers)
    written = list(SeqIO.parse(outputs.regions_fasta, "fasta"))
    for record, line in zip(written, outputs.regions_bed.read_text().splitlines(), strict=True):
        name, start, end, region, shade = line.split("\t")
        assert record.id == region and shade == "500"
        assert str(record.seq) == sequences()[name][int(start) : int(end)]


def test_an_input_that_changed_meanwhile_is_refused(tmp_path, outputs):
    copy = tmp_path / "input.fa"
    shutil.copy(GOLDEN / "input.fa", copy)
    answers = answers_of(copy, RESULTS)
    whole = copy.read_text()
    assert answers.inputs[0].sha256
    # cut short; another letter
    for text in (whole[:2000], whole[:-2] + {"A": "C"}.get(whole[-2], "A") + "\n"):
        copy.write_text(text)
        with pytest.raises(InputError, match="changed"):
            write_fastas(outputs, answers)
        assert not outputs.virus_fasta.exists() and not outputs.regions_fasta.exists()


def test_nothing_called_reads_no_input(tmp_path, outputs):
    copy = tmp_path / "input.fa"
    shutil.copy(GOLDEN / "input.fa", copy)
    (tmp_path / "none.txt").write_text("Sequence_ID\tPrediction\tscore1\tscore2\n")
    answers = answers_of(copy, tmp_path / "none.txt")
    copy.unlink()
    write_fastas(outputs, answers)
    assert outputs.virus_fasta.read_bytes() == b""
