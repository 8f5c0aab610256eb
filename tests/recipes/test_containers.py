"""What the container promises, without a container: a read-only root, any user id, no home."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import GOLDEN

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "recipes" / "containers" / "Dockerfile"
UID = "54321"
# A namespace of its own: /tmp is empty, one directory can be written, nothing else can. The user
# may read what only the owner may, as the interpreter of the tests may lie in somebody's home.
SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir -m 777 /mnt/data
cp "$1" /mnt/data/contigs.fna
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs /tmp
cd /mnt/data
shift
exec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all,+dac_read_search \
  --ambient-caps=-all,+dac_read_search env -i "$@"
"""


def namespaces() -> bool:
    if str(ROOT).startswith(("/tmp/", "/mnt/")):  # what is mounted there would hide the program
        return False
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    return tools and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def variables() -> list[str]:
    """The container's environment, as its Dockerfile sets it."""
    lines = DOCKERFILE.read_text().replace("\\\n", " ").splitlines()
    return re.findall(r"\w+=\S+", next(line for line in lines if line.startswith("ENV ")))


@pytest.mark.skipif(not namespaces(), reason="needs root and mount namespaces")
def test_a_read_only_root_and_an_unknown_user(tmp_path):
    records = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:3]]
    (tmp_path / "contigs.fna").write_text("".join(records))
    path = f"PYTHONPATH={ROOT}:{':'.join(entry for entry in sys.path if entry)}"
    program = (
        "import os, sys; from virnucpro import cli;"
        "code = cli.run(['predict', 'contigs.fna', '-o', 'results', '--model', 'mini', '--gpus',"
        " 'none', '-q']);"
        "rows = len(open('results/contigs.tsv').readlines());"
        "print(code, os.getuid(), 'HOME' in os.environ, rows, os.access('/', os.W_OK), sep='|')"
    )
    limits = ["OMP_NUM_THREADS=1", "PATH=/usr/bin:/bin", path]
    command = [*variables(), *limits, sys.executable, "-c", program]
    script = SCRIPT.format(uid=UID)
    result = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", tmp_path / "contigs.fna", *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # HOME is made below TMPDIR by the program itself
    assert result.stdout.strip() == f"0|{UID}|True|3|False", result.stderr
