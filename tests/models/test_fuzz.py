"""Damaged and crafted files of models and runs; `tests/helpers/fuzz.py` reads any number more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from command import environment

CASES = 2000
HELPERS = Path(__file__).parents[1] / "helpers"


def test_every_file_is_refused_in_one_line_or_read_as_what_it_says(tmp_path):
    """In a process of its own, whose memory is limited: it would take the tests' along."""
    done = subprocess.run(
        [sys.executable, str(HELPERS / "fuzz.py"), "--cases", str(CASES)],
        env=environment(tmp_path, {"PYTHONPATH": str(HELPERS), "TMPDIR": str(tmp_path)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    last = done.stderr.strip().splitlines()[-1:]  # the case at which it ended, if it did
    assert done.returncode == 0, (done.returncode, last, os.linesep.join(done.stderr[-2000:]))
    found = json.loads(done.stdout)
    assert found["cases"] == CASES and not found["failures"], found["failures"]
    assert found["more_memory_mb"] < 1000 and found["slowest"][0] < 20, found
    kinds = {label.rpartition(" ")[0] for label in found["told"]}
    assert len(kinds) == 17, kinds
