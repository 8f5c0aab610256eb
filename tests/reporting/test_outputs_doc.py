"""docs/OUTPUTS.md explains every file, column and word there is, and its examples run."""

from __future__ import annotations

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


def example(language: str) -> str:
    """The first example in this language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)[0]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, golden):
    outputs = Outputs(tmp_path_factory.mktemp("doc"), ("input",))
    outputs.prepare()
    write_tables(outputs, golden)
    return outputs


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


def test_the_pandas_example_runs(outputs, monkeypatch):
    monkeypatch.chdir(outputs.directory)
    names: dict = {}
    exec(compile(example("python"), "OUTPUTS.md", "exec"), names)
    assert len(names["contigs"]) and len(names["long_and_sure"])
    assert names["contigs"]["length"].dtype.kind == "i"


def test_ids_stay_text_in_the_examples(outputs, monkeypatch, tmp_path):
    header, row = outputs.contigs.read_text().splitlines()[:2]
    rest = row.split("\t", 2)[2]
    lines = [header, *(f"{name}\t{name}\t{rest}" for name in IDS)]
    (tmp_path / "contigs.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example("python"), "OUTPUTS.md", "exec"), names)
    assert names["contigs"]["seq_name"].tolist() == names["contigs"]["source"].tolist() == IDS
    if shutil.which("Rscript"):
        program = f"{example('r')}\ncat(contigs$seq_name, sep = '\\n')"
        found = subprocess.run(["Rscript", "-e", program], capture_output=True, check=True)
        assert found.stdout.decode().splitlines() == IDS
