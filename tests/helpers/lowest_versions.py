"""Try the lower bounds of pyproject.toml: an environment of exactly these versions, and the golden
tests in it.

    python tests/helpers/lowest_versions.py DIRECTORY

makes a virtual environment in DIRECTORY and ends with the tests' exit code. torch alone is of the
version that requirements.txt pins: older wheels for Linux weigh gigabytes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/run",
    "tests/homology",
    "tests/models/test_golden.py",
    "tests/test_golden.py",
    "tests/test_cli.py",
]


def declared(extra: str = "") -> list[str]:
    """The requirements of the package or of one of its extras, as they stand in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()  # tomllib is new in Python 3.11
    name = extra or "dependencies"
    return re.findall(r'"([^"]+)"', re.search(rf"^{name} = \[(.*?)\]", text, re.S | re.M)[1])


def lowest() -> list[str]:
    """The same with each lower bound as the version; of the tests' tools only what runs them."""
    pinned = next(
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    tools = [word for word in declared("test") if word.startswith(("pytest", "hypothesis"))]
    others = [word for word in declared() if not word.startswith("torch>")]
    return [pinned, *(word.replace(">=", "==") for word in [*others, *tools])]


def main() -> int:
    directory = Path(sys.argv[1])
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    wanted = lowest()
    print(*wanted, sep="\n", flush=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    variables = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-W", "ignore", *TESTS]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
