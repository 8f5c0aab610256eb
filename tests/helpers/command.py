"""How tests run the program: the real entry point, in a process of its own, away from the user's
caches.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from virnucpro.launch import LAUNCHER_VARIABLES

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GOLDEN_MODEL = [
    "--esm-model",
    str(GOLDEN / "esm2"),
    "--dna-model",
    str(GOLDEN / "dnabert_s"),
    "--classifier",
    str(GOLDEN / "500_model.pth"),
]
OF_A_LAUNCHER = (*LAUNCHER_VARIABLES, "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a child process: caches below `home`, no hub, no launcher, the code under test
    first on the path.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OF_A_LAUNCHER and not name.startswith("ACCELERATE_")
    }
    root = str(Path(__file__).parents[2])
    return (
        kept
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(home / "huggingface"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "VIRNUCPRO_HOME": str(home / "models"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        | dict(extra or {})
    )


def virnucpro(
    home: Path,
    *arguments: str | Path,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (),
    stdin: bytes | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """Run `virnucpro ARGUMENTS`; `launcher` goes between the interpreter's options and `-m
    virnucpro`.
    """
    command = [sys.executable, *launcher, "-m", "virnucpro", *map(str, arguments)]
    child = environment(home, extra)
    return subprocess.run(
        command,
        cwd=cwd or home,
        env=child,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def torchrun(processes: int) -> list[str]:
    """The interpreter's arguments that start `-m virnucpro` in some CPU processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


def error_line(result: subprocess.CompletedProcess) -> str:
    """The one line in which a command says what is wrong; asserts that there is one and no
    traceback.
    """
    text = result.stderr.decode()
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("virnucpro: error:")]
    assert len(lines) == 1, text
    return lines[0]
