"""Several processes, kills and a full memory, on a real GPU: one card is enough.

    PYTHONPATH=. python3 benchmarks/gpu_check.py [--shape mini] [--compile auto]      # about a
    minute; on a CPU it runs too

Checks on `examples/`, with a random bundle: two processes that share the card (gloo) give the bits
of one; a run that is killed with SIGKILL after a few shards and resumed gives them too; a run whose
allocator has a fraction of the memory it wants splits its batches and still answers everything. The
runs go side by side, in processes of their own. Exit code 1 when one of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MIB = 400  # of the run that is short of memory
BATCH = 2048  # tokens: some twenty steps
LARGE_BATCH = 131_072  # tokens: more than LIMIT_MIB holds
EVERY_STEP = "import virnucpro.embedding.store as store\nstore.FLUSH_SECONDS = 0.0\n"
SHORT_OF_MEMORY = f"""
import sys
if "predict" in sys.orig_argv:
    import torch
    torch.cuda.set_per_process_memory_fraction({LIMIT_MIB} * 2**20 / torch.cuda.get_device_properties(0).total_memory)
"""


@dataclass(frozen=True)
class Check:
    """A line of the table."""

    name: str
    good: bool
    found: str
    seconds: float


class Runs:
    """Starts `predict` on the same input and bundle, each time in another directory."""

    def __init__(self, directory: Path, bundle: Path, gpu: bool, compile: str):
        self.directory, self.gpu = directory, gpu
        self.inputs = [str(path) for path in sorted((ROOT / "examples").glob("*.fna.gz"))]
        self.options = [
            "--model",
            str(bundle),
            "--compile",
            compile,
            "--cache-dir",
            str(directory / "cache"),
            "-q",
        ]
        if not gpu:
            self.options += ["--gpus", "none"]

    def start(self, name: str, processes: int = 1, site: str = "", *more: str) -> subprocess.Popen:
        """Begin a run; `site` is executed first in each of its processes."""
        threads = os.environ.get("OMP_NUM_THREADS", "2")
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": threads,
        }
        folder = self.directory / f"site of {name}"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(site)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        launcher = []
        if processes > 1:
            launcher = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(processes),
            ]
            environment |= {} if self.gpu else {"ACCELERATE_USE_CPU": "true"}
        arguments = [
            *self.inputs,
            "-o",
            str(self.directory / name),
            *self.options,
            *(more or ("--batch-size", str(BATCH))),
        ]
        command = [sys.executable, *launcher, "-m", "virnucpro", "predict", *arguments]
        with open(self.log(name), "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)

    def log(self, name: str) -> Path:
        """A run's standard error."""
        return self.directory / f"{name}.log"

    def facts(self, name: str) -> dict:
        """A run's run.json."""
        return json.loads((self.directory / name / "run.json").read_text())

    def features(self, name: str) -> bytes:
        """Bytes of a run's merged_features.pt."""
        return (self.directory / name / "merged_features.pt").read_bytes()

    def log_lines(self, name: str) -> str:
        """A run's log."""
        return (self.directory / name / "run.log").read_text()


def one(runs: Runs) -> tuple[bool, str]:
    """A run by one process."""
    if code := runs.start("one").wait():
        return False, f"exit code {code}"
    facts = runs.facts("one")
    rows = sum(encoder["unique"] for encoder in facts["embedding"].values())
    ways = {choice["name"]: choice["value"] for choice in facts["choices"]}
    return True, f"{rows} embeddings on {facts['device']}, {facts['precision']}; {ways}"


def sharing(runs: Runs) -> tuple[bool, str]:
    """A run by two processes on one device."""
    if code := runs.start("two", 2).wait():
        return False, f"exit code {code}"
    return runs.facts("two")["processes"] == 2, "finished"


def killed(runs: Runs) -> tuple[bool, str]:
    """A run that is killed after some shards, and started again."""
    out, run = runs.directory / "killed", runs.start("killed", 1, EVERY_STEP)
    while run.poll() is None and len(list(out.glob(".virnucpro/*/*.safetensors"))) < 4:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    if run.wait() != -signal.SIGKILL:
        return False, "it had ended before the kill"
    kept = len(list(out.glob(".virnucpro/*/*.safetensors")))
    if code := runs.start("killed").wait():
        return False, f"exit code {code}"
    lines = [
        line.partition("INFO ")[2]
        for line in runs.log_lines("killed").splitlines()
        if "are there already" in line
    ]
    return bool(lines), f"killed with {kept} shards on disk; {'; '.join(lines)}"


def short_of_memory(runs: Runs) -> tuple[bool, str]:
    """A run whose batches do not fit into memory."""
    if not runs.gpu:
        return True, "needs a GPU: not checked"
    if code := runs.start("short", 1, SHORT_OF_MEMORY, "--batch-size", str(LARGE_BATCH)).wait():
        return False, f"exit code {code}"
    split = {name: encoder["split"] for name, encoder in runs.facts("short")["embedding"].items()}
    failed = {name: encoder["failed"] for name, encoder in runs.facts("short")["embedding"].items()}
    return (
        sum(split.values()) > 0 and not sum(failed.values()),
        f"rows of split batches {split}, failed {failed}",
    )


def close(runs: Runs) -> tuple[bool, str]:
    """The rows of split batches against the others."""
    import torch

    if not runs.gpu:
        return True, "needs a GPU: not checked"
    first, second = (
        torch.load(runs.directory / name / "merged_features.pt", weights_only=True)
        for name in ("one", "short")
    )
    cosine = torch.nn.functional.cosine_similarity(first["data"], second["data"])
    return (
        first["ids"] == second["ids"] and bool(cosine.min() >= 0.999),
        f"least cosine {cosine.min():.6f}",
    )


def timed(check, *arguments) -> Check:
    """The check with its seconds; an error is its result."""
    began = time.monotonic()
    try:
        good, found = check(*arguments)
    except Exception as error:
        good, found = False, f"{type(error).__name__}: {error}"
    return Check(check.__name__, good, found, time.monotonic() - began)


def main() -> int:
    """Run all checks; 0 if they are good."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="mini", choices=["tiny", "mini", "650M"])
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"])
    options = parser.parse_args()
    import torch

    from virnucpro.tools.random_models import random_bundle

    gpu = torch.cuda.is_available()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="virnucpro-gpu-") as folder,
        ThreadPoolExecutor(4) as pool,
    ):
        directory = Path(folder)
        bundle = random_bundle(directory / "bundle", options.shape, frame_policy="longest")
        runs = Runs(directory, bundle, gpu, options.compile)
        waiting = [
            pool.submit(timed, check, runs) for check in (one, sharing, killed, short_of_memory)
        ]
        checks = [check.result() for check in waiting]
        for name in ("two", "killed"):
            checks.append(timed(same_bits, runs, name))
        checks.append(timed(close, runs))
        for check in checks:
            print(
                f"{'ok    ' if check.good else 'FAILED'} {check.name:16s} {check.seconds:6.1f} s "
                f" {check.found}"
            )
        for log in sorted(directory.glob("*.log")):
            if not all(check.good for check in checks):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
    print(
        f"{time.monotonic() - began:.0f} s on {torch.cuda.get_device_name() if gpu else 'the CPU'},"
        f" torch {torch.__version__}"
    )
    return 0 if all(check.good for check in checks) else 1


def same_bits(runs: Runs, name: str) -> tuple[bool, str]:
    """Whether the features are those of one process."""
    same = runs.features("one") == runs.features(name)
    return (
        same,
        (
            f"{name}: merged_features.pt {'is' if same else 'is NOT'} that of one process, byte for"
            " byte"
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
