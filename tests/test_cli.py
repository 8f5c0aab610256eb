"""The command line: quick, one line an error, exit codes, and no torch before it is wanted."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import subprocess
import sys

import pytest
from command import environment, error_line, virnucpro

from virnucpro import cli
from virnucpro.locks import Lock


def test_help_is_quick_and_loads_no_torch(tmp_path):
    code = (
        "import sys, contextlib, io, virnucpro.cli as cli\nwith"
        " contextlib.redirect_stdout(io.StringIO()):\n    assert cli.run(['--help']) == 0\nheavy ="
        " {'torch', 'transformers', 'datasets', 'accelerate', 'numpy', 'pyarrow', 'pandas'} &"
        " set(sys.modules)\nassert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # 0.2 s on an idle machine
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


def test_version_is_bare(tmp_path):
    from virnucpro import __version__

    result = virnucpro(tmp_path, "--version")
    assert (result.returncode, result.stdout.decode().strip(), result.stderr) == (
        0,
        __version__,
        b"",
    )


@pytest.mark.parametrize(
    "command",
    [
        [name]
        for name in (
            "predict",
            "summarize",
            "prepare",
            "train",
            "evaluate",
            "calibrate",
            "models",
            "doctor",
            "citation",
            "benchmark",
        )
    ]
    + [["models", "download"], ["models", "import"]],
)
def test_help_of_a_command_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run([*command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= 80
    # of <one|two> some, or of a default
    cut = [line for line in lines if "…" in line or re.search(r"<[^\s>]*\|[^\s>]*\s", line)]
    assert not cut


def test_without_a_word_it_shows_its_commands(capsys):
    assert cli.run([]) == 0
    out, err = capsys.readouterr()
    assert "summarize" in out and err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "no input"),
        (["predict", "x.fa", "--nope"], "--nope"),
        (["predict", "x.fa", "--precision", "int4"], "int4"),
        (["predict", "x.fa", "--min-score", "2"], "between 0 and 1"),
        (["predict", "x.fa", "--min-score", "0.4", "--relaxed"], "exclude each other"),
        (["predict", "x.fa", "--resume", "--force"], "give one of them"),
        (["predict", "-", "x.fa"], "cannot be mixed"),
        (["predict", ""], "the name is empty"),
        (["predict", "x.fa", "-o", ""], "-o: its value is empty"),
        (["predict", "x.fa", "--cache-dir="], "--cache-dir: its value is empty"),
        (["benchmark", "-o", "nowhere/out.json"], "nowhere/out.json"),
        (["predict", "x.fa", "--model-type", "custom"], "--model-path"),
        (["predict", "x.fa", "--device", "tpu"], "--gpus"),
        (["predict", "x.fa", "--prevalence", "0"], "between 0 and 1"),
        (["unheard-of"], "unheard-of"),
        (["models"], "see virnucpro models --help"),
    ],
)
def test_usage_errors_are_one_line_and_exit_64(tmp_path, arguments, said):
    result = virnucpro(tmp_path, *arguments)
    assert result.returncode == 64
    assert said in error_line(result)
    assert result.stdout == b""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--minutes", "nan"),
        ("--minutes", "inf"),
        ("--minutes", "0"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "0"),
        ("--pretrain", "nan"),
    ],
)
def test_a_number_that_trains_nothing_is_refused_by_its_option(tmp_path, capsys, option, value):
    assert cli.run(["train", str(tmp_path), option, value]) == 64
    assert f"'{option}'" in capsys.readouterr().err


def test_wrong_options_beside_standard_input_make_no_directory(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRNUCPRO_HOME", str(tmp_path))
    for option, value in (("--min-score", "2"), ("--gpus", "7"), ("--stride", "3")):
        with open(__file__, "rb") as text:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(text))
            assert cli.run(["predict", "-", option, value, "-o", "out"]) == 64
        assert option in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_a_run_leaves_the_standard_input_of_another_alone(tmp_path, capfd, monkeypatch):
    spool = tmp_path / "out" / ".virnucpro-stdin"
    with Lock(spool / "lock", tmp_path / "out"), open(__file__, "rb") as text:
        (spool / "stdin").write_text(">a\nACGT\n")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(text))
        assert cli.run(["predict", "-", "-o", str(tmp_path / "out")]) == 1
        assert (spool / "stdin").read_text() == ">a\nACGT\n"
    assert "another run is writing here" in capfd.readouterr().err


def test_a_path_that_may_not_be_looked_at_is_one_line(tmp_path, capfd, monkeypatch):
    path, stat = tmp_path / "x.fa", os.stat

    def refuse(looked_at, **more):
        # the superuser of a test machine is refused nothing
        if str(looked_at) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(looked_at, **more)

    monkeypatch.setattr(os, "stat", refuse)
    assert cli.run(["predict", str(path)]) == 1
    said = capfd.readouterr().err
    assert f"virnucpro: error: {path}: cannot be opened: Permission denied; " in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory",
        ),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files", "x"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: no space left"),
        (ValueError("no such"), "unexpected ValueError: no such"),
    ],
)
def test_a_limit_of_the_machine_is_no_error_of_the_program(monkeypatch, capsys, error, said):
    def fail() -> None:
        raise error

    monkeypatch.setattr("virnucpro.models.library.list_models", fail)
    assert cli.run(["models", "list"]) == 1
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1
    assert ("unexpected" in line) == isinstance(error, ValueError)


@pytest.mark.parametrize(("stop", "code"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)])
def test_a_signal_while_a_class_is_made_is_no_error_of_the_program(monkeypatch, capsys, stop, code):
    """Python 3.11 and older wrap what is raised in `__set_name__`."""

    def interrupted() -> None:
        raise RuntimeError("Error calling __set_name__") from stop

    monkeypatch.setattr("virnucpro.models.library.list_models", interrupted)
    assert cli.run(["models", "list"]) == code
    assert "unexpected" not in capsys.readouterr().err
