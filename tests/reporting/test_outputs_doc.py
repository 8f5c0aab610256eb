"""docs/OUTPUTS.md explains every file, column and word there is, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import write_tables

TEXT = (Path(__file__).parents[2] / "docs" / "OUTPUTS.md").read_text()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, golden):
    outputs = Outputs(tmp_path_factory.mktemp("doc"), ("input",))
    outputs.prepare()
    write_tables(outputs, golden)
    return outputs


@pytest.mark.parametrize("table", ["contigs", "chunks", "frames", "regions"])
def test_every_column_is_explained_in_its_section(outputs, table):
    section = re.search(rf"^## {table}\.tsv\n(.*?)(?=^## )", TEXT, re.M | re.S)[1]
    explained = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", section, re.M)))
    columns = getattr(outputs, table).read_text().splitlines()[0].split("\t")
    assert [column for column in columns if column not in explained] == []


def test_every_word_and_file_is_there(outputs):
    words = {
        *CALL_WORDS,
        *(s.name for s in ChunkStatus),
        *(n.name for n in Note),
        *(name for name, _ in Outputs(Path()).tree()),
    }
    assert {word for word in words if f"`{word}`" not in TEXT} == set()


def test_the_pandas_example_runs(outputs, monkeypatch):
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "pandas" in block
    )
    monkeypatch.chdir(outputs.directory)
    names: dict = {}
    exec(compile(code, "OUTPUTS.md", "exec"), names)
    assert len(names["contigs"]) and len(names["long_and_sure"])
