"""The record of a directory: what changed shows, what cannot be a record is none, and long work
says that it goes on.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from virnucpro.models import contents as module
from virnucpro.models.contents import CHECKSUMS, Contents, announced, check_files, is_whole


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    Contents("hub/name@1").adding(tmp_path / "config.json").write(tmp_path)
    return tmp_path


def test_what_changed_shows(directory: Path):
    file = directory / "config.json"
    assert Contents.read(directory).origin == "hub/name@1"
    assert is_whole(directory) and check_files(directory) == []
    file.write_text("[]")  # of the same size
    assert is_whole(directory) and check_files(directory) == [f"{file}: changed since it came"]
    file.unlink()
    assert not is_whole(directory) and check_files(directory) == [f"{file}: missing"]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"origin": "x", "files": []}',
        '{"origin": "x", "files": {"a": 1}}',
        '{"origin": "x", "files": {"../a": {"size": 1, "sha256": "0"}}}',
        '{"origin": "x", "files": {"a": {"size": "?", "sha256": "0"}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_record_is_none(directory: Path, record: str):
    (directory / CHECKSUMS).write_text(record)
    assert Contents.read(directory) is None and not is_whole(directory)
    assert check_files(directory) == [f"{directory / CHECKSUMS}: not readable"]


def test_long_work_says_how_much_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.05)
    lines: list[str] = []
    written = tmp_path / "part"
    with announced("reading", 2_000_000_000, lines.append, written) as add:
        add(250_000_000)
        add(250_000_000)
        with open(written, "wb") as file:
            file.truncate(1_000_000_000)
        time.sleep(0.2)
    said = len(lines)
    assert lines[0] == "reading (2.00 GB)" and lines[1] == "reading: 1.50 of 2.00 GB"
    with announced("reading", 5, lines.append):
        pass
    time.sleep(0.1)
    assert len(lines) == said
