"""Time that processes lose to each other: how much of the embedding loop is not spent in the encoder.

    python benchmarks/coordination.py [--processes 2] [--batches 100]      # about three minutes on two quiet cores

A random ESM-2 of mini's shape on the CPU, planned batches of 4,096 tokens, the real loop (Accelerate, gather in step, shards
with every flush). Prints for one process and for several how much of the loop is not spent in the encoder, twice: by the
clock, and by the processes' own CPU time, a step taking as long as its slowest process. By the clock, waiting for a process
that the system has put aside for other work counts as lost too: on a busy machine that figure is an upper bound.
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

    from virnucpro.embedding.devices import leave
    from virnucpro.embedding.extract import PlannedBatches, extract
    from virnucpro.embedding.feature_store import FeatureStore
    from virnucpro.embedding.plan import make_plan
    from virnucpro.models.esm2 import Esm2Encoder
    from virnucpro.models.random_bundle import random_esm2

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    encoder = Esm2Encoder(random_esm2("mini", "cpu", torch.float32), torch.device("cpu"), "fp32", "auto", lambda batch: None)
    random = np.random.default_rng(0)
    sequences = [random.integers(4, 24, size=n).astype(np.uint8) for n in random.integers(*LENGTHS, size=batches * BATCH // 105)]
    plan = make_plan(np.arange(len(sequences)), np.array(list(map(len, sequences))), BATCH)
    store = FeatureStore(out.parent / "rows", encoder.width) if accelerator.is_main_process else None
    if store is not None:
        store.load()
    calls: list[tuple[float, float, float, float]] = []  # clock and CPU time, before and after
    measured = encoder.embed

    def embed(batch):
        before = time.perf_counter(), time.process_time()
        rows = measured(batch)
        calls.append((*before, time.perf_counter(), time.process_time()))
        return rows

    encoder.embed = embed
    planned = PlannedBatches(plan, lambda rows: [sequences[row] for row in rows], encoder.pad_id, 1024)
    embed(planned[0].packed)  # the first one pays for what is made once
    calls.clear()
    accelerator.wait_for_everyone()
    began = time.perf_counter(), time.process_time()
    extract(accelerator, encoder, planned, store)
    ended = time.perf_counter(), time.process_time()
    leave(accelerator)
    content = {"began": began, "calls": calls, "ended": ended, "batches": len(plan)}
    out.with_suffix(f".{accelerator.process_index}").write_text(json.dumps(content))


def lost(found: list[dict], which: int) -> float:
    """Share of the loop outside the encoder. which: 0 by the clock, 1 by CPU time.

    A step lasts from the end of the encoder's call before to the end of its own, and all wait for its slowest process.
    """
    ends = np.array([[f["began"][which], *(call[which + 2] for call in f["calls"]), f["ended"][which]] for f in found])
    inside = np.array([[call[which + 2] - call[which] for call in f["calls"]] for f in found])
    steps = np.diff(ends, axis=1).max(axis=0)  # the last is what follows the last batch
    return 1 - inside.sum() / len(found) / steps.sum()


def measure(processes: int, batches: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "measured"
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        subprocess.run([sys.executable, *launcher, __file__, "--work", str(out), "--batches", str(batches)], env=environment, check=True)
        return [json.loads(out.with_suffix(f".{rank}").read_text()) for rank in range(processes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        wall = max(f["ended"][0] - f["began"][0] for f in found)
        print(f"{processes} process{'es' * (processes > 1)}: {found[0]['batches']} batches in {wall:.2f} s, "
              f"{100 * lost(found, 0):.1f} % lost by the clock, {100 * lost(found, 1):.1f} % by CPU time")  # fmt: skip


if __name__ == "__main__":
    main()
