"""Signals at moments that the resume tests do not reach."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import GOLDEN

from virnucpro import cli
from virnucpro.__main__ import main


def as_at_a_terminal() -> None:
    """In the new process: SIGINT acts, also where a shell has started these tests in the
    background.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PREDICT = [
    "predict",
    str(GOLDEN / "input.fa"),
    "-m",
    "mini",
    "-o",
    "out",
    "--cache-dir",
    "cache",
    "--gpus",
    "none",
]


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(),
    reason="needs Linux's /proc to see what a process is importing",
)
@pytest.mark.parametrize(
    "words, goes_on", [(PREDICT, True), (["benchmark", "--cpu", "--model-shape", "tiny"], False)]
)
def test_an_interrupt_while_torch_is_imported_ends_the_run(words, goes_on, tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-m", "virnucpro", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_at_a_terminal,
    )
    while run.poll() is None and "libtorch_cpu" not in Path(f"/proc/{run.pid}/maps").read_text():
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and said.count("\n") == 1 and "Traceback" not in said
    assert ("finished work is kept" in said) == goes_on


def test_a_current_directory_that_was_removed_is_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end:
        main()
    said = capfd.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1 and "change to another with cd" in said


def test_an_interrupt_before_the_command_line_is_there_is_one_line(monkeypatch, capfd):
    """Importing it takes a part of a second."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "open_standard_streams", interrupted)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with pytest.raises(SystemExit) as end:
        main()
    line = "virnucpro: error: stopped by SIGINT; run the same command again\n"
    assert end.value.code == 130 and capfd.readouterr() == ("", line)
