"""The worked changes of docs/CONTRIBUTING.md are enough: the code there is run as it stands."""

from __future__ import annotations

import re
from dataclasses import make_dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from golden_answers import GOLDEN, answers_of
from typer.testing import CliRunner

from virnucpro import settings
from virnucpro.options import command
from virnucpro.reporting import columns, tables
from virnucpro.reporting.outputs import Outputs

PAGE = (Path(__file__).parents[1] / "docs" / "CONTRIBUTING.md").read_text()


def code(heading: str) -> str:
    """The Python of a section."""
    section = PAGE.partition(f"### {heading}\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.S)[1]


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_a_column_is_one_entry(tmp_path, monkeypatch, kind):
    column = eval(code("Add a column"), vars(columns))
    wider = replace(columns.CONTIGS, columns=(*columns.CONTIGS.columns, column))
    monkeypatch.setattr(tables, "TABLES", (wider, *columns.TABLES[1:]))
    answers = answers_of(GOLDEN / "input.fa", GOLDEN / "expected" / "prediction_results.txt")
    outputs = Outputs(tmp_path, ("input",), kind)
    outputs.prepare()
    tables.write_tables(outputs, answers)
    if kind == "parquet":
        found = pq.read_table(outputs.contigs)["at_end"].to_pylist()
    else:
        lines = [line.split("\t") for line in outputs.contigs.read_text().splitlines()]
        assert lines[0][-1] == "at_end"
        found = [int(line[-1]) for line in lines[1:]]
    assert found == (answers.records.length % 3).tolist()


def test_an_option_is_one_field():
    name, _, default = code("Add an option").strip().partition(": int = ")
    entry = (name, int, eval(default, vars(settings)))
    longer = make_dataclass("Longer", [entry], bases=(settings.Options,), frozen=True)
    given = []

    def predict(options: longer) -> None:
        given.append(options)

    app = typer.Typer()
    app.command()(command(predict, longer))
    found = CliRunner().invoke(app, ["--max-length", "5"])
    assert (found.exit_code, given[0].max_length) == (0, 5), found.output
    assert given[0].arguments() == ["--max-length=5"]
    assert "Skip longer sequences" in CliRunner().invoke(app, ["--help"]).output


def test_the_way_of_a_sequence_is_twelve_files_that_are_there():
    table = PAGE.partition("Twelve files lead")[2].partition("\n## ")[0]
    files = re.findall(r"^\| `([\w/]+\.py)` \|", table, re.M)
    package = Path(__file__).parents[1] / "virnucpro"
    assert len(files) == 12 and all((package / name).is_file() for name in files), files
