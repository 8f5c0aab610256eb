"""Files appear whole or not at all, links are not followed, one process at a time holds a lock."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import resource
import stat
import threading

import pytest

from virnucpro import files
from virnucpro.errors import InputError, OutputError, StoreError
from virnucpro.files import LEFTOVER, writing
from virnucpro.locks import Lock


def leftovers(folder):
    return [path.name for path in folder.rglob(LEFTOVER + "*")]


def test_a_file_is_the_old_one_until_it_is_the_whole_new_one(tmp_path):
    path = tmp_path / "contigs.tsv"
    path.write_text("old")
    before = os.umask(0o027)
    try:
        with writing(path) as stream:
            stream.write(b"new" * 100_000)
            assert path.read_text() == "old"
    finally:
        os.umask(before)
    assert path.read_text() == "new" * 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_error_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "contigs.tsv"
    path.write_text("old")
    for error in (
        InputError("x"),
        KeyboardInterrupt(),
        OSError(errno.ENOENT, "gone", "/elsewhere/input.fa"),
    ):
        with pytest.raises(type(error)), writing(path) as stream:
            stream.write(b"half")
            raise error
    assert path.read_text() == "old" and not leftovers(tmp_path)


def test_a_full_disk_is_one_line(tmp_path):
    """A real limit on the size of files stands for the full disk: write() fails in the same
    place.
    """
    path = tmp_path / "contigs.tsv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with (
            pytest.raises(OutputError, match=r"contigs\.tsv: cannot be written \(file too large\)"),
            writing(path) as stream,
        ):
            stream.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists() and not leftovers(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_space_left_names_the_file(tmp_path):
    path = tmp_path / "a.tsv"
    with (
        pytest.raises(OutputError, match=r"a\.tsv: cannot be written \(no space left on device\)"),
        writing(path) as stream,
    ):
        os.dup2(os.open("/dev/full", os.O_WRONLY), stream.fileno())
        stream.write(b"x" * 1_000_000)
    assert not leftovers(tmp_path)


def test_links_are_replaced_or_refused_but_not_followed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("precious")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "a.tsv").symlink_to(theirs / "file")
    (ours / "x_merged").symlink_to(theirs)
    with writing(ours / "a.tsv", "w") as stream:
        stream.write("new")
    assert (ours / "a.tsv").read_text() == "new" and not (ours / "a.tsv").is_symlink()
    with (
        pytest.raises(OutputError, match="x_merged is a link or a file"),
        writing(ours / "x_merged" / "file", below=ours),
    ):
        pass
    with pytest.raises(OSError, match="links are not followed"):
        files.make_directory(ours / "x_merged")
    with files.directory_handle(ours) as handle:
        files.remove_tree("x_merged", handle)
    assert [path.name for path in theirs.iterdir()] == ["file"]
    assert (theirs / "file").read_text() == "precious"


def test_a_tree_goes_without_what_its_links_name(tmp_path):
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for folder in (kept, gone, gone / "deep"):
        folder.mkdir()
        (folder / "file").write_text("")
    (gone / "deep" / "link").symlink_to(kept)
    (gone / "dangling").symlink_to("nowhere")
    with files.directory_handle(tmp_path) as handle:
        files.remove_tree("gone", handle)
    assert not gone.exists() and (kept / "file").exists()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "directory"])
def test_only_regular_files_of_one_name_are_opened_to_be_written(tmp_path, kind):
    theirs, path = tmp_path / "theirs", tmp_path / "run.log"
    theirs.write_text("precious")
    if kind == "link":
        path.symlink_to(theirs)
    elif kind == "hard link":
        path.hardlink_to(theirs)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError):
        files.open_own(path, os.O_RDWR | os.O_CREAT)
    with (
        pytest.raises(OutputError, match="cannot be written"),
        Lock(path, tmp_path),
    ):
        pass
    assert theirs.read_text() == "precious"


def test_a_lock_is_one_process_at_a_time(tmp_path):
    lock = tmp_path / "deep" / "lock"
    with (
        Lock(lock, tmp_path),
        pytest.raises(StoreError, match=r"is writing here \(process \d+ on .+\); .* --output-dir"),
        Lock(lock, tmp_path),
    ):
        pass
    with Lock(lock, tmp_path):  # free again
        pass


def test_a_lock_can_be_waited_for(tmp_path, caplog):
    order = []

    def second():
        with Lock(tmp_path / "lock", tmp_path, files.CACHE, wait=True):
            order.append("second")

    with Lock(tmp_path / "lock", tmp_path), caplog.at_level(logging.INFO):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "waiting for process" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_costs_one_warning(tmp_path, monkeypatch, caplog, number):
    def flock(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for wait in (False, True, False):
        with Lock(tmp_path / "lock", tmp_path, wait=wait):
            pass
    assert caplog.text.count("cannot be locked") == 1


def test_a_lock_that_another_user_made_is_enough_to_be_read(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text("process 1 on there")
    real = os.open

    def denied(name, flags, *rest, **more):
        if flags & os.O_RDWR and os.fspath(name) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", denied)
    with (
        Lock(path, tmp_path),
        pytest.raises(StoreError, match="process 1 on there"),
        Lock(path, tmp_path),
    ):
        pass


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        for read in (files.sha256_of, files.xxh3_of, files.open_regular):
            with pytest.raises(OSError, match="it is not a regular file"):
                read(tmp_path / name)


def test_digests_are_those_of_the_tools_that_users_have(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert files.sha256_of(path).startswith("5891b5b522d5df086d0ff0b110fbd9d2")
    assert files.git_blob_id(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert files.xxh3_of(path) == files.checksum(b"hel", b"lo\n")
    assert files.digest({"a": "1", "b": "2"}) == files.digest({"b": "2", "a": "1"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a":1' + b"0" * 9999,
    ],
)
def test_json_that_is_no_object_is_one_line(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"state\.json: not readable \(.+\); start over"):
        files.read_json(path, "start over")


def test_json_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "state.json"
    assert files.read_json(path, "") is None
    files.write_json(path, {"a": ["é", None, 1.5]})
    assert files.read_json(path, "") == {"a": ["é", None, 1.5]}
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a b.1", True),
        ("..", False),
        ("", False),
        ("a/b", False),
        ("../a", False),
        ("a\0", False),
        ("x" * 256, False),
        ("é" * 128, False),
    ],
)
def test_a_plain_name_stays_in_its_directory(name, plain):
    assert files.is_plain_name(name) is plain


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_a_directory_of_another_user_is_not_written_to(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4321, 4321)
    assert not files.is_ours(theirs)
    with pytest.raises(OSError, match="it belongs to another user"):
        files.make_directory(theirs)
    with Lock(tmp_path / "mine", tmp_path), Lock(tmp_path / "shared", tmp_path, wait=True):
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("mine", "shared")]
    assert modes[0] == 0o600 and modes[1] & 0o444 == 0o444
