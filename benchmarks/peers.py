"""This program beside geNomad's neural branch, Jaeger and Tiara, on the same contigs.

    python -m benchmarks.peers CONTIGS.fna --environments DIR [--install] [--rounds 3]
        [--labels TABLE] [--peers genomad jaeger tiara] [-o RESULTS.json] [--picture PICTURE.json]

Every peer lies in an environment of its own below DIR, which --install makes from the package
index. Each round runs this program and then a peer, so that both meet the same state of the
machine; what is written are the medians of wall and CPU seconds, bases a CPU-second, the largest
memory, and the median over the pairs of the ratio to this program's CPU seconds. TABLE has the
columns `seq_name` and `virus` (1 or 0): the area under the curve and false positives are then
measured too, of the peers that have a viral score. Where a peer cannot be installed or run, the
table says why.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from virnucpro.training.metrics import auroc

SECONDS_TO_INSTALL = 1800
CALLED = 0.5
US = "VirNucPro"


@dataclass(frozen=True)
class Peer:
    """package: as the index has it; command: of the environment's programs, the contigs, a new
    directory and the threads; scores: reads {name: viral score} from that directory, None where it
    has no viral class.
    """

    package: str
    command: Callable[[Path, Path, Path, int], list[object]]
    scores: Callable[[Path], dict[str, float]] | None


@dataclass(frozen=True)
class Measured:
    """One run."""

    wall: float  # seconds
    cpu: float  # seconds, of all its processes
    memory: float  # GB, of the largest of its processes


def column(pattern: str, name: str, score: str) -> Callable[[Path], dict[str, float]]:
    """Reads a score by name from the one table that matches."""

    def read(directory: Path) -> dict[str, float]:
        (path,) = directory.rglob(pattern)
        with path.open(newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return {row[name].split()[0]: float(row[score]) for row in rows}

    return read


def jaeger_scores(directory: Path) -> dict[str, float]:
    """Share of `phage` among its four classes, of their mean scores over the windows."""
    (path,) = (p for p in directory.rglob("*_jaeger.tsv") if "_phages_" not in p.name)
    classes = ("phage_score", "bacteria_score", "eukarya_score", "archaea_score")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    odds = np.exp([[float(row[name]) for name in classes] for row in rows])
    shares = odds[:, 0] / odds.sum(axis=1)
    return {row["contig_id"].split()[0]: s for row, s in zip(rows, shares.tolist(), strict=True)}


PEERS = {
    "genomad": Peer(
        "genomad",
        lambda bin_, contigs, out, n: [
            *(bin_ / "genomad", "nn-classification", "--threads", n),
            *("--cleanup", contigs, out / "new"),
        ],
        column("*_nn_classification.tsv", "seq_name", "virus_score"),
    ),
    "jaeger": Peer(
        "jaeger-bio[cpu]",
        lambda bin_, contigs, out, n: [
            *(bin_ / "jaeger", "predict", "--cpu", "--workers", n),
            *("-i", contigs, "-o", out, "--overwrite"),
        ],
        jaeger_scores,
    ),
    "tiara": Peer(
        "tiara",
        lambda bin_, contigs, out, n: [
            *(bin_ / "tiara", "-i", contigs, "-o", out / "tiara.tsv", "-t", n),
            *("-m", 500),
        ],
        None,
    ),
}


def ours(contigs: Path, out: Path, threads: int, more: Sequence[str]) -> list[object]:
    """This program's command."""
    words = [sys.executable, "-m", "virnucpro", "predict", contigs, "-o", out, "--model", "mini"]
    return [*words, "--gpus", "none", "--threads", threads, "--features", "none", "-q", *more]


def install(peer: Peer, environment: Path) -> None:
    """Make the environment where it is not there. Errors: those of subprocess."""
    if (environment / "installed").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet", peer.package]
    subprocess.run(pip, check=True, timeout=SECONDS_TO_INSTALL)
    (environment / "installed").touch()


def version(peer: Peer, environment: Path) -> str:
    """The peer's version."""
    shown = subprocess.run(
        [environment / "bin" / "pip", "show", peer.package.partition("[")[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line for line in shown.stdout.splitlines() if line.startswith("Version")).split()[1]


def run(command: Sequence[object], log: Path) -> Measured:
    """One run of a command. Raises RuntimeError with its last line where it fails."""
    with log.open("wb") as file:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(lines[-1][:200] if lines else f"exit code {process.returncode}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6)


def summary(runs: Sequence[Measured], bases: int) -> dict[str, float]:
    """The medians."""
    found = {
        name: round(statistics.median(getattr(one, name) for one in runs), 2)
        for name in ("wall", "cpu", "memory")
    }
    return found | {"bases_a_cpu_second": round(bases / found["cpu"])}


def accuracy(scores: dict[str, float], labels: dict[str, bool]) -> dict[str, float]:
    """How well the scores tell viral sequences; those without a score count as not viral."""
    names = list(labels)
    value = np.array([scores.get(name, 0.0) for name in names])
    virus = np.array([labels[name] for name in names])
    return {
        "auroc": round(auroc(value, virus), 4),
        "false_positives": round(float((value[~virus] >= CALLED).mean()), 4),
        "recall": round(float((value[virus] >= CALLED).mean()), 4),
    }


def compare(peer: Peer, environment: Path, options: argparse.Namespace, bases: int) -> dict:
    """Both programs in turns."""
    pairs, labels = [], read_labels(options.labels)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        place = Path(name)
        for number in range(options.rounds):
            mine, theirs = place / f"mine{number}", place / f"theirs{number}"
            theirs.mkdir()
            commands = (
                ours(options.contigs, mine, options.threads, options.ours),
                peer.command(environment / "bin", options.contigs, theirs, options.threads),
            )
            pairs.append([run(command, place / "log") for command in commands])
        found = {
            "version": version(peer, environment),
            US: summary([pair[0] for pair in pairs], bases),
            "peer": summary([pair[1] for pair in pairs], bases),
            "cpu_ratio": round(statistics.median(b.cpu / a.cpu for a, b in pairs), 2),
            "runs": [[asdict(one) for one in pair] for pair in pairs],
        }
        if labels:
            read = column("contigs.tsv", "seq_name", "virus_probability")
            found["accuracy"] = {US: accuracy(read(mine), labels)}
            if peer.scores is not None:
                found["accuracy"]["peer"] = accuracy(peer.scores(theirs), labels)
        return found


def read_labels(path: Path | None) -> dict[str, bool]:
    """Whether each sequence is viral."""
    if path is None:
        return {}
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["seq_name"]: row["virus"] == "1" for row in rows}


def table(results: dict[str, dict]) -> str:
    """For docs/PERFORMANCE.md."""
    lines = [
        "| | wall | CPU | bases a CPU-second | memory | CPU seconds to ours |",
        "|---" * 6 + "|",
    ]
    for name, found in results.items():
        if "error" in found:
            lines.append(f"| {name} | not measured: {found['error']} | | | | |")
            continue
        for who, key, ratio in ((US, US, ""), (f"{name} {found['version']}", "peer", "cpu_ratio")):
            row = found[key]
            cells = [who, f"{row['wall']} s", f"{row['cpu']} s", f"{row['bases_a_cpu_second']:,}"]
            lines.append(f"| {' | '.join(cells)} | {row['memory']} GB | {found.get(ratio, '')} |")
    return "\n".join(lines)


def picture(results: dict[str, dict], threads: int) -> dict:
    """What docs/pictures/make.py draws."""
    good = {name: found for name, found in results.items() if "error" not in found}
    values = {}
    if good:
        own = statistics.median(found[US]["bases_a_cpu_second"] for found in good.values())
        values = {f"{US} mini": round(own)}
    values |= {
        f"{name} {found['version']}": found["peer"]["bases_a_cpu_second"]
        for name, found in good.items()
    }
    title = f"bases in a CPU second, {threads} threads"
    return {"kind": "bars", "height": 1.9, "title": title, "values": values}


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contigs", type=Path, help="plain FASTA")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--ours", nargs="*", default=[], help="options, as --effort=balanced")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    text = options.contigs.read_text().split(">")
    bases = sum(len("".join(record.split("\n")[1:])) for record in text[1:])
    results: dict[str, dict] = {}
    for name in options.peers:
        environment = options.environments / name
        try:
            if options.install:
                install(PEERS[name], environment)
            results[name] = compare(PEERS[name], environment, options, bases)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            results[name] = {"error": str(error)}
        print(name, results[name].get("error", results[name].get("cpu_ratio")), flush=True)
    print(table(results))
    for path, content in (
        (options.output, results),
        (options.picture, picture(results, options.threads)),
    ):
        if path is not None:
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
