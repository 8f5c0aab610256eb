"""Processes of our own launch: what they see, who can reach them, and how the run ends when one
dies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command import GOLDEN, GOLDEN_MODEL, environment, virnucpro

from virnucpro.errors import Interrupted, VirNucProError
from virnucpro.run.workers import _failed, module_path

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = [*GOLDEN_MODEL, "--gpus", "none", "--num-processes", "2"]
# as the installed script does, which sees nothing of the current directory either
SCRIPT = "import sys; sys.path.pop(0); from virnucpro.__main__ import main; main()"
HIJACKED = 'raise SystemExit("taken from the current directory")\n'


def listening(process: psutil.Process) -> set[str]:
    """Addresses on which a process and its descendants wait for connections."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            connections = one.net_connections(kind="inet")
        except psutil.Error:
            continue
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def test_workers_import_nothing_from_here_and_listen_to_this_machine_only(tmp_path):
    """Their input begins with a hyphen, and the user's network interface for gloo is not there."""
    shutil.copy(GOLDEN / "input.fa", tmp_path / "-input.fa")
    (tmp_path / "random.py").write_text(HIJACKED)
    (tmp_path / "virnucpro").mkdir()
    (tmp_path / "virnucpro" / "__init__.py").write_text(HIJACKED)
    options = ["predict", "-o", "out", *TWO_PROCESSES, "--", "-input.fa"]
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *options],
        cwd=tmp_path,
        env=environment(tmp_path, {"GLOO_SOCKET_IFNAME": "nic9"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    addresses = set()
    while run.poll() is None:
        addresses |= listening(psutil.Process(run.pid))
        time.sleep(0.1)
    assert run.returncode == 0, run.stderr.read()
    assert addresses == {"127.0.0.1"}
    assert (tmp_path / "out" / "-input_merged").is_dir()


def test_the_package_is_seen_where_it_lies_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    assert str(ROOT) in module_path()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert str(ROOT) in module_path() and str(tmp_path) not in module_path()


def test_python_m_imports_nothing_from_here(tmp_path):
    (tmp_path / "typer.py").write_text(HIJACKED)
    (tmp_path / "click.py").write_text(HIJACKED)
    run = virnucpro(tmp_path, "--help")
    assert run.returncode == 0, run.stderr


DIES_ON_LEAVING = """
import os
if os.environ.get("RANK") == "1":
    import virnucpro.embedding.group as group
    close = group.close_group
    def close_and_die(accelerator):
        close(accelerator)
        os.abort()
    group.close_group = close_and_die
elif os.environ.get("RANK") == "0":
    import virnucpro.results
    write = virnucpro.results.write_results
    def write_late(*args, **more):
        import time
        time.sleep(20)  # the launcher ends this process long before
        return write(*args, **more)
    virnucpro.results.write_results = write_late
"""


def test_a_process_that_dies_on_leaving_is_no_success(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES_ON_LEAVING)
    (tmp_path / "one.fa").write_text(">a\n" + "ATGGCTAAACGT" * 30 + "\n")
    path = f"{tmp_path / 'site'}:{ROOT}"
    run = virnucpro(
        tmp_path, "predict", "one.fa", "-o", "out", *TWO_PROCESSES, extra={"PYTHONPATH": path}
    )
    said = run.stderr.decode()
    assert run.returncode == 1 and "process 1 of 2 died: killed by SIGABRT" in said
    assert "Traceback" not in said and not (tmp_path / "out" / "run.json").exists()


def test_the_process_that_said_why_is_the_one_that_failed():
    assert _failed([None, -9, 1], forced=False) == 1
    with pytest.raises(VirNucProError, match="process 1 of 3 died: killed by SIGKILL"):
        _failed([143, -9, None], forced=False)
    with pytest.raises(Interrupted, match="without --force") as stopped:
        _failed([None, 143], forced=True)
    assert stopped.value.exit_code == 143
