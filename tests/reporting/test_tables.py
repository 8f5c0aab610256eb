"""Tables of the golden run: SPEC 4's columns, every sequence and chunk, TSV and Parquet alike, read
back by pandas.
"""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from virnucpro.errors import StoreError
from virnucpro.reporting.columns import TABLES
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import counts, read_table, write_tables
from virnucpro.sequences.chunks import chunk_spans
from virnucpro.settings import TABLE_FORMATS

COLUMNS = {
    "contigs": (
        "seq_name source length gc n_chunks n_scored scored_fraction virus_score virus_probability"
        " max_chunk_score n_virus_chunks call fdr note model_probability homology_probability"
        " homology_score closest_virus closest_family closest_identity viral_hits cellular_hits"
        " cellular_like topology chunks_looked_at called_by"
    ),
    "chunks": (
        "seq_name chunk start end n_open_frames max_others max_virus virus_score is_virus status"
    ),
    "frames": (
        "frame_id seq_name chunk strand frame start end aa_length others_score virus_score"
        " prediction"
    ),
}
ALWAYS_TEXT = {
    "hits": (
        "seq_name source start end strand protein name family label identity aligned_length"
        " bit_score evalue"
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, golden):
    outputs = Outputs(tmp_path_factory.mktemp("tables"), ("input",))
    outputs.prepare()
    write_tables(outputs, golden)
    return outputs


def read(path):
    return pd.read_csv(
        path, sep="\t", keep_default_na=False, na_values={"note": []}, dtype={"seq_name": str}
    )


@pytest.mark.parametrize(("table", "columns"), [*COLUMNS.items(), *ALWAYS_TEXT.items()])
def test_columns_are_those_of_the_contract(written, table, columns):
    assert getattr(written, table).read_text().splitlines()[0].split("\t") == columns.split()


def test_every_sequence_is_there_in_input_order(written, golden):
    table = read(written.contigs)
    assert table["seq_name"].tolist() == golden.names.to_pylist()
    number = counts(golden)
    assert number["sequences"] == len(table)
    for word in ("virus", "non-virus", "ambiguous", "too_short", "not_scored"):
        assert number[word.replace("-", "_")] == (table["call"] == word).sum()


def test_every_chunk_is_there_with_its_place(written, golden):
    table = read(written.chunks)
    expected = [
        (name, k, start + 1, end)
        for name, length in zip(
            golden.names.to_pylist(), golden.records.length.tolist(), strict=True
        )
        for k, (start, end) in enumerate(chunk_spans(length, 500).tolist(), start=1)
    ]
    assert (
        list(table[["seq_name", "chunk", "start", "end"]].itertuples(index=False, name=None))
        == expected
    )
    assert set(table["status"]) == {"scored", "no_open_frame"}
    assert (
        table.loc[table["status"] != "scored", ["max_others", "virus_score", "is_virus"]] == "NA"
    ).all(axis=None)


def test_summary_is_what_was_called_virus_best_first(written):
    table, summary = read(written.contigs), read(written.virus_summary)
    called = table[table["call"] == "virus"]
    assert sorted(summary["seq_name"]) == sorted(called["seq_name"]) and len(summary)
    assert summary["virus_score"].astype(float).is_monotonic_decreasing
    assert summary["model"].str.contains("500").all()


def test_parquet_holds_the_same_and_replaces_the_text(tmp_path, written, golden):
    outputs = Outputs(tmp_path, ("input",), "parquet")
    outputs.prepare()
    (tmp_path / "contigs.tsv").write_text("old\n")
    write_tables(outputs, golden)
    assert not (tmp_path / "contigs.tsv").exists()
    for name in COLUMNS:
        binary = pq.read_table(getattr(outputs, name)).to_pandas()
        text = pd.read_csv(getattr(written, name), sep="\t", na_values="NA", keep_default_na=False)
        assert list(binary.columns) == list(text.columns) and len(binary) == len(text)
        for column in text:
            if pd.api.types.is_float_dtype(text[column]):
                np.testing.assert_allclose(binary[column].astype(float), text[column], atol=5.1e-5)
            else:
                assert binary[column].astype(str).tolist() == text[column].astype(str).tolist()


def test_compressed_text_is_the_same_text_and_the_same_bytes_again(tmp_path, written, golden):
    outputs = Outputs(tmp_path, ("input",), "tsv.gz")
    outputs.prepare()
    for stale in ("contigs.tsv", "frames.parquet"):
        (tmp_path / stale).write_text("old\n")
    write_tables(outputs, golden)
    packed = {name: (tmp_path / f"{name}.tsv.gz").read_bytes() for name in COLUMNS}
    for name, content in packed.items():
        assert gzip.decompress(content) == getattr(written, name).read_bytes()
    write_tables(outputs, golden)
    assert packed == {name: (tmp_path / f"{name}.tsv.gz").read_bytes() for name in COLUMNS}
    assert [path.name for path in tmp_path.glob("*.parquet")] == []
    assert not (tmp_path / "contigs.tsv").exists()


@pytest.mark.parametrize("table_format", TABLE_FORMATS)
def test_tables_come_back_as_they_were_written_and_ids_are_text(tmp_path, golden, table_format):
    ids = ["001", "1", "1.10", "1.1", "NA", "true", "2024-01-02", "1e5", '"', "#1", "x" * 2_000_000]
    names = [*ids, *(f"s{i}" for i in range(len(golden.records) - len(ids)))]
    answers = replace(golden, names=pa.array(names, pa.large_string()))
    outputs = Outputs(tmp_path, ("input",), table_format)
    write_tables(outputs, answers)
    for table in TABLES:
        found = read_table(getattr(outputs, table.name))
        assert found.schema.equals(table.schema), table.name
        written = table.batch(answers, table.rows(answers))
        for column in table.columns:
            if column.kind == pa.large_string():
                assert found[column.name].to_pylist() == written[column.name].to_pylist()
            assert found[column.name].null_count == written[column.name].null_count
    assert read_table(outputs.contigs)["seq_name"].to_pylist() == names


def test_a_table_that_is_damaged_is_one_line(tmp_path):
    path = tmp_path / "contigs.tsv"
    for content in ("", "seq_name\tlength\na\tb\n", "seq_name\na\tb\n"):
        path.write_text(content)
        with pytest.raises(StoreError, match=r"contigs\.tsv: cannot be read"):
            read_table(path)
