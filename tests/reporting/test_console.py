from __future__ import annotations

import dataclasses
import io
import logging

import pyarrow as pa
import pytest
from rich.console import Console

from virnucpro.calling.columns import CALL_WORDS
from virnucpro.calling.consensus import best_first
from virnucpro.errors import Failure
from virnucpro.reporting.console import show_result
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import ModelRecord, RunRecord, write_record
from virnucpro.reporting.result import Result
from virnucpro.reporting.tables import counts, write_tables

LONG = "a_rather_long_name_of_a_directory_" * 3


def written(tmp_path, answers, **more):
    """The outputs of a run with these answers, as far as the console reads them."""
    outputs = Outputs(tmp_path / LONG, ("input",))
    outputs.prepare()
    write_tables(outputs, answers)
    identity = {"frames": "0" * 64}
    record = RunRecord(
        identity,
        {},
        ModelRecord("mini", 500, "open"),
        (),
        (),
        "float32",
        0,
        0,
        counts=counts(answers),
    )
    write_record(outputs, dataclasses.replace(record, **more))
    return outputs


def printed(outputs, width=80, failures=(), **more):
    console = Console(file=io.StringIO(), width=width)
    show_result(Result(outputs, failures, 0), console=console, **more)
    return console.file.getvalue()


def test_summary_has_every_call_hits_and_whole_paths(tmp_path, golden):
    outputs, number = written(tmp_path, golden), counts(golden)
    best = int(best_first(golden.sequences, golden.records)[0])
    text = printed(outputs)
    for word in CALL_WORDS:
        assert f"{number[word.replace('-', '_')]} {word}" in text
    assert number["not_scored"] and f"not_scored: {number['not_scored_no_open_frame']} " in text
    assert "the full model is 500" in text and golden.names[best].as_py() in text
    assert f"\nOpen in a browser: {outputs.report}\n" in text
    assert f"virnucpro summarize {outputs.directory} --min-score" in text
    tables = [line for line in text.splitlines() if LONG not in line]
    assert max(map(len, tables)) <= 80


def test_short_sequences_and_regions_elsewhere_are_told(tmp_path, golden):
    number = {**counts(golden), "too_short": 199, "regions_not_virus": 2}
    text = printed(written(tmp_path, golden, counts={**number, "sequences_with_regions": 1}), 400)
    assert "199 sequences are shorter than 250 bases" in text and "--allow-short" in text
    assert "2 virus-like regions in 1 sequence not called virus" in text


def test_the_closest_family_or_virus_of_a_hit_is_shown_where_proteins_were_searched(
    tmp_path, golden
):
    outputs = written(tmp_path, golden)
    assert "closest known" not in printed(outputs)
    header, *rows = outputs.virus_summary.read_text().splitlines()
    virus, family = (header.split("\t").index(f"closest_{name}") for name in ("virus", "family"))
    cells = [row.split("\t") for row in rows]
    cells[0][virus], cells[0][family] = "Enterobacteria phage T7", "Autographiviridae"
    cells[1][virus] = "a virus without a family"
    outputs.virus_summary.write_text("\n".join([header, *map("\t".join, cells)]) + "\n")
    text = printed(outputs)
    assert "closest known" in text and "Autographiviridae" in text
    assert "a virus without a…" in text and "phage T7" not in text
    assert all(heading in text for heading in ("length", "score", "scored", "closest known"))
    assert max(len(line) for line in text.splitlines() if LONG not in line) <= 80


def test_names_are_data(tmp_path, golden):
    names = pa.array(["[bold red]x[/] [/nonsense]"] * len(golden.names), pa.large_string())
    outputs = written(tmp_path, dataclasses.replace(golden, names=names))
    assert "[bold red]x[/] [/nonsense]" in printed(outputs)


def test_quiet_prints_nothing(tmp_path, golden):
    assert printed(written(tmp_path, golden), quiet=True) == ""


@pytest.mark.parametrize("quiet", [True, False])
def test_what_failed_is_warned_of_quiet_or_not(tmp_path, golden, caplog, monkeypatch, quiet):
    # as it is before any command has set it up in this process
    logger = logging.getLogger("virnucpro")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    failures = (Failure("a.fa", "read", "cut short"), Failure("b.fa", "read", "binary"))
    with caplog.at_level(logging.WARNING, "virnucpro"):
        text = printed(written(tmp_path, golden), failures=failures, quiet=quiet)
    assert [record.getMessage() for record in caplog.records] == [
        f"failed: a.fa: cut short (1 more); see {tmp_path / LONG / 'failed_files.txt'}"
    ]
    assert "cut short" not in text
