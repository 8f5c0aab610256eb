"""Users without a home directory or a name: the caches that can be had, or the variable to set."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from virnucpro import cli
from virnucpro.errors import VirNucProError
from virnucpro.run.home import ensure_home


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch) -> Path:
    """The directory for temporary files of a user without home and name."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_DATASETS_CACHE", "VIRNUCPRO_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "")  # so that it is put back
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_caches_are_private_and_temporary(nobody, monkeypatch):
    monkeypatch.chdir(nobody)
    (nobody / "one.fa").write_text(">a\n" + "ATGGCTAAACGT" * 30 + "\n")
    assert cli.run(["predict", "one.fa", "-m", "mini", "-o", "out", "--gpus", "none"]) == 0
    home = nobody / f"virnucpro-{os.getuid()}"
    assert os.environ["HOME"] == str(home) and os.environ["USER"] == str(os.getuid())
    assert (home / ".cache").is_dir() and home.stat().st_mode & 0o777 == 0o700
    assert not (nobody / "~").exists()


def test_a_home_with_a_cache_or_room_for_one_stays(nobody, monkeypatch):
    monkeypatch.setenv("HOME", str(nobody))
    ensure_home()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (nobody / ".cache").mkdir()
    ensure_home()
    assert os.environ["HOME"] == str(nobody)
    (nobody / ".cache").rmdir()
    ensure_home()
    assert os.environ["HOME"] == str(nobody / f"virnucpro-{os.getuid()}")


@pytest.mark.parametrize("trouble", ["open to all", "link", "no room"])
def test_a_directory_that_others_could_change_is_not_taken(nobody, monkeypatch, trouble):
    place = nobody / f"virnucpro-{os.getuid()}"
    if trouble == "open to all":
        place.mkdir()
        place.chmod(0o777)
    elif trouble == "link":
        place.symlink_to(nobody)
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(nobody / "gone"))
    with pytest.raises(VirNucProError, match="set HOME"):
        ensure_home()
    assert "HOME" not in os.environ
