"""How tests and benchmarks/faults.py start the program, kill it, and find out what that did.

Finished rows are flushed after every step instead of every 30 s, so that tiny runs have something
to lose.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from command import GOLDEN, GOLDEN_MODEL

from virnucpro.files import LEFTOVER

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [*GOLDEN_MODEL, "--batch-size", "256", "--gpus", "none"]
KINDS_OF_ONE = ("kill main process", "kill all", "terminate", "interrupt")
KINDS = ("kill worker", "kill launcher", "terminate worker", *KINDS_OF_ONE)
SECONDS_TO_END = 30.0
# exit code of a process that a signal met before the program's own code, which answers for it
OUTSIDE = 99
# around what is not the program's
HELD = f"""
import os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os._exit({OUTSIDE}))
"""
FREED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""
# executed when Python starts
EVERY_STEP = f"""
{HELD}
import virnucpro.embedding.store as store
store.FLUSH_SECONDS = 0.0
{FREED}
"""


@dataclass
class Running:
    """A started run and everything it may leave behind."""

    popen: subprocess.Popen
    log: Path
    processes: int
    outside: bool = False  # launched by others, who say nothing
    resumable: bool = True  # says how to go on
    began: float = field(default_factory=time.monotonic)

    def members(self) -> list[psutil.Process]:
        """The started process and its descendants, less what has ended."""
        try:
            root = psutil.Process(self.popen.pid)
            return [
                p
                for p in [root, *root.children(recursive=True)]
                if p.status() != psutil.STATUS_ZOMBIE
            ]
        except psutil.NoSuchProcess:
            return []

    def rank(self, number: int) -> psutil.Process | None:
        """The process of a rank; a run of one process is its own rank 0."""
        if self.processes == 1:
            return psutil.Process(self.popen.pid)
        noted = self.log.with_suffix(f".rank{number}")
        if noted.exists():
            return psutil.Process(int(noted.read_text()))
        for process in self.members():
            try:
                if process.environ().get("RANK") == str(number) and process.pid != self.popen.pid:
                    return process
            except psutil.Error:
                continue
        return None

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Faults:
    """Starts runs in `directory` on one input, and breaks them."""

    def __init__(self, directory: Path, records: int):
        self.directory = directory
        self.input = directory / "input.fa"
        parts = (GOLDEN / "input.fa").read_text().split(">")[1 : records + 1]
        self.input.write_text("".join(">" + part for part in parts))
        site = directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(EVERY_STEP)
        # Nothing of a launcher around this one, and no other caches than our own.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "HF_"))
        }
        self.environment = kept | {
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests" / "helpers")]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(directory / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def start(self, out: Path, processes: int, *more: str) -> Running:
        """Begin a `predict`."""
        arguments = ["predict", str(self.input), "-o", str(out), *OPTIONS, *more]
        return self.begin(out.name, arguments, processes)

    def begin(
        self, name: str, arguments: list[str], processes: int = 1, before: str = ""
    ) -> Running:
        """Begin a command, in a session of its own; `before` is Python that runs before it."""
        log = self.directory / f"{name}.{time.time_ns()}.log"
        program = f"{HELD}{before}\nfrom virnucpro.__main__ import main\n{FREED}main()"
        command = [sys.executable, "-c", program, *arguments]
        if processes > 1:
            command += ["--num-processes", str(processes)]
        with open(log, "wb") as file:
            popen = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.directory,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return Running(popen, log, processes)

    def watch(self, popen: subprocess.Popen, log: Path, processes: int) -> Running:
        """A run that somebody else has started."""
        return Running(popen, log, processes)

    def finish(self, out: Path, processes: int, *more: str) -> Running:
        """A run that is left alone until it ends."""
        return wait_for_end(self.start(out, processes, *more))


def wait_for_end(running: Running) -> Running:
    running.popen.wait(timeout=600)
    return running


def shards(out: Path) -> int:
    try:
        return sum(1 for _ in out.glob(".virnucpro/*/*.safetensors"))
    except FileNotFoundError:  # the run has come to its end, and takes them away
        return 0


def wait_for_shards(running: Running, out: Path, count: int) -> bool:
    """Until `count` shards are there; False when the run ended before."""
    while running.popen.poll() is None:
        if shards(out) >= count:
            return True
        time.sleep(0.01)
    return False


def strike(running: Running, kind: str, chance: random.Random) -> bool:
    """Deliver the blow; False when the run, or the process that it was for, is not there
    any more.
    """
    if running.popen.poll() is not None:
        return False
    try:
        if kind == "kill all":
            os.killpg(running.popen.pid, signal.SIGKILL)
        elif kind == "kill launcher":
            running.popen.kill()
        elif kind == "interrupt":  # as Ctrl-C at a terminal: to all of them
            os.killpg(running.popen.pid, signal.SIGINT)
        elif kind == "terminate":
            running.popen.terminate()
        else:
            rank = (
                0
                if kind == "kill main process" or running.processes == 1
                else chance.randrange(1, running.processes)
            )
            victim = running.rank(rank)
            if victim is None:
                return False
            victim.send_signal(signal.SIGTERM if kind == "terminate worker" else signal.SIGKILL)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return True


def survivors(running: Running, members: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Who of the run is still there after SECONDS_TO_END: a run that hangs, or a process that was
    left behind.
    """
    try:
        running.popen.wait(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        return list(members)
    _, alive = psutil.wait_procs(list(members), timeout=SECONDS_TO_END)
    return alive


def wrong_ending(running: Running, kind: str) -> str:
    """What is wrong with the way a struck run ended; nothing, mostly."""
    code, text, several = running.popen.returncode, running.text(), running.processes > 1
    if "Traceback" in text:
        return "a traceback"
    if "torch/distributed" in text and not running.outside:
        return "a line of torch's launcher"
    if kind in ("kill all", "kill launcher") or (kind.startswith("kill") and not several):
        return "" if code == -signal.SIGKILL else f"exit code {code}"
    if kind in ("terminate", "interrupt"):
        wanted = signal.SIGTERM if kind == "terminate" else signal.SIGINT
        # ours passes SIGTERM on
        named = "stopped by SIG" if running.outside else f"stopped by {wanted.name}"
        said = named in text and ("run the same command again" in text or not running.resumable)
        return (
            ""
            if code == 128 + wanted and said
            else f"exit code {code}, how to go on {'was' if said else 'not'} said"
        )
    if kind == "terminate worker":
        said = "stopped by SIGTERM" in text or "SIGTERM" in text
        return (
            ""
            if code in (1, 143) and said
            else f"exit code {code}, signal {'was' if said else 'not'} named"
        )
    # its launcher says nothing, and a dead main process neither
    if running.outside:
        said = kind == "kill main process" or "run the same command again" in text
        return (
            ""
            if code == 1 and said
            else f"exit code {code}, how to go on {'was' if said else 'not'} said"
        )
    said = "died: killed by SIGKILL" in text and "run the same command again" in text
    return (
        ""
        if code == 1 and said
        else f"exit code {code}, the dead process {'was' if said else 'not'} named"
    )


def changed(out: Path, reference: Path) -> list[str]:
    """Result files that are not the reference's, byte for byte."""
    kinds = ("pt", "tsv", "txt", "csv", "fna", "bed")
    names = [
        path.relative_to(reference)
        for kind in kinds
        for path in sorted(reference.rglob(f"*.{kind}"))
    ]
    return [
        str(name)
        for name in names
        if not (out / name).is_file()
        or (out / name).read_bytes() != (reference / name).read_bytes()
    ]


def differences(out: Path, reference: Path) -> list[str]:
    """Result files that are not the reference's; leftovers of unfinished work."""
    hidden = [path for path in (out / ".virnucpro").iterdir() if path.name != "lock"]
    return changed(out, reference) + [str(p) for p in (*hidden, *out.rglob(f"{LEFTOVER}*"))]


@dataclass
class Tally:
    """What came of a campaign."""

    kills: Counter = field(default_factory=Counter)
    missed: int = 0
    trials: int = 0
    resumed_rows: int = 0
    slowest_end: float = 0.0
    wrong: list[str] = field(default_factory=list)


def blow(
    faults: Faults,
    out: Path,
    processes: int,
    kind: str,
    by_progress: bool,
    typical: float,
    chance: random.Random,
    tally: Tally,
    most: int = 6,
) -> None:
    """Start a run in `out` and strike it, after up to `most` more shards or after a part of the
    `typical` seconds.
    """
    running = faults.start(out, processes)
    if by_progress:
        wait_for_shards(running, out, shards(out) + chance.randint(1, most))
        time.sleep(chance.random() * 0.2)
    else:
        time.sleep(chance.random() * typical)
    note = f"of {processes} {'by progress' if by_progress else 'by the clock'}"
    hit(running, kind, chance, tally, f"{out.name}: {kind} {note}")


def hit(running: Running, kind: str, chance: random.Random, tally: Tally, name: str) -> None:
    """Strike a run, wait for its end, and note what is wrong with that."""
    members = running.members()
    if not strike(running, kind, chance):
        wait_for_end(running)
        tally.missed += 1
        return
    struck = time.monotonic()
    alive = survivors(running, members)
    took = time.monotonic() - struck
    outside = running.popen.returncode == OUTSIDE
    # it had not begun, or had done everything
    if outside or (running.popen.returncode == 0 and not alive):
        tally.missed += 1
        return
    tally.kills[kind] += 1
    tally.slowest_end = max(tally.slowest_end, took)
    problem = f"{len(alive)} processes still there" if alive else wrong_ending(running, kind)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    began = struck - running.began
    print(f"{name}, {began:.1f} s after the start: ended in {took:.1f} s {problem}", flush=True)
    if problem:
        tally.wrong.append(f"{name}: {problem}\n{running.text()}")


def end(faults: Faults, out: Path, processes: int, reference: Path, tally: Tally) -> None:
    """The last start in `out`, which is left alone; then everything is compared."""
    running = faults.finish(out, processes)
    tally.trials += 1
    tally.resumed_rows += sum(
        int(line.split()[1])
        for line in running.text().splitlines()
        if "embeddings are there already" in line
    )
    if running.popen.returncode != 0:
        tally.wrong.append(
            f"{out.name}: the last start ended with {running.popen.returncode}\n{running.text()}"
        )
    elif wrong := differences(out, reference):
        tally.wrong.append(f"{out.name}: not as undisturbed: {', '.join(wrong)}\n{running.text()}")
