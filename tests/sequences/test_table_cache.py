"""The place of the tables: whose it is, who may use it, and what happens where there is none."""

import errno
import fcntl
import os
import runpy
import stat
from pathlib import Path

import datasets
import pytest

from virnucpro import locks
from virnucpro.errors import StoreError
from virnucpro.sequences import table as table_module
from virnucpro.sequences import table_cache
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.table_cache import TablePlaces, build_or_open, cache_root, own_directory


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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def table_of(tmp_path, tokenizers):
    """The table of some bases, in the cache at `tmp_path / "cache"`."""

    def build(letters: str = "GCC"):
        path = tmp_path / f"{letters}.fa"
        path.write_text(f">{letters}\n{letters * 60}\n")
        places = TablePlaces(tmp_path / "cache", tmp_path / "private")
        return build_or_open(find_inputs([path]), FrameRules(500), tokenizers, places)

    return build


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    lines: list[str] = []
    for log in (table_cache.log, locks.log):
        monkeypatch.setattr(log, "warning", lambda text, *values: lines.append(text % values))
    locks._warn_once.cache_clear()
    return lines


# --- two users in one cache


def test_a_users_directory_is_closed_to_others(tmp_path):
    own = own_directory(tmp_path / "virnucpro")
    assert own.name == f"user-{os.geteuid()}" and mode(own) == 0o700
    own.chmod(0o777)
    own_directory(tmp_path / "virnucpro")
    assert mode(own) == 0o700


@pytest.mark.parametrize("shared", [0o1777, 0o2775, 0o755])
def test_a_new_cache_is_open_to_those_who_may_write_beside_it(tmp_path, shared):
    tmp_path.chmod(shared)
    own_directory(tmp_path / "virnucpro")
    writes = 0o022
    assert mode(tmp_path / "virnucpro") & writes == shared & writes
    if shared & writes:
        assert mode(tmp_path / "virnucpro") & stat.S_ISVTX


def test_a_second_user_has_tables_of_his_own(tmp_path, table_of, monkeypatch, warned):
    first = table_of()
    monkeypatch.setattr(table_cache.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(
        table_module.os, "lstat", lambda path: Status(os.stat(path), os.getuid() + 1)
    )
    monkeypatch.setattr(
        table_module.os, "fstat", lambda handle: Status(os.stat(handle), os.getuid() + 1)
    )
    second = table_of()
    assert second.directory != first.directory and not second.reused and not warned
    assert table_of().reused and len(second) == len(first)


class Status:
    """A file's status, as if another user owned it."""

    def __init__(self, status: os.stat_result, owner: int):
        self._status, self.st_uid = status, owner

    def __getattr__(self, name: str):
        return getattr(self._status, name)


def test_a_directory_that_another_user_has_prepared_is_not_used(
    tmp_path, table_of, monkeypatch, warned
):
    (tmp_path / "cache" / "virnucpro" / f"user-{os.geteuid()}").mkdir(parents=True)
    lstat = os.lstat

    def foreign(path, **more):
        status = lstat(path, **more)
        return Status(status, 4711) if Path(path).name.startswith("user-") else status

    monkeypatch.setattr(os, "lstat", foreign)
    table = table_of()
    assert table.directory.parent == tmp_path / "private" and len(table)
    assert "it belongs to another user" in warned[0] and len(warned) == 1


def test_a_table_that_another_user_has_put_there_is_built_again(table_of, monkeypatch, warned):
    expected = table_of().frames.to_pydict()
    fstat = os.fstat
    monkeypatch.setattr(table_module.os, "fstat", lambda handle: Status(fstat(handle), 4711))
    with pytest.raises(StoreError, match="belongs to another user"):
        table_of()
    assert "belongs to another user" in warned[0]
    monkeypatch.undo()
    again = table_of()
    assert not again.reused or again.frames.to_pydict() == expected


def test_too_little_memory_costs_no_table(table_of, monkeypatch, warned):
    directory = table_of().directory

    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as poor:
        poor.setattr(table_module.mmap, "mmap", refuse)
        with pytest.raises(StoreError, match="cannot be read: not enough memory"):
            table_of()
    assert table_of().reused and directory.exists() and not warned


def test_a_link_in_the_place_of_a_users_directory_is_not_followed(tmp_path, table_of, warned):
    (tmp_path / "cache" / "virnucpro").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "cache" / "virnucpro" / f"user-{os.geteuid()}").symlink_to(tmp_path / "precious")
    assert table_of().directory.parent == tmp_path / "private"
    assert not list((tmp_path / "precious").iterdir()) and "link" in warned[0]


# --- where no cache can be had


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written_costs_one_line(
    tmp_path, table_of, monkeypatch, warned, number
):
    made = os.mkdir

    def refuse(path, *more, **others):
        if "cache" in Path(path).parts:
            raise OSError(number, os.strerror(number), str(path))
        return made(path, *more, **others)

    monkeypatch.setattr(os, "mkdir", refuse)
    table = table_of()
    assert table.directory.parent == tmp_path / "private" and len(table)
    assert len(warned) == 1 and "--cache-dir" in warned[0]


@pytest.mark.parametrize("keep, option", [(True, "--cache-dir"), (False, "--output-dir")])
def test_a_full_disk_names_the_option_of_that_disk(tmp_path, tokenizers, monkeypatch, keep, option):
    def full(*_):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(table_module, "build", full)
    (tmp_path / "a.fa").write_text(">a\nGCCGCC\n")
    places = TablePlaces(tmp_path / "cache", tmp_path / "private", keep)
    with pytest.raises(StoreError, match=f"no space left .* name another {option}"):
        build_or_open(find_inputs([tmp_path / "a.fa"]), FrameRules(500), tokenizers, places)


def test_a_file_in_the_place_of_the_cache_costs_one_line(tmp_path, table_of, warned):
    (tmp_path / "cache").write_text("x")
    assert table_of().directory.parent == tmp_path / "private"
    assert len(warned) == 1 and "--cache-dir" in warned[0]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_costs_a_warning(table_of, monkeypatch, warned, number):
    def no_locks(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert not table_of().reused and table_of().reused
    assert len(warned) == 1 and "cannot be locked" in warned[0]
