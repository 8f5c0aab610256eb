from __future__ import annotations

import dataclasses
import io
import logging
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

from virnucpro.errors import Failure
from virnucpro.reporting.console import show_result, summary
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import counts, write_tables


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_summary_has_calls_hits_and_paths(tmp_path, golden):
    outputs = Outputs(tmp_path, ("input",))
    outputs.prepare()
    write_tables(outputs, golden)
    text = printed(summary(outputs, golden), 160)
    number = counts(golden)
    assert f"{number['virus']} virus" in text and f"{number['not_scored']} not scored" in text
    assert "the full model is 500" in text and str(outputs.virus_summary) in text
    assert max(map(len, printed(summary(outputs, golden)).splitlines())) <= 80


def test_names_are_data(tmp_path, golden):
    names = pa.array(["[bold red]x[/] [/nonsense]"] * len(golden.names), pa.large_string())
    answers = dataclasses.replace(golden, names=names)
    assert "[bold red]x[/] [/nonsense]" in printed(summary(Outputs(tmp_path), answers))


def test_quiet_prints_nothing(tmp_path, golden, capsys):
    show_result(SimpleNamespace(outputs=Outputs(tmp_path), answers=golden, failures=()), quiet=True)
    assert capsys.readouterr().out == ""
    show_result(SimpleNamespace(outputs=Outputs(tmp_path), answers=golden, failures=()))
    assert "sequences" in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [True, False])
def test_what_failed_is_warned_of_quiet_or_not(
    tmp_path, golden, caplog, capsys, monkeypatch, quiet
):
    # as it is before any command has set it up in this process
    logger = logging.getLogger("virnucpro")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    failures = (Failure("a.fa", "read", "cut short"), Failure("b.fa", "read", "binary"))
    with caplog.at_level(logging.WARNING, "virnucpro"):
        show_result(
            SimpleNamespace(outputs=Outputs(tmp_path), answers=golden, failures=failures),
            quiet=quiet,
        )
    assert [record.getMessage() for record in caplog.records] == [
        f"failed: a.fa: cut short (1 more); see {tmp_path / 'failed_files.txt'}"
    ]
    assert "cut short" not in capsys.readouterr().out
