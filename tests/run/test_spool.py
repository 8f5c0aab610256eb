"""Inputs that can be read only once are kept while a run lasts; endless ones are refused."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections import namedtuple
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from command import GOLDEN, GOLDEN_MODEL, error_line, virnucpro

from virnucpro import cli
from virnucpro.errors import StoreError, UsageError
from virnucpro.launch import World
from virnucpro.run import spool
from virnucpro.run.spool import SPOOL, SPOOL_VARIABLE, run_inputs
from virnucpro.run.start import default_output
from virnucpro.sequences.reader import UnreadableInput, read_records

ALONE = World(launched=False)
LAUNCHED = World(True, self_launched=True)
TEXT = b">a\nACGT\n>b\nGG\n"


@contextmanager
def feeding(path: Path, data: bytes):
    """Somebody who writes `data` into the pipe at `path`, as far as it is read."""

    def write() -> None:
        try:
            with open(path, "wb", buffering=0) as pipe:
                pipe.write(data)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    yield
    writer.join(30)
    assert not writer.is_alive()


@pytest.fixture
def pipe(tmp_path) -> Path:
    os.mkfifo(tmp_path / "reads.fa")
    return tmp_path / "reads.fa"


def test_a_pipe_is_read_once_and_kept_while_the_run_lasts(tmp_path, pipe):
    with ExitStack() as stack:
        with feeding(pipe, TEXT):
            given = [str(pipe), str(GOLDEN / "input.fa"), str(pipe)]
            files = run_inputs(given, tmp_path / "out", ALONE, stack)
        assert [file.stem for file in files] == ["reads", "input", "reads_2"]
        assert [file.shown for file in files] == given
        for _ in range(2):
            assert [record.name for record in read_records(files[0])] == ["a", "b"]
        # as a process of our own launch sees it
        assert run_inputs(given, tmp_path / "out", LAUNCHED, stack) == files
    assert not (tmp_path / "out").exists() and SPOOL_VARIABLE not in os.environ


def test_a_shells_descriptor_and_standard_input_by_its_path(tmp_path):
    read, write = os.pipe()
    os.write(write, gzip.compress(TEXT))
    os.close(write)
    with ExitStack() as stack:
        (file,) = run_inputs([f"/dev/fd/{read}"], tmp_path / "out", ALONE, stack)
        assert [record.name for record in read_records(file)] == ["a", "b"]
    os.close(read)
    # a regular file by a descriptor, which other processes do not have
    with open(GOLDEN / "input.fa", "rb") as opened, ExitStack() as stack:
        (file,) = run_inputs([f"/dev/fd/{opened.fileno()}"], tmp_path / "out", ALONE, stack)
        assert file.path.read_bytes() == (GOLDEN / "input.fa").read_bytes()
    assert default_output(["/dev/stdin"]) == Path("stdin_virnucpro") == default_output(["-"])


def test_standard_input_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT))))
    with ExitStack() as stack:
        (file,) = run_inputs(["-"], tmp_path / "out", ALONE, stack)
        assert (file.source, file.stem, file.shown) == ("stdin", "stdin", "stdin")
        assert [record.sequence for record in read_records(file)] == [b"ACGT", b"GG"]


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_refused_before_anything_is_written(tmp_path, name, capfd):
    assert cli.run(["predict", name, "-o", str(tmp_path / "out")]) == 64
    assert f"input {name}: is a terminal or another device" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_at_all_is_an_empty_input(tmp_path):
    with ExitStack() as stack:
        (file,) = run_inputs([os.devnull], tmp_path / "out", ALONE, stack)
        assert not list(read_records(file))


def test_a_pipe_without_a_letter_or_an_end_is_refused(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(spool, "MOST_BLANK", 1 << 20)
    with (
        feeding(pipe, bytes(9 << 20)),
        ExitStack() as stack,
        pytest.raises(UsageError, match="without an end"),
    ):
        run_inputs([str(pipe)], tmp_path / "out", ALONE, stack)
    assert not (tmp_path / "out").exists()


def test_of_a_pipe_that_is_no_sequence_file_only_the_beginning_is_kept(tmp_path, pipe):
    with ExitStack() as stack:
        with feeding(pipe, b"y\n" * (9 << 20)):
            (file,) = run_inputs([str(pipe)], tmp_path / "out", ALONE, stack)
        assert file.path.stat().st_size <= spool.BLOCK
        with pytest.raises(UnreadableInput, match="starts with 'y'"):
            list(read_records(file))


def test_a_pipe_leaves_the_disk_some_room(tmp_path, pipe, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda path: usage(spool.ROOM_LEFT - 1))
    with (
        feeding(pipe, TEXT * (1 << 20)),
        ExitStack() as stack,
        pytest.raises(StoreError, match=f"{pipe}.*nearly full"),
    ):
        run_inputs([str(pipe)], tmp_path / "out", ALONE, stack)
    assert not (tmp_path / "out" / SPOOL).exists()


def test_under_a_launcher_a_pipe_is_refused(tmp_path, pipe):
    with ExitStack() as stack, pytest.raises(UsageError, match="under a launcher"):
        run_inputs([str(pipe)], tmp_path / "out", World(True, size=2), stack)


def test_a_substituted_command_is_answered_and_poisons_no_cache(tmp_path):
    """What was lost silently, and for good: the pipe first, then the same bytes as a file."""
    path = tmp_path / "input.fa"
    path.write_bytes((GOLDEN / "input.fa").read_bytes()[:3000])
    read, write = os.pipe()
    os.write(write, path.read_bytes())
    os.close(write)
    model = [*GOLDEN_MODEL, "--gpus", "none", "--cache-dir", str(tmp_path / "cache"), "-q"]
    assert cli.run(["predict", f"/dev/fd/{read}", "-o", str(tmp_path / "piped"), *model]) == 0
    os.close(read)
    assert cli.run(["predict", str(path), "-o", str(tmp_path / "plain"), *model]) == 0
    tables = [
        (tmp_path / name / f"{stem}_merged" / "prediction_results.txt").read_text()
        for name, stem in (("piped", str(read)), ("plain", "input"))
    ]
    assert tables[0] == tables[1] and tables[0].count("\n") > 1
    left = [path.name for path in (tmp_path / "piped").glob(".virnucpro-*")]
    assert left == [".virnucpro-input"]  # for summarize


def test_a_pipe_in_processes_of_our_own(tmp_path):
    run = virnucpro(
        tmp_path,
        *("predict", "/dev/stdin", "-o", "out", *GOLDEN_MODEL, "--num-processes", "2"),
        stdin=TEXT + (GOLDEN / "input.fa").read_bytes()[:3000],
    )
    assert run.returncode == 0, error_line(run)
    rows = (tmp_path / "out" / "contigs.tsv").read_text().splitlines()
    assert rows[1].startswith("a\tstdin\t") and len(rows) > 3


def test_the_variable_of_another_run_means_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(SPOOL_VARIABLE, str(tmp_path / "elsewhere"))
    (tmp_path / "a.fa").write_bytes(TEXT)
    with ExitStack() as stack:
        (file,) = run_inputs([str(tmp_path / "a.fa")], tmp_path / "out", ALONE, stack)
    assert file.path == tmp_path / "a.fa" and SPOOL_VARIABLE not in os.environ
