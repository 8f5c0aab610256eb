"""Hashes of model files are kept where this user can write, as the umask says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from virnucpro.models.files import file_digest


@pytest.fixture
def models(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr("virnucpro.models.files.SETTLED", -1)  # new files are believed
    return tmp_path / "models"


def test_the_hashes_obey_the_umask(models: Path, tmp_path: Path):
    (tmp_path / "weights").write_bytes(b"one")
    old = os.umask(0o022)
    try:
        file_digest(tmp_path / "weights")
    finally:
        os.umask(old)
    assert stat.S_IMODE((models / "sha256.json").stat().st_mode) == 0o644


def test_where_the_models_are_others_hashes_are_kept_with_the_user(
    models: Path, tmp_path: Path, monkeypatch
):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    models.mkdir()
    (models / "sha256.json").mkdir()  # cannot be written, by whoever
    found = file_digest(file)
    assert (tmp_path / "own" / "virnucpro" / "sha256.json").is_file()
    monkeypatch.setattr("virnucpro.models.files.sha256_of", lambda path: pytest.fail("read again"))
    assert file_digest(file) == found
