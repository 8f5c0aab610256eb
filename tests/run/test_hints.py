"""What people type first is answered in one line, before anything is computed or written."""

from __future__ import annotations

import tarfile
import zipfile

import pytest

from virnucpro import cli
from virnucpro.run import hints


def said(capsys, *words) -> tuple[int, str]:
    code = cli.run([str(word) for word in words])
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("virnucpro: error: ")]
    return code, errors[-1].removeprefix("virnucpro: error: ") if errors else ""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "contigs.fna").write_text(">a\nACGT\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write("contigs.fna")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add("contigs.fna")
    (tmp_path / "done").mkdir()
    for name in ("run.json", "contigs.tsv", "virus.fna"):
        (tmp_path / "done" / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (["contigs.fna"], 64, "give: virnucpro predict contigs.fna"),
        (["done"], 64, "give: virnucpro summarize done"),
        (["predict", "contigs.fna", "--out", "x"], 64, "--output-dir DIR"),
        (["predict", "contigs.fna", "-t", "4"], 64, "--threads N"),
        (["predict", "--fasta", "contigs.fna"], 64, "virnucpro predict FILE"),
        (["predict", "contigs.fna", "--cpu"], 64, "--gpus none"),
        (["predict", "https://example.org/a.fna.gz"], 1, "download it first"),
        (["predict", "*.fasta"], 1, "no file matches this pattern"),
        (["predict", "all.zip"], 1, "unzip -p all.zip | virnucpro predict -"),
        (["predict", "all.tar.gz"], 1, "tar -xf all.tar.gz -C unpacked"),
        (["predict", "contig.fna"], 1, "did you mean contigs.fna?"),
        (["predict", "done"], 64, "virnucpro summarize done"),
        (["version"], 64, "virnucpro --version"),
        (["-v"], 64, "-V for the version"),
    ],
)
def test_the_right_command_is_said_at_once(place, capsys, words, code, wanted):
    before = sorted(place.rglob("*"))
    found, line = said(capsys, *words)
    assert found == code and wanted in line, line
    assert sorted(place.rglob("*")) == before  # no output directory is left


def test_help_is_a_command(capsys):
    assert cli.run(["help"]) == 0 and "predict" in capsys.readouterr().out
    assert cli.run(["help", "predict"]) == 0 and "--output-dir" in capsys.readouterr().out


def test_good_inputs_have_no_hint(place):
    assert hints.input_hint("contigs.fna") is None and hints.input_hint("-") is None
    assert hints.command_hint(["predict", "x"], ["predict"]) is None
