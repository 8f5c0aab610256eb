"""Time that processes lose to each other: how much of the embedding loop is not spent in the
encoder.

    python benchmarks/coordination.py [--processes 2] [--batches 100]      # about three minutes on
    two quiet cores

A random ESM-2 of mini's shape on the CPU, planned batches of 4,096 tokens, the real loop
(Accelerate, gather in step, shards with every flush). Prints for one process and for several how
much of the loop is not spent in the encoder, twice: by the clock, and by the processes' own CPU
time, the time between two meetings being that of the slowest process. By the clock, waiting for a
process that the system has put aside for other work counts as lost too: on a busy machine that
figure is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (40, 169)  # tokens of a sequence
BATCH = 4096  # as `predict` packs on a CPU


def work(out: Path, batches: int) -> None:
    """One process's share: writes what it measured to `out`."""
    import datasets  # noqa: F401  (a real run has read its frames with it; preparing a loader imports it)
    import torch
    from accelerate import Accelerator

    from virnucpro.embedding.batches import PlannedBatches
    from virnucpro.embedding.extract import extract
    from virnucpro.embedding.group import close_group
    from virnucpro.embedding.plan import make_plan
    from virnucpro.embedding.store import FeatureStore
    from virnucpro.models.esm2 import Esm2Encoder
    from virnucpro.tools.random_models import random_esm2

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    encoder = Esm2Encoder(
        random_esm2("mini", "cpu", torch.float32),
        torch.device("cpu"),
        "fp32",
        "auto",
        None,
    )
    random = np.random.default_rng(0)
    sequences = [
        random.integers(4, 24, size=n).astype(np.uint8)
        for n in random.integers(*LENGTHS, size=batches * BATCH // 105)
    ]
    plan = make_plan(np.arange(len(sequences)), np.array(list(map(len, sequences))), BATCH)
    store = (
        FeatureStore(out.parent / "rows", encoder.width) if accelerator.is_main_process else None
    )
    if store is not None:
        store.load()
    inside, meetings = watch(encoder, accelerator)
    planned = PlannedBatches(
        plan, lambda rows: [sequences[row] for row in rows], encoder.pad_id, 1024
    )
    encoder.embed(planned[0].packed)  # the first one pays for what is made once
    inside[:] = 0
    accelerator.wait_for_everyone()
    began = now()
    extract(accelerator, encoder, planned, store)
    ended = now()
    close_group(accelerator)
    content = {
        "times": [tuple(began), *meetings, tuple(ended)],
        "inside": tuple(inside),
        "batches": len(plan),
    }
    out.with_suffix(f".{accelerator.process_index}").write_text(json.dumps(content))


def watch(encoder, accelerator) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """(seconds inside the encoder so far, when this process was ready for each meeting): both go on
    being filled.
    """
    inside = np.zeros(2)  # the encoder's seconds so far: by the clock, of the CPU
    meetings: list[tuple[float, ...]] = []  # when this process was ready for each
    embed_one, gather = encoder.embed, accelerator.gather_for_metrics

    def embed(batch):
        before = now()
        rows = embed_one(batch)
        inside[:] += now() - before
        return rows

    def gather_for_metrics(mine):
        meetings.append(tuple(now()))
        return gather(mine)

    encoder.embed = embed
    accelerator.gather_for_metrics = gather_for_metrics
    return inside, meetings


def now() -> np.ndarray:
    """By the clock, and the process's CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def lost(found: list[dict]) -> np.ndarray:
    """Share of the loop outside the encoder, by the clock and by CPU time.

    At every meeting all wait for the slowest.
    """
    times = np.array([f["times"] for f in found])  # [processes, meetings + 2, 2]
    clock = np.ptp(times[:, :, 0])
    # what follows the last meeting included
    cpu = np.diff(times[:, :, 1], axis=1).max(axis=0).sum()
    return 1 - np.mean([f["inside"] for f in found], axis=0) / [clock, cpu]


def measure(processes: int, batches: int) -> list[dict]:
    """What every process of a run measured."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "measured"
        environment = os.environ | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
        subprocess.run(
            [sys.executable, *launcher, __file__, "--work", str(out), "--batches", str(batches)],
            env=environment,
            check=True,
        )
        return [json.loads(out.with_suffix(f".{rank}").read_text()) for rank in range(processes)]


def main() -> None:
    """Measure one process and several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.batches)
        return
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for processes in (1, options.processes):
        found = measure(processes, options.batches)
        by_clock, by_cpu = 100 * lost(found)
        times = np.array(found[0]["times"])
        print(
            f"{processes} process{'es' * (processes > 1)}: {found[0]['batches']} batches in"
            f" {times[-1, 0] - times[0, 0]:.2f} s, {len(times) - 2} meetings, {by_clock:.1f} % lost"
            f" by the clock, {by_cpu:.1f} % by CPU time",
            flush=True,
        )


if __name__ == "__main__":
    main()
