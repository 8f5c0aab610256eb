"""Seconds and counts a stage, for `run.json`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch


class Clock:
    """Adds up wall seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time while it is entered to the stage `name`."""
        start = time.monotonic()
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - start

    def seconds(self) -> dict[str, float]:
        """Rounded to milliseconds; `total` is since this clock was made."""
        return {name: round(s, 3) for name, s in self._seconds.items()} | {
            "total": round(time.monotonic() - self._began, 3)
        }


# marks whose time is not asked for yet: the host runs a few steps ahead of its GPU, and no further
PENDING = 16


@dataclass(frozen=True, slots=True)
class LoopSeconds:
    """Seconds of one process: in the encoder, in the gather (waiting for slower processes
    included), and between.
    """

    encoder: float = 0.0
    gather: float = 0.0
    between: float = 0.0

    def __add__(self, other: LoopSeconds) -> LoopSeconds:
        return LoopSeconds(
            self.encoder + other.encoder, self.gather + other.gather, self.between + other.between
        )

    def rounded(self) -> dict[str, float]:
        """For `run.json`, to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in asdict(self).items()}


class Meter:
    """`mark()` before the encoder, before the gather and after it, in every step."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: deque = deque()
        self._count = 0
        self._sums = [0.0, 0.0, 0.0]

    def mark(self) -> None:
        """Note this moment, of the GPU where there is one."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
        if len(self._marks) > PENDING:
            self._fold()

    def seconds(self) -> LoopSeconds:
        """All that was marked so far."""
        while len(self._marks) > 1:
            self._fold()
        return LoopSeconds(*self._sums)

    def _fold(self) -> None:
        begin, end = self._marks.popleft(), self._marks[0]
        if self._cuda:
            end.synchronize()
        self._sums[self._count % 3] += begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
        self._count += 1
