"""Kill runs of `predict` at random moments, resume them, and compare every final result with an
undisturbed one, bit for bit.

    python benchmarks/faults.py --kills 100 --seed 1          # about 20 s of one core a kill
    python benchmarks/faults.py --kills 100 --seed 1 --warm   # about 5 s

Each trial starts in a new output directory, is killed several times, each time resumed by another
number of CPU processes, and ends with a start that is left alone. The model is the tiny one of the
tests. Finished rows are flushed after every step instead of every 30 s (a constant, changed from
outside), so that the tiny runs have something to lose. Two moments in three are chosen by progress
(after some shards have appeared), one by the clock. With `--warm` processes are forked from one
that has imported everything, and a few lines stand for the launcher: they start the processes, pass
signals on, and stop the others when one has died, as the launchers of clusters do.

Prints a line a kill and a table; exit code 1 when anything was lost, repeated, mislabelled, hung or
said wrongly.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden"
MODEL = [
    "--esm-model",
    str(GOLDEN / "esm2"),
    "--dna-model",
    str(GOLDEN / "dnabert_s"),
    "--classifier",
    str(GOLDEN / "500_model.pth"),
]
OPTIONS = [*MODEL, "--batch-size", "256", "--gpus", "none"]
KINDS_OF_ONE = ("kill main process", "kill all", "terminate", "interrupt")
KINDS = ("kill worker", "kill launcher", "terminate worker", *KINDS_OF_ONE)
SECONDS_TO_END = 30.0
# exit code of a process that a signal met before the program's own code, which answers for it
OUTSIDE = 99
# executed when Python starts
EVERY_STEP = f"""
import os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os._exit({OUTSIDE}))
import virnucpro.embedding.store as store
store.FLUSH_SECONDS = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""


@dataclass
class Running:
    """A started run and everything it may leave behind."""

    popen: subprocess.Popen | Forked
    log: Path
    processes: int
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
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(directory / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
        }

    def start(self, out: Path, processes: int, *more: str) -> Running:
        """Begin a run, in a session of its own."""
        log = self.directory / f"{out.name}.{time.time_ns()}.log"
        command = [
            sys.executable,
            "-m",
            "virnucpro",
            "predict",
            str(self.input),
            "-o",
            str(out),
            *OPTIONS,
            *more,
        ]
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
        running = self.start(out, processes, *more)
        running.popen.wait(timeout=600)
        return running


class WarmFaults(Faults):
    """The same with processes forked from this one, which has imported what takes their start its
    seconds.
    """

    def __init__(self, directory: Path, records: int):
        super().__init__(directory, records)
        import matplotlib.figure  # noqa: F401
        import transformers.models.esm.modeling_esm  # noqa: F401

        import virnucpro.embedding.store as store
        import virnucpro.pipeline  # noqa: F401

        store.FLUSH_SECONDS = 0.0

    def start(self, out: Path, processes: int, *more: str) -> Running:
        log = self.directory / f"{out.name}.{time.time_ns()}.log"
        arguments = ["predict", str(self.input), "-o", str(out), *OPTIONS, *more]
        log.touch()
        command = (
            (lambda: self._launch(processes, arguments, log))
            if processes > 1
            else (lambda: self._predict(arguments, log, {}))
        )
        return Running(Forked(command, new_session=True), log, processes)

    def _predict(self, arguments: list[str], log: Path, variables: dict[str, str]) -> int:
        """In a new process: the command line."""
        from virnucpro import cli

        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.clear()
        os.environ.update(self.environment | variables)
        os.chdir(self.directory)
        try:
            cli.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def _launch(self, processes: int, arguments: list[str], log: Path) -> int:
        """In a new process: a launcher's work."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        caught: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: caught.append(number))
        ranks = []
        for rank in range(processes):
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "ACCELERATE_USE_CPU": "true",
            }
            ranks.append(
                Forked(
                    lambda variables=variables: self._predict(arguments, log, variables),
                    new_session=False,
                )
            )
            (log.with_suffix(f".rank{rank}")).write_text(str(ranks[-1].pid))
        while (
            not caught
            and any(rank.poll() is None for rank in ranks)
            and not any(rank.poll() for rank in ranks)
        ):
            time.sleep(0.05)
        failed = any(rank.poll() for rank in ranks)
        for rank in ranks:
            if rank.poll() is None and (caught or failed):
                os.kill(rank.pid, signal.SIGTERM)
        for rank in ranks:
            rank.wait(timeout=SECONDS_TO_END)
        if all(rank.returncode == 0 for rank in ranks):  # the signal came after their work
            return 0
        if caught and ranks[0].returncode == OUTSIDE:  # which is the one to say how to go on
            return OUTSIDE
        return 128 + caught[0] if caught else 1 if failed else 0


class Forked:
    """What subprocess.Popen is to a command, for a function."""

    def __init__(self, function: Callable[[], int], new_session: bool):
        self.returncode: int | None = None
        # a signal that comes before the new process has handlers of its own waits: it would meet
        # those of this one, and be lost
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        self.pid = os.fork()
        if self.pid == 0:
            code = OUTSIDE
            try:
                signal.signal(signal.SIGTERM, lambda number, frame: os._exit(OUTSIDE))
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                if new_session:
                    os.setsid()
                code = function()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        patience = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > patience:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.01)
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


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
    if "torch/distributed" in text and not isinstance(running.popen, Forked):
        return "a line of torch's launcher"
    if kind in ("kill all", "kill launcher") or (kind.startswith("kill") and not several):
        return "" if code == -signal.SIGKILL else f"exit code {code}"
    if kind in ("terminate", "interrupt"):
        wanted = signal.SIGTERM if kind == "terminate" else signal.SIGINT
        # ours passes SIGTERM on
        named = (
            "stopped by SIG" if isinstance(running.popen, Forked) else f"stopped by {wanted.name}"
        )
        said = named in text and "run the same command again" in text
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
    if isinstance(running.popen, Forked):
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


def differences(out: Path, reference: Path) -> list[str]:
    """Result files that are not the reference's, byte for byte; leftovers of unfinished work."""
    kinds = ("pt", "tsv", "txt", "csv", "fna", "bed")
    names = [
        path.relative_to(reference)
        for kind in kinds
        for path in sorted(reference.rglob(f"*.{kind}"))
    ]
    wrong = [
        str(name)
        for name in names
        if not (out / name).is_file()
        or (out / name).read_bytes() != (reference / name).read_bytes()
    ]
    hidden = out / ".virnucpro"
    return wrong + [str(path) for path in hidden.iterdir() if path.name != "lock"]


@dataclass
class Tally:
    """What came of a campaign."""

    kills: Counter = field(default_factory=Counter)
    missed: int = 0
    trials: int = 0
    resumed_rows: int = 0
    slowest_end: float = 0.0
    wrong: list[str] = field(default_factory=list)


def trial(
    faults: Faults,
    reference: Path,
    number: int | str,
    kills: int,
    typical: float,
    chance: random.Random,
    tally: Tally,
) -> None:
    """One output directory, struck `kills` times, then left to end, then compared."""
    out = faults.directory / f"trial{number}"
    for _ in range(kills):
        processes = chance.choices(range(1, 5), weights=[5, 4, 1, 1])[0]
        kind = chance.choice(KINDS if processes > 1 else KINDS_OF_ONE)
        by_progress = chance.random() < 2 / 3
        blow(faults, out, processes, kind, by_progress, typical, chance, tally)
        if (out / "run.json").exists():  # it came to its end in spite of all
            break
    end(faults, out, chance.randint(1, 2), reference, tally)


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
    members = running.members()
    if not strike(running, kind, chance):
        running.popen.wait(timeout=600)
        tally.missed += 1
        return
    struck = time.monotonic()
    alive = survivors(running, members)
    took = time.monotonic() - struck
    outside = kind in ("interrupt", "terminate") and running.popen.returncode == OUTSIDE
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
    print(
        f"{out.name}: {kind} of {processes} {'by progress' if by_progress else 'by the clock'},"
        f" {struck - running.began:.1f} s after the start: ended in {took:.1f} s, {shards(out)}"
        f" shards kept{'; WRONG: ' + problem if problem else ''}",
        flush=True,
    )
    if problem:
        tally.wrong.append(f"{out.name}, {kind} of {processes}: {problem}\n{running.text()}")


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


def campaign(faults: Faults, directory: Path, kills: int, seed: int, a_trial: int) -> Tally:
    chance, tally = random.Random(seed), Tally()
    reference = faults.finish(directory / "reference", 1)
    if reference.popen.returncode != 0:
        raise SystemExit(reference.text())
    typical = time.monotonic() - reference.began
    print(f"undisturbed: {typical:.1f} s", flush=True)
    number = 0
    with suppress(KeyboardInterrupt):  # says what there is so far
        while sum(tally.kills.values()) < kills:
            trial(
                faults,
                directory / "reference",
                number,
                min(a_trial, kills - sum(tally.kills.values())),
                typical,
                chance,
                tally,
            )
            number += 1
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--a-trial", type=int, default=10, help="kills before a trial is left to end"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=30, help="of the tests' input")
    parser.add_argument(
        "--warm", action="store_true", help="fork processes instead of starting them"
    )
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="virnucpro-faults-", ignore_cleanup_errors=True
    ) as directory:
        faults = (WarmFaults if options.warm else Faults)(Path(directory), options.records)
        tally = campaign(faults, Path(directory), options.kills, options.seed, options.a_trial)
    print(
        f"\n{sum(tally.kills.values())} kills in {tally.trials} trials,"
        f" {time.monotonic() - began:.0f} s; {tally.missed} came after the end of their run"
    )
    for kind in KINDS:
        print(f"  {kind:20s} {tally.kills[kind]:4d}")
    print(
        f"  slowest end after a kill {tally.slowest_end:.1f} s; rows found by the last starts"
        f" {tally.resumed_rows}"
    )
    print(f"  wrong: {len(tally.wrong)}")
    for problem in tally.wrong:
        print(problem)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
