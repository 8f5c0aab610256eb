"""Whether a frame of a long run costs what one of a short run does, and how much memory a run of
any length takes.

    python benchmarks/long_run.py [--frames 10000 100000 1000000] [--processes 1] [--directory DIR]

A whole `predict` each, with the real reading, plan, Accelerator loop, stores, matrix, calls, tables
and report; only the encoders are stand-ins (a table of random vectors, pooled as in a real one, of
the tiny model's widths: 48 and 32), so that what does not depend on the model shows. Reads as in
front_end.py, 500 bases, all of them different.

Prints for every length: CPU time a frame, all processes and threads together, whole and by stage;
the same of the frames that it has more than the length before (imports and other fixed costs fall
out there: this is what should be flat); the peak of memory without the pages of mapped files, which
the system takes back when it needs them, and with them. A million frames take about 3 GB of disk
below DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 65_536  # large batches: the loop's own 2 ms a step should weigh as little as on a GPU


class StandIn:
    """Satisfies `Encoder`: a vector for every token, and their mean."""

    longest, choices = None, ()

    def __init__(self, name: str, width: int, skip: int):
        import torch

        self.name, self.width, self.skip, self.pad_id = name, width, skip, 1
        self.weights, self.in_16_bits_below = width, 0
        self.table = torch.randn(1 << 16, width, generator=torch.Generator().manual_seed(width))

    def embed(self, batch):
        """Rows of a table, instead of an encoder."""
        from virnucpro.models.packing import pool

        return pool(self.table[batch.tokens], batch, self.skip)


def _given(encoder: Any, *_: object) -> Any:
    return encoder


class Memory(threading.Thread):
    """The peak of memory that is no file's, in each stage, by looking every tenth of a second.

    GiB.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.stage, self.peaks = "", {}

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            status = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
            )
            now = sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem")) / 2**20
            self.peaks[self.stage] = max(self.peaks.get(self.stage, 0.0), now)
            time.sleep(0.1)


def work(arguments: list[str], out: Path) -> int:
    """A process of the run: the command line, with stand-ins, and what it took."""
    from virnucpro import cli
    from virnucpro.models.encoders import DNABERT_S, ENCODERS, ESM2
    from virnucpro.run.timing import Clock

    for entry, width, pad_id in ((DNABERT_S, 48, 0), (ESM2, 32, 1)):
        encoder: Any = StandIn(entry.name, width, pad_id)  # all that the run needs of an encoder
        ENCODERS[entry.name] = replace(entry, load=partial(_given, encoder))
    cpu: dict[str, float] = {}
    memory = Memory()
    Clock.stage = _observed(Clock.stage, cpu, memory)  # type: ignore[method-assign]
    memory.start()
    code = cli.run(arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    out.with_suffix(f".{os.environ.get('RANK', 0)}").write_text(
        json.dumps(
            {
                "cpu": used.ru_utime + used.ru_stime,
                "stages": cpu,
                "memory": memory.peaks,
                "with files": used.ru_maxrss / 2**20,
            }
        )
    )
    return code


def _observed(stage, cpu: dict[str, float], memory: Memory):
    from contextlib import contextmanager

    @contextmanager
    def timed(self, name: str):
        begin, memory.stage = time.process_time(), name
        with stage(self, name):
            yield
        cpu[name] = cpu.get(name, 0.0) + time.process_time() - begin

    return timed


def measure(frames: int, processes: int, place: Path) -> tuple[int, float]:
    """(frames, CPU seconds)."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from front_end import write_reads

    from virnucpro.tools.random_models import random_bundle

    reads, out, measured = place / "reads.fa", place / "out", place / "measured"
    frames = write_reads(reads, frames, 500)
    bundle = random_bundle(place / "bundle")
    arguments = [
        "predict",
        str(reads),
        "-o",
        str(out),
        "--model",
        str(bundle),
        "--cache-dir",
        str(place / "cache"),
        "--batch-size",
        str(TOKENS),
        "-q",
    ]
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *launcher, __file__, "--work", str(measured), *arguments],
        env=environment,
        check=True,
    )
    return frames, tell(place, frames, processes, time.perf_counter() - began)


def tell(place: Path, frames: int, processes: int, seconds: float) -> float:
    """Print what the processes left in `place`; their CPU seconds."""
    found = [json.loads(path.read_text()) for path in sorted(place.glob("measured.*"))]
    facts = json.loads((place / "out" / "run.json").read_text())
    used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e9
    stages = {name: sum(f["stages"].get(name, 0.0) for f in found) for name in found[0]["stages"]}
    peaks = {name: max(f["memory"].get(name, 0.0) for f in found) for name in found[0]["memory"]}
    steady = sum(stages.values())
    print(
        f"{frames:,} frames, {facts['counts']['sequences']:,} sequences, {processes}"
        f" process{'es' * (processes > 1)}: {1e6 * steady / frames:.1f} us of CPU a frame,"
        f" {seconds:.0f} s by the clock; memory {max(peaks.values()):.2f} GiB, with mapped files"
        f" {max(f['with files'] for f in found):.2f} GiB; {used:.1f} GB left on disk"
    )
    print(
        "   us a frame: "
        + ", ".join(f"{name} {1e6 * value / frames:.2f}" for name, value in stages.items())
    )
    print(
        "   GiB: " + ", ".join(f"{name} {peak:.2f}" for name, peak in peaks.items() if name),
        flush=True,
    )
    return steady


def main() -> int:
    """Start the run and print what it took."""
    if sys.argv[1:2] == ["--work"]:
        return work(sys.argv[3:], Path(sys.argv[2]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--directory",
        type=Path,
        help="where there is room; default: the system's temporary directory",
    )
    options = parser.parse_args()
    before = None
    for frames in options.frames:
        place = Path(tempfile.mkdtemp(dir=options.directory))
        try:
            now = measure(frames, options.processes, place)
        finally:
            shutil.rmtree(place)
        if before is not None:
            print(
                f"   {1e6 * (now[1] - before[1]) / (now[0] - before[0]):.1f} us of CPU a frame from"
                f" {before[0]:,} to {now[0]:,}"
            )
        before = now
    return 0


if __name__ == "__main__":
    sys.exit(main())
