"""The place of the tables, and the lock of each."""

import errno
import os
import runpy

import datasets
import pytest

from virnucpro.errors import StoreError
from virnucpro.sequences.table_cache import cache_root, locked


def test_cache_root_respects_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "env"))
    assert cache_root() == tmp_path / "env" / "virnucpro"
    assert cache_root(tmp_path / "given") == tmp_path / "given" / "virnucpro"


@pytest.mark.parametrize(
    "given",
    [{}, {"HF_HOME": "~/hub"}, {"XDG_CACHE_HOME": "/x"}, {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}],
)
def test_cache_root_is_the_default_of_datasets(monkeypatch, given):
    for name in ("HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    theirs = runpy.run_path(datasets.config.__file__)["HF_DATASETS_CACHE"]
    assert cache_root() == theirs.expanduser() / "virnucpro"


@pytest.fixture
def read_only(monkeypatch):
    """No file is opened for writing, for the reason given."""
    opened = os.open

    def make(number: int) -> None:
        def only_read(path, flags, *mode):
            if flags & os.O_RDWR:
                raise OSError(number, os.strerror(number), str(path))
            return opened(path, flags, *mode)

        monkeypatch.setattr(os, "open", only_read)

    return make


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_lock_that_can_only_be_read_is_enough(tmp_path, read_only, number):
    with locked(tmp_path / "table"):
        pass
    read_only(number)
    entered = False
    with locked(tmp_path / "table"):
        entered = True
    assert entered


@pytest.mark.parametrize(
    ("number", "why"), [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only file system")]
)
def test_where_no_lock_can_be_made_it_is_said_why(tmp_path, read_only, number, why):
    read_only(number)
    with (
        pytest.raises(StoreError, match=rf"\({why}\); name another --cache-dir"),
        locked(tmp_path / "table"),
    ):
        pytest.fail("entered without a lock")
