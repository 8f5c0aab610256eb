"""Time that processes lose to each other: how much of the embedding loop is not spent in the encoder.

    python benchmarks/coordination.py [--processes 2] [--batches 24]      # about a minute on two quiet cores

A random ESM-2 of mini's shape on the CPU, planned batches of 2,048 tokens, the real loop (Accelerate, gather in step, shards
with every flush). Prints a line for one process and one for several. On a machine that is busy with other work, waiting for
a process that the system has put aside counts as lost, so the figure is an upper bound.
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
BATCH = 2048


def work(out: Path, batches: int) -> None:
    """One process's share: writes what it measured to `out`."""
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
    inside, measured = 0.0, encoder.embed

    def embed(batch):
        nonlocal inside
        began = time.perf_counter()
        rows = measured(batch)
        inside += time.perf_counter() - began
        return rows

    encoder.embed = embed
    planned = PlannedBatches(plan, lambda rows: [sequences[row] for row in rows], encoder.pad_id, 1024)
    embed(planned[0].packed)  # the first one pays for what is made once
    inside = 0.0
    accelerator.wait_for_everyone()
    wall, cpu = time.perf_counter(), time.process_time()
    extract(accelerator, encoder, planned, store)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    leave(accelerator)
    rank = accelerator.process_index
    out.with_suffix(f".{rank}").write_text(json.dumps({"wall": wall, "inside": inside, "cpu": cpu, "batches": len(plan)}))


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
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.batches)
        return
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for processes in (1, options.processes):
        found = measure(processes, options.batches)
        wall, inside = max(f["wall"] for f in found), sum(f["inside"] for f in found) / processes
        cpu = sum(f["cpu"] for f in found)
        print(f"{processes} process{'es' * (processes > 1)}: {found[0]['batches']} batches in {wall:.2f} s, {inside:.2f} s of it "
              f"in the encoder, {100 * (1 - inside / wall):.1f} % lost; {cpu:.2f} s of CPU in all")  # fmt: skip


if __name__ == "__main__":
    main()
