"""Kill `predict`, `summarize` and `models download` at random moments, start them again, and
compare every final result with an undisturbed one, bit for bit.

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
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from hub_server import serving
from kills import (
    KINDS,
    KINDS_OF_ONE,
    OUTSIDE,
    SECONDS_TO_END,
    Faults,
    Running,
    Tally,
    blow,
    changed,
    differences,
    end,
    hit,
    wait_for_end,
)
from played_models import make_hub

# of the trials, as many as of each
COMMANDS = {"predict": 6, "summarize": 3, "download": 3}
MIN_SCORE = ["--min-score", "0.7"]  # what `summarize` is asked for
PLAY = "import played_models; played_models.play({directory!r}, {address!r}, {home!r})"


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

    def begin(
        self, name: str, arguments: list[str], processes: int = 1, before: str = ""
    ) -> Running:
        log = self.directory / f"{name}.{time.time_ns()}.log"
        log.touch()
        command = (
            partial(self._launch, processes, arguments, log)
            if processes > 1
            else partial(self._command, arguments, log, {}, before)
        )
        return Running(Forked(command, new_session=True), log, processes, outside=processes > 1)

    def _command(
        self, arguments: list[str], log: Path, variables: dict[str, str], before: str = ""
    ) -> int:
        """In a new process: the command line."""
        from virnucpro import cli

        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.clear()
        os.environ.update(self.environment | variables)
        os.chdir(self.directory)
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(OUTSIDE))  # not the program's
        exec(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
                Forked(partial(self._command, arguments, log, variables), new_session=False)
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
        if ranks[0].returncode == OUTSIDE:  # which is the one to say how to go on
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


class Campaign:
    """Trials in `directory` until there were enough kills; each leaves its part in `tally`."""

    def __init__(self, faults: Faults, seed: int, a_trial: int):
        self.faults, self.chance, self.a_trial = faults, random.Random(seed), a_trial
        self.tally = Tally()
        self.seconds: dict[str, float] = {}  # of an undisturbed run of each command
        self.reference = faults.directory / "reference"
        self.summarized = faults.directory / "summarized"

    def run(self, kills: int, hub: str) -> Tally:
        """hub: the address of a played one."""
        self._undisturbed(hub)
        number = 0
        with suppress(KeyboardInterrupt):  # says what there is so far
            while (missing := kills - sum(self.tally.kills.values())) > 0:
                command = self.chance.choices([*COMMANDS], weights=[*COMMANDS.values()])[0]
                self.directory = self.faults.directory / f"{command}{number}"
                getattr(self, f"_{command}")(min(self.a_trial, missing), hub)
                number += 1
        return self.tally

    def _undisturbed(self, hub: str) -> None:
        def summarize() -> Running:
            shutil.copytree(self.reference, self.summarized)
            return self._start_summarize(self.summarized)

        for command, start in {
            "predict": lambda: self.faults.start(self.reference, 1),
            "summarize": summarize,
            "download": lambda: self._start_download(self.faults.directory / "models", hub),
        }.items():
            running = wait_for_end(start())
            if running.popen.returncode != 0:
                raise SystemExit(running.text())
            self.seconds[command] = time.monotonic() - running.began
            print(f"{command}, undisturbed: {self.seconds[command]:.1f} s", flush=True)

    def _predict(self, kills: int, hub: str) -> None:
        """One output directory, struck `kills` times, then left to end, then compared."""
        out, chance = self.directory, self.chance
        for _ in range(kills):
            processes = chance.choices(range(1, 5), weights=[5, 4, 1, 1])[0]
            kind = chance.choice(KINDS if processes > 1 else KINDS_OF_ONE)
            by_progress = chance.random() < 2 / 3
            typical = self.seconds["predict"]
            blow(self.faults, out, processes, kind, by_progress, typical, chance, self.tally)
            if (out / "run.json").exists():  # it came to its end in spite of all
                break
        end(self.faults, out, chance.randint(1, 2), self.reference, self.tally)

    def _summarize(self, kills: int, hub: str) -> None:
        """A finished run whose `summarize` is struck: `run.json` never stands beside a mixture."""
        shutil.copytree(self.reference, self.directory)
        for _ in range(kills):
            self._strike(self._start_summarize(self.directory), "summarize")
            whole = [self.reference, self.summarized]
            if (self.directory / "run.json").exists() and all(
                changed(self.directory, reference) for reference in whole
            ):
                self.tally.wrong.append(f"{self.directory.name}: a mixture passes for finished")
        last = wait_for_end(self._start_summarize(self.directory))
        self._compare(last, differences(self.directory, self.summarized))

    def _download(self, kills: int, hub: str) -> None:
        """A models directory whose `models download` is struck: in the end the same files."""
        for _ in range(kills):
            self._strike(self._start_download(self.directory, hub), "download")
        last = wait_for_end(self._start_download(self.directory, hub))
        here, there = files(self.directory), files(self.faults.directory / "models")
        self._compare(last, [n for n in here | there if here.get(n) != there.get(n)])

    def _start_summarize(self, out: Path) -> Running:
        running = self.faults.begin(out.name, ["summarize", str(out), *MIN_SCORE])
        running.resumable = False
        return running

    def _start_download(self, home: Path, hub: str) -> Running:
        served = str(self.faults.directory / "hub")
        before = PLAY.format(directory=served, address=hub, home=str(home))
        return self.faults.begin(home.name, ["models", "download", "500"], before=before)

    def _strike(self, running: Running, command: str) -> None:
        kind = self.chance.choice(KINDS_OF_ONE)
        time.sleep(self.chance.random() * self.seconds[command])
        hit(running, kind, self.chance, self.tally, f"{self.directory.name}: {kind}")

    def _compare(self, last: Running, wrong: list[str]) -> None:
        self.tally.trials += 1
        code, name = last.popen.returncode, self.directory.name
        if code != 0 or wrong:
            self.tally.wrong.append(
                f"{name}: the last start ended with {code}; not as undisturbed:"
                f" {', '.join(wrong) or 'nothing'}\n{last.text()}"
            )


def files(home: Path) -> dict[str, object]:
    """Every file below a models directory by its bytes; no locks, no dates of downloads."""
    found: dict[str, object] = {}
    for path in home.rglob("*"):
        if path.is_file() and path.name != ".lock":
            data: object = path.read_bytes()
            if path.name == "checksums.json":
                data = json.loads(path.read_text()) | {"date": None}
            found[str(path.relative_to(home))] = data
    return found


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
        with serving(make_hub(Path(directory, "hub"))) as hub:
            hub.pause = 0.0005
            campaign = Campaign(faults, options.seed, options.a_trial)
            tally = campaign.run(options.kills, hub.address)
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
