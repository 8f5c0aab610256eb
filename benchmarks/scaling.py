"""Strong scaling of the whole `predict` over the GPUs of one host, with equal bits between all
runs.

    python benchmarks/scaling.py --processes 1,2,4,8 --frames 200000 --output scaling.json
    python benchmarks/scaling.py --processes 1,2 --frames 300 --shape tiny --cpu       # the script
    itself, anywhere

Weights are random and inputs generated, both made here; `--work` keeps the weights for a second
call. The same frames run on each number of GPUs through `--gpus`, and on the largest also under
torchrun, under `accelerate launch` and as two launches that meet over loopback ("two nodes"); then
a process of a run there is killed in the middle and half as many finish it. Every run reads the
sequences anew. Every `merged_features.pt` must be the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = ["-m", "torch.distributed.run"]
STAGES = ("start", "read", "load dnabert_s", "dnabert_s", "load esm2", "esm2", "store", "total")


@dataclass(frozen=True)
class Place:
    """Where the runs happen, and with what."""

    work: Path
    cpu: bool
    more: tuple[str, ...]  # further options of predict

    def words(self, name: str) -> list[str]:
        """A run after `-m virnucpro`, in a directory and with a cache of its own."""
        return [
            "predict",
            str(self.work / "input.fna"),
            "--model",
            str(self.work / "bundle"),
            "--output-dir",
            str(self.work / name),
            "--cache-dir",
            str(self.work / f"{name} cache"),
            "--quiet",
            *self.more,
        ]

    def devices(self, count: int) -> list[str]:
        """The options of `count` devices."""
        return (
            ["--num-processes", str(count)]
            if self.cpu
            else ["--gpus", ",".join(map(str, range(count)))]
        )

    def start(
        self,
        name: str,
        launcher: Sequence[str] = (),
        more: Sequence[str] = (),
        gpus: list[int] | None = None,
    ) -> subprocess.Popen:
        """Start a run."""
        extra = {
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
        }
        if self.cpu:
            extra |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        elif gpus is not None:
            extra["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        command = [sys.executable, *launcher, "-m", "virnucpro", *self.words(name), *more]
        return subprocess.Popen(
            command, env=os.environ | extra, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )


def finish(*processes: subprocess.Popen) -> None:
    """Wait for processes; SystemExit when one has failed."""
    for process in processes:
        _, error = process.communicate()
        if process.returncode:
            raise SystemExit(
                f"{process.args!r}\nended with {process.returncode}: {error.decode()[-2000:]}"
            )


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ------------------------------------------------------------------------------------------------
# ways of launching
def by_ourselves(place: Place, name: str, count: int) -> None:
    """The program starts its processes."""
    finish(place.start(name, more=place.devices(count)))


def by_torchrun(place: Place, name: str, count: int) -> None:
    """torchrun starts them."""
    finish(
        place.start(
            name,
            [*TORCHRUN, "--standalone", "--nproc-per-node", str(count)],
            gpus=list(range(count)),
        )
    )


def by_accelerate(place: Place, name: str, count: int) -> None:
    """accelerate starts them."""
    config = ROOT / "accelerate_configs" / "multi_gpu.yaml"
    finish(
        place.start(
            name,
            [
                "-m",
                "accelerate.commands.accelerate_cli",
                "launch",
                "--config_file",
                str(config),
                "--num_processes",
                str(count),
            ],
            gpus=list(range(count)),
        )
    )


def as_two_nodes(place: Place, name: str, count: int) -> None:
    """Two launches with half of the devices each, which meet over loopback."""
    meeting = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        str(count // 2),
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
    ]
    halves = list(range(count // 2)), list(range(count // 2, count))
    finish(
        *[
            place.start(name, [*TORCHRUN, *meeting, "--node-rank", str(node)], gpus=halves[node])
            for node in (0, 1)
        ]
    )


def killed_and_finished(place: Place, name: str, count: int) -> None:
    """One process of `count` is killed when the first shard of ESM-2 lies on the disk; half as many
    devices finish.
    """
    site = place.work / "flush often"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import virnucpro.embedding.store as store\nstore.FLUSH_SECONDS = 2.0\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT), *filter(None, [before])])
    run = place.start(name, more=place.devices(count))
    while (
        run.poll() is None
        and len(list((place.work / name).glob(".virnucpro/esm2-*/*.safetensors"))) < 2
    ):
        time.sleep(0.02)
    workers = subprocess.run(
        ["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    os.kill(int(workers[-1]) if workers else run.pid, signal.SIGKILL)
    run.communicate()
    os.environ["PYTHONPATH"] = before or ""
    shards = len(list((place.work / name).glob(".virnucpro/esm2-*/*.safetensors")))
    print(
        f"killed one of {count} processes with {shards} shards of ESM-2 on disk: exit code"
        f" {run.returncode}",
        flush=True,
    )
    finish(place.start(name, more=place.devices(max(1, count // 2))))


# ------------------------------------------------------------------------------------------------
# figures
def measured(way: str, count: int, out: Path, seconds: float) -> dict:
    """What run.json says of a run."""
    record = json.loads((out / "run.json").read_text())
    digest = hashlib.sha256()
    with open(out / "merged_features.pt", "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    loops = record["embedding"]["esm2"]["processes"]
    stage = record["seconds"]["esm2"]
    return {
        "way": way,
        "processes": count,
        "wall": seconds,
        "frames": record["counts"]["frames"],
        "sha256": digest.hexdigest(),
        "seconds": {stage: record["seconds"].get(stage) for stage in STAGES},
        "loops": loops,
        "device": record["device"],
        "gather_share": max((loop["gather"] for loop in loops), default=0.0) / stage,
        "idle_share": [round(1 - loop["encoder"] / stage, 4) for loop in loops],
        "largest_process_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


def line(row: dict, first: dict) -> str:
    """A row of the table."""
    esm2, alone = row["seconds"]["esm2"], first["seconds"]["esm2"]
    factor = row["processes"] / first["processes"]
    idle = " ".join(f"{100 * share:.1f}" for share in row["idle_share"])
    return (
        f"{row['way']:16} {row['processes']:2}  {row['wall']:7.1f} s  whole"
        f" {first['wall'] / row['wall']:5.2f} x  ESM-2 {esm2:7.2f} s {row['frames'] / esm2:7.0f}"
        f" frames/s {alone / esm2:5.2f} x ({alone / esm2 / factor:.1%})  gather"
        f" {row['gather_share']:.1%}  idle a rank {idle} %  host"
        f" {row['largest_process_gib']:.1f} GiB"
    )


def prepare(place: Place, options: argparse.Namespace) -> None:
    """Make the bundle and the input."""
    sys.path.insert(0, str(ROOT))
    from virnucpro.tools.benchmark import write_sequences
    from virnucpro.tools.random_models import random_bundle

    if not (place.work / "bundle" / "bundle.json").exists():
        random_bundle(place.work / "bundle", options.shape)
    write_sequences(place.work / "input.fna", options.frames, options.lengths)


def main() -> None:
    """Run each way and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", default="1,2,4,8", help="numbers of GPUs, rising")
    parser.add_argument(
        "--frames",
        type=int,
        default=200_000,
        help="sequences of the input; each has at least one open frame",
    )
    parser.add_argument("--lengths", default="500bp", choices=("500bp", "reads", "mix"))
    parser.add_argument(
        "--shape", default="3B", help="of the random encoders: tiny, mini, 650M, 3B"
    )
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only-gpus", action="store_true", help="no other launchers, no kill")
    parser.add_argument(
        "--work",
        type=Path,
        help="a directory with room for bundle and features, which stays; default: a temporary one",
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("predict_options", nargs="*", help="behind --: more options of predict")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(options.work or Path(temporary), options.cpu, tuple(options.predict_options))
        place.work.mkdir(parents=True, exist_ok=True)
        prepare(place, options)
        counts = [int(n) for n in options.processes.split(",")]
        most = counts[-1]
        runs: list[tuple[str, int, Callable[[Place, str, int], None]]] = [
            ("--gpus", count, by_ourselves) for count in counts
        ]
        if most > 1 and not options.only_gpus:
            runs += [
                ("killed, resumed", most, killed_and_finished),
                ("two nodes", most, as_two_nodes),
            ]
            # which starts one process on a CPU, whatever it is told
            runs += [] if options.cpu else [("accelerate", most, by_accelerate)]
            runs += [("torchrun", most, by_torchrun)]
        rows: list[dict] = []
        for way, count, run in runs:
            name, began = f"{way} {count}", time.monotonic()
            run(place, name, count)
            rows.append(measured(way, count, place.work / name, time.monotonic() - began))
            print(line(rows[-1], rows[0]), flush=True)
            for leftover in (place.work / name, place.work / f"{name} cache"):
                shutil.rmtree(leftover)
            if options.output is not None:
                options.output.write_text(json.dumps(rows, indent=1) + "\n")
    equal = len({row["sha256"] for row in rows}) == 1
    print(
        f"merged_features.pt of {len(rows)} runs on {rows[0]['device']}:"
        f" {'the same bits' if equal else 'DIFFERENT'}"
    )
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
