"""Preemptible nodes in small: jobs that are killed at random and started again somewhere else, and
a run of samples that is killed at every stage. Every result must be that of a run left alone.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/preemption.py [--jobs 4] [--seed 1]

The scheduler runs two jobs of the same content at a time. Each attempt gets a fresh output
directory and the same `--checkpoint-dir`, and is ended by SIGKILL or SIGTERM at a random moment,
until one comes to its end. The job that finds the other one at work in the checkpoint directory is
refused in one line, and is queued again. For the samples, one run a stage is killed as that stage
begins and then started again. Processes are forked from this one, which has imported everything;
the model is the tiny one of the tests, and finished rows are flushed at once instead of every 30 s.
Exit code 1 when a result differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))
from command import GOLDEN, GOLDEN_MODEL

from virnucpro import cli
from virnucpro.embedding import store
from virnucpro.run import timing

# files that say when and where a run was
OF_THE_RUN = {"run.json", "run.log", "report.html", "lock", "index.html"}
BUSY = "another run is writing here"
MOST_KILLS = 6  # of a job, before an attempt is left alone
RECORDS = [">" + part for part in (GOLDEN / "input.fa").read_text().split(">")[1:]]


def predict(*words: object) -> list[str]:
    """The arguments of a run with the tiny model."""
    options = [*GOLDEN_MODEL, "--gpus", "none", "-q", "--no-cache", "--batch-size", "256"]
    return ["predict", *map(str, words), *options]


def begin(words: list[str], log: Path, before: Callable[[], object] = lambda: None) -> int:
    """Start the program in a process of its own; its number. before: is called there first."""
    child = os.fork()
    if child:
        return child
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    before()
    os._exit(cli.run(words))


def finished(child: int) -> int | None:
    """The exit code, negative for a signal, of a process that has ended; else None."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def content(directory: Path) -> dict[str, bytes]:
    """The files of a result that two runs have alike."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in OF_THE_RUN
    }


class Job:
    """One job of the scheduler: attempts in fresh directories until one ends by itself."""

    def __init__(self, name: str, place: Path, rng: random.Random, usual: float):
        self.name, self.place, self.rng, self.usual = name, place, rng, usual
        self.log = place / f"{name}.log"
        self.attempts = self.kills = 0
        self.start()

    def start(self) -> None:
        """The next attempt, and when it will be killed."""
        self.attempts += 1
        self.out = self.place / f"{self.name}_{self.attempts}"
        words = predict(self.place / "input.fa", "-o", self.out, "--checkpoint-dir", "scratch")
        self.child = begin(words, self.log)
        left_alone = self.kills >= MOST_KILLS
        wait = 600.0 if left_alone else self.rng.uniform(0.05, 1.2) * self.usual
        self.kill_at = time.monotonic() + wait
        self.signal = self.rng.choice([signal.SIGKILL, signal.SIGTERM])

    def step(self) -> bool:
        """Look after the job; whether it is done. Errors: SystemExit where an attempt failed."""
        code = finished(self.child)
        if code is None:
            if time.monotonic() >= self.kill_at:
                os.kill(self.child, self.signal)
                self.kill_at += 30.0  # a SIGTERM is obeyed soon
            return False
        if code == 0:
            print(f"{self.name}: done after {self.kills} kills", flush=True)
            return True
        print(f"{self.name}: attempt {self.attempts} ended with exit code {code}", flush=True)
        if code == 1 and BUSY in self.log.read_text().splitlines()[-1]:
            time.sleep(0.2)
        elif code not in (-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM):
            raise SystemExit(f"{self.name}: failed by itself\n{self.log.read_text()[-2000:]}")
        else:
            self.kills += 1
        self.start()
        return False


def schedule(place: Path, jobs: int, rng: random.Random) -> bool:
    """Whether all jobs end as the run that nobody disturbed; two run at a time."""
    (place / "input.fa").write_text("".join(RECORDS))
    begun = time.monotonic()
    whole = place / "whole"
    os.waitpid(begin(predict(place / "input.fa", "-o", whole), place / "whole.log"), 0)
    usual, expected = time.monotonic() - begun, content(whole)
    ok = bool(expected)
    for first in range(0, jobs, 2):
        shutil.rmtree(place / "scratch", ignore_errors=True)
        numbers = range(first, min(first + 2, jobs))
        together = [Job(f"job{n}", place, rng, usual) for n in numbers]
        waiting = list(together)
        while waiting:
            waiting = [job for job in waiting if not job.step()]
            time.sleep(0.02)
        for job in together:
            same = content(job.out) == expected
            print(f"{job.name}: {'equal' if same else 'DIFFERENT'}", flush=True)
            ok &= same
    return ok


def kill_at_stage(number: int) -> Callable[[], None]:
    """What makes a process kill itself as it enters its stage `number`, counted from 1."""

    def prepare() -> None:
        entered, stage = count(1), timing.Clock.stage

        @contextmanager
        def deadly(self: timing.Clock, name: str):
            if next(entered) == number:
                print(f"killed at {name}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            with stage(self, name):
                yield

        timing.Clock.stage = deadly  # type: ignore[method-assign]

    return prepare


def samples(place: Path) -> bool:
    """Whether a run of two samples killed at any of its stages goes on to the same bits."""
    for name, few in (("one", RECORDS[:3]), ("two", RECORDS[3:6])):
        (place / f"{name}.fa").write_text("".join(few))
    sheet = place / "sheet.tsv"
    sheet.write_text(f"sample\tfile\none\t{place}/one.fa\ntwo\t{place}/two.fa\n")

    def run(out: Path, before: Callable[[], object] = lambda: None) -> int:
        log = out.with_suffix(".log")
        words = predict("--samplesheet", sheet, "-o", out)
        return os.waitstatus_to_exitcode(os.waitpid(begin(words, log, before), 0)[1])

    ok = run(place / "whole_samples") == 0
    expected = content(place / "whole_samples")
    for number in count(1):
        out = place / f"killed_{number}"
        if run(out, kill_at_stage(number)) == 0:  # it has fewer stages
            break
        log = out.with_suffix(".log").read_text().strip().splitlines()
        same = run(out) == 0 and content(out) == expected
        print(f"samples: {log[-1]}: {'equal' if same else 'DIFFERENT'}", flush=True)
        ok &= same
        shutil.rmtree(out)
    return ok and number > 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Play both; 0 where every result is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    import matplotlib.figure  # noqa: F401
    import transformers.models.esm.modeling_esm  # noqa: F401

    import virnucpro.pipeline  # noqa: F401

    store.FLUSH_SECONDS = 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        good = schedule(Path(folder), options.jobs, random.Random(options.seed))
        good &= samples(Path(folder))
    print("all equal" if good else "NOT ALL EQUAL")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
