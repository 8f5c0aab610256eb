"""What is printed never decides the exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command import GOLDEN, GOLDEN_MODEL, environment

PREDICT = ["predict", "names.fa", "-o", "out", "--gpus", "none", *GOLDEN_MODEL]


@pytest.fixture
def here(tmp_path):
    """A directory with an input whose name no ASCII terminal can show."""
    sequence = (GOLDEN / "input.fa").read_text().split(">")[1].split("\n", 1)[1]
    (tmp_path / "names.fa").write_text(f">é\u4e2d\n{sequence}", encoding="utf-8")
    return tmp_path


def run(here, arguments, ending="", **more):
    """`virnucpro ARGUMENTS` in a shell that ends with `ending`; (exit code, standard error)."""
    command = f'"{sys.executable}" -m virnucpro {" ".join(arguments)} {ending}'
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=here,
        env=environment(here, more.pop("extra", {})),
        capture_output=True,
        check=False,
        timeout=300,
    )
    return found.returncode, found.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "ending",
    ["> /dev/full", "2> /dev/full", "> /dev/full 2> /dev/full", "| true", ">&-", "2>&- >&- <&-"],
)
def test_an_output_that_cannot_be_written_is_no_failure(tmp_path, ending):
    if "/dev/full" in ending and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    code, said = run(tmp_path, ["citation"], ending)
    assert code == 0 and "Traceback" not in said and "Exception" not in said
    if ending == "> /dev/full":
        assert "warning: standard output cannot be written (no space left on device)" in said
    elif ending != "2> /dev/full":
        assert said == ""


def test_a_failure_stays_one_when_it_cannot_be_said(tmp_path):
    assert run(tmp_path, ["models", "download", "none"], "2> /dev/full")[0] == 64
    assert run(tmp_path, ["no-such-command"], "2>&- >&-")[0] == 64


def test_a_finished_run_ends_with_0_whatever_the_terminal_can_show(here):
    code, said = run(here, PREDICT, "> /dev/full", extra={"PYTHONIOENCODING": "ascii"})
    assert code == 0 and "Traceback" not in said, said
    assert "é\u4e2d" in (here / "out" / "contigs.tsv").read_text(encoding="utf-8")
