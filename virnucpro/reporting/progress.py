"""What a run shows while it runs: a dashboard on a terminal, a log line every ten seconds
elsewhere, nothing when quiet.

Fed by the pipeline: the name of each stage, and each step of batches. Knows rich; knows no torch
and no devices (memory comes from a function it is given).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

log = logging.getLogger("virnucpro.progress")

LINE_EVERY = 10.0  # seconds between log lines
WINDOW = 60.0  # seconds over which a rate is taken
MOST_ROWS = 16  # processes shown one by one
Memory = Callable[[], list[tuple[int, int]]]


class StepLike(Protocol):
    """A gathered step: see `embedding.extract.Step`."""

    @property
    def number(self) -> int:
        """Of the step, from 1."""

    @property
    def of(self) -> int:
        """Steps in all."""

    @property
    def batches(self) -> int:
        """Batches of this step."""

    @property
    def rows(self) -> int:
        """Embeddings of this step."""

    @property
    def tokens(self) -> int:
        """Tokens of this step."""


@dataclass(slots=True)
class Counters:
    """How far the present stage is. Written by the run's thread, read by the display's."""

    stage: str = ""
    began: float = 0.0
    batches: int = 0  # to do; 0 in a stage that is not counted
    processes: int = 1
    done: int = 0
    rows: int = 0
    # time, batches, rows, tokens so far
    recent: deque[tuple[float, int, int, int]] = field(default_factory=deque)
    tokens: int = 0

    def start(self, stage: str, batches: int = 0, processes: int = 1) -> None:
        """A stage begins."""
        self.stage, self.batches, self.processes = stage, batches, max(processes, 1)
        self.began = time.monotonic()
        self.done = self.rows = self.tokens = 0
        self.recent = deque([(self.began, 0, 0, 0)])

    def add(self, step: StepLike) -> None:
        """A step is done."""
        now = time.monotonic()
        self.done, self.rows, self.tokens = (
            self.done + step.batches,
            self.rows + step.rows,
            self.tokens + step.tokens,
        )
        recent = self.recent
        recent.append((now, self.done, self.rows, self.tokens))
        while len(recent) > 2 and recent[1][0] < now - WINDOW:
            recent.popleft()
        if len(recent) > 2 and recent[0][1] == 0:
            recent.popleft()  # the first step warms up or compiles

    def rates(self) -> tuple[float, float, float]:
        """Batches, rows and tokens a second, over the last minute."""
        recent = list(self.recent)
        seconds = recent[-1][0] - recent[0][0] if recent else 0.0
        if seconds <= 0:
            return 0.0, 0.0, 0.0
        last, first = recent[-1], recent[0]
        return (
            (last[1] - first[1]) / seconds,
            (last[2] - first[2]) / seconds,
            (last[3] - first[3]) / seconds,
        )

    def left(self) -> float | None:
        """Seconds to the end of the stage, None while not to be told."""
        speed = self.rates()[0]
        return (self.batches - self.done) / speed if speed else None

    def share(self, rank: int) -> tuple[int, int]:
        """(done, to do) of one process: batches are dealt to the processes in turn."""
        return len(range(rank, self.done, self.processes)), len(
            range(rank, self.batches, self.processes)
        )


class Display:
    """Shows nothing: what quiet runs and other processes have."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.counters = Counters()
        self.memory = memory or (lambda: [])

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def stage(self, name: str) -> None:
        """A stage that is not counted begins."""
        self.counters.start(name)

    def embedding(self, task: str, batches: int, processes: int) -> None:
        """A stage of `batches` batches, dealt to the processes in turn, begins."""
        self.counters.start(task, batches, processes)

    def step(self, step: StepLike) -> None:
        """A step of batches is done."""
        self.counters.add(step)


class LineDisplay(Display):
    """A log line when a stage begins and every ten seconds while it lasts, whether or not
    it moves.
    """

    def __init__(self, memory: Memory | None = None, every: float = LINE_EVERY) -> None:
        super().__init__(memory)
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> LineDisplay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def stage(self, name: str) -> None:
        """As of `Display`, with a line."""
        super().stage(name)
        log.info("%s", name)

    def embedding(self, task: str, batches: int, processes: int) -> None:
        """As of `Display`, with a line."""
        super().embedding(task, batches, processes)
        log.info("%s: %d batch%s", self.counters.stage, batches, "" if batches == 1 else "es")

    def _run(self) -> None:
        while not self._over.wait(self._every):
            if self.counters.stage:
                log.info("%s", line(self.counters, self.memory()))


class Dashboard(Display):
    """A live picture on a terminal: finished stages, a bar a process, then total, rate and what is
    left.
    """

    def __init__(self, console: Console, memory: Memory | None = None) -> None:
        super().__init__(memory)
        self._console = console
        self._finished: dict[str, float] = {}  # seconds, of all rounds and samples
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True
        )
        self._moved: list[logging.StreamHandler] = []

    def __enter__(self) -> Dashboard:
        plain = sys.stderr
        self._live.start()
        # log lines go above the picture, not through it
        for handler in logging.getLogger("virnucpro").handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is plain:
                handler.setStream(sys.stderr)
                self._moved.append(handler)
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        for handler in self._moved:
            handler.setStream(sys.stderr)
        self._moved.clear()

    def stage(self, name: str) -> None:
        """As of `Display`; the stage before has its time."""
        self._close()
        super().stage(name)

    def embedding(self, task: str, batches: int, processes: int) -> None:
        """As of `Display`; the stage before has its time."""
        self._close()
        super().embedding(task, batches, processes)

    def _close(self) -> None:
        if self.counters.stage:
            name, seconds = self.counters.stage, time.monotonic() - self.counters.began
            self._finished[name] = self._finished.get(name, 0.0) + seconds

    def render(self) -> Group:
        """The picture of this moment."""
        counters = self.counters
        parts: list = [
            Text(f"  ✓ {name}  {clock(seconds)}", style="green dim")
            for name, seconds in self._finished.items()
        ]
        if counters.stage:
            now = time.monotonic() - counters.began
            parts.append(
                Text.assemble(
                    ("  ▸ ", "bold cyan"), (counters.stage, "bold"), (f"  {clock(now)}", "dim")
                )
            )
        if counters.batches:
            parts.append(self._bars(counters))
        return Group(*parts)

    def _bars(self, counters: Counters) -> Table:
        table = Table.grid(padding=(0, 1, 0, 1))
        for justify in ("left", "left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        memory = self.memory()
        _, rows, tokens = counters.rates()
        for rank in range(min(counters.processes, MOST_ROWS)):
            done, share = counters.share(rank)
            table.add_row(
                f"   {'GPU' if memory else 'process'} {rank}",
                ProgressBar(share or 1, done, width=24),
                f"{done:,}/{share:,} batches",
                f"{tokens / counters.processes:,.0f} tok/s",
                gigabytes(memory, rank),
                style="dim",
            )
        if counters.processes > MOST_ROWS:
            table.add_row(f"   and {counters.processes - MOST_ROWS} more", style="dim")
        left = counters.left()
        table.add_row(
            "   total",
            ProgressBar(counters.batches, counters.done, width=24, complete_style="cyan"),
            f"{100 * counters.done / counters.batches:.0f} %",
            f"{rows:,.0f} frames/s",
            "" if left is None else f"{clock(left)} left",
        )
        return table


def make_display(
    quiet: bool = False,
    verbose: bool = False,
    console: Console | None = None,
    memory: Memory | None = None,
) -> Display:
    """The display that suits: none when quiet, a dashboard on a terminal, log lines elsewhere and
    with `verbose`.
    """
    if quiet:
        return Display(memory)
    console = console or Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal and not verbose:
        return Dashboard(console, memory)
    return LineDisplay(memory)


def line(counters: Counters, memory: list[tuple[int, int]]) -> str:
    """One log line on how far the stage is."""
    spent = clock(time.monotonic() - counters.began)
    if not counters.batches:
        return f"{counters.stage}: {spent} so far"
    _, rows, tokens = counters.rates()
    left = counters.left()
    word = "batch" if counters.batches == 1 else "batches"
    parts = [
        (
            f"{counters.stage}: {counters.done:,} of {counters.batches:,} {word}"
            f" ({100 * counters.done / counters.batches:.0f} %)"
        ),
        f"{rows:,.0f} frames/s",
        f"{tokens:,.0f} tokens/s",
        f"{clock(left)} left" if left is not None else f"{spent} so far",
    ]
    if memory:
        parts.append("memory " + " ".join(gigabytes(memory, rank) for rank in range(len(memory))))
    return ", ".join(parts)


def gigabytes(memory: list[tuple[int, int]], rank: int) -> str:
    """Used of total memory of one device, or nothing where it is not known."""
    if rank >= len(memory):
        return ""
    used, total = memory[rank]
    return f"{used / 2**30:.1f}/{total / 2**30:.0f} GiB"


def clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
