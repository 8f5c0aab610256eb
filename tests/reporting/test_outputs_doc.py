"""docs/OUTPUTS.md explains every file, column and word there is, and its examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import write_tables

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "OUTPUTS.md").read_text()


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
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "pandas" in block
    )
    monkeypatch.chdir(outputs.directory)
    names: dict = {}
    exec(compile(code, "OUTPUTS.md", "exec"), names)
    assert len(names["contigs"]) and len(names["long_and_sure"])
