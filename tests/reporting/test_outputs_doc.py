"""docs/OUTPUTS.md explains every file, column and word there is, and its examples run."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import write_tables

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "OUTPUTS.md").read_text()


IDS = ["001", "1", "1.10", "1.1", "NA", "nan", "true", "2024-01-02", "1e5", "0x10", '"', "#1"]


FORMATS = ["tsv", "tsv.gz"]


def example(first_line: str, table_format: str = "tsv") -> str:
    """The example that begins with this line, on the table in this format."""
    found = re.search(rf"```\w+\n({re.escape(first_line)}.*?)```", TEXT, re.S)[1]
    return found.replace("contigs.tsv", f"contigs.{table_format}")


def run_r(program: str) -> list[str]:
    """What an R program prints."""
    if not shutil.which("Rscript"):
        pytest.skip("R is not installed")
    return subprocess.run(
        ["Rscript", "-e", program], capture_output=True, check=True, text=True
    ).stdout.splitlines()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, golden):
    outputs = Outputs(tmp_path_factory.mktemp("doc"), ("input",))
    outputs.prepare()
    write_tables(outputs, golden)
    return outputs


@pytest.fixture
def named_oddly(outputs, monkeypatch, tmp_path):
    """In the current directory `contigs` in each text format, with ids that look like numbers."""
    header, row = outputs.contigs.read_text().splitlines()[:2]
    rest = row.split("\t", 2)[2]
    text = "\n".join([header, *(f"{name}\t{name}\t{rest}" for name in IDS)]) + "\n"
    (tmp_path / "contigs.tsv").write_text(text)
    (tmp_path / "contigs.tsv.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)


def test_the_glossary_is_made_from_the_columns():
    found = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_every_word_and_file_is_there(outputs):
    words = {
        *CALL_WORDS,
        *(s.name for s in ChunkStatus),
        *(n.name for n in Note),
        *(name for name, _ in Outputs(Path()).tree()),
    }
    assert {word for word in words if f"`{word}`" not in TEXT} == set()


@pytest.mark.parametrize("table_format", FORMATS)
def test_the_pandas_example(named_oddly, table_format):
    found: dict = {}
    exec(compile(example("import pandas", table_format), "OUTPUTS.md", "exec"), found)
    table = found["contigs"]
    assert table["seq_name"].tolist() == table["source"].tolist() == IDS
    assert table["length"].dtype.kind == "i" and table["virus_score"].dtype.kind == "f"
    assert len(found["viral"]) == (table["call"] == "virus").sum()


@pytest.mark.parametrize("table_format", FORMATS)
def test_the_polars_example(named_oddly, table_format):
    pytest.importorskip("polars", reason="polars is not installed")
    found: dict = {}
    exec(compile(example("import polars", table_format), "OUTPUTS.md", "exec"), found)
    table = found["contigs"]
    assert table["seq_name"].to_list() == table["source"].to_list() == IDS
    assert table["length"].dtype.is_integer() and table["virus_score"].dtype.is_float()
    assert len(found["viral"]) == (table["call"] == "virus").sum()


@pytest.mark.parametrize("table_format", FORMATS)
def test_the_r_example(named_oddly, table_format):
    printed = (
        "\ncat(contigs$seq_name, class(contigs$length), class(contigs$virus_score), sep = '\\n')"
    )
    found = run_r(example("contigs <- read.delim", table_format) + printed)
    assert found == [*IDS, "integer", "numeric"]
