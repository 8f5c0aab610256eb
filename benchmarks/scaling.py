"""Strong scaling of the whole `predict` over the GPUs of one host, with equal bits between all runs.

    python benchmarks/scaling.py --processes 1,2,4,8 --frames 200000 --shape 3B --output scaling.json
    python benchmarks/scaling.py --processes 1,2 --frames 300 --shape tiny --cpu       # the script itself, anywhere

Weights are random and made here; inputs are generated. The same frames run on each number of GPUs through `--gpus`, and on
the largest also under torchrun and as two launches that meet over loopback ("two nodes"); then a process of the largest run
is killed in the middle and the run is finished by half as many. Every `merged_features.pt` must be the same file.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("read", "load dnabert_s", "dnabert_s", "load esm2", "esm2", "store", "total")


def environment(cpu: bool, gpus: list[str] | None = None) -> dict[str, str]:
    extra = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if cpu:
        extra["ACCELERATE_USE_CPU"] = "true"
    if gpus is not None and not cpu:
        extra["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return os.environ | extra


def predict(out: Path, options: argparse.Namespace, work: Path) -> list[str]:
    """The words of a run after `-m virnucpro`."""
    return ["predict", str(work / "input.fna"), "--model", str(work / "bundle"), "--output-dir", str(out), "--cache-dir",
            str(work / "cache"), "--quiet", *options.predict_options]  # fmt: skip


def devices(count: int, cpu: bool) -> list[str]:
    return ["--num-processes", str(count)] if cpu else ["--gpus", ",".join(map(str, range(count)))]


def launched(words: list[str], launcher: list[str], cpu: bool, gpus: list[str] | None = None) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *launcher, "-m", "virnucpro", *words], env=environment(cpu, gpus), stderr=subprocess.PIPE,
                            stdout=subprocess.DEVNULL)


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, error = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(process.args)}\nended with {process.returncode}: {error.decode()[-2000:]}")


def measured(name: str, count: int, out: Path, seconds: float) -> dict:
    record = json.loads((out / "run.json").read_text())
    digest = hashlib.sha256()
    with open(out / "merged_features.pt", "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return {"run": name, "processes": count, "wall": seconds, "frames": record["counts"]["frames"], "sha256": digest.hexdigest(),
            "seconds": {stage: record["seconds"].get(stage) for stage in STAGES},
            "largest_process_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20}


def killed_and_finished(count: int, options: argparse.Namespace, work: Path, whole: float) -> Path:
    """Kill one process of a run on `count` devices after half of its usual time; half as many devices finish it."""
    out = work / "killed"
    run = launched([*predict(out, options, work), *devices(count, options.cpu)], [], options.cpu)
    time.sleep(whole / 2)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False).stdout.split()
    os.kill(int(children[-1]) if children else run.pid, signal.SIGKILL)
    run.communicate()
    print(f"killed one of {count} after {whole / 2:.0f} s: exit code {run.returncode}", flush=True)
    finish(launched([*predict(out, options, work), *devices(max(1, count // 2), options.cpu)], [], options.cpu))
    return out


def two_nodes(count: int, options: argparse.Namespace, work: Path) -> Path:
    """Two launches with half of the devices each, which meet over loopback."""
    out = work / "two_nodes"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    halves = [list(map(str, range(count // 2))), list(map(str, range(count // 2, count)))]
    finish(*[launched(predict(out, options, work), ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node),
                                                    "--nproc-per-node", str(count // 2), "--master-addr", "127.0.0.1", "--master-port",
                                                    str(port)], options.cpu, halves[node]) for node in (0, 1)])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4,8", help="numbers of GPUs, from small to large")
    parser.add_argument("--frames", type=int, default=200_000, help="sequences of the input; each has at least one open frame")
    parser.add_argument("--lengths", default="500bp", choices=("500bp", "reads", "mix"))
    parser.add_argument("--shape", default="3B", help="of the random encoders: tiny, mini, 650M, 3B")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--work", type=Path, help="a directory with room for bundle and features; default: a temporary one")
    parser.add_argument("--output", type=Path)
    parser.add_argument("predict_options", nargs="*", help="behind --: more options of predict")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from virnucpro.benchmark import write_sequences
    from virnucpro.models.random_bundle import random_bundle

    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        random_bundle(work / "bundle", options.shape)
        write_sequences(work / "input.fna", options.frames, options.lengths)
        counts, rows = [int(n) for n in options.processes.split(",")], []

        def timed(name: str, count: int, out: Path, start) -> None:
            began = time.monotonic()
            start()
            rows.append(measured(name, count, out, time.monotonic() - began))
            show(rows[-1], rows[0])

        timed("warm-up", counts[0], work / "warm", lambda: finish(launched([*predict(work / "warm", options, work), *devices(
            counts[0], options.cpu)], [], options.cpu)))  # builds the cache of frames and of compiled kernels
        rows.clear()
        for count in counts:
            out = work / f"own_{count}"
            timed("--gpus", count, out, lambda out=out, count=count: finish(launched(
                [*predict(out, options, work), *devices(count, options.cpu)], [], options.cpu)))
        most = counts[-1]
        if most > 1:
            out = work / "torchrun"
            timed("torchrun", most, out, lambda: finish(launched(predict(out, options, work), [
                "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(most)], options.cpu)))
            timed("two nodes", most, work / "two_nodes", lambda: two_nodes(most, options, work))
            timed("killed, resumed", most, work / "killed", lambda: killed_and_finished(most, options, work, rows[-3]["wall"]))
    equal = len({row["sha256"] for row in rows}) == 1
    print(f"merged_features.pt of {len(rows)} runs: {'the same bits' if equal else 'DIFFERENT'}")
    if options.output is not None:
        options.output.write_text(json.dumps({"rows": rows, "equal": equal}, indent=1) + "\n")
    raise SystemExit(not equal)


def show(row: dict, first: dict) -> None:
    esm2, alone = row["seconds"]["esm2"], first["seconds"]["esm2"]
    print(f"{row['run']:16} {row['processes']:2} processes  {row['wall']:8.1f} s  {row['frames'] / row['wall']:8.0f} frames/s  "
          f"whole {first['wall'] / row['wall']:5.2f} x  ESM-2 {alone / esm2:5.2f} x  "
          f"efficiency {alone / esm2 / row['processes'] * first['processes']:5.2f}  host {row['largest_process_gib']:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
