"""What the cache holds and what may go: never what a run reads, the longest unused first."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from command import GOLDEN, GOLDEN_MODEL

from virnucpro import cli
from virnucpro.errors import UsageError
from virnucpro.sequences.cache import (
    Hold,
    cached_tables,
    keep_below_limit,
    remove_tables,
    seconds_of,
    size_limit,
)

RECORDS = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]
DAY = 86_400


def make_table(place: Path, name: str, days: float, size: int = 1000) -> Path:
    directory = place / name
    directory.mkdir(parents=True)
    (directory / "frames.arrow").write_bytes(b"x" * size)
    (directory / "manifest.json").write_text('{"n_frames": 3, "inputs": [{"source": "a.fa"}]}')
    os.utime(directory / "manifest.json", times=(time.time() - days * DAY,) * 2)
    return directory


def test_tables_are_listed_the_longest_unused_first(tmp_path):
    for name, days in (("new", 1), ("old", 9), ("half.building", 3)):
        make_table(tmp_path, name, days)
    (tmp_path / "half.building" / "manifest.json").write_text("{")
    found = cached_tables(tmp_path)
    assert [table.directory.name for table in found] == ["old", "new", "half.building"]
    assert (found[0].frames, found[0].inputs) == (3, ("a.fa",))
    assert round(found[0].days) == 9 and cached_tables(tmp_path / "nothing") == []


def test_what_a_run_reads_stays(tmp_path):
    directory = make_table(tmp_path, "table", 9)
    hold = Hold(directory)
    assert cached_tables(tmp_path)[0].days < 1  # it has just been used
    assert [len(part) for part in remove_tables(cached_tables(tmp_path))] == [0, 1]
    del hold
    assert [len(part) for part in remove_tables(cached_tables(tmp_path))] == [1, 0]
    assert not directory.exists()


def test_the_limit_takes_the_longest_unused_that_nobody_holds(tmp_path, monkeypatch):
    kept = Hold(make_table(tmp_path, "held", 9, 5000))
    os.utime(tmp_path / "held" / "manifest.json", times=(time.time() - 9 * DAY,) * 2)
    make_table(tmp_path, "old", 5, 5000)
    make_table(tmp_path, "new", 1, 5000)
    monkeypatch.setenv("VIRNUCPRO_CACHE_GB", "0.000011")
    keep_below_limit(tmp_path)
    assert sorted(table.directory.name for table in cached_tables(tmp_path)) == ["held", "new"]
    del kept


@pytest.mark.parametrize(
    ("age", "seconds"), [("7d", 7 * DAY), ("12h", DAY / 2), ("1.5d", 1.5 * DAY)]
)
def test_ages(age, seconds):
    assert seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "7", "d", "-1d", "7 d", "7y"])
def test_what_is_no_age_or_size_is_a_usage_error(age, monkeypatch):
    with pytest.raises(UsageError, match="--older-than"):
        seconds_of(age)
    monkeypatch.setenv("VIRNUCPRO_CACHE_GB", age or "x")
    if age != "7":
        with pytest.raises(UsageError, match="VIRNUCPRO_CACHE_GB"):
            size_limit()


def test_the_cache_of_real_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.fa").write_text("".join(RECORDS[:2]))
    monkeypatch.setenv("VIRNUCPRO_CACHE", str(tmp_path / "cache"))
    run = ["predict", str(tmp_path / "a.fa"), *GOLDEN_MODEL, "--gpus", "none", "-q"]
    assert cli.run([*run, "-o", str(tmp_path / "without"), "--no-cache"]) == 0
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "without" / ".virnucpro-frames").exists()
    assert cli.run([*run, "-o", str(tmp_path / "with")]) == 0
    contigs = [(tmp_path / name / "contigs.tsv").read_bytes() for name in ("with", "without")]
    assert contigs[0] == contigs[1]

    capsys.readouterr()
    assert cli.run(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert "a.fa" in listed and re.search(r"^1 tables, [0-9.]+ MB in ", listed, re.M)
    assert cli.run(["cache", "clear", "--older-than", "7d"]) == 0
    assert "0 tables removed" in capsys.readouterr().out
    assert cli.run(["cache", "clear"]) == 0
    assert "1 tables removed" in capsys.readouterr().out
    assert cli.run([*run, "-o", str(tmp_path / "both"), "--no-cache", "--cache-dir", "x"]) == 64
