"""Signals at moments that the resume tests do not reach."""
from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import GOLDEN


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc to see what a process is importing")
def test_an_interrupt_while_torch_is_imported_ends_the_run(tmp_path):
    command = [sys.executable, "-m", "virnucpro", "predict", str(GOLDEN / "input.fa"), "-m", "mini", "-o", str(tmp_path / "out"),
               "--cache-dir", str(tmp_path / "cache"), "--gpus", "none"]  # fmt: skip
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and "libtorch_cpu" not in Path(f"/proc/{run.pid}/maps").read_text():
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and said.count("\n") == 1 and "Traceback" not in said
